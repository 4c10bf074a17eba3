//! The one inlet from other threads into a worker.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::sys::socket::Stream;

/// What a worker is told.
#[derive(Debug)]
pub enum Command {
    /// Stop accepting, let open connections end, and end the rest when the time is over; then the worker returns.
    Drain {
        /// How long open connections may take.
        timeout: Duration,
    },
}

/// The sending end, for other threads.
#[derive(Clone, Debug)]
pub struct Mailbox {
    commands: Sender<Command>,
    bell: Arc<EventFd>,
}

/// The receiving end, on the worker's thread.
pub(super) struct Inbox {
    commands: Receiver<Command>,
    bell: Stream,
}

/// The receiving end before the worker's runtime exists.
pub(super) struct Slot {
    commands: Receiver<Command>,
    bell: OwnedFd,
}

/// A mailbox and its slot.
///
/// # Errors
/// When no descriptor is left.
pub(super) fn mailbox() -> io::Result<(Mailbox, Slot)> {
    let (sender, commands) = mpsc::channel();
    let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let worker_end = bell.as_fd().try_clone_to_owned()?;
    Ok((Mailbox { commands: sender, bell: Arc::new(bell) }, Slot { commands, bell: worker_end }))
}

impl Mailbox {
    /// Leaves a command; a worker that has ended does not get it any more.
    pub fn send(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            // The counter of an eventfd is full only after 2^64 - 2 unread rings.
            let _ = self.bell.write(1);
        }
    }
}

impl Slot {
    /// The inbox; to be called on the worker's runtime.
    pub(super) fn open(self) -> io::Result<Inbox> {
        Ok(Inbox { commands: self.commands, bell: Stream::new(self.bell)? })
    }
}

impl Inbox {
    /// The next command; none when every mailbox is gone.
    pub(super) async fn next(&self) -> Option<Command> {
        loop {
            match self.commands.try_recv() {
                Ok(command) => return Some(command),
                Err(mpsc::TryRecvError::Disconnected) => return None,
                Err(mpsc::TryRecvError::Empty) => {}
            }
            self.bell.readable().await.ok()?;
            // An empty counter only means that another round took the ring.
            let _ = nix::unistd::read(&self.bell, &mut [0; 8]);
        }
    }
}
