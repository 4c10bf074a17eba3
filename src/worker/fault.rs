//! Faults on demand, for the tests of the process: only in builds with debug assertions, which no release has.

use std::time::Duration;

/// Names a file in the environment. Once it exists, the worker whose number it holds panics outside of any connection.
const PANIC_VARIABLE: &str = "SLUICE_FAULT_PANIC";

/// Names a file likewise. As long as it exists, the worker whose number it holds stands still.
const STALL_VARIABLE: &str = "SLUICE_FAULT_STALL";
/// How often it looks whether it may go on.
const STALL_LOOK: Duration = Duration::from_millis(20);

/// Panics if the tests want it; to be called now and then.
pub(super) fn panic_if_asked(worker: usize) {
    assert!(!is_asked(PANIC_VARIABLE, worker), "worker {worker} was asked to panic");
}

/// Keeps the thread for as long as the tests want it; to be called now and then.
pub(super) fn stall_if_asked(worker: usize) {
    while is_asked(STALL_VARIABLE, worker) {
        std::thread::park_timeout(STALL_LOOK);
    }
}

fn is_asked(variable: &str, worker: usize) -> bool {
    let Some(trigger) = std::env::var_os(variable) else { return false };
    std::fs::read_to_string(trigger).is_ok_and(|number| number.trim() == worker.to_string())
}
