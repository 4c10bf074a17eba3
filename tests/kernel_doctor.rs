//! `sluice doctor` on real kernels: what it says of kernel TLS is what they do.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

#[path = "check_support/mod.rs"]
mod check_support;
mod doctor_support;
mod kernel_support;

use check_support::{Folder, good_with};
use doctor_support::{Report, doctor_json};
use kernel_support::{kernel_tls, kernel_version};

#[test]
fn doctor_on_a_kernel_with_tls_finds_every_suite_and_what_its_release_added() {
    let Some(kernel) = kernel_tls() else { return };
    let report = doctor_json(&[]);
    assert_eq!(report.find("available", None)["level"], "ok");
    for version in ["1.2", "1.3"] {
        for aead in ["AES-128-GCM", "AES-256-GCM", "ChaCha20-Poly1305"] {
            let suite = report.find("suite", Some(&format!("{version} {aead}")));
            assert_eq!((&suite["level"], &suite["found"]), (&"ok".into(), &"transmit yes, receive yes".into()));
        }
    }
    let has_rekey = kernel_version() >= (6, 14);
    assert_eq!(report.find("rekey", None)["level"], if has_rekey { "ok" } else { "warning" });
    let has_payload_limit = kernel_version() >= (6, 19);
    assert_eq!(report.find("payload_limit", None)["level"], if has_payload_limit { "ok" } else { "note" });
    assert!(kernel.grown("TlsTxSw") >= 6 && kernel.grown("TlsRxSw") >= 6, "the kernel did the work");
    assert_eq!(report.json["kernel_tls"]["suites"].as_array().map(Vec::len), Some(6));
    println!("{}", report.json);
}

#[test]
fn doctor_on_a_kernel_with_tls_finds_a_listener_that_requires_it_served() {
    let Some(_kernel) = kernel_tls() else { return };
    let report = with_required_listener();
    assert_eq!(report.find("listener", Some("edge"))["level"], "ok");
    assert_eq!(report.code, 0, "{}", report.json);
}

#[test]
fn doctor_on_a_kernel_without_tls_finds_a_listener_that_requires_it_broken() {
    if kernel_tls().is_some() {
        return;
    }
    let report = with_required_listener();
    let finding = report.find("listener", Some("edge"));
    assert_eq!((&finding["level"], report.code), (&"broken".into(), 1));
    let remedy = finding["remedy"].as_str().unwrap();
    assert!(remedy.contains("CONFIG_TLS") || remedy.contains("modprobe"), "{finding}");
    // Nobody who does not demand it is failed for it.
    let report = doctor_json(&[]);
    assert_eq!((&report.find("available", None)["level"], report.code), (&"warning".into(), 0));
}

fn with_required_listener() -> Report {
    let folder = Folder::new();
    // One worker with few connections, so that the limits of the machine have no say.
    let text = good_with("[listener.tls]", "kernel_tls = \"required\"\n[listener.tls]");
    let text = format!("workers = {{ count = 1, connections_max = 10 }}\n{text}");
    folder.write("sluice.toml", text.as_bytes());
    doctor_json(&["--config", folder.path().join("sluice.toml").to_str().unwrap()])
}
