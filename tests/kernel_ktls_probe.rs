//! The probe against real kernels: what it says is what they do.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod kernel_support;

use kernel_support::{kernel_tls, kernel_version};
use sluice::ktls::{self, Absence};
use sluice::ktls::{Bulk, KnownBugs, Mode, Settings};
use sluice::record::Aead;

fn required(known_bugs: KnownBugs) -> Settings {
    Settings { mode: Mode::Required, promote_after_bytes: 0, bulk: Bulk::Auto, known_bugs }
}

#[test]
fn probe_on_a_kernel_with_tls_finds_every_suite_and_what_its_release_added() {
    let Some(kernel) = kernel_tls() else { return };
    let capabilities = ktls::probe();
    assert_eq!(capabilities.absent, None);
    assert_eq!(capabilities.suites.len(), 6);
    assert!(capabilities.suites.iter().all(|suite| suite.transmit && suite.receive), "{capabilities}");
    assert!(capabilities.aes_gcm_driver.is_some(), "{capabilities}");
    assert!(!capabilities.is_slow(Aead::Aes128Gcm), "with the CPU's driver: {capabilities}");
    let has_rekey = kernel_version() >= (6, 14);
    assert_eq!((capabilities.rekey_transmit, capabilities.rekey_receive), (has_rekey, has_rekey), "{capabilities}");
    assert_eq!(capabilities.transmit_payload_limit, kernel_version() >= (6, 19), "{capabilities}");
    assert!(kernel.grown("TlsTxSw") >= 6 && kernel.grown("TlsRxSw") >= 6, "the kernel did the work");
    assert_eq!(kernel.grown("TlsDecryptError"), 0);
    assert_eq!(required(KnownBugs::Refuse).check_at_start(&capabilities), Ok(()));
    println!("{capabilities}");
}

#[test]
fn probe_leaves_no_socket_behind() {
    let Some(_kernel) = kernel_tls() else { return };
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    ktls::probe();
    assert_eq!(open(), before);
}

#[test]
fn probe_on_a_kernel_without_tls_makes_required_refuse_with_the_remedy() {
    if kernel_tls().is_some() {
        return;
    }
    let capabilities = ktls::probe();
    assert!(!matches!(capabilities.absent, Some(Absence::ProbeFailed { .. })), "{capabilities}");
    let refusal = required(KnownBugs::Accept).check_at_start(&capabilities).unwrap_err();
    assert!(refusal.to_string().contains("CONFIG_TLS") || refusal.to_string().contains("modprobe"), "{refusal}");
}
