//! The relay on kernel TLS: every suite in both directions, who moved how many bytes, and what stays in userspace and why.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod kernel_support;
mod support;

use std::io::Write;
use std::net::Shutdown;
use std::process::Command;

use kernel_support::{KernelTls, kernel_version};
use sluice::ktls;
use sluice::record::{Aead, ContentType, PLAINTEXT_LEN_MAX};
use support::backend::Backend;
use support::body::{self, End, Received};
use support::certificate::KeyKind;
use support::client::Client;
use support::proxy::{Options, Proxy};
use support::record::Forger;
use support::suite::{Suite, Version};
use support::tcp;
use support::tool::Dialog;
use support::wait_until;

const UP: &str = "client_to_backend";
const DOWN: &str = "backend_to_client";

/// What the proxy and the kernel have counted.
struct Counts<'a> {
    proxy: &'a Proxy,
    kernel: &'a mut KernelTls,
    promoted: [u64; 2],
    bytes: [[u64; 3]; 2],
}

impl<'a> Counts<'a> {
    fn begin(proxy: &'a Proxy, kernel: &'a mut KernelTls) -> Self {
        kernel.begin();
        let (promoted, bytes) = (promoted(proxy), bytes(proxy));
        Self { proxy, kernel, promoted, bytes }
    }

    /// Directions promoted since: up and down.
    fn promoted(&self) -> [u64; 2] {
        let now = promoted(self.proxy);
        [0, 1].map(|at| now[at] - self.promoted[at])
    }

    /// Payload relayed since, up and down: in userspace, copied, spliced.
    fn bytes(&self) -> [[u64; 3]; 2] {
        let now = bytes(self.proxy);
        [0, 1].map(|at| [0, 1, 2].map(|path| now[at][path] - self.bytes[at][path]))
    }

    /// Directions that the kernel says it has taken: received and sent.
    fn taken_by_kernel(&self) -> [u64; 2] {
        [self.kernel.grown("TlsRxSw"), self.kernel.grown("TlsTxSw")]
    }
}

fn promoted(proxy: &Proxy) -> [u64; 2] {
    [UP, DOWN].map(|way| proxy.metric(&format!("sluice_kernel_tls_promoted_total{{direction=\"{way}\"}}")))
}

fn bytes(proxy: &Proxy) -> [[u64; 3]; 2] {
    [UP, DOWN].map(|way| {
        ["userspace", "kernel_copy", "kernel_splice"]
            .map(|path| proxy.metric(&format!("sluice_relay_bytes_total{{direction=\"{way}\",path=\"{path}\"}}")))
    })
}

fn kept(proxy: &Proxy, direction: &str, reason: &str) -> u64 {
    proxy.metric(&format!("sluice_kernel_tls_kept_total{{direction=\"{direction}\",reason=\"{reason}\"}}"))
}

fn start(backend: &Backend, kernel_tls: &str) -> Proxy {
    start_with(backend, kernel_tls, "splice")
}

fn start_with(backend: &Backend, kernel_tls: &str, bulk: &'static str) -> Proxy {
    let (kernel_tls, kernel_tls_after) = (kernel_tls.to_owned(), Some("16KiB".to_owned()));
    Proxy::start(&Options {
        kernel_tls,
        kernel_tls_after,
        kernel_tls_bulk: Some(bulk),
        ..Options::to([backend.address()])
    })
}

/// Sends `len` bytes up, then as many down, and checks every one.
fn transfer(proxy: &Proxy, backend: &Backend, suite: Suite, len: usize) {
    let mut forger = Forger::new(Client::of(proxy).suite(suite).connect(), suite);
    let mut server = backend.accept();
    let (up, down) = (body::bytes(len, 1), body::bytes(len, 2));
    let expected = Received::of(&up, End::EndOfStream);
    let receiving = std::thread::spawn(move || (body::drain(&mut server), server));
    // Sealed beforehand, so that it comes as fast as the proxy takes it.
    let mut records = forger.seal_data(&up, PLAINTEXT_LEN_MAX);
    records.extend(forger.seal(ContentType::Alert, &[1, 0]));
    forger.tls.send_raw(&records);
    let (mut client, _) = forger.into_parts();
    let (received, mut server) = receiving.join().unwrap();
    assert_eq!(received, expected, "{} up", suite.iana);
    let expected = Received::of(&down, End::CloseNotify);
    let sending = std::thread::spawn(move || server.write_all(&down).unwrap());
    assert_eq!(client.drain(), expected, "{} down", suite.iana);
    sending.join().unwrap();
    client.end_stream();
    drop(client);
    wait_until("the connection is over", || proxy.connections_open() == 0);
}

