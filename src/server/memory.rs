//! The memory ceiling: how much the process uses, and which step of giving up that calls for.

use std::sync::Arc;

use crate::guard::{Pressure, PressureCell};
use crate::telemetry::{MemoryMetrics, MemoryStep};

/// Looks at the memory of the process.
pub(super) struct MemoryWatch {
    pressure: PressureCell,
    metrics: Arc<MemoryMetrics>,
}

impl MemoryWatch {
    pub(super) fn new(pressure: PressureCell, metrics: Arc<MemoryMetrics>) -> Self {
        Self { pressure, metrics }
    }

    /// Looks once, and publishes what it means. Without a ceiling memory is never short; a reload may take it away.
    pub(super) fn look(&self, max_bytes: Option<u64>) {
        let Some(max) = max_bytes else { return self.note(0, u64::MAX) };
        if let Some(used) = MemoryMetrics::resident_bytes() {
            self.note(used, max);
        }
    }

    fn note(&self, used: u64, max: u64) {
        let before = self.pressure.get();
        let now = before.next(used, max);
        if now == before {
            return;
        }
        self.pressure.set(now);
        self.metrics.pressure.set(now as i64);
        for (step, pressure) in STEPS {
            if before < pressure && pressure <= now {
                self.metrics.steps.of(step).increment();
            }
        }
        let (used_mib, max_mib) = (used >> 20, max >> 20);
        if now > before {
            tracing::warn!(used_mib, max_mib, "memory is short: {} (server.memory_max)", measure(now));
        } else {
            tracing::info!(used_mib, max_mib, "memory is less short: {}", measure(now));
        }
    }
}

const STEPS: [(MemoryStep, Pressure); 3] = [
    (MemoryStep::Buffers, Pressure::Buffers),
    (MemoryStep::Accepting, Pressure::Accepting),
    (MemoryStep::Idle, Pressure::Idle),
];

fn measure(pressure: Pressure) -> &'static str {
    match pressure {
        Pressure::None => "everything is as usual",
        Pressure::Buffers => "no large relay buffers",
        Pressure::Accepting => "no large relay buffers, no new connections",
        Pressure::Idle => "no large relay buffers, no new connections, idle connections are closed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Label;

    #[test]
    fn each_step_that_is_reached_is_counted_once() {
        let (pressure, metrics) = (PressureCell::default(), Arc::<MemoryMetrics>::default());
        let watch = MemoryWatch::new(pressure.clone(), Arc::clone(&metrics));
        let counted = || MemoryStep::ALL.iter().map(|step| metrics.steps.of(*step).value()).collect::<Vec<_>>();
        watch.note(100, 1000);
        assert_eq!(counted(), [0, 0, 0]);
        watch.note(1200, 1000);
        watch.note(1200, 1000);
        assert_eq!(counted(), [1, 1, 1]);
        assert_eq!(pressure.get(), Pressure::Idle);
        watch.note(100, 1000);
        watch.note(860, 1000);
        assert_eq!(counted(), [2, 1, 1]);
        assert_eq!(metrics.pressure.value(), 1);
    }

    #[test]
    fn process_without_a_ceiling_is_never_short() {
        let pressure = PressureCell::default();
        let watch = MemoryWatch::new(pressure.clone(), Arc::default());
        watch.look(None);
        assert_eq!(pressure.get(), Pressure::None);
        watch.look(Some(1));
        assert_eq!(pressure.get(), Pressure::Idle, "the memory of this process is seen");
        watch.look(None);
        assert_eq!(pressure.get(), Pressure::None, "the ceiling is gone");
    }
}
