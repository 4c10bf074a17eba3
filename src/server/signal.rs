//! Signals, as the control loop sees them: read from a descriptor, which tells who sent each (signalfd(2)).
//!
//! They are held back from every thread of the process, so that none interrupts a system call of a worker. A successor
//! inherits that, and finds those that came before it listened. SIGPIPE is not among them: Rust's runtime ignores it before
//! `main`, so that a write to a closed pipe is an error of that write.

use std::io;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use tokio::io::unix::AsyncFd;

use crate::sys;
use crate::telemetry::audit::Actor;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// SIGTERM, SIGINT: drain; the second time, stop at once.
    Stop(Origin),
    /// SIGHUP: read the configuration anew.
    Reload(Origin),
    /// SIGUSR2: have the executable on disk take over.
    Upgrade(Origin),
}

/// A signal, and who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// Its name.
    pub(super) signal: &'static str,
    /// The process that sent it, and its user; none where the kernel did (Ctrl-C of a terminal), or where the process
    /// cannot be seen from here (another PID namespace).
    pub(super) sender: Option<(u32, u32)>,
}

/// The signals that the process obeys, held back from all its threads and kept until they are asked for.
#[derive(Debug)]
pub struct Signals(SigSet);

/// [`Signals`] on the control thread's runtime.
pub(super) struct Incoming(AsyncFd<SignalFd>);

const OBEYED: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR2];

impl Signals {
    /// Holds the signals back from this thread, and from every one that it or its children start. To be called before the
    /// first of them: a thread without it would be ended by a signal, and the process with it.
    ///
    /// # Errors
    /// None that a valid set can cause.
    pub fn hold() -> io::Result<Self> {
        let signals = SigSet::from_iter(OBEYED);
        signals.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        Ok(Self(signals))
    }

    /// To be called within a tokio runtime. Only now a descriptor is needed: where they are short, the runtime says so first.
    pub(super) fn listen(self) -> io::Result<Incoming> {
        let signals = SignalFd::with_flags(&self.0, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Incoming(sys::signal::register(signals)?))
    }
}

impl Incoming {
    /// The next signal. Several of a kind may come as one; it names the first sender then.
    ///
    /// Cancel safety: safe.
    pub(super) async fn next(&mut self) -> Asked {
        loop {
            // Fails only when the runtime ends, and this future with it.
            let Ok(mut ready) = self.0.readable_mut().await else { return std::future::pending().await };
            match ready.get_inner().read_signal() {
                Ok(Some(caught)) => {
                    if let Some(asked) = Asked::of(&caught) {
                        return asked;
                    }
                }
                Ok(None) => ready.clear_ready(),
                Err(error) => {
                    // Nothing that a descriptor of ours can cause; not to be asked again at once.
                    tracing::error!(%error, "signals cannot be read");
                    ready.clear_ready();
                }
            }
        }
    }
}

impl Asked {
    fn of(caught: &siginfo) -> Option<Self> {
        let signal = Signal::try_from(i32::try_from(caught.ssi_signo).ok()?).ok()?;
        let origin = |signal| Origin { signal, sender: sender(caught.ssi_code, caught.ssi_pid, caught.ssi_uid) };
        Some(match signal {
            Signal::SIGTERM => Self::Stop(origin("SIGTERM")),
            Signal::SIGINT => Self::Stop(origin("SIGINT")),
            Signal::SIGHUP => Self::Reload(origin("SIGHUP")),
            Signal::SIGUSR2 => Self::Upgrade(origin("SIGUSR2")),
            _ => return None,
        })
    }
}

impl Origin {
    /// Who is behind it, for the audit log.
    pub(super) fn actor(self) -> Actor {
        let (pid, uid) = self.sender.unzip();
        Actor::Signal { signal: self.signal, pid, uid }
    }
}

/// Who sent a signal with these fields (siginfo_t in sigaction(2)).
fn sender(code: i32, pid: u32, uid: u32) -> Option<(u32, u32)> {
    // Positive codes are the kernel's, and process 0 is one that this PID namespace does not have.
    (code <= libc::SI_USER && pid != 0).then_some((pid, uid))
}

#[cfg(test)]
impl Origin {
    /// A signal from nobody, for tests.
    pub(super) fn unknown(signal: &'static str) -> Self {
        Self { signal, sender: None }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use nix::sys::signal::raise;

    use super::*;

    #[test]
    fn signal_that_came_early_is_read_with_its_sender() {
        // On a thread of its own, whose mask and pending signals are nobody else's.
        let thread = std::thread::spawn(|| {
            let signals = Signals::hold().unwrap();
            raise(Signal::SIGHUP).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { signals.listen().unwrap().next().await })
        });
        let sender = Some((std::process::id(), nix::unistd::getuid().as_raw()));
        assert_eq!(thread.join().unwrap(), Asked::Reload(Origin { signal: "SIGHUP", sender }));
    }

    #[test]
    fn kernel_and_foreign_namespaces_are_nobody() {
        assert_eq!(sender(libc::SI_USER, 42, 1000), Some((42, 1000)));
        // sigqueue(3), tgkill(2).
        assert_eq!(sender(-1, 42, 0), Some((42, 0)));
        assert_eq!(sender(-6, 42, 0), Some((42, 0)));
        assert_eq!(sender(0x80, 0, 0), None, "Ctrl-C");
        assert_eq!(sender(libc::SI_USER, 0, 0), None, "from outside of the namespace");
    }
}
