//! What the border to OpenSSL promises whatever the hooks do, and that both sides mean the same ticket format.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod ticket_common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use openssl::ssl::{SslContext, SslVersion};
use sluice::sys::openssl_ext::{
    Admission, Handshake, ProtectionSlot, Session, TicketHooks, TicketProtection, install_ticket_hooks,
    ticket_panics_caught,
};
use sluice::ticket::provenance::{PROVENANCE_BYTES, Provenance};
use sluice::ticket::{
    KeyTable, ManualClock, ScheduledKey, ScopeKeys, TicketCounters, TicketKey, TicketOpening, TicketSettings,
    UnixSeconds, seal,
};
use ticket_common::*;

const VERSIONS: [SslVersion; 2] = [SslVersion::TLS1_2, SslVersion::TLS1_3];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Issue,
    Seal,
    Open,
    Admit,
    BadKey,
}

/// Hooks with one fixed key that fail where they are told to.
struct Faulty(Fault);

impl Faulty {
    fn fail_at(&self, fault: Fault) {
        assert!(self.0 != fault, "a bug in a hook");
    }

    fn protect(&self, slot: &mut ProtectionSlot<'_>) -> bool {
        if self.0 == Fault::BadKey { slot.protect(&BadKey) } else { slot.protect(&TicketKey::from_block(&[2; 80])) }
    }
}

/// A key that protects nothing.
struct BadKey;

impl TicketProtection for BadKey {
    fn key_name(&self) -> &[u8; 16] {
        &[1; 16]
    }
    fn cipher_key(&self) -> &[u8] {
        &[2; 31]
    }
    fn mac_key(&self) -> &[u8] {
        &[3; 32]
    }
    fn seal_into(&self, _: &[u8], _: &mut [u8]) -> Option<usize> {
        None
    }
    fn open_into(&self, _: &[u8], _: &mut [u8]) -> Option<usize> {
        None
    }
}

impl TicketHooks for Faulty {
    fn issue(&self, _: &Handshake<'_>, _: &mut Session<'_>) {
        self.fail_at(Fault::Issue);
    }
    fn seal(&self, _: Option<&Session<'_>>, slot: &mut ProtectionSlot<'_>) -> bool {
        self.fail_at(Fault::Seal);
        self.protect(slot)
    }
    fn open(&self, _: &[u8; 16], slot: &mut ProtectionSlot<'_>) -> bool {
        self.fail_at(Fault::Open);
        self.protect(slot)
    }
    fn admit(&self, _: &Handshake<'_>, session: Option<&Session<'_>>) -> Admission {
        self.fail_at(Fault::Admit);
        if session.is_some() { Admission::Resume } else { Admission::Refuse }
    }
}

fn faulty_server(version: SslVersion, fault: Fault) -> SslContext {
    let mut builder = server_builder(version);
    install_ticket_hooks(&mut builder, Arc::new(Faulty(fault))).unwrap();
    builder.build()
}

#[test]
fn fault_in_a_hook_costs_the_ticket_and_never_the_handshake() {
    for version in VERSIONS {
        let session = connect(&faulty_server(version, Fault::None), &Offer::default()).sessions.remove(0);
        assert!(connect(&faulty_server(version, Fault::None), &Offer::resume(&session)).resumed);
        for fault in [Fault::Issue, Fault::Seal, Fault::Open, Fault::Admit] {
            let before = ticket_panics_caught();
            let done = connect(&faulty_server(version, fault), &Offer::resume(&session));
            let resumes = matches!(fault, Fault::Issue | Fault::Seal);
            assert_eq!(done.resumed, resumes, "{version:?}");
            let issues = !done.resumed || version == SslVersion::TLS1_3;
            if !resumes || (issues && !done.sessions.is_empty()) {
                assert!(ticket_panics_caught() > before, "{version:?}");
            }
        }
        let before = ticket_panics_caught();
        let done = connect(&faulty_server(version, Fault::Seal), &Offer::default());
        assert!(ticket_panics_caught() > before);
        assert!(version == SslVersion::TLS1_2 || done.sessions.is_empty());
        let done = connect(&faulty_server(version, Fault::BadKey), &Offer::resume(&session));
        assert!(!done.resumed);
    }
}

fn edge(version: SslVersion) -> (Arc<ScopeKeys>, SslContext, ManualClock) {
    let clock = ManualClock::at(real_now());
    let keys = keys_at(&new_ring(clock.now()), scope("edge"), clock.now());
    let server = server(version, &keys, &TicketSettings::default(), &clock);
    (keys, server, clock)
}

#[test]
fn openssl_opens_our_tickets_and_we_open_its() {
    let mut block = [0; 80];
    (0..).zip(&mut block).for_each(|(number, byte)| *byte = number);
    let key = ScheduledKey { key: TicketKey::from_block(&block), seals: 0..10, opens: 0..10 };
    let table = KeyTable::new(vec![key], Vec::new(), Duration::from_secs(10));
    let now = UnixSeconds(0);
    for version in VERSIONS {
        let server = server_of_another_program(version, &mut block);
        let session = connect(&server, &Offer::default()).sessions.remove(0);
        let content = seal::open(&table, &ticket_of(&session), now).unwrap().content;
        let ours = seal::seal(table.sealing_at(now).unwrap(), &[7; 16], &content).unwrap();
        assert_ne!(ours, ticket_of(&session), "another IV");
        assert!(connect(&server, &Offer::resume(&with_ticket(&session, &ours))).resumed, "{version:?}");
    }
}

