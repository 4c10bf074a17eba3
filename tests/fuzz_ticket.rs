//! Fuzz targets of the ticket opener: our own, and OpenSSL's with our callbacks. Bounded under plain `cargo test`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod ticket_common;

use std::sync::atomic::{AtomicU64, Ordering};

use openssl::ssl::SslVersion;
use sluice::sys::openssl_ext::ticket_panics_caught;
use sluice::ticket::provenance::{Provenance, host_name};
use sluice::ticket::{ManualClock, TicketSettings, UnixSeconds, decode_ring, seal};
use ticket_common::*;

/// Changes to a ticket: bytes to overwrite, the length to keep, bytes to append.
type Edits = (Vec<(u16, u8)>, u16, Vec<u8>);

fn edited(ticket: &[u8], (bytes, length, appended): &Edits) -> Vec<u8> {
    let mut ticket = ticket.to_vec();
    for (at, byte) in bytes {
        let at = usize::from(*at) % ticket.len();
        ticket[at] = *byte;
    }
    // Most lengths keep all of it, so that the parts behind the length checks are reached too.
    ticket.truncate(if length % 4 == 0 { usize::from(*length) % (ticket.len() + 1) } else { ticket.len() });
    ticket.extend_from_slice(&appended[..appended.len().min(2000)]);
    ticket
}

#[test]
fn fuzz_opener_opens_nothing_but_what_was_sealed() {
    let now = UnixSeconds(1_800_000_000);
    let table = table_at(&new_ring(now), &scope("edge"), now);
    let original = seal::seal(table.sealing_at(now).unwrap(), &[5; 16], &[6; 200]).unwrap();
    bolero::check!().with_type::<Edits>().with_iterations(3000).for_each(|edits| {
        let ticket = edited(&original, edits);
        let opened = seal::open(&table, &ticket, now);
        assert_eq!(opened.is_ok(), ticket == original);
    });
}

#[test]
fn fuzz_opener_of_arbitrary_bytes_never_panics() {
    let now = UnixSeconds(1_800_000_000);
    let table = table_at(&new_ring(now), &scope("edge"), now);
    bolero::check!().with_iterations(5000).for_each(|bytes: &[u8]| {
        assert!(seal::open(&table, bytes, now).is_err());
        assert!(decode_ring(bytes).is_err());
        let _ = host_name(bytes);
        if let Some(provenance) = Provenance::decode(bytes) {
            assert_eq!(provenance.encode(), bytes);
        }
    });
}

#[test]
fn fuzz_ticket_in_a_handshake_resumes_unchanged_or_not_at_all() {
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let clock = ManualClock::at(real_now());
        let keys = keys_at(&new_ring(clock.now()), scope("edge"), clock.now());
        let server = server(version, &keys, &TicketSettings::default(), &clock);
        let session = connect(&server, &Offer::default()).sessions.remove(0);
        let original = ticket_of(&session);
        let handshakes = AtomicU64::new(0);
        bolero::check!().with_type::<Edits>().with_iterations(150).for_each(|edits| {
            handshakes.fetch_add(1, Ordering::Relaxed);
            let ticket = edited(&original, edits);
            if ticket.is_empty() {
                return;
            }
            let done = connect(&server, &Offer::resume(&with_ticket(&session, &ticket)));
            assert!(!done.resumed || ticket == original);
        });
        assert!(handshakes.load(Ordering::Relaxed) >= 150);
        assert!(connect(&server, &Offer::resume(&session)).resumed);
    }
    assert_eq!(ticket_panics_caught(), 0);
}
