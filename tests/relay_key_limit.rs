//! The limit of an AES-GCM key (RFC 9846 section 5.5) in userspace; `kernel_relay_control` has that of a promoted direction.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::io::Write;

use sluice::record::Aead;
use support::backend::Backend;
use support::body::{self, End, Received};
use support::certificate::KeyKind;
use support::client::Client;
use support::proxy::{Options, Proxy};
use support::suite::{Suite, Version};
use support::wait_until;

#[test]
fn key_limit_is_obeyed_by_re_keying_or_by_a_clean_close() {
    const LIMIT: u64 = 1024;
    let backend = Backend::listen();
    let options =
        Options { kernel_tls: "off".into(), records_per_key: Some(LIMIT), ..Options::to([backend.address()]) };
    let proxy = Proxy::start(&options);
    let data = body::bytes(40_000_000, 6);
    for suite in Suite::with_key(KeyKind::EcdsaP256) {
        let before = [proxy.closed("record_limit"), proxy.metric("sluice_key_updates_sent_total")];
        let mut client = Client::of(&proxy).suite(suite).connect();
        let mut server = backend.accept();
        let sent = data.clone();
        let sending = std::thread::spawn(move || server.write_all(&sent));
        let received = client.drain();
        let _ = sending.join().unwrap();
        drop(client);
        wait_until("the connection is over", || proxy.connections_open() == 0);
        let [closed, updates] = [proxy.closed("record_limit"), proxy.metric("sluice_key_updates_sent_total")];
        let has_limit = suite.description().aead != Aead::ChaCha20Poly1305;
        let is_cut = has_limit && suite.version == Version::Tls12;
        let len = if is_cut { usize::try_from(received.len).unwrap() } else { data.len() };
        assert_eq!(received, Received::of(&data[..len], End::CloseNotify), "{}", suite.iana);
        assert!(!is_cut || len <= LIMIT as usize * 16_384, "{} sent {len} bytes under one key", suite.iana);
        assert_eq!(closed - before[0], u64::from(is_cut), "{}", suite.iana);
        // 40 MB are 2442 full records.
        let is_rekeyed = has_limit && !is_cut;
        assert_eq!(updates - before[1] >= 2, is_rekeyed, "{} with {} KeyUpdates", suite.iana, updates - before[1]);
    }
}
