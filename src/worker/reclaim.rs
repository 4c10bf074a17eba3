//! Giving back memory that connections do not use at the moment.

use std::time::{Duration, Instant};

use crate::relay;
use crate::sys;

/// How often a worker looks; what a connection did not use for that long is given back. Long enough that a busy
/// connection never pays for it.
const INTERVAL: Duration = Duration::from_secs(1);

/// When a worker gives back what.
pub(super) struct Reclaim {
    due: Instant,
    /// Connections accepted when it was looked last.
    accepted: u64,
    /// Connections were accepted since freed memory went back to the system.
    has_garbage: bool,
}

impl Reclaim {
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now + INTERVAL, accepted: 0, has_garbage: false }
    }

    /// To be called with every tick; `accepted` counts the connections so far.
    pub(super) fn advance_at(&mut self, now: Instant, accepted: u64) {
        if now < self.due {
            return;
        }
        self.due = now + INTERVAL;
        relay::reclaim_idle();
        if self.has_grown_quiet(accepted) {
            sys::allocator::give_back();
        }
    }

    /// A handshake takes some 60 KiB, which the next one uses again. Once none came for an interval, the system gets it.
    fn has_grown_quiet(&mut self, accepted: u64) -> bool {
        let is_quiet = std::mem::replace(&mut self.accepted, accepted) == accepted;
        let had_garbage = self.has_garbage;
        self.has_garbage = !is_quiet;
        is_quiet && had_garbage
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
            counts.map(|accepted| reclaim.has_grown_quiet(accepted)),
            [false, false, false, true, false, false, true]
        );
    }
}
