//! Sessions resume wherever the ring is, and nowhere else: OpenSSL on both ends, in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod ticket_common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openssl::asn1::Asn1Time;
use openssl::ssl::{
    AlpnError, ClientHelloResponse, NameType, SniError, SslContext, SslVerifyMode, SslVersion, select_next_proto,
};
use sluice::telemetry::Label;
use sluice::ticket::{
    Clock, Issuer, KeyTable, ManualClock, Renewal, ScheduledKey, ScopeKeys, TicketCounters, TicketIssue, TicketKey,
    TicketOpening, TicketSettings, UnixSeconds, install,
};
use ticket_common::*;

const VERSIONS: [SslVersion; 2] = [SslVersion::TLS1_2, SslVersion::TLS1_3];

fn settings() -> TicketSettings {
    TicketSettings::default()
}

/// How often each result was counted on this thread; a test has its own.
fn opened(result: TicketOpening) -> u64 {
    TicketCounters::of_this_thread().opened.of(result).value()
}

fn issued(result: TicketIssue) -> u64 {
    TicketCounters::of_this_thread().issued.of(result).value()
}

/// Asserts that nothing was opened since the last call but `expected`, once.
fn assert_counted(expected: TicketOpening, before: &[u64]) {
    for (result, before) in TicketOpening::ALL.iter().zip(before) {
        assert_eq!(opened(*result) - before, u64::from(*result == expected), "{result:?}");
    }
}

fn all_counts() -> Vec<u64> {
    TicketOpening::ALL.iter().map(|result| opened(*result)).collect()
}

#[test]
fn session_from_one_node_resumes_on_another_with_the_same_ring() {
    for version in VERSIONS {
        let clock = ManualClock::at(real_now());
        let ring = new_ring(clock.now());
        let node = |_: &str| server(version, &keys_at(&ring, scope("edge"), clock.now()), &settings(), &clock);
        let (a, b) = (node("a"), node("b"));
        let first = connect(&a, &Offer::default());
        assert!(!first.resumed);
        let before = all_counts();
        assert!(connect(&b, &Offer::resume(first.session())).resumed, "{version:?}");
        assert_counted(TicketOpening::Current, &before);
    }
}

#[test]
fn full_handshake_sends_two_tickets_in_tls13_and_one_in_tls12() {
    for (version, expected) in [(SslVersion::TLS1_2, 1), (SslVersion::TLS1_3, 2)] {
        let clock = ManualClock::at(real_now());
        let keys = keys_at(&new_ring(clock.now()), scope("edge"), clock.now());
        let before = issued(TicketIssue::Issued);
        let done = connect(&server(version, &keys, &settings(), &clock), &Offer::default());
        assert_eq!(done.sessions.len(), expected);
        assert_eq!(issued(TicketIssue::Issued) - before, expected as u64);
    }
}

#[test]
fn ticket_count_is_a_setting_and_zero_turns_tickets_off() {
    for version in VERSIONS {
        let clock = ManualClock::at(real_now());
        let keys = keys_at(&new_ring(clock.now()), scope("edge"), clock.now());
        let with = |per_handshake| TicketSettings { per_handshake, ..settings() };
        let sent = |per_handshake| connect(&server(version, &keys, &with(per_handshake), &clock), &Offer::default());
        if version == SslVersion::TLS1_3 {
            assert_eq!(sent(4).sessions.len(), 4);
            assert_eq!(sent(0).sessions.len(), 0);
        } else {
            assert_eq!(sent(4).sessions.len(), 1);
            // In TLS 1.2 the callback shows the session itself; it has no ticket, so offering it resumes nothing.
            let off = server(version, &keys, &with(0), &clock);
            let first = connect(&off, &Offer::default());
            assert!(first.sessions.iter().all(|session| !connect(&off, &Offer::resume(session)).resumed));
        }
    }
}

