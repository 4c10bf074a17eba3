//! Giving back memory that connections do not use at the moment.

use std::time::{Duration, Instant};

use crate::relay;
use crate::sys;

/// How often a worker looks; what a connection did not use for that long is given back. Long enough that a busy
/// connection never pays for it.
const INTERVAL: Duration = Duration::from_secs(1);

/// Contexts that fill the allocator's smallest unit, 64 KiB.
const CONTEXTS_WORTH_GIVING_BACK: usize = 64;

/// When a worker gives back what.
pub(super) struct Reclaim {
    due: Instant,
    /// Connections accepted when it was looked last.
    accepted: u64,
    /// Connections were accepted, or contexts taken back, since freed memory went back to the system.
    has_garbage: bool,
    /// Contexts taken back since then.
    contexts: usize,
}

impl Reclaim {
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now + INTERVAL, accepted: 0, has_garbage: false, contexts: 0 }
    }

    /// To be called with every tick; `accepted` counts the connections so far.
    pub(super) fn advance_at(&mut self, now: Instant, accepted: u64) {
        if now < self.due {
            return;
        }
        self.due = now + INTERVAL;
        let contexts = relay::reclaim_idle();
        if self.has_grown_quiet(accepted, contexts) {
            sys::allocator::give_back();
        }
    }

    /// A handshake takes some 60 KiB, which the next one uses again. Once none came for an interval, the system gets it,
    /// together with the contexts of connections that have become idle; a few of those alone are not worth the walk.
    fn has_grown_quiet(&mut self, accepted: u64, contexts: usize) -> bool {
        let is_quiet = std::mem::replace(&mut self.accepted, accepted) == accepted;
        self.contexts += contexts;
        self.has_garbage |= !is_quiet || self.contexts >= CONTEXTS_WORTH_GIVING_BACK;
        if !is_quiet || !self.has_garbage {
            return false;
        }
        (self.has_garbage, self.contexts) = (false, 0);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_back_once_after_a_burst_and_not_while_connections_come() {
        let mut reclaim = Reclaim::new(Instant::now());
        let counts = [0, 10, 20, 20, 20, 21, 21];
        assert_eq!(
            counts.map(|accepted| reclaim.has_grown_quiet(accepted, 0)),
            [false, false, false, true, false, false, true]
        );
    }

    #[test]
    fn contexts_of_connections_that_grew_idle_go_back_in_numbers() {
        let mut reclaim = Reclaim::new(Instant::now());
        let taken_back = [0, 63, 0, 1, 0, 64, 0];
        assert_eq!(
            taken_back.map(|contexts| reclaim.has_grown_quiet(0, contexts)),
            [false, false, false, true, false, true, false]
        );
    }
}
