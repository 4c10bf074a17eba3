//! What a handshake settles on: version, suite, group, certificate, ALPN.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod skip_support;
mod support;

use openssl::ssl::SslVersion;
use skip_support::skip;
use support::backend::Backend;
use support::body;
use support::certificate::KeyKind;
use support::client::{Client, Delivery, Refusal, Tls};
use support::proxy::{Options, Proxy};
use support::suite::{SUITES, Suite, Version};

const HANDSHAKE_FAILURE: u8 = 40;
const PROTOCOL_VERSION: u8 = 70;
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// The first version whose clients know X25519MLKEM768, and how to choose their key share.
const OPENSSL_3_5: i64 = 0x3050_0000;

fn assert_echoes(tls: &mut Tls) {
    let data = body::bytes(50_000, 1);
    tls.send(&data);
    assert!(tls.receive(data.len()) == data);
}

#[test]
fn every_suite_is_negotiated_when_it_is_the_only_one_offered() {
    let backend = Backend::echo();
    for key in [KeyKind::EcdsaP256, KeyKind::Rsa2048] {
        let proxy = Proxy::start(&Options { key, ..Options::to([backend]) });
        for suite in Suite::with_key(key) {
            let mut tls = Client::of(&proxy).suite(suite).connect();
            assert_eq!(tls.ssl().version2(), Some(suite.version.openssl()));
            assert_eq!(tls.ssl().current_cipher().unwrap().standard_name(), Some(suite.iana));
            assert_echoes(&mut tls);
        }
    }
}

#[test]
fn aes_128_gcm_is_preferred_when_the_client_offers_everything() {
    let proxy = Proxy::start(&Options::to([Backend::echo()]));
    for version in Version::ALL {
        let tls = Client::of(&proxy).version(version).connect();
        assert_eq!(tls.ssl().current_cipher().unwrap().standard_name(), Some(version.usual_suite().iana));
    }
}

#[test]
fn tls13_is_preferred() {
    let proxy = Proxy::start(&Options::to([Backend::echo()]));
    assert_eq!(Client::of(&proxy).connect().ssl().version2(), Some(SslVersion::TLS1_3));
}

#[test]
fn each_group_works_in_each_version_that_knows_it() {
    if openssl::version::number() < OPENSSL_3_5 {
        return skip("needs OpenSSL 3.5");
    }
    // With RSA, because in TLS 1.2 the client's groups bound the curves of certificates too (RFC 8422 section 5.1).
    let proxy = Proxy::start(&Options { key: KeyKind::Rsa2048, ..Options::to([Backend::echo()]) });
    let cases = [
        (Version::Tls13, "X25519MLKEM768"),
        (Version::Tls13, "X25519"),
        (Version::Tls13, "P-256"),
        (Version::Tls12, "X25519"),
        (Version::Tls12, "P-256"),
    ];
    for (version, group) in cases {
        assert_echoes(&mut Client::of(&proxy).version(version).groups(group).connect());
    }
}

#[test]
fn client_whose_first_key_share_is_unknown_is_asked_again() {
    if openssl::version::number() < OPENSSL_3_5 {
        return skip("needs OpenSSL 3.5");
    }
    let proxy = Proxy::start(&Options::to([Backend::echo()]));
    // A key share for the first group only, which is not ours: HelloRetryRequest (RFC 8446 section 4.1.4).
    assert_echoes(&mut Client::of(&proxy).version(Version::Tls13).groups("*P-384:X25519").connect());
}

#[test]
fn client_without_a_common_group_gets_handshake_failure() {
    let proxy = Proxy::start(&Options::to([Backend::echo()]));
    for version in Version::ALL {
        let refusal = Client::of(&proxy).version(version).groups("P-384").try_connect().unwrap_err();
        assert_eq!(refusal, Refusal::Alert(HANDSHAKE_FAILURE), "{version:?}");
    }
    support::wait_until("both are counted", || proxy.handshakes_failed("nothing_in_common") == 2);
    assert_echoes(&mut Client::of(&proxy).connect());
}

#[test]
fn suite_that_the_certificate_cannot_serve_gets_handshake_failure() {
    let proxy = Proxy::start(&Options { key: KeyKind::EcdsaP256, ..Options::to([Backend::echo()]) });
    for suite in SUITES.into_iter().filter(|suite| suite.key == KeyKind::Rsa2048) {
        let refusal = Client::of(&proxy).suite(suite).try_connect().unwrap_err();
        assert_eq!(refusal, Refusal::Alert(HANDSHAKE_FAILURE), "{}", suite.iana);
    }
    assert_eq!(proxy.handshakes_failed("nothing_in_common"), 3);
}

#[test]
fn modern_policy_refuses_tls12() {
    let proxy = Proxy::start(&Options { policy: "modern", ..Options::to([Backend::echo()]) });
    let refusal = Client::of(&proxy).version(Version::Tls12).try_connect().unwrap_err();
    assert_eq!(refusal, Refusal::Alert(PROTOCOL_VERSION));
    proxy.wait_handshake_failed("version");
    assert_echoes(&mut Client::of(&proxy).version(Version::Tls13).connect());
}

#[test]
fn alpn_protocol_in_common_is_chosen_in_our_order() {
    let proxy = Proxy::start(&Options { alpn: vec!["h2", "http/1.1"], ..Options::to([Backend::echo()]) });
    for version in Version::ALL {
        let tls = Client::of(&proxy).version(version).alpn(&["http/1.1", "h2"]).connect();
        assert_eq!(tls.ssl().selected_alpn_protocol(), Some(&b"h2"[..]), "{version:?}");
        let tls = Client::of(&proxy).version(version).alpn(&["spdy/1", "http/1.1"]).connect();
        assert_eq!(tls.ssl().selected_alpn_protocol(), Some(&b"http/1.1"[..]), "{version:?}");
    }
}

#[test]
fn client_without_alpn_is_served() {
    let proxy = Proxy::start(&Options::to([Backend::echo()]));
    for version in Version::ALL {
        let mut tls = Client::of(&proxy).version(version).connect();
        assert_eq!(tls.ssl().selected_alpn_protocol(), None);
        assert_echoes(&mut tls);
    }
}

#[test]
fn listener_without_alpn_leaves_the_offer_unanswered() {
    let proxy = Proxy::start(&Options { alpn: Vec::new(), ..Options::to([Backend::echo()]) });
    let mut tls = Client::of(&proxy).alpn(&["h2"]).connect();
    assert_eq!(tls.ssl().selected_alpn_protocol(), None);
    assert_echoes(&mut tls);
}

#[test]
fn alpn_without_a_protocol_in_common_is_refused() {
    let proxy = Proxy::start(&Options::to([Backend::echo()]));
    for version in Version::ALL {
        let refusal = Client::of(&proxy).version(version).alpn(&["h3"]).try_connect().unwrap_err();
        assert_eq!(refusal, Refusal::Alert(NO_APPLICATION_PROTOCOL), "{version:?}");
    }
    support::wait_until("both are counted", || proxy.handshakes_failed("alpn") == 2);
    assert_echoes(&mut Client::of(&proxy).connect());
}

#[test]
fn client_hello_in_many_records_is_taken() {
    let proxy = Proxy::start(&Options::to([Backend::echo()]));
    for version in Version::ALL {
        for len in [1, 4, 50] {
            let client = Client::of(&proxy).version(version).delivery(Delivery::HelloInRecordsOf(len));
            assert_echoes(&mut client.connect());
        }
    }
}
