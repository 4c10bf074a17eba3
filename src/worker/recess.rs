//! Between two turns of the handshakes, or two batches of accepting: everything else of the worker has its own.

use std::io;
use std::pin::pin;
use std::rc::Rc;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::context::WorkerContext;
use crate::guard::TURN_TIME;
use crate::sys::socket::Stream;

/// A bell that a task rings for itself. A task that only woke itself would keep the runtime from looking at its sockets
/// and timers; one that waits for a descriptor comes back when that has been done.
pub(super) struct Recess {
    bell: Stream,
}

impl Recess {
    /// To be called on the worker's runtime.
    pub(super) fn new() -> io::Result<Self> {
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { bell: Stream::new(bell.into())? })
    }

    /// Returns when every task that could go on has done so, and the runtime has looked for new ones.
    pub(super) async fn pass(&self) -> io::Result<()> {
        let mut heard = pin!(self.bell.readable());
        let mut has_rung = false;
        std::future::poll_fn(|context| {
            let poll = heard.as_mut().poll(context);
            if poll.is_pending() && !std::mem::replace(&mut has_rung, true) {
                // Its counter is never full: it is read each time.
                let _ = nix::unistd::write(&self.bell, &1_u64.to_ne_bytes());
            }
            poll
        })
        .await?;
        let _ = nix::unistd::read(&self.bell, &mut [0; 8]);
        Ok(())
    }
}

/// Gives the handshakes new time after each recess, as long as the worker lives.
pub(super) async fn run(recess: Recess, worker: Rc<WorkerContext>) {
    loop {
        worker.handshakes.recess_due().await;
        if recess.pass().await.is_err() {
            monoio::time::sleep(TURN_TIME).await;
        }
        worker.handshakes.resume();
    }
}