#[test]
fn session_resumes_across_an_epoch_and_is_renewed_under_the_new_key() {
    for version in VERSIONS {
        let clock = ManualClock::at(real_now());
        let ring = new_ring(clock.now());
        let keys = keys_at(&ring, scope("edge"), clock.now());
        let server = server(version, &keys, &TicketSettings { renewal: Renewal::WhenKeyIsOld, ..settings() }, &clock);
        let first = connect(&server, &Offer::default());

        clock.set(ring.next_epoch_at(clock.now()));
        keys.publish(table_at(&ring, keys.scope(), clock.now()));
        let before = all_counts();
        let second = connect(&server, &Offer::resume(first.session()));
        assert!(second.resumed, "{version:?}");
        assert_counted(TicketOpening::PreviousRenewed, &before);
        assert_eq!(second.sessions.len(), 1, "{version:?}: renewed");

        let before = all_counts();
        let third = connect(&server, &Offer::resume(second.session()));
        assert!(third.resumed);
        assert_counted(TicketOpening::Current, &before);
        assert_eq!(third.sessions.len(), 0, "{version:?}: nothing to renew");
    }
}

#[test]
fn one_time_use_sends_a_fresh_ticket_on_each_tls13_resumption() {
    let clock = ManualClock::at(real_now());
    let keys = keys_at(&new_ring(clock.now()), scope("edge"), clock.now());
    let server = server(SslVersion::TLS1_3, &keys, &settings(), &clock);
    let mut last = connect(&server, &Offer::default());
    for _ in 0..3 {
        last = connect(&server, &Offer::resume(last.session()));
        assert!(last.resumed);
        assert_eq!(last.sessions.len(), 1);
    }
}

#[test]
fn session_after_its_lifetime_gets_a_full_handshake() {
    for version in VERSIONS {
        let clock = ManualClock::at(real_now());
        let ring = new_ring(clock.now());
        let keys = keys_at(&ring, scope("edge"), clock.now());
        let server =
            server(version, &keys, &TicketSettings { lifetime: Duration::from_secs(1000), ..settings() }, &clock);
        let first = connect(&server, &Offer::default());
        clock.advance(Duration::from_secs(999));
        keys.publish(table_at(&ring, keys.scope(), clock.now()));
        assert!(connect(&server, &Offer::resume(first.session())).resumed, "{version:?}");
        clock.advance(Duration::from_secs(1));
        let before = all_counts();
        assert!(!connect(&server, &Offer::resume(first.session())).resumed, "{version:?}");
        assert_counted(TicketOpening::Expired, &before);
    }
}

#[test]
fn renewal_does_not_extend_the_original_lifetime() {
    for version in VERSIONS {
        let clock = ManualClock::at(real_now());
        let start = clock.now();
        let ring = new_ring(start);
        let keys = keys_at(&ring, scope("edge"), start);
        let server = server(version, &keys, &settings(), &clock);
        let mut last = connect(&server, &Offer::default());
        // Every 50 minutes, each time with the newest ticket: 12 hours of life are 14 renewals and no more.
        let mut resumptions = 0;
        loop {
            clock.advance(Duration::from_secs(3000));
            keys.publish(table_at(&ring, keys.scope(), clock.now()));
            let next = connect(&server, &Offer::resume(last.session()));
            if !next.resumed {
                break;
            }
            resumptions += 1;
            let left = 12 * 3600 - clock.now().since(start).as_secs();
            if let (Some(session), SslVersion::TLS1_3) = (next.sessions.last(), version) {
                assert_eq!(lifetime_hint(session), left, "the announced lifetime shrinks");
            }
            if !next.sessions.is_empty() {
                last = next;
            }
        }
        assert_eq!(resumptions, 12 * 3600 / 3000, "{version:?}");
        assert_eq!(clock.now(), start.plus(Duration::from_secs(15 * 3000)));
    }
}