#[test]
fn ticket_of_a_handshake_opens_outside_of_one_and_the_other_way_round() {
    for version in VERSIONS {
        let (keys, server, clock) = edge(version);
        let done = connect(&server, &Offer { server_name: Some("a.example"), ..Offer::default() });
        let table = keys.table();
        let opened = seal::open(&table, &ticket_of(done.session()), clock.now()).unwrap();
        assert_eq!(opened.age, seal::KeyAge::Current);
        let at = opened.content.windows(PROVENANCE_BYTES).find_map(Provenance::decode);
        assert!(at.is_some(), "the provenance is in the session");

        let ours = seal::seal(table.sealing_at(clock.now()).unwrap(), &[7; 16], &opened.content).unwrap();
        let session = with_ticket(done.session(), &ours);
        let offer = Offer { session: Some(&session), server_name: Some("a.example"), ..Offer::default() };
        assert!(connect(&server, &offer).resumed, "{version:?}");
    }
}

#[test]
fn damaged_ticket_gets_a_full_handshake_and_is_counted_by_reason() {
    for version in VERSIONS {
        let (_, server, _) = edge(version);
        let session = connect(&server, &Offer::default()).sessions.remove(0);
        let ticket = ticket_of(&session);
        let counters = TicketCounters::of_this_thread();
        let counted = |result: TicketOpening| counters.opened.of(result).value();
        for (at, expected) in [
            (0, TicketOpening::UnknownKey),
            (15, TicketOpening::UnknownKey),
            (16, TicketOpening::Corrupted),
            (40, TicketOpening::Corrupted),
            (ticket.len() - 1, TicketOpening::Corrupted),
        ] {
            let mut damaged = ticket.clone();
            damaged[at] ^= 1;
            let before = counted(expected);
            assert!(!connect(&server, &Offer::resume(&with_ticket(&session, &damaged))).resumed, "{version:?} {at}");
            assert_eq!(counted(expected), before + 1, "{version:?} {at}");
        }
        for length in [1, 15, 31, 32, 63, 64, 65, ticket.len() - 1] {
            assert!(!connect(&server, &Offer::resume(&with_ticket(&session, &ticket[..length]))).resumed);
        }
        let longer = [&ticket[..], &[0; 8000]].concat();
        assert!(!connect(&server, &Offer::resume(&with_ticket(&session, &longer))).resumed);
        assert!(connect(&server, &Offer::resume(&with_ticket(&session, &ticket))).resumed);
    }
}

#[test]
fn session_without_provenance_is_refused() {
    // As a ticket would be that another program sealed with the same key file and session id context.
    let (keys, server, clock) = edge(SslVersion::TLS1_2);
    let session = connect(&server, &Offer::default()).sessions.remove(0);
    let table = keys.table();
    let mut content = seal::open(&table, &ticket_of(&session), clock.now()).unwrap().content;
    let at = content.windows(PROVENANCE_BYTES).position(|bytes| Provenance::decode(bytes).is_some()).unwrap();
    content[at] = 0xff;
    let ticket = seal::seal(table.sealing_at(clock.now()).unwrap(), &[7; 16], &content).unwrap();
    assert!(!connect(&server, &Offer::resume(&with_ticket(&session, &ticket))).resumed);
}

#[test]
fn keys_replaced_during_handshakes_never_break_one() {
    const HANDSHAKES: usize = 60;
    const HANDSHAKES_MAX: usize = 10_000;
    for version in VERSIONS {
        let (keys, server, clock) = edge(version);
        let ring = new_ring(clock.now());
        let stop = AtomicBool::new(false);
        let published = AtomicU64::new(0);
        keys.publish(table_at(&ring, keys.scope(), clock.now()));
        std::thread::scope(|threads| {
            let workers: Vec<_> = (0..3)
                .map(|_| {
                    threads.spawn(|| {
                        let mut session = connect(&server, &Offer::default()).sessions.remove(0);
                        for done in 0..HANDSHAKES_MAX {
                            // On a busy machine the publisher may be late.
                            if done >= HANDSHAKES && published.load(Ordering::Relaxed) > 10 {
                                break;
                            }
                            let done = connect(&server, &Offer::resume(&session));
                            assert!(done.resumed, "{version:?}: every table has the key");
                            session = done.sessions.into_iter().next().unwrap_or(session);
                        }
                    })
                })
                .collect();
            threads.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    keys.publish(table_at(&ring, keys.scope(), clock.now()));
                    published.fetch_add(1, Ordering::Relaxed);
                }
            });
            let results: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            stop.store(true, Ordering::Relaxed);
            assert!(results.iter().all(Result::is_ok));
        });
        assert!(published.load(Ordering::Relaxed) > 10);
    }
}

#[test]
fn table_in_use_outlives_its_replacement_and_goes_with_its_last_user() {
    let (keys, _, clock) = edge(SslVersion::TLS1_3);
    let in_use = arc_swap::Guard::into_inner(keys.table());
    let watched = Arc::downgrade(&in_use);
    keys.publish(table_at(&new_ring(clock.now()), keys.scope(), clock.now()));
    assert!(in_use.sealing_at(clock.now()).is_some());
    drop(in_use);
    assert!(watched.upgrade().is_none(), "the former keys are dropped, and with that wiped");
}