#[test]
fn always_moves_every_byte_of_every_suite_in_the_kernel() {
    let backend = Backend::listen();
    let Some(mut kernel) = kernel_support::kernel_tls() else { return };
    let proxy = start(&backend, "always");
    for suite in Suite::with_key(KeyKind::EcdsaP256) {
        for len in [1, 1000, 300_000] {
            let counts = Counts::begin(&proxy, &mut kernel);
            transfer(&proxy, &backend, suite, len);
            assert_eq!(counts.promoted(), [1, 1], "{} {len}", suite.iana);
            assert_eq!(counts.taken_by_kernel(), [1, 1], "{} {len}", suite.iana);
            for [userspace, copied, spliced] in counts.bytes() {
                assert_eq!((userspace, copied + spliced), (0, len as u64), "{} {len}", suite.iana);
                assert!(spliced > 0 || len < 16_384, "{} {len}: all was copied", suite.iana);
            }
        }
    }
    assert_eq!(kernel.grown("TlsDecryptError"), 0);
    assert_eq!(
        kernel_support::current("TlsCurrTxSw") + kernel_support::current("TlsCurrRxSw"),
        0,
        "sockets are closed"
    );
}

#[test]
fn bulk_is_copied_where_the_listener_says_so() {
    let backend = Backend::listen();
    let Some(mut kernel) = kernel_support::kernel_tls() else { return };
    let proxy = start_with(&backend, "always", "copy");
    for version in Version::ALL {
        let counts = Counts::begin(&proxy, &mut kernel);
        transfer(&proxy, &backend, version.usual_suite(), 1_500_000);
        assert_eq!(counts.taken_by_kernel(), [1, 1], "{version:?}");
        assert_eq!(counts.bytes(), [[0, 1_500_000, 0]; 2], "{version:?}");
    }
}

#[test]
fn records_that_the_kernel_seals_in_one_turn_leave_in_one_segment() {
    const TURNS: u32 = 20;
    let backend = Backend::listen();
    let Some(_kernel) = kernel_support::kernel_tls() else { return };
    // Together less than a segment of the loopback, and than the first window of any connection: so that neither a full
    // window joins what was sent apart, nor a turn finds only a part of it.
    let turn = body::bytes(3 * PLAINTEXT_LEN_MAX, 5);
    for (bulk, version) in [("splice", Version::Tls13), ("splice", Version::Tls12), ("copy", Version::Tls13)] {
        let proxy = start_with(&backend, "always", bulk);
        let mut client = Client::of(&proxy).version(version).connect();
        let mut server = backend.accept();
        // Segments are at most half of the largest window that the client has opened: let it open one.
        let first = body::bytes(2_000_000, 6);
        let sending = std::thread::spawn(move || {
            server.write_all(&first).unwrap();
            server
        });
        client.receive(2_000_000);
        let mut server = sending.join().unwrap();
        let mut take_turn = || {
            let before = tcp::info(client.socket()).tcpi_data_segs_in;
            // The proxy finds all of it at once.
            proxy.freeze(|| server.write_all(&turn).unwrap());
            assert!(client.receive(turn.len()) == turn, "{bulk} {version:?}");
            tcp::info(client.socket()).tcpi_data_segs_in - before
        };
        // The end of what came before may have been short, and the next turn is a small one then.
        let _settled = [take_turn(), take_turn()];
        let segments: u32 = (0..TURNS).map(|_| take_turn()).sum();
        println!("{bulk} {version:?}: {segments} segments in {TURNS} turns of 3 records");
        // Copied, a turn begins with a small buffer: one record by itself, and then two.
        assert!(segments < TURNS * 5 / 2, "{bulk} {version:?}: {segments} segments in {TURNS} turns of 3 records");
    }
}

