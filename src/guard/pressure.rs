//! What is given up, and in which order, when memory comes near its ceiling.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// How short memory is. Each step includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Nothing is given up.
    None,
    /// No large relay buffers, and what is pooled goes back: bulk takes more CPU.
    Buffers,
    /// No new connections: they wait in the kernel's queue.
    Accepting,
    /// The connections that have been idle longest are closed, a few with each look.
    Idle,
}

/// The present pressure: written by the control thread, read by the workers.
#[derive(Clone, Debug, Default)]
pub struct PressureCell(Arc<AtomicU8>);

/// Where each step begins, in thousandths of the ceiling.
const BEGINNINGS: [(Pressure, u64); 3] = [(Pressure::Idle, 1000), (Pressure::Accepting, 950), (Pressure::Buffers, 850)];
/// How far usage must fall below its beginning before a step is taken back, in thousandths of the ceiling: steps that
/// come and go with every buffer would help nobody.
const EASING: u64 = 50;

impl Pressure {
    /// The step that `used` of `max` bytes calls for, when the present step is `self`.
    pub fn next(self, used: u64, max: u64) -> Self {
        let share = u128::from(used) * 1000 / u128::from(max.max(1));
        let holds = |(step, beginning): &(Self, u64)| {
            let bound = if *step <= self { beginning - EASING } else { *beginning };
            share >= u128::from(bound)
        };
        BEGINNINGS.iter().find(|step| holds(step)).map_or(Self::None, |(step, _)| *step)
    }

    /// How many connections are closed at a look when `open` are open: all of them within seconds.
    pub fn closed_per_look(self, open: usize) -> usize {
        if self == Self::Idle { open.div_ceil(CLOSING_LOOKS) } else { 0 }
    }
}

/// Looks over which all connections would be closed.
const CLOSING_LOOKS: usize = 64;

impl PressureCell {
    /// The present pressure.
    pub fn get(&self) -> Pressure {
        match self.0.load(Ordering::Relaxed) {
            0 => Pressure::None,
            1 => Pressure::Buffers,
            2 => Pressure::Accepting,
            _ => Pressure::Idle,
        }
    }

    /// Publishes the pressure.
    pub fn set(&self, pressure: Pressure) {
        self.0.store(pressure as u8, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_come_in_order_and_go_only_well_below_where_they_came() {
        let mut pressure = Pressure::None;
        let mut seen = Vec::new();
        for used in [500, 849, 850, 949, 950, 999, 1000, 2000, 960, 949, 901, 899, 851, 801, 799] {
            pressure = pressure.next(used, 1000);
            seen.push(pressure);
        }
        use Pressure::{Accepting, Buffers, Idle, None};
        assert_eq!(
            seen,
            [
                None, None, Buffers, Buffers, Accepting, Accepting, Idle, Idle, Idle, Accepting, Accepting, Buffers,
                Buffers, Buffers, None
            ]
        );
    }

    #[test]
    fn usage_beyond_every_bound_overflows_nothing() {
        assert_eq!(Pressure::None.next(u64::MAX, u64::MAX), Pressure::Idle);
        assert_eq!(Pressure::None.next(1, 0), Pressure::Idle);
    }

    #[test]
    fn idle_connections_are_closed_only_at_the_last_step_and_a_few_at_a_time() {
        assert_eq!(Pressure::Accepting.closed_per_look(10_000), 0);
        assert_eq!(Pressure::Idle.closed_per_look(10_000), 157);
        assert_eq!(Pressure::Idle.closed_per_look(1), 1);
        assert_eq!(Pressure::Idle.closed_per_look(0), 0);
    }

    #[test]
    fn cell_gives_back_what_was_set() {
        let cell = PressureCell::default();
        for pressure in [Pressure::Buffers, Pressure::Accepting, Pressure::Idle, Pressure::None] {
            cell.set(pressure);
            assert_eq!(cell.clone().get(), pressure);
        }
    }
}
