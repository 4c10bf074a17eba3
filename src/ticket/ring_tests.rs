#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

use super::*;
use crate::ticket::key::{KeyTable, Lookup};
use proptest::prelude::*;

const T0: UnixSeconds = UnixSeconds(1_800_000_000);

fn shape() -> RingShape {
    RingShape::new(Duration::from_secs(600), Duration::from_secs(1800)).unwrap()
}

fn scope() -> ScopeHash {
    ScopeHash::of(&[("listener", b"edge")])
}

fn ring() -> Ring {
    Ring::generate_at(shape(), T0).unwrap()
}

fn copy(ring: &Ring) -> Ring {
    Ring::from_parts(ring.id, ring.generation, ring.shape, ring.first_epoch, ring.chain.duplicate())
}

fn table(ring: &Ring, now: UnixSeconds) -> KeyTable {
    KeyTable::new(ring.keys_at(&scope(), now).unwrap(), Vec::new(), shape().retention())
}

fn sealing_name(ring: &Ring, now: UnixSeconds) -> Option<KeyName> {
    table(ring, now).sealing_at(now).map(super::super::key::TicketKey::name)
}

#[test]
fn shape_outside_its_bounds_is_refused_with_the_bound() {
    let new = |epoch, retention| RingShape::new(Duration::from_secs(epoch), Duration::from_secs(retention));
    assert!(matches!(new(299, 600), Err(RingError::EpochLength { seconds: 299 })));
    assert!(matches!(new(604_801, 600), Err(RingError::EpochLength { .. })));
    assert!(matches!(new(600, 0), Err(RingError::Retention { seconds: 0 })));
    assert!(matches!(new(600, 604_801), Err(RingError::Retention { .. })));
    assert!(matches!(new(300, 604_800), Err(RingError::TooManyEpochs { held: 2019 })));
    assert!(new(300, 3600).is_ok() && new(3600, 600).is_ok());
}

#[test]
fn keys_cover_every_live_epoch_and_the_next() {
    let ring = ring();
    let current = shape().epoch_at(T0);
    // 1800 s of life and 120 s of skew reach back into the fourth epoch, or the third, depending on the second.
    let held = ring.keys_at(&scope(), T0).unwrap();
    assert_eq!(held.len() as u64, current + 1 - shape().oldest_alive_at(T0) + 1);
    assert_eq!(held.last().unwrap().seals.start, shape().start_of(current + 1).0);
}

#[test]
fn sealing_key_changes_at_the_epoch_without_a_new_table() {
    let ring = ring();
    let early = table(&ring, T0);
    let next = ring.next_epoch_at(T0);
    let before = early.sealing_at(UnixSeconds(next.0 - 1)).unwrap().name();
    let after = early.sealing_at(next).unwrap().name();
    assert_ne!(before, after);
    assert_eq!(Some(after), sealing_name(&ring, next));
}

#[test]
fn ratchet_leaves_expired_epochs_behind_and_keeps_the_live_ones() {
    let mut ring = ring();
    let name = sealing_name(&ring, T0).unwrap();
    let end = shape().start_of(shape().epoch_at(T0) + 1).plus(shape().retention() + CLOCK_SKEW_MAX);
    let last = UnixSeconds(end.0 - 1);
    ring.ratchet_at(last).unwrap();
    assert!(matches!(table(&ring, last).opening_at(&name.0, last), Lookup::Previous(_)));
    assert_eq!(ring.ratchet_at(end).unwrap(), 1);
    assert!(matches!(table(&ring, end).opening_at(&name.0, end), Lookup::Unknown));
    assert_eq!(ring.standing_at(end), Standing::Current);
}

#[test]
fn ring_of_a_later_epoch_cannot_derive_an_expired_key() {
    // The thief has the ring file after its ratchet; no position that it can reach gives the key.
    let mut stolen = ring();
    let name = sealing_name(&stolen, T0).unwrap();
    let late = T0.plus(shape().retention() + shape().epoch_length() + CLOCK_SKEW_MAX);
    stolen.ratchet_at(late).unwrap();
    for seconds in (T0.0 - 7200..late.0 + 7200).step_by(300) {
        let now = UnixSeconds(seconds);
        let names = stolen.names_at(&scope(), now).unwrap();
        assert!(!names.contains(&name), "derivable with the clock at {now}");
    }
}

