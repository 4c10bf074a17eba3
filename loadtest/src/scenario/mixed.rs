//! `mixed`: every slot draws its next operation by the weights.
//!
//! The draw is a smooth weighted round robin, shifted by slot: the shares are exact, the same in every run, and the
//! slots do not move in step.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::result::{ErrorClass, Scenario};
use crate::scenario::{Slot, handshake, request, resume, transfer};

/// Opens what the weighted operations need.
pub(super) async fn prepare(slot: &mut Slot) -> Result<(), ErrorClass> {
    let weights = slot.context.plan.weights.clone();
    slot.draw = Draw::new(&weights, slot.index);
    if weights.contains_key(&Scenario::Request) || weights.contains_key(&Scenario::Transfer) {
        slot.hold_open().await?;
    }
    if weights.contains_key(&Scenario::Resume) {
        resume::prepare(slot).await?;
    }
    Ok(())
}

/// One drawn operation that was due at `intended`.
pub(super) async fn step(slot: &mut Slot, intended: Instant) -> Result<(), ErrorClass> {
    match slot.draw.next() {
        Some(Scenario::Handshake) => handshake::step(slot, intended).await,
        Some(Scenario::Resume) => resume::step(slot, intended).await,
        Some(Scenario::Transfer) => transfer::step(slot, intended).await,
        _ => request::step(slot, intended).await,
    }
}

/// A smooth weighted round robin.
#[derive(Debug, Default)]
pub(super) struct Draw {
    /// Operation, weight, credit.
    shares: Vec<(Scenario, i64, i64)>,
}

impl Draw {
    fn new(weights: &BTreeMap<Scenario, u32>, slot: usize) -> Self {
        let shares = weights.iter().map(|(scenario, weight)| (*scenario, i64::from(*weight), 0)).collect();
        let mut draw = Self { shares };
        let round = draw.total().clamp(1, SHIFT_MAX);
        for _ in 0..i64::try_from(slot).unwrap_or(0) % round {
            draw.next();
        }
        draw
    }

    fn total(&self) -> i64 {
        self.shares.iter().map(|(_, weight, _)| weight).sum()
    }

    fn next(&mut self) -> Option<Scenario> {
        let total = self.total();
        self.shares.iter_mut().for_each(|(_, weight, credit)| *credit += *weight);
        let (scenario, _, credit) = self.shares.iter_mut().max_by_key(|(_, _, credit)| *credit)?;
        *credit -= total;
        Some(*scenario)
    }
}

/// Most steps by which a slot's draw is shifted.
const SHIFT_MAX: i64 = 1000;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

    use super::*;

    #[test]
    fn draw_keeps_the_weights_exactly() {
        let weights = BTreeMap::from([(Scenario::Request, 7), (Scenario::Handshake, 2), (Scenario::Transfer, 1)]);
        let mut draw = Draw::new(&weights, 3);
        let mut counts = BTreeMap::new();
        for _ in 0..1000 {
            *counts.entry(draw.next().unwrap()).or_insert(0) += 1;
        }
        let expected =
            BTreeMap::from([(Scenario::Request, 700), (Scenario::Handshake, 200), (Scenario::Transfer, 100)]);
        assert_eq!(counts, expected);
    }

    #[test]
    fn draw_does_not_bunch_the_rare_operation() {
        let weights = BTreeMap::from([(Scenario::Request, 3), (Scenario::Handshake, 1)]);
        let mut draw = Draw::new(&weights, 0);
        let drawn: Vec<_> = (0..8).filter_map(|_| draw.next()).collect();
        let at: Vec<_> =
            drawn.iter().enumerate().filter(|(_, kind)| **kind == Scenario::Handshake).map(|(n, _)| n).collect();
        assert_eq!(at[1] - at[0], 4);
    }
}
