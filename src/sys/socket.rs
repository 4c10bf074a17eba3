//! Non-blocking stream sockets: readiness through the worker's runtime, data through direct system calls.
//!
//! An idle socket pins no buffer: a direction first awaits [`Stream::readable`], which is one POLL_ADD on io_uring, and
//! only then takes a buffer and reads. Every call here that moves data returns at once.

use std::cell::Cell;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use monoio::net::TcpStream;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

/// Most parts that one vectored call takes; further ones wait for the next call (UIO_MAXIOV is 1024).
pub const VECTOR_PARTS_MAX: usize = 64;

// States of a connection whose peer has not ended its side (linux/tcp.h).
const TCP_ESTABLISHED: u8 = 1;
const TCP_FIN_WAIT1: u8 = 4;
const TCP_FIN_WAIT2: u8 = 5;
// That of one that is no more.
const TCP_CLOSE: u8 = 7;

/// A connected stream socket (TCP or unix) of this worker.
#[derive(Debug)]
pub struct Stream {
    inner: TcpStream,
    /// Readiness operations that the runtime still holds; while there are any, it also holds the descriptor.
    pending_count: Cell<u32>,
}

impl Stream {
    /// Takes over a non-blocking stream socket; must be called on a worker's runtime.
    ///
    /// # Errors
    /// When the runtime cannot register the descriptor (epoll only); the socket is closed then.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        // monoio's TcpStream is a descriptor with readiness; it does not look at the address family.
        Ok(Self { inner: TcpStream::from_std(StdTcpStream::from(socket))?, pending_count: Cell::new(0) })
    }

    /// Waits until a read would not block: data, end of stream or an error.
    ///
    /// Cancel safety: safe; nothing is consumed.
    ///
    /// # Errors
    /// When the runtime cannot wait for the descriptor.
    pub async fn readable(&self) -> io::Result<()> {
        self.pending_count.set(self.pending_count.get() + 1);
        let result = self.inner.readable(false).await;
        self.pending_count.set(self.pending_count.get() - 1);
        result
    }

    /// Waits until a write would not block, or would fail.
    ///
    /// Cancel safety: safe; nothing is sent.
    ///
    /// # Errors
    /// When the runtime cannot wait for the descriptor.
    pub async fn writable(&self) -> io::Result<()> {
        self.pending_count.set(self.pending_count.get() + 1);
        let result = self.inner.writable(false).await;
        self.pending_count.set(self.pending_count.get() - 1);
        result
    }

    /// Reads what is there into `buffer`; 0 is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there, otherwise the socket's error.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the pointer and length describe a live, writable slice; recv writes at most that many bytes.
        check(|| unsafe { libc::recv(self.raw(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) })
    }

    /// Whether everything was read and the peer has ended its side; nothing is taken away.
    ///
    /// # Errors
    /// The socket's error, which the call takes with it.
    pub fn is_at_end(&self) -> io::Result<bool> {
        let mut byte = 0_u8;
        let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK;
        // SAFETY: the pointer describes one live, writable byte.
        match check(|| unsafe { libc::recv(self.raw(), (&raw mut byte).cast(), 1, flags) }) {
            Ok(len) => Ok(len == 0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads what is there into `parts`, in order; 0 is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there, otherwise the socket's error.
    pub fn recv_vectored(&self, parts: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut message = empty_message();
        message.msg_iov = parts.as_mut_ptr().cast();
        message.msg_iovlen = parts.len().min(VECTOR_PARTS_MAX);
        // SAFETY: `message` is initialised; its iovec array is `parts` (IoSliceMut has the layout of iovec), live and
        // writable for the call.
        check(|| unsafe { libc::recvmsg(self.raw(), &raw mut message, libc::MSG_DONTWAIT) })
    }

    /// Sends a prefix of `bytes` and returns its length.
    ///
    /// # Errors
    /// `WouldBlock` when the send buffer is full, otherwise the socket's error; never raises SIGPIPE.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        // SAFETY: the pointer and length describe a live slice that send only reads.
        check(|| unsafe {
            libc::send(self.raw(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
        })
    }

    /// Sends a prefix of the concatenation of `parts` and returns its length; takes [`VECTOR_PARTS_MAX`] parts at most.
    ///
    /// # Errors
    /// `WouldBlock` when the send buffer is full, otherwise the socket's error; never raises SIGPIPE.
    pub fn send_vectored(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.send_message(parts, 0)
    }

    /// As [`send_vectored`](Self::send_vectored), for what the end of the stream follows at once: the kernel holds it back for
    /// a moment, so that both leave in one segment.
    ///
    /// # Errors
    /// As [`send_vectored`](Self::send_vectored).
    pub fn send_before_end(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.send_message(parts, libc::MSG_MORE)
    }

    fn send_message(&self, parts: &[IoSlice<'_>], flags: libc::c_int) -> io::Result<usize> {
        let mut message = empty_message();
        message.msg_iov = parts.as_ptr().cast_mut().cast();
        message.msg_iovlen = parts.len().min(VECTOR_PARTS_MAX);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | flags;
        // SAFETY: `message` is initialised; its iovec array is `parts` (IoSlice has the layout of iovec), which sendmsg
        // only reads.
        check(|| unsafe { libc::sendmsg(self.raw(), &raw const message, flags) })
    }

    /// Holds back segments that are not full, until the returned value is dropped; not across a wait. Kernel TLS gives TCP
    /// one record at a time and would send each in a segment of its own. Only for TCP.
    pub fn cork(&self) -> Cork<'_> {
        // A socket that refuses sends as it did before.
        let _ = self.options().set_tcp_cork(true);
        Cork { stream: self }
    }

    /// Acknowledges at once what the peer has sent and will send next: see [`HandshakeAck::WithData`].
    pub fn acknowledge(&self) {
        // Unix sockets have nothing to acknowledge.
        let _ = self.options().set_tcp_quickack(true);
    }

    /// The address that the peer connected to, or that we connected from.
    ///
    /// # Errors
    /// What getsockname(2) says; `Unsupported` where it is no internet address.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.options().local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// Ends the sending side: the peer reads the end of the stream after everything sent before.
    ///
    /// Errors are left out on purpose: the socket may be gone already, and the next call on it says so.
    pub fn shutdown_send(&self) {
        let _ = nix::sys::socket::shutdown(self.raw(), nix::sys::socket::Shutdown::Write);
    }

    /// Closes the socket so that the peer reads a reset instead of an end of stream, and unsent data is dropped.
    pub fn reset(self) {
        let _ = self.options().set_linger(Some(std::time::Duration::ZERO));
        self.close();
    }

    /// Closes the socket.
    ///
    /// The runtime's own close costs two ring operations; where it holds no operation on the descriptor, one direct
    /// close does. Otherwise the runtime closes when the operation has come back.
    pub fn close(self) {
        if self.pending_count.get() == 0 {
            let descriptor = self.inner.into_raw_fd();
            // SAFETY: into_raw_fd gave up the ownership of this open descriptor to us.
            drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
        }
    }

    /// Whether the peer has ended its side, or the connection is gone, whatever is still unread. Only for TCP.
    pub fn is_ended_by_peer(&self) -> bool {
        !matches!(self.tcp_state(), Some(TCP_ESTABLISHED | TCP_FIN_WAIT1 | TCP_FIN_WAIT2))
    }

    /// Whether the connection is no more: reset by the peer, or given up by the kernel. Only for TCP.
    pub fn is_gone(&self) -> bool {
        self.tcp_state().is_none_or(|state| state == TCP_CLOSE)
    }

    /// The state of the connection, as in linux/tcp.h.
    fn tcp_state(&self) -> Option<u8> {
        // SAFETY: tcp_info is plain data for which all zeroes is a valid value.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
        // SAFETY: the pointer and `len` describe the live `info`, of which getsockopt writes at most `len` bytes.
        let result = unsafe {
            libc::getsockopt(self.raw(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut len)
        };
        (result == 0).then_some(info.tcpi_state)
    }

    /// The pending error of the socket, which is cleared by the call.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.options().take_error()
    }

    fn raw(&self) -> RawFd {
        self.inner.as_raw_fd()
    }

    fn options(&self) -> SockRef<'_> {
        SockRef::from(self)
    }
}

/// As long as this lives, its stream holds back segments that are not full: see [`Stream::cork`].
#[derive(Debug)]
#[must_use = "dropped, it holds nothing back"]
pub struct Cork<'a> {
    stream: &'a Stream,
}

impl Drop for Cork<'_> {
    fn drop(&mut self) {
        let _ = self.stream.options().set_tcp_cork(false);
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `inner` keeps the descriptor open for at least the lifetime of the borrow of `self`.
        unsafe { BorrowedFd::borrow_raw(self.raw()) }
    }
}

