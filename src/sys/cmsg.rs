//! Sending and receiving TLS records of any content type on a socket whose direction the kernel protects.
//!
//! The content type travels in a control message. All of it is on the stack, and no call waits.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What one receive call brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceivedRecord {
    /// Bytes written to the caller's buffer.
    pub len: usize,
    /// Content type of the record, when the kernel named it: not at the end of the stream, and not on a socket without
    /// kernel TLS.
    pub content_type: Option<u8>,
    /// Whether the record ends here (always said of records that are not application data).
    pub end_of_record: bool,
}

/// Sends `payload` as one record with `content_type`; whatever the kernel had gathered for a record of application data
/// goes before it. Does not wait: `WouldBlock` when there is no room, with nothing sent.
pub fn send_record(fd: BorrowedFd<'_>, content_type: u8, payload: &[u8]) -> io::Result<usize> {
    let mut control = ControlBuffer([0; CONTROL_WORDS]);
    let mut part = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    let message = message_header(&mut part, &mut control);
    // SAFETY: `message` describes `control`, which is live, aligned for a cmsghdr and CMSG_SPACE(1) bytes long: the
    // first header lies within it.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    if header.is_null() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: `header` is not null, and points into `control` (see above), which nothing else borrows.
    unsafe {
        (*header).cmsg_level = libc::SOL_TLS;
        (*header).cmsg_type = libc::TLS_SET_RECORD_TYPE;
        (*header).cmsg_len = libc::CMSG_LEN(1) as usize;
        *libc::CMSG_DATA(header) = content_type;
    }
    // SAFETY: `message` points to `part` and `control`, both live; `part` to `payload`, which sendmsg only reads.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Receives from one record, or from several of application data, into `buffer`. Does not wait.
pub fn receive_record(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<ReceivedRecord> {
    let mut control = ControlBuffer([0; CONTROL_WORDS]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut message = message_header(&mut part, &mut control);
    // SAFETY: `message` points to `part` and `control`, both live; `part` to `buffer`, borrowed mutably and of the
    // given length.
    let received = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let len = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    Ok(ReceivedRecord {
        len,
        content_type: content_type(&message),
        end_of_record: message.msg_flags & libc::MSG_EOR != 0,
    })
}

/// Room for one control message with one byte; words, because a cmsghdr wants their alignment.
#[repr(C)]
struct ControlBuffer([u64; CONTROL_WORDS]);

// SAFETY: CMSG_SPACE only computes.
const CONTROL_BYTES: usize = unsafe { libc::CMSG_SPACE(1) } as usize;
const CONTROL_WORDS: usize = CONTROL_BYTES.div_ceil(mem::size_of::<u64>());

fn message_header(part: &mut libc::iovec, control: &mut ControlBuffer) -> libc::msghdr {
    // SAFETY: msghdr is plain data of integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES as _;
    message
}

/// The content type in the control message that recvmsg filled in.
fn content_type(message: &libc::msghdr) -> Option<u8> {
    // SAFETY: recvmsg left `message` describing the control bytes that it wrote; CMSG_FIRSTHDR checks that a header
    // fits in them.
    let header = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }?;
    // SAFETY: CMSG_LEN only computes.
    let wanted = unsafe { libc::CMSG_LEN(1) } as usize;
    let is_type = header.cmsg_level == libc::SOL_TLS
        && header.cmsg_type == libc::TLS_GET_RECORD_TYPE
        && header.cmsg_len >= wanted;
    // SAFETY: the kernel wrote a header whose length says that at least one byte of data follows it.
    is_type.then(|| unsafe { *libc::CMSG_DATA(header) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn receive_without_kernel_tls_names_no_content_type() {
        let (receiver, mut sender) = UnixStream::pair().unwrap();
        sender.write_all(b"plain").unwrap();
        let mut buffer = [0; 16];
        let received = receive_record(receiver.as_fd(), &mut buffer).unwrap();
        assert_eq!((received.len, received.content_type), (5, None));
    }

    #[test]
    fn receive_from_an_empty_socket_does_not_wait() {
        let (receiver, _sender) = UnixStream::pair().unwrap();
        let error = receive_record(receiver.as_fd(), &mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn send_to_a_closed_socket_is_an_error_and_no_signal() {
        let (sender, receiver) = UnixStream::pair().unwrap();
        drop(receiver);
        let error = send_record(sender.as_fd(), 21, &[1, 0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
