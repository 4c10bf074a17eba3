//! A descriptor of signals on a tokio runtime.

use std::io;

use nix::sys::signalfd::SignalFd;
use tokio::io::unix::AsyncFd;

/// Waits for signals by the runtime that is entered.
///
/// # Errors
/// When the runtime cannot wait for the descriptor.
pub fn register(signals: SignalFd) -> io::Result<AsyncFd<SignalFd>> {
    // SAFETY: `signals` owns its descriptor, gives out the same one each time, and lives within the AsyncFd from here on, so
    // that the descriptor stays open and the same for as long as the runtime knows it.
    Ok(unsafe { AsyncFd::register(signals) }?)
}