/// A listening socket of this worker.
#[derive(Debug)]
pub struct Acceptor {
    readiness: Stream,
}

impl Acceptor {
    /// Takes over a non-blocking listening socket; must be called on a worker's runtime.
    ///
    /// # Errors
    /// When the runtime cannot register the descriptor (epoll only).
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { readiness: Stream::new(socket)? })
    }

    /// Ends listening, whoever else holds the socket; connections that wait are reset.
    pub fn shut_down(&self) {
        let _ = nix::sys::socket::shutdown(self.readiness.raw(), nix::sys::socket::Shutdown::Both);
    }

    /// Waits until a connection is there to be accepted.
    ///
    /// Cancel safety: safe; no connection is lost.
    ///
    /// # Errors
    /// When the runtime cannot wait for the descriptor.
    pub async fn ready(&self) -> io::Result<()> {
        self.readiness.readable().await
    }

    /// Closes the descriptor. The socket lives on where another process or thread has it too.
    pub fn close(self) {
        self.readiness.close();
    }

    /// Accepts one connection, non-blocking and closed on exec, with the address of its client.
    ///
    /// # Errors
    /// `WouldBlock` when none is there; otherwise what accept4(2) says, which includes the errors of a connection that
    /// failed before it was accepted.
    pub fn accept(&self) -> io::Result<(OwnedFd, SocketAddr)> {
        let accept = |storage: *mut socket2::SockAddrStorage, len: *mut libc::socklen_t| {
            let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            // SAFETY: `storage` and `len` point to a live address buffer and its size, which accept4 fills.
            let descriptor = unsafe { libc::accept4(self.readiness.raw(), storage.cast(), len, flags) };
            if descriptor < 0 { Err(io::Error::last_os_error()) } else { Ok(descriptor) }
        };
        // SAFETY: when it succeeds, accept4 has initialised the address and its length.
        let (descriptor, address) = unsafe { SockAddr::try_init(accept) }?;
        // SAFETY: accept4 returned a new descriptor that nobody else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let address = address.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        Ok((socket, address))
    }
}