#[test]
fn cipher_without_the_cpus_driver_is_kept_in_userspace_by_auto_and_taken_by_who_demands_the_kernel() {
    let backend = Backend::listen();
    let Some(mut kernel) = kernel_support::kernel_tls() else { return };
    let Some(_driver) = RemovedDriver::remove() else { return };
    let capabilities = ktls::probe();
    let is_slow = [Aead::Aes128Gcm, Aead::Aes256Gcm].map(|aead| capabilities.is_slow(aead));
    assert_eq!(is_slow, [true, true], "{capabilities}");
    let suite = Version::Tls13.usual_suite();
    let proxy = start(&backend, "auto");
    assert!(proxy.log().contains("no driver of this CPU's AES"), "{}", proxy.log());
    kernel.begin();
    transfer(&proxy, &backend, suite, 300_000);
    assert_eq!([UP, DOWN].map(|way| kept(&proxy, way, "slow_cipher")), [1, 1]);
    assert_eq!((kernel.grown("TlsTxSw"), kernel.grown("TlsRxSw")), (0, 0));
    let proxy = start(&backend, "required");
    let counts = Counts::begin(&proxy, &mut kernel);
    transfer(&proxy, &backend, suite, 300_000);
    assert_eq!(counts.promoted(), [1, 1]);
}

/// The driver of the CPU's AES, taken out of the kernel until this is dropped: in the emulated machine alone, where
/// nobody else needs it.
struct RemovedDriver;

impl RemovedDriver {
    fn remove() -> Option<Self> {
        if std::env::var_os("SLUICE_KERNEL_GUEST").is_none() || !modprobe(&["aesni_intel"]) {
            return None;
        }
        // Sockets that were closed give their ciphers back a little later.
        wait_until("the driver is removed", || modprobe(&["--remove", "aesni_intel"]));
        Some(Self)
    }
}

impl Drop for RemovedDriver {
    fn drop(&mut self) {
        modprobe(&["aesni_intel"]);
    }
}

fn modprobe(arguments: &[&str]) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let output = Command::new("modprobe").args(arguments).env("PATH", path).output();
    output.is_ok_and(|output| output.status.success())
}

#[test]
fn auto_promotes_bulk_in_mid_stream_and_keeps_the_rest() {
    let backend = Backend::listen();
    let Some(mut kernel) = kernel_support::kernel_tls() else { return };
    let proxy = start(&backend, "auto");
    for suite in Suite::with_key(KeyKind::EcdsaP256) {
        let counts = Counts::begin(&proxy, &mut kernel);
        transfer(&proxy, &backend, suite, 2_000_000);
        // The client has ended its side with close_notify only, so the download can be promoted too.
        assert_eq!(counts.promoted(), [1, 1], "{}", suite.iana);
        assert_eq!(counts.taken_by_kernel(), [1, 1], "{}", suite.iana);
        for paths in counts.bytes() {
            assert_eq!(paths.iter().sum::<u64>(), 2_000_000, "{}", suite.iana);
            assert!(paths[0] > 0 && paths[2] > 0, "{}: {paths:?}", suite.iana);
        }
        let small = [UP, DOWN].map(|way| kept(&proxy, way, "too_small"));
        let counts = Counts::begin(&proxy, &mut kernel);
        transfer(&proxy, &backend, suite, 3000);
        assert_eq!((counts.promoted(), counts.taken_by_kernel()), ([0, 0], [0, 0]), "{}", suite.iana);
        assert_eq!([UP, DOWN].map(|way| kept(&proxy, way, "too_small")), small.map(|count| count + 1));
    }
}

#[test]
fn off_never_asks_the_kernel() {
    let backend = Backend::listen();
    let kernel = kernel_support::kernel_tls();
    let proxy = start(&backend, "off");
    transfer(&proxy, &backend, Version::Tls13.usual_suite(), 300_000);
    assert_eq!([UP, DOWN].map(|way| kept(&proxy, way, "policy_off")), [1, 1]);
    if let Some(kernel) = kernel {
        assert_eq!((kernel.grown("TlsTxSw"), kernel.grown("TlsRxSw")), (0, 0));
    }
}