#[test]
fn clock_back_within_a_ticket_life_seals_as_before() {
    let mut ring = ring();
    let name = sealing_name(&ring, T0).unwrap();
    ring.ratchet_at(T0.plus(Duration::from_secs(1200))).unwrap();
    assert_eq!(ring.ratchet_at(T0).unwrap(), 0);
    assert_eq!(sealing_name(&ring, T0), Some(name));
}

#[test]
fn clock_far_back_seals_nothing_and_is_reported() {
    let ring = ring();
    let past = T0.minus(Duration::from_secs(86_400));
    assert_eq!(sealing_name(&ring, past), None);
    assert!(matches!(ring.standing_at(past), Standing::Ahead { epochs } if epochs > 100));
}

#[test]
fn clock_jump_beyond_a_year_is_not_believed_and_harms_nothing() {
    let mut ring = ring();
    let name = sealing_name(&ring, T0);
    let absurd = T0.plus(Duration::from_secs(20 * 366 * 86_400));
    assert!(matches!(ring.ratchet_at(absurd), Err(RingError::StepTooLong { .. })));
    assert!(matches!(ring.standing_at(absurd), Standing::FarBehind { .. }));
    assert_eq!(sealing_name(&ring, absurd), None);
    assert_eq!(sealing_name(&ring, T0), name);
}

#[test]
fn clock_at_either_end_of_time_does_not_panic() {
    for now in [UnixSeconds(0), UnixSeconds(1), UnixSeconds(u64::MAX), UnixSeconds(u64::MAX - 1)] {
        let mut ring = Ring::generate_at(shape(), now).unwrap();
        assert!(ring.keys_at(&scope(), now).unwrap().len() >= 2, "at {now}");
        for other in [UnixSeconds(0), T0, UnixSeconds(u64::MAX)] {
            let _ = ring.ratchet_at(other);
            assert!(ring.keys_at(&scope(), other).unwrap().len() < 9);
        }
    }
}

#[test]
fn node_slightly_ahead_is_opened_and_one_beyond_the_skew_is_not() {
    let ring = ring();
    let next = ring.next_epoch_at(T0);
    let name = sealing_name(&ring, next).unwrap();
    let early = next.minus(CLOCK_SKEW_MAX);
    assert!(matches!(table(&ring, early).opening_at(&name.0, early), Lookup::Previous(_)));
    let earlier = UnixSeconds(early.0 - 1);
    assert!(matches!(table(&ring, earlier).opening_at(&name.0, earlier), Lookup::Expired));
}

#[test]
fn revocation_shares_no_key_with_what_it_revokes() {
    let ring = ring();
    let revoked = ring.revoked_at(T0).unwrap();
    let old = ring.names_at(&scope(), T0).unwrap();
    assert!(revoked.names_at(&scope(), T0).unwrap().iter().all(|name| !old.contains(name)));
    assert_eq!((revoked.id(), revoked.generation()), (ring.id(), 1));
    assert_eq!(ring.relation_of(&revoked).unwrap(), Relation::Revocation);
    assert_eq!(revoked.relation_of(&ring).unwrap(), Relation::Revoked);
}

#[test]
fn relation_tells_behind_ahead_different_and_diverged() {
    let ring = ring();
    let mut later = copy(&ring);
    later.ratchet_at(T0.plus(Duration::from_secs(1200))).unwrap();
    assert_eq!(ring.relation_of(&copy(&ring)).unwrap(), Relation::Same);
    assert_eq!(ring.relation_of(&later).unwrap(), Relation::Ahead { epochs: 2 });
    assert_eq!(later.relation_of(&ring).unwrap(), Relation::Behind { epochs: 2 });
    assert_eq!(ring.relation_of(&self::ring()).unwrap(), Relation::Different);
    let forged = Ring::from_parts(ring.id, 0, ring.shape, ring.first_epoch, ChainSecret::generate().unwrap());
    assert!(matches!(ring.relation_of(&forged), Err(RingError::Diverged { .. })));
    let far = Ring::from_parts(ring.id, 0, ring.shape, u64::MAX, ChainSecret::generate().unwrap());
    assert!(matches!(ring.relation_of(&far), Err(RingError::StepTooLong { .. })));
}