/// Binds a listening socket with SO_REUSEPORT; accepted connections inherit TCP_NODELAY from it.
///
/// # Errors
/// What bind(2) or listen(2) say, for instance `AddrInUse`.
pub fn listen(address: SocketAddr, backlog: i32) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Closes a socket that no worker has taken over, so that the peer reads a reset.
pub fn reset(socket: OwnedFd) {
    let _ = SockRef::from(&socket).set_linger(Some(std::time::Duration::ZERO));
}

/// Whether connections can still be accepted from a socket that was made to listen.
pub fn is_listening(socket: &OwnedFd) -> bool {
    SockRef::from(socket).is_listener().unwrap_or(false)
}

/// Makes a listening socket of another process like those of [`listen()`], and gives its address.
///
/// # Errors
/// `InvalidInput` where it is no listening TCP socket.
pub fn take_listener(socket: &OwnedFd) -> io::Result<SocketAddr> {
    let options = SockRef::from(socket);
    let address = options.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
    if !options.is_listener()? || options.r#type()? != Type::STREAM {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    options.set_nonblocking(true)?;
    options.set_tcp_nodelay(true)?;
    Ok(address)
}

/// How far a non-blocking connect came.
#[derive(Debug)]
pub enum Connecting {
    /// The socket is connected.
    Connected(OwnedFd),
    /// The handshake is under way: wait until the socket is writable, then look at its error.
    InProgress(OwnedFd),
}

