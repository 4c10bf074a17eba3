//! Moving bytes between sockets through a pipe without copying them.
//!
//! `SPLICE_F_MORE` is never used: on a kernel-TLS socket it leaves the last record open until the next send. Neither end
//! waits, but for sockets that is decided by their own `O_NONBLOCK`, which the caller has to have set.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// A pipe whose ends do not wait.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    /// Makes a pipe of the kernel's default capacity (16 buffers; fewer when the user holds many pipes).
    pub fn new() -> io::Result<Self> {
        let mut ends = [-1; 2];
        // SAFETY: pipe2 writes two descriptors to the array, which is live and has room for two.
        check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) })?;
        // SAFETY: pipe2 succeeded, so the first descriptor is open, and owned by nobody else.
        let read = unsafe { OwnedFd::from_raw_fd(ends[0]) };
        // SAFETY: as above, for the second.
        let write = unsafe { OwnedFd::from_raw_fd(ends[1]) };
        Ok(Self { read, write })
    }

    /// The capacity in bytes: a page for each buffer.
    pub fn capacity_bytes(&self) -> io::Result<usize> {
        // SAFETY: F_GETPIPE_SZ takes no argument and touches no memory of ours.
        to_len(unsafe { libc::fcntl(self.write.as_raw_fd(), libc::F_GETPIPE_SZ) } as isize)
    }

    /// Changes the capacity, and returns what it is now: at least `bytes`. The limit without privilege is
    /// `/proc/sys/fs/pipe-max-size`, and the pages of all pipes of a user are limited too (`EPERM`).
    pub fn set_capacity_bytes(&self, bytes: usize) -> io::Result<usize> {
        let bytes = libc::c_int::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: F_SETPIPE_SZ takes an int and touches no memory of ours.
        to_len(unsafe { libc::fcntl(self.write.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) } as isize)
    }

    /// Bytes in the pipe.
    pub fn queued_bytes(&self) -> io::Result<usize> {
        let mut bytes: libc::c_int = 0;
        // SAFETY: FIONREAD writes one int to the pointer, which is a live local variable.
        check(unsafe { libc::ioctl(self.read.as_raw_fd(), libc::FIONREAD, &raw mut bytes) })?;
        Ok(usize::try_from(bytes).unwrap_or(0))
    }

    /// Moves up to `len` bytes from a socket into the pipe. `WouldBlock` when the socket has none or the pipe is full;
    /// 0 at the end of the stream, and for an empty record of a kernel-TLS socket.
    pub fn fill(&self, from: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
        splice(from.as_raw_fd(), self.write.as_raw_fd(), len)
    }

    /// Moves up to `len` bytes from the pipe to a socket. `len` has to be at most what is in the pipe: when more is
    /// asked for, the kernel announces more data to the socket, and the end of what there is may be held back.
    pub fn drain(&self, to: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
        splice(self.read.as_raw_fd(), to.as_raw_fd(), len)
    }
}

fn splice(from: libc::c_int, to: libc::c_int, len: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    // SAFETY: both descriptors are open, because their owners are borrowed by the callers; the offsets are null, so the
    // call touches no memory of ours.
    to_len(unsafe { libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), len, flags) })
}

fn check(done: libc::c_int) -> io::Result<()> {
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn to_len(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn pipe_moves_bytes_from_socket_to_socket() {
        let ((mut sender, receiver), (out, mut sink)) = (pair(), pair());
        receiver.set_nonblocking(true).unwrap();
        let pipe = Pipe::new().unwrap();
        assert_eq!(pipe.fill(receiver.as_fd(), 4096).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        sender.write_all(b"spliced").unwrap();
        let timeout = PollTimeout::from(10_000_u16);
        assert_eq!(poll(&mut [PollFd::new(receiver.as_fd(), PollFlags::POLLIN)], timeout).unwrap(), 1);
        assert_eq!(pipe.fill(receiver.as_fd(), 4096).unwrap(), 7);
        assert_eq!(pipe.queued_bytes().unwrap(), 7);
        assert_eq!(pipe.drain(out.as_fd(), 7).unwrap(), 7);
        let mut bytes = [0; 7];
        sink.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"spliced");
        assert_eq!(pipe.queued_bytes().unwrap(), 0);
    }

    #[test]
    fn pipe_capacity_can_be_changed() {
        let pipe = Pipe::new().unwrap();
        let before = pipe.capacity_bytes().unwrap();
        let after = pipe.set_capacity_bytes(before / 2).unwrap();
        assert_eq!((after, pipe.capacity_bytes().unwrap()), (before / 2, before / 2));
    }
}