#[test]
fn end_of_the_client_stream_before_promotion_keeps_the_download_in_userspace_and_whole() {
    let backend = Backend::listen();
    let Some(mut kernel) = kernel_support::kernel_tls() else { return };
    let proxy = start(&backend, "auto");
    for version in Version::ALL {
        let before = kept(&proxy, DOWN, "not_established");
        kernel.begin();
        let mut client = Client::of(&proxy).version(version).connect();
        let mut server = backend.accept();
        client.send(b"request");
        client.close_notify();
        client.end_stream();
        // The end of its stream came with close_notify, which the backend has seen.
        assert_eq!(body::drain(&mut server), Received::of(b"request", End::EndOfStream));
        let download = body::bytes(2_000_000, 3);
        let expected = Received::of(&download, End::CloseNotify);
        let sending = std::thread::spawn(move || server.write_all(&download).unwrap());
        assert_eq!(client.drain(), expected, "{version:?}");
        sending.join().unwrap();
        drop(client);
        wait_until("it is counted", || kept(&proxy, DOWN, "not_established") == before + 1);
        assert_eq!(kernel.grown("TlsTxSw"), 0);
    }
}

#[test]
fn required_serves_where_the_kernel_can_and_refuses_to_start_with_a_remedy_where_it_cannot() {
    let backend = Backend::listen();
    if let Some(mut kernel) = kernel_support::kernel_tls() {
        let proxy = start(&backend, "required");
        let counts = Counts::begin(&proxy, &mut kernel);
        transfer(&proxy, &backend, Version::Tls13.usual_suite(), 2_000_000);
        assert_eq!(counts.promoted(), [1, 1]);
        return;
    }
    let refusal = Proxy::refused(&Options { kernel_tls: "required".into(), ..Options::to([backend.address()]) });
    assert_eq!(refusal.code, Some(69), "{}", refusal.log);
    assert!(refusal.log.contains("kernel_tls = \"required\"") && refusal.log.contains("CONFIG_TLS"), "{}", refusal.log);
}

#[test]
fn always_without_kernel_tls_serves_in_userspace_and_counts_it() {
    let backend = Backend::listen();
    if kernel_support::kernel_tls().is_some() {
        return;
    }
    let proxy = start(&backend, "always");
    transfer(&proxy, &backend, Version::Tls12.usual_suite(), 300_000);
    assert_eq!([UP, DOWN].map(|way| kept(&proxy, way, "no_kernel_tls")), [1, 1]);
    assert_eq!(bytes(&proxy), [[300_000, 0, 0]; 2]);
}

#[test]
fn max_fragment_length_is_kept_by_the_kernel_or_the_direction_is_kept_from_it() {
    let backend = Backend::listen();
    let Some(mut kernel) = kernel_support::kernel_tls() else { return };
    let proxy = start(&backend, "always");
    let data = body::bytes(100_000, 4);
    for version in ["-tls1_2", "-tls1_3"] {
        let before = kept(&proxy, DOWN, "max_fragment_length");
        let counts = Counts::begin(&proxy, &mut kernel);
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", version, "-maxfraglen", "1024", "-servername", "localhost"]);
        command.args(["-connect", &proxy.address().to_string()]).arg("-CAfile").arg(proxy.ca());
        let client = Dialog::start(&mut command);
        let mut server = backend.accept();
        server.write_all(&data).unwrap();
        server.shutdown(Shutdown::Both).unwrap();
        drop(server);
        assert!(client.finish().stdout == data, "{version}: everything arrives");
        wait_until("the connection is over", || proxy.connections_open() == 0);
        // Linux 6.19 learned to limit what it seals.
        let can = kernel_version() >= (6, 19);
        assert_eq!(counts.promoted(), [1, u64::from(can)], "{version}");
        assert_eq!(kept(&proxy, DOWN, "max_fragment_length") - before, u64::from(!can), "{version}");
    }
}
