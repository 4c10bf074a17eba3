//! A run, from the plan to the result.

use std::io;

use crate::plan::Plan;
use crate::result::RunResult;

/// Why a run gave no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The plan contradicts itself or names something that OpenSSL does not know.
    #[error("{0}")]
    Plan(String),
    /// The target did not take the first connection.
    #[error("target {target} cannot be reached: {reason}")]
    Unreachable {
        /// `host:port`.
        target: String,
        /// What failed, in words, with the remedy.
        reason: String,
    },
    /// A process given with `--pid` is not there.
    #[error("process {pid} cannot be watched: {source}")]
    Pid {
        /// The process.
        pid: i32,
        /// What reading it said.
        source: io::Error,
    },
    /// This machine refused something the client needs.
    #[error("{what}: {source}")]
    Local {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Runs `plan` to its end and measures it. `watch` sees live figures a few times per second and can end the run.
pub fn run(plan: &Plan, watch: &dyn Watch) -> Result<RunResult, RunError> {
    let _ = watch;
    Err(RunError::Plan(format!("{}: not wired up yet", plan.scenario)))
}

/// What a run shows while it goes on.
pub trait Watch: Sync {
    /// Called about ten times per second.
    fn tick(&self, live: &Live);
    /// `true` ends the run; what was measured is reported.
    fn interrupted(&self) -> bool;
}

/// Live figures.
#[derive(Clone, Copy, Debug, Default)]
pub struct Live {
    /// Seconds since the measurement began.
    pub elapsed_seconds: f64,
    /// Units of work finished.
    pub work: u64,
    /// Payload bytes moved.
    pub bytes: u64,
    /// Connections open now.
    pub open: u64,
    /// Failures.
    pub errors: u64,
}

/// A watch that shows nothing and never interrupts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Watch for Quiet {
    fn tick(&self, _live: &Live) {}

    fn interrupted(&self) -> bool {
        false
    }
}