#[test]
fn fingerprint_is_the_same_on_nodes_that_ratcheted_differently() {
    let ring = ring();
    let mut other = copy(&ring);
    let now = T0.plus(Duration::from_secs(1900));
    other.ratchet_at(now).unwrap();
    assert_ne!(ring.first_epoch(), other.first_epoch());
    assert_eq!(ring.fingerprint_at(now).unwrap(), other.fingerprint_at(now).unwrap());
    assert!(ring.fingerprint_at(now).unwrap().is_some());
}

/// One thing that happens to a node.
#[derive(Clone, Debug)]
enum Event {
    ClockStep(i64),
    Ratchet,
    ReloadFromOther,
}

fn event() -> impl Strategy<Value = (bool, Event)> {
    let step = prop_oneof![-4000_i64..4000, -100_i64..100, 0_i64..700];
    (
        any::<bool>(),
        prop_oneof![
            3 => step.prop_map(Event::ClockStep),
            2 => Just(Event::Ratchet),
            1 => Just(Event::ReloadFromOther),
        ],
    )
}

proptest! {
    #[test]
    fn nodes_with_one_ring_agree_and_no_expired_key_opens(events in prop::collection::vec(event(), 1..40)) {
        let first = ring();
        let mut nodes = [(copy(&first), T0), (first, T0)];
        for (which, event) in events {
            let index = usize::from(which);
            match event {
                Event::ClockStep(by) => nodes[index].1 = UnixSeconds(nodes[index].1.0.saturating_add_signed(by)),
                Event::Ratchet => {
                    let now = nodes[index].1;
                    let before = nodes[index].0.first_epoch();
                    nodes[index].0.ratchet_at(now).unwrap();
                    prop_assert!(nodes[index].0.first_epoch() >= before);
                }
                Event::ReloadFromOther => {
                    let other = copy(&nodes[1 - index].0);
                    match nodes[index].0.relation_of(&other).unwrap() {
                        Relation::Ahead { .. } => nodes[index].0 = other,
                        Relation::Same | Relation::Behind { .. } => {}
                        relation => prop_assert!(false, "{relation:?}"),
                    }
                }
            }
            check_agreement(&nodes)?;
        }
    }
}

fn check_agreement(nodes: &[(Ring, UnixSeconds); 2]) -> Result<(), TestCaseError> {
    for (sealer, opener) in [(0, 1), (1, 0), (0, 0)] {
        let (sealer, sealed_at) = &nodes[sealer];
        let (opener, opened_at) = &nodes[opener];
        let Some(name) = sealing_name(sealer, *sealed_at) else {
            // No key for the present only when the ring was ratcheted past it.
            prop_assert!(sealer.first_epoch() > shape().epoch_at(*sealed_at));
            continue;
        };
        let (epoch, base) = (shape().epoch_at(*sealed_at), opener.first_epoch());
        let usable = shape().start_of(epoch).minus(CLOCK_SKEW_MAX)
            ..shape().start_of(epoch + 1).plus(shape().retention() + CLOCK_SKEW_MAX);
        let table = table(opener, *opened_at);
        let found = table.opening_at(&name.0, *opened_at);
        if usable.contains(opened_at) && epoch >= base {
            prop_assert!(matches!(found, Lookup::Current(key) | Lookup::Previous(key) if key.name() == name));
        } else {
            prop_assert!(!matches!(found, Lookup::Current(_) | Lookup::Previous(_)));
        }
    }
    Ok(())
}
