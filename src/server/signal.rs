//! Signals, as the control loop sees them.
//!
//! SIGPIPE is not among them: Rust's runtime ignores it before `main`, so that a write to a closed pipe is an error of
//! that write.

use std::io;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// SIGTERM, SIGINT: drain; the second time, stop at once.
    Stop(&'static str),
    /// SIGHUP: read the configuration anew.
    Reload(&'static str),
    /// SIGUSR2: have the executable on disk take over.
    Upgrade(&'static str),
}

/// The handlers, and what they have caught.
pub(super) struct Signals {
    terminate: Stream,
    interrupt: Stream,
    hang_up: Stream,
    user2: Stream,
}

impl Signals {
    /// Installs the handlers; to be called within a tokio runtime.
    ///
    /// # Errors
    /// When the runtime has no descriptor for them.
    pub(super) fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next signal. Several of a kind may come as one.
    ///
    /// Cancel safety: safe.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Asked::Stop("SIGINT"),
            _ = self.hang_up.recv() => Asked::Reload("SIGHUP"),
            _ = self.user2.recv() => Asked::Upgrade("SIGUSR2"),
        }
    }
}

/// While it lives, the signals of [`Signals`] wait, and a thread that is spawned never gets them: a handler that ran on a
/// worker would interrupt its system calls.
pub(super) struct Held {
    before: SigSet,
}

impl Held {
    /// Holds the signals back from this thread, and from the threads that it spawns for good.
    ///
    /// # Errors
    /// None that a valid set can cause.
    pub(super) fn hold() -> io::Result<Self> {
        let signals = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR2];
        let before = SigSet::from_iter(signals).thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        Ok(Self { before })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Fails only for an operation that does not exist.
        let _ = self.before.thread_set_mask();
    }
}
