//! The one inlet from other threads into a worker.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::mpsc::UnboundedSender;

use super::WorkerError;
use super::snapshot::{Snapshot, SocketGroup};
use crate::sys::socket::Stream;

/// What a worker is told.
pub enum Command {
    /// Serve this snapshot from now on. Open connections keep what they were accepted under. Not obeyed in a drain.
    Adopt {
        /// The snapshot.
        snapshot: Arc<Snapshot>,
        /// This worker's sockets of the groups that are new.
        sockets: Vec<(SocketGroup, OwnedFd)>,
    },
    /// Stop accepting, let open connections end, and end the rest when the time is over; then the worker returns.
    Drain {
        /// How long open connections may take.
        timeout: Duration,
        /// What becomes of the connections that wait to be accepted.
        queued: Queued,
    },
}

/// What becomes of connections that wait to be accepted when accepting ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// They are accepted: closing the socket would reset them.
    Accept,
    /// They are left to another process, which has the same sockets.
    Leave,
}

/// What a worker says of itself.
#[derive(Debug)]
pub enum Notice {
    /// It serves the snapshot of this generation; the first one also says that it has started.
    Adopted {
        /// The generation.
        generation: u64,
    },
    /// It could not take up a snapshot and serves the former one on.
    Kept {
        /// The generation of the snapshot that it could not take up.
        generation: u64,
        /// Why.
        error: WorkerError,
    },
}

/// Where a worker leaves its notices. At most one for each command waits there.
#[derive(Clone, Debug)]
pub struct Notices {
    /// The number of the worker.
    pub worker: usize,
    /// To the control thread.
    pub sender: UnboundedSender<(usize, Notice)>,
}

impl Notices {
    /// Leaves a notice; where nobody listens, it is gone.
    pub(super) fn send(&self, notice: Notice) {
        let _ = self.sender.send((self.worker, notice));
    }
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