/// When the ACK that completes TCP's handshake leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeAck {
    /// By itself: the peer may have to speak first.
    AtOnce,
    /// With the first data, which the caller sends as soon as it is connected: a segment less, and the peer wakes up once. The
    /// caller then calls [`Stream::acknowledge`], because the kernel goes on holding back ACKs, and a peer that leaves Nagle's
    /// algorithm on and writes twice waits for them. Where a server of the same machine takes the connection back at once
    /// (`tcp_abort_on_overflow`), the reset comes behind the data, not out of the connect.
    WithData,
}

/// Starts a non-blocking connect to a TCP address or a unix socket. To a TCP address of the same machine it is often over on
/// return.
///
/// # Errors
/// What socket(2) or connect(2) say; `WouldBlock` from a unix socket whose backlog is full.
pub fn connect(address: &SockAddr, ack: HandshakeAck) -> io::Result<Connecting> {
    let socket = Socket::new(address.domain(), Type::STREAM.nonblocking().cloexec(), None)?;
    if !address.is_unix() {
        socket.set_tcp_nodelay(true)?;
        if let Some(address) = address.as_socket() {
            never_pace_loopback(SockRef::from(&socket), address);
        }
        if ack == HandshakeAck::WithData {
            socket.set_tcp_quickack(false)?;
        }
    }
    match socket.connect(address) {
        Ok(()) => Ok(Connecting::Connected(socket.into())),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
            let mut poll = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
            let polled = nix::poll::poll(&mut poll, PollTimeout::ZERO);
            // Anything else beside it is an error of the socket's, to be looked at by the caller.
            let is_connected = polled == Ok(1) && poll[0].revents() == Some(PollFlags::POLLOUT);
            Ok(if is_connected { Connecting::Connected(socket.into()) } else { Connecting::InProgress(socket.into()) })
        }
        Err(error) => Err(error),
    }
}

/// On the way to this machine itself there is no congestion to control, and an algorithm that paces (bbr) sends in pieces and by
/// timers (docs/decisions/0017-loopback.md). Reno is part of every kernel, and open to every process unless an
/// operator says otherwise; it does nothing but let the window grow.
const LOOPBACK_CONGESTION_CONTROL: &[u8] = b"reno";

/// Gives a socket that is to connect to this machine itself [`LOOPBACK_CONGESTION_CONTROL`]. To be called before the connect,
/// with which the machine's choice would begin.
fn never_pace_loopback(socket: SockRef<'_>, address: SocketAddr) {
    if address.ip().to_canonical().is_loopback() {
        // Refused, the machine's own choice stays: slower, and nothing else.
        let _ = socket.set_tcp_congestion(LOOPBACK_CONGESTION_CONTROL);
    }
}

fn empty_message() -> libc::msghdr {
    // SAFETY: msghdr is plain data for which all zeroes is a valid value: no address, no parts, no control data.
    unsafe { std::mem::zeroed() }
}

/// Runs a system call that returns a byte count or -1, again if a signal interrupted it.
fn check(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::*;

    fn congestion_control(socket: impl AsFd) -> Vec<u8> {
        let mut name = SockRef::from(&socket.as_fd()).tcp_congestion().unwrap();
        name.retain(|byte| *byte != 0);
        name
    }

    #[test]
    fn connection_to_this_machine_has_an_algorithm_that_does_not_pace() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // A machine may have no IPv6.
            let Ok(listener) = std::net::TcpListener::bind(address) else { continue };
            let address = SockAddr::from(listener.local_addr().unwrap());
            let (Connecting::Connected(socket) | Connecting::InProgress(socket)) =
                connect(&address, HandshakeAck::AtOnce).unwrap();
            assert_eq!(congestion_control(socket), LOOPBACK_CONGESTION_CONTROL);
        }
    }

    #[test]
    fn address_of_this_machine_may_be_mapped_into_ipv6() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        never_pace_loopback(SockRef::from(&socket), "[::ffff:10.0.0.1]:1".parse().unwrap());
        assert_eq!(
            congestion_control(&socket),
            congestion_control(Socket::new(Domain::IPV4, Type::STREAM, None).unwrap())
        );
        never_pace_loopback(SockRef::from(&socket), "[::ffff:127.0.0.1]:1".parse().unwrap());
        assert_eq!(congestion_control(&socket), LOOPBACK_CONGESTION_CONTROL);
    }
}