/// The lifetime that the ticket announced: [9] INTEGER in the DER form of a client's session.
fn lifetime_hint(session: &openssl::ssl::SslSessionRef) -> u64 {
    const LIFETIME_HINT: u8 = 0xa9;
    let der = session.to_der().unwrap();
    let range = field_range(&der, LIFETIME_HINT).expect("a hint");
    der[range].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[test]
fn session_after_a_revocation_gets_a_full_handshake() {
    for version in VERSIONS {
        let clock = ManualClock::at(real_now());
        let ring = new_ring(clock.now());
        let keys = keys_at(&ring, scope("edge"), clock.now());
        let server = server(version, &keys, &settings(), &clock);
        let first = connect(&server, &Offer::default());
        let revoked = ring.revoked_at(clock.now()).unwrap();
        keys.publish(table_at(&revoked, keys.scope(), clock.now()));
        let before = all_counts();
        let second = connect(&server, &Offer::resume(first.session()));
        assert!(!second.resumed);
        assert_counted(TicketOpening::UnknownKey, &before);
        assert!(connect(&server, &Offer::resume(second.session())).resumed, "new sessions resume");
    }
}

#[test]
fn session_under_another_scope_gets_a_full_handshake() {
    for version in VERSIONS {
        let clock = ManualClock::at(real_now());
        let ring = new_ring(clock.now());
        let lax = server(version, &keys_at(&ring, scope("lax"), clock.now()), &settings(), &clock);
        let strict = server(version, &keys_at(&ring, scope("strict"), clock.now()), &settings(), &clock);
        let first = connect(&lax, &Offer::default());
        assert!(!connect(&strict, &Offer::resume(first.session())).resumed);
        assert!(connect(&lax, &Offer::resume(first.session())).resumed);
    }
}

#[test]
fn session_under_another_scope_with_one_static_key_gets_a_full_handshake() {
    // A key file is the same for every scope; what tells them apart travels in the session.
    let table = || {
        let key = TicketKey::from_block(&[9; 80]);
        let always = 0..u64::MAX;
        KeyTable::new(
            vec![ScheduledKey { key, seals: always.clone(), opens: always }],
            Vec::new(),
            Duration::from_secs(3600),
        )
    };
    for version in VERSIONS {
        let clock = ManualClock::at(real_now());
        let node = |name| {
            let keys = Arc::new(ScopeKeys::new(scope(name), table()));
            server(version, &keys, &settings(), &clock)
        };
        let first = connect(&node("lax"), &Offer::default());
        let before = all_counts();
        assert!(!connect(&node("strict"), &Offer::resume(first.session())).resumed);
        assert_counted(TicketOpening::Scope, &before);
        assert!(connect(&node("lax"), &Offer::resume(first.session())).resumed);
    }
}

#[test]
fn session_for_another_server_name_gets_a_full_handshake() {
    for version in VERSIONS {
        let clock = ManualClock::at(real_now());
        let keys = keys_at(&new_ring(clock.now()), scope("edge"), clock.now());
        let server = server(version, &keys, &settings(), &clock);
        let named = |session, server_name| Offer { session, server_name, ..Offer::default() };
        let first = connect(&server, &named(None, Some("a.example")));
        for (name, resumes) in [(Some("a.example"), true), (Some("A.Example"), true), (Some("b.example"), false)] {
            let done = connect(&server, &named(Some(first.session()), name));
            assert_eq!(done.resumed, resumes, "{version:?} {name:?}");
        }
        let before = all_counts();
        assert!(!connect(&server, &named(Some(first.session()), None)).resumed);
        assert_counted(TicketOpening::ServerName, &before);
    }
}

#[test]
fn alpn_is_negotiated_anew_on_resumption() {
    for version in VERSIONS {
        let clock = ManualClock::at(real_now());
        let keys = keys_at(&new_ring(clock.now()), scope("edge"), clock.now());
        let mut builder = server_builder(version);
        builder.set_alpn_select_callback(|_, offered| {
            select_next_proto(b"\x08http/1.1\x02h2", offered).ok_or(AlpnError::ALERT_FATAL)
        });
        install(&mut builder, keys, &settings(), Clock::Manual(clock.clone())).unwrap();
        let server = builder.build();
        let with = |session, alpn| Offer { session, alpn: Some(alpn), ..Offer::default() };
        let first = connect(&server, &with(None, b"\x08http/1.1"));
        assert_eq!(first.alpn.as_deref(), Some(&b"http/1.1"[..]));
        let second = connect(&server, &with(Some(first.session()), b"\x02h2"));
        assert!(second.resumed);
        assert_eq!(second.alpn.as_deref(), Some(&b"h2"[..]), "{version:?}");
        let refused = try_connect(&server, &with(Some(first.session()), b"\x03foo"));
        assert!(refused.is_err(), "{version:?}: the listener's ALPN policy holds for resumptions");
    }
}

fn client_auth_server(version: SslVersion, clock: &ManualClock, ring: &sluice::ticket::Ring) -> SslContext {
    let mut builder = server_builder(version);
    builder.set_verify_callback(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT, |_, _| true);
    install(&mut builder, keys_at(ring, scope("mtls"), clock.now()), &settings(), Clock::Manual(clock.clone()))
        .unwrap();
    builder.build()
}

#[test]
fn client_certificate_travels_with_the_session_until_it_expires() {
    for version in VERSIONS {
        let clock = ManualClock::at(real_now());
        let ring = new_ring(clock.now());
        let expiry = Asn1Time::from_unix(clock.now().0 as i64 + 600).unwrap();
        let client = identity("client.example", &expiry);
        let server = client_auth_server(version, &clock, &ring);
        let first = connect(&server, &Offer { identity: Some(&client), ..Offer::default() });
        let offer = Offer { identity: Some(&client), session: Some(first.session()), ..Offer::default() };
        let second = connect(&server, &offer);
        assert!(second.resumed);
        let seen = second.client_certificate.expect("a certificate");
        assert_eq!(
            seen.digest(openssl::hash::MessageDigest::sha256()).unwrap().as_ref(),
            client.0.digest(openssl::hash::MessageDigest::sha256()).unwrap().as_ref()
        );

        clock.advance(Duration::from_secs(600));
        let before = all_counts();
        assert!(!connect(&server, &offer).resumed, "{version:?}");
        assert_counted(TicketOpening::ClientCertificate, &before);
    }
}

#[test]
fn session_is_not_resumed_where_no_certificate_came_and_one_is_needed() {
    for version in VERSIONS {
        let clock = ManualClock::at(real_now());
        let ring = new_ring(clock.now());
        let node = |mode| {
            let mut builder = server_builder(version);
            builder.set_verify_callback(mode, |_, _| true);
            let keys = keys_at(&ring, scope("mtls"), clock.now());
            install(&mut builder, keys, &settings(), Clock::Manual(clock.clone())).unwrap();
            builder.build()
        };
        let lax = node(SslVerifyMode::PEER);
        let strict = node(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        let anonymous = connect(&lax, &Offer::default());
        assert!(connect(&lax, &Offer::resume(anonymous.session())).resumed);
        let client = identity("client.example", &Asn1Time::days_from_now(1).unwrap());
        let before = all_counts();
        let offer = Offer { identity: Some(&client), session: Some(anonymous.session()), ..Offer::default() };
        assert!(!connect(&strict, &offer).resumed, "{version:?}: though the scope is the same");
        assert_counted(TicketOpening::ClientCertificate, &before);
    }
}

#[test]
fn session_is_not_resumed_once_what_admitted_it_is_over() {
    for version in VERSIONS {
        let clock = ManualClock::at(real_now());
        let keys = keys_at(&new_ring(clock.now()), scope("mtls"), clock.now());
        let until = Some(clock.now().plus(Duration::from_secs(100)));
        let server = server(version, &keys, &TicketSettings { until, ..settings() }, &clock);
        let first = connect(&server, &Offer::default());
        clock.advance(Duration::from_secs(99));
        assert!(connect(&server, &Offer::resume(first.session())).resumed, "{version:?}");
        clock.advance(Duration::from_secs(1));
        let before = all_counts();
        assert!(!connect(&server, &Offer::resume(first.session())).resumed, "{version:?}");
        assert_counted(TicketOpening::ClientCertificate, &before);
    }
}

#[test]
fn session_of_another_protocol_version_gets_a_full_handshake() {
    let clock = ManualClock::at(real_now());
    let ring = new_ring(clock.now());
    let node = |version| server(version, &keys_at(&ring, scope("edge"), clock.now()), &settings(), &clock);
    let old = connect(&node(SslVersion::TLS1_2), &Offer::default());
    assert!(!connect(&node(SslVersion::TLS1_3), &Offer::resume(old.session())).resumed);
    let new = connect(&node(SslVersion::TLS1_3), &Offer::default());
    assert!(!connect(&node(SslVersion::TLS1_2), &Offer::resume(new.session())).resumed);
}

#[test]
fn tls12_session_disguised_as_a_tls13_one_gets_a_full_handshake() {
    let clock = ManualClock::at(real_now());
    let ring = new_ring(clock.now());
    let node = |version| server(version, &keys_at(&ring, scope("edge"), clock.now()), &settings(), &clock);
    let old = connect(&node(SslVersion::TLS1_2), &Offer::default());
    let mut der = old.session().to_der().unwrap();
    // A 48-byte secret fits TLS_AES_256_GCM_SHA384, so the client offers it with a binder that would be right.
    let version = der.windows(4).position(|bytes| bytes == [0x02, 0x02, 0x03, 0x03]).unwrap();
    der[version + 3] = 0x04;
    let suite = version + 4;
    assert_eq!(der[suite..suite + 2], [0x04, 0x02]);
    der[suite + 2..suite + 4].copy_from_slice(&[0x13, 0x02]);
    let disguised = openssl::ssl::SslSession::from_der(&der).unwrap();
    let before = all_counts();
    assert!(!connect(&node(SslVersion::TLS1_3), &Offer::resume(&disguised)).resumed);
    assert_counted(TicketOpening::Version, &before);
}

#[test]
fn ring_outside_its_time_issues_no_ticket_and_the_handshake_succeeds() {
    for version in VERSIONS {
        let clock = ManualClock::at(real_now());
        let keys = keys_at(&new_ring(clock.now()), scope("edge"), clock.now());
        let server = server(version, &keys, &settings(), &clock);
        let first = connect(&server, &Offer::default());
        keys.publish(KeyTable::default());
        let before = issued(TicketIssue::NoKey) + issued(TicketIssue::LifetimeOver);
        let done = connect(&server, &Offer::resume(first.session()));
        assert!(!done.resumed);
        assert!(issued(TicketIssue::NoKey) + issued(TicketIssue::LifetimeOver) > before);
        if version == SslVersion::TLS1_3 {
            assert!(done.sessions.is_empty());
        }
    }
}

#[test]
fn clock_step_back_makes_tickets_of_the_future_expire_and_not_live_longer() {
    let clock = ManualClock::at(real_now());
    let start = clock.now();
    let ring = new_ring(start);
    let keys = keys_at(&ring, scope("edge"), start);
    let server = server(SslVersion::TLS1_3, &keys, &settings(), &clock);
    let first = connect(&server, &Offer::default());
    clock.set(UnixSeconds(start.0 - 4000));
    keys.publish(table_at(&ring, keys.scope(), clock.now()));
    assert!(!connect(&server, &Offer::resume(first.session())).resumed);
    clock.set(start);
    keys.publish(table_at(&ring, keys.scope(), clock.now()));
    assert!(connect(&server, &Offer::resume(first.session())).resumed);
}

/// A listener that switches to another context for each server name, as one with several certificates does.
fn switching_server(
    version: SslVersion,
    clock: &ManualClock,
    listener: &Arc<ScopeKeys>,
    other: SslContext,
) -> SslContext {
    let mut builder = server_builder(version);
    builder.set_servername_callback(move |ssl, _| {
        if ssl.servername(NameType::HOST_NAME) == Some("other.example") {
            ssl.set_ssl_context(&other).map_err(|_| SniError::ALERT_FATAL)?;
        }
        Ok(())
    });
    install(&mut builder, Arc::clone(listener), &settings(), Clock::Manual(clock.clone())).unwrap();
    builder.build()
}

#[test]
fn session_resumes_where_the_server_name_switches_between_contexts_of_one_scope() {
    for version in VERSIONS {
        let clock = ManualClock::at(real_now());
        let keys = keys_at(&new_ring(clock.now()), scope("edge"), clock.now());
        let other = server(version, &keys, &settings(), &clock);
        let server = switching_server(version, &clock, &keys, other);
        for name in ["other.example", "edge.example"] {
            let mut last = connect(&server, &Offer { server_name: Some(name), ..Offer::default() });
            for _ in 0..3 {
                let offer = Offer { server_name: Some(name), ..Offer::resume(last.session()) };
                let next = connect(&server, &offer);
                assert!(next.resumed, "{version:?} {name}");
                if !next.sessions.is_empty() {
                    last = next;
                }
            }
        }
    }
}

#[test]
fn context_switched_in_under_another_scope_or_without_tickets_means_full_handshakes() {
    for version in VERSIONS {
        let clock = ManualClock::at(real_now());
        let ring = new_ring(clock.now());
        let keys = keys_at(&ring, scope("edge"), clock.now());
        let strict = server(version, &keys_at(&ring, scope("strict"), clock.now()), &settings(), &clock);
        let bare = server_builder(version).build();
        for other in [strict, bare] {
            let server = switching_server(version, &clock, &keys, other);
            let named = |session, server_name| Offer { session, server_name: Some(server_name), ..Offer::default() };
            let first = connect(&server, &named(None, "other.example"));
            for session in &first.sessions {
                assert!(!connect(&server, &named(Some(session), "other.example")).resumed, "{version:?}");
                assert!(!connect(&server, &named(Some(session), "edge.example")).resumed, "{version:?}");
            }
            let edge = connect(&server, &named(None, "edge.example"));
            assert!(!connect(&server, &named(Some(edge.session()), "other.example")).resumed, "{version:?}");
        }
    }
}

#[test]
fn scope_chosen_for_one_handshake_decides_about_its_tickets() {
    for version in VERSIONS {
        let clock = ManualClock::at(real_now());
        let ring = new_ring(clock.now());
        let issuer =
            |name| Issuer::new(keys_at(&ring, scope(name), clock.now()), &settings(), Clock::Manual(clock.clone()));
        let strict = issuer("strict");
        let mut builder = server_builder(version);
        // Stands for a look into the ClientHello.
        let is_strict = Arc::new(AtomicBool::new(false));
        let found = Arc::clone(&is_strict);
        builder.set_client_hello_callback(move |ssl, _| {
            if found.load(Ordering::Relaxed) {
                strict.choose(ssl)?;
            }
            Ok(ClientHelloResponse::SUCCESS)
        });
        let edge = keys_at(&ring, scope("edge"), clock.now());
        install(&mut builder, edge, &settings(), Clock::Manual(clock.clone())).unwrap();
        let listener = builder.build();
        // The same scopes as a node has them whose contexts serve one each.
        let alone = |name| server(version, &keys_at(&ring, scope(name), clock.now()), &settings(), &clock);
        let (alone_strict, alone_edge) = (alone("strict"), alone("edge"));
        for (name, own, other) in
            [("strict.example", &alone_strict, &alone_edge), ("edge.example", &alone_edge, &alone_strict)]
        {
            is_strict.store(name == "strict.example", Ordering::Relaxed);
            let named = |session| Offer { session, server_name: Some(name), ..Offer::default() };
            let first = connect(&listener, &named(None));
            let before = all_counts();
            assert!(connect(&listener, &named(Some(first.session()))).resumed, "{version:?} {name}");
            assert_counted(TicketOpening::Current, &before);
            assert!(connect(own, &named(Some(first.session()))).resumed, "{version:?} {name}");
            assert!(!connect(other, &named(Some(first.session()))).resumed, "{version:?} {name}");
            let elsewhere = connect(own, &named(None));
            assert!(connect(&listener, &named(Some(elsewhere.session()))).resumed, "{version:?} {name}");
        }
    }
}

#[test]
fn session_resumes_across_a_hello_retry_request() {
    let clock = ManualClock::at(real_now());
    let keys = keys_at(&new_ring(clock.now()), scope("edge"), clock.now());
    let mut builder = server_builder(SslVersion::TLS1_3);
    // The client's first key share is for a group that the server does not take.
    builder.set_groups_list("secp521r1").unwrap();
    install(&mut builder, keys, &settings(), Clock::Manual(clock.clone())).unwrap();
    let server = builder.build();
    let first = connect(&server, &Offer::default());
    let before = opened(TicketOpening::Current);
    assert!(connect(&server, &Offer::resume(first.session())).resumed);
    assert_eq!(opened(TicketOpening::Current) - before, 2, "the ticket is shown in both ClientHellos");
}
