//! What the kernel knows of a TCP connection.

use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// The counters of a connection. Segments that the kernel passes on as one count once for each that they would be on a
/// wire.
#[allow(unsafe_code, reason = "no crate has a safe call for TCP_INFO")]
pub(crate) fn info(stream: &TcpStream) -> libc::tcp_info {
    // SAFETY: tcp_info is plain data for which all zeroes is a valid value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    let at = (&raw mut info).cast();
    // SAFETY: the pointer and `len` describe the live `info`, of which getsockopt writes at most `len` bytes.
    let result = unsafe { libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, at, &raw mut len) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    info
}
