//! Faults on demand, for the tests of the process: only in builds with debug assertions, which no release has.

/// Names a file in the environment. Once it exists, the worker whose number it holds panics outside of any connection.
const PANIC_VARIABLE: &str = "SLUICE_FAULT_PANIC";

/// Panics if the tests want it; to be called now and then.
pub(super) fn panic_if_asked(worker: usize) {
    let Some(trigger) = std::env::var_os(PANIC_VARIABLE) else { return };
    let asked = std::fs::read_to_string(trigger).is_ok_and(|number| number.trim() == worker.to_string());
    assert!(!asked, "worker {worker} was asked to panic");
}
