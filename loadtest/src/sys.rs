//! The calls that have no safe wrapper; the only unsafe code of this crate.
#![allow(unsafe_code, reason = "no safe wrapper exists; every block says why it is sound")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use foreign_types_shared::ForeignTypeRef;
use monoio::net::TcpStream;
use openssl::error::ErrorStack;
use openssl::ssl::{SslOptions, SslRef, SslSessionRef};

/// Lets a context ask for no compressed certificates: a client that is measured does nothing that not every client does. Our
/// OpenSSL could not expand them; another's might ask by itself.
pub(crate) const NO_RX_CERTIFICATE_COMPRESSION: SslOptions = SslOptions::from_bits_retain(1 << 33);

/// Offers `session` in the handshake that `ssl` is about to start.
///
/// Only for a session that a callback of the same context delivered: `engine::client_tls` keeps both on one thread's
/// client and never lets a session leave it.
pub(crate) fn offer_session(ssl: &mut SslRef, session: &SslSessionRef) -> Result<(), ErrorStack> {
    // SAFETY: the wrapper is unsafe because a session of another context would be undefined behaviour; sessions come
    // from the new-session callback of the context that made `ssl` (see above). OpenSSL takes its own reference.
    unsafe { ssl.set_session(session) }
}

/// The key exchange group of a finished handshake as OpenSSL names it, if there was a key exchange.
pub(crate) fn group_name(ssl: &SslRef) -> Option<String> {
    // SAFETY: `ssl` is a live SSL; the call only reads it.
    let name = unsafe { openssl_sys::SSL_get0_group_name(ssl.as_ptr()) };
    if name.is_null() {
        return None;
    }
    // SAFETY: a non-null answer is a NUL-terminated string that lives as long as the library's group table or `ssl`;
    // it is copied before `ssl` can change.
    let name = unsafe { CStr::from_ptr(name) };
    Some(name.to_string_lossy().into_owned())
}

/// The descriptor of a stream, which monoio gives as a number only.
pub(crate) fn borrow(stream: &TcpStream) -> BorrowedFd<'_> {
    // SAFETY: the stream keeps its descriptor open for as long as it is borrowed.
    unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }
}

/// Takes up to `count` bytes out of a TCP socket's queue and drops them, without a copy (tcp(7), MSG_TRUNC); never waits.
pub(crate) fn discard(socket: BorrowedFd<'_>, count: usize) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    // SAFETY: with MSG_TRUNC, TCP writes nothing to the buffer, of which there is none.
    let dropped = unsafe { libc::recv(socket.as_raw_fd(), std::ptr::null_mut(), count, flags) };
    usize::try_from(dropped).map_err(|_| io::Error::last_os_error())
}

/// Sends `payload` as one record of `content_type` through a socket whose records the kernel protects; never waits.
pub(crate) fn send_record(socket: BorrowedFd<'_>, content_type: u8, payload: &[u8]) -> io::Result<()> {
    // Words, because a control message wants their alignment.
    let mut control = [0_u64; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    // SAFETY: msghdr is plain data of integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES as _;
    // SAFETY: the control buffer has room for one message with one byte, so there is a first header in it, and a byte
    // of data behind that.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_TLS;
        (*header).cmsg_type = libc::TLS_SET_RECORD_TYPE;
        (*header).cmsg_len = libc::CMSG_LEN(1) as _;
        *libc::CMSG_DATA(header) = content_type;
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `message` points to `part` and `control`, both live; sendmsg reads `payload` and writes nothing.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

// SAFETY: CMSG_SPACE only computes.
const CONTROL_BYTES: usize = unsafe { libc::CMSG_SPACE(1) } as usize;
const CONTROL_WORDS: usize = CONTROL_BYTES.div_ceil(size_of::<u64>());
