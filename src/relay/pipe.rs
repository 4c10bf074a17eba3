//! Pipes for splicing: pooled per worker, borrowed only while bytes are in them.

use std::cell::RefCell;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use crate::sys::splice::Pipe;

/// Bytes that a pipe is asked to hold; the kernel grants less to a user who holds many (fs.pipe-user-pages-soft).
pub(super) const PIPE_LEN: usize = 256 * 1024;
/// Pipes that an idle worker keeps: each is two descriptors.
const PIPES_KEPT_MAX: usize = 32;

/// The pipes of one worker.
#[derive(Default)]
pub struct PipePool {
    kept: RefCell<Vec<Pipe>>,
}

/// A borrowed pipe. Dropped empty it goes back to its pool; dropped with bytes in it, it is closed.
pub(super) struct Loan {
    pipe: Option<Pipe>,
    filled: usize,
    pool: Rc<PipePool>,
}

impl PipePool {
    /// Bytes that the idle pipes of one worker can hold at most.
    pub const KEPT_BYTES_MAX: usize = PIPE_LEN * PIPES_KEPT_MAX;
    /// Bytes that one pipe is asked to hold.
    pub const PIPE_BYTES: usize = PIPE_LEN;

    /// Lends a pipe.
    ///
    /// # Errors
    /// When descriptors or memory are short.
    pub(super) fn take(self: &Rc<Self>) -> io::Result<Loan> {
        let kept = self.kept.borrow_mut().pop();
        let pipe = match kept {
            Some(pipe) => pipe,
            None => {
                let pipe = Pipe::new()?;
                // A smaller pipe only means shorter turns.
                let _ = pipe.set_capacity_bytes(PIPE_LEN);
                pipe
            }
        };
        Ok(Loan { pipe: Some(pipe), filled: 0, pool: Rc::clone(self) })
    }
}

impl Loan {
    /// Bytes in the pipe.
    pub(super) fn filled(&self) -> usize {
        self.filled
    }

    /// Moves up to `len` bytes from a socket into the pipe: see [`Pipe::fill`].
    pub(super) fn fill(&mut self, from: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
        let moved = self.pipe().fill(from, len)?;
        self.filled += moved;
        Ok(moved)
    }

    /// Moves what it can of what is in the pipe to a socket. It asks for exactly that: asked for more, the kernel would
    /// hold back the end of it in expectation of the rest.
    pub(super) fn drain(&mut self, to: BorrowedFd<'_>) -> io::Result<usize> {
        let moved = self.pipe().drain(to, self.filled)?;
        self.filled -= moved;
        Ok(moved)
    }

    fn pipe(&self) -> &Pipe {
        match &self.pipe {
            Some(pipe) => pipe,
            None => unreachable!("a loan has its pipe until it is dropped"),
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let mut kept = self.pool.kept.borrow_mut();
        if self.filled == 0 && kept.len() < PIPES_KEPT_MAX {
            kept.extend(self.pipe.take());
        }
    }
}
