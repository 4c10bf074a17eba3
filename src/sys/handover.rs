//! Descriptors from one process to another.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Most descriptors in one message; the kernel takes 253.
pub const DESCRIPTORS_PER_MESSAGE_MAX: usize = 64;

/// Takes over a descriptor that the parent process left open under a number that it told. Afterwards no child inherits it.
///
/// Each number may be taken once, and only where the parent has said that it is ours: taken twice, or taken from
/// something that this process has opened itself, it would be closed under somebody's feet.
///
/// # Errors
/// When no descriptor has this number.
pub fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    // 0 to 2 are the standard streams, which the runtime of the language uses.
    if number <= 2 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: only borrowed for this one call, which fails with EBADF where nothing is open under the number.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: the descriptor is open, as the call before has shown, and by the contract of this function nobody else in
    // this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Sends one message with descriptors, at most [`DESCRIPTORS_PER_MESSAGE_MAX`], over a SOCK_SEQPACKET socket.
///
/// # Errors
/// What sendmsg(2) says.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives one message into `bytes`, and the descriptors that came with it, which no child inherits; 0 bytes are the end.
///
/// # Errors
/// What recvmsg(2) says, and `InvalidData` where the message did not fit.
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = cmsg_space!([RawFd; DESCRIPTORS_PER_MESSAGE_MAX]);
    let mut parts = [IoSliceMut::new(bytes)];
    let message =
        recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = part {
            // SAFETY: the kernel has just made these descriptors for this process; nobody else knows them.
            descriptors.extend(received.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
        }
    }
    if message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((message.bytes, descriptors))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
    }

    #[test]
    fn descriptors_arrive_in_order_and_work() {
        let (left, right) = pair();
        let streams: Vec<_> = (0..3).map(|_| UnixStream::pair().unwrap()).collect();
        let sent: Vec<_> = streams.iter().map(|(_, far)| far.as_fd()).collect();
        send(left.as_fd(), b"three", &sent).unwrap();
        let mut bytes = [0; 16];
        let (len, received) = receive(right.as_fd(), &mut bytes).unwrap();
        assert_eq!((&bytes[..len], received.len()), (&b"three"[..], 3));
        for (index, ((near, _), far)) in streams.iter().zip(received).enumerate() {
            UnixStream::from(far).write_all(&[index as u8]).unwrap();
            let mut byte = [9];
            (&*near).read_exact(&mut byte).unwrap();
            assert_eq!(usize::from(byte[0]), index);
        }
    }

    #[test]
    fn message_that_does_not_fit_is_an_error_and_the_end_is_zero() {
        let (left, right) = pair();
        send(left.as_fd(), b"too long", &[]).unwrap();
        let error = receive(right.as_fd(), &mut [0; 3]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        drop(left);
        assert_eq!(receive(right.as_fd(), &mut [0; 3]).unwrap().0, 0);
    }

    #[test]
    fn number_without_a_descriptor_is_refused() {
        assert!(take_inherited(987_654).is_err());
        assert_eq!(take_inherited(1).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
