//! Workers that stand still: their threads are there, and their wheels do not turn.

use crate::telemetry::{WorkerState, WorkerView};

/// Looks of the control thread without a turn of a worker's wheel until the worker counts as stalled: at ten looks a
/// second, as many seconds as a tenth of it. Looks are counted, not time: when the whole machine stood still, the control
/// thread did, too.
pub(super) const STALLED_LOOKS: u32 = 100;

/// What was seen of the workers so far.
#[derive(Debug, Default)]
pub(super) struct StallWatch {
    seen: Vec<Seen>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    turns: u64,
    /// Looks since the wheel has turned.
    looks: u32,
}

impl StallWatch {
    /// Looks once, sets the state of workers that have begun or ceased to stand still, and says so in the log.
    pub(super) fn look(&mut self, workers: &[WorkerView]) {
        self.seen.resize(workers.len(), Seen::default());
        for (index, (seen, worker)) in self.seen.iter_mut().zip(workers).enumerate() {
            let turns = worker.pulse.turns();
            let has_turned = seen.turns != turns;
            seen.turns = turns;
            seen.looks = if has_turned { 0 } else { seen.looks.saturating_add(1) };
            match worker.state.get() {
                WorkerState::Running if seen.looks >= STALLED_LOOKS => {
                    worker.state.set(WorkerState::Stalled);
                    let open = worker.metrics.connections_open.value();
                    tracing::error!(
                        worker = index,
                        open,
                        "a worker stands still: its connections wait, and new ones that the kernel gives to it; \
                         /livez says so, and the watchdog of the service restarts the process"
                    );
                }
                WorkerState::Stalled if has_turned => {
                    worker.state.set(WorkerState::Running);
                    tracing::warn!(worker = index, "a worker goes on that had stood still");
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Process;

    #[test]
    fn worker_whose_wheel_does_not_turn_is_stalled_until_it_does() {
        let process = Process::sample(2);
        let mut watch = StallWatch::default();
        let mut look = |times: u32| {
            for _ in 0..times {
                process.workers[0].pulse.turn();
                watch.look(&process.workers);
            }
            [0, 1].map(|index| process.workers[index].state.get())
        };
        assert_eq!(look(STALLED_LOOKS - 1), [WorkerState::Running; 2]);
        assert_eq!(look(1), [WorkerState::Running, WorkerState::Stalled]);
        assert_eq!(look(STALLED_LOOKS), [WorkerState::Running, WorkerState::Stalled]);
        process.workers[1].pulse.turn();
        assert_eq!(look(1), [WorkerState::Running; 2]);
    }

    #[test]
    fn worker_that_starts_or_has_ended_is_not_stalled() {
        let process = Process::sample(2);
        process.workers[0].state.set(WorkerState::Starting);
        process.workers[1].state.set(WorkerState::Failed);
        let mut watch = StallWatch::default();
        (0..2 * STALLED_LOOKS).for_each(|_| watch.look(&process.workers));
        assert_eq!(process.workers[0].state.get(), WorkerState::Starting);
        assert_eq!(process.workers[1].state.get(), WorkerState::Failed);
    }
}
