//! A connected socket: direct non-blocking system calls, and the ring only to wait.
//!
//! OpenSSL reads from and writes to the socket's boxes ([`Wire`]), so that a whole flight leaves in one send and a
//! burst of records arrives in one receive. The boxes are borrowed from the thread while there is something in them:
//! an idle connection holds none.

use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use monoio::net::TcpStream;
use nix::errno::Errno;
use nix::sys::sendfile::sendfile;
use nix::sys::socket::{MsgFlags, Shutdown, SockaddrStorage, connect, recv, send, shutdown};
use socket2::{Domain, Protocol, Socket as NewSocket, Type};

use crate::engine::kernel_tls;
use crate::result::ErrorClass;
use crate::sys;

/// Bytes that one receive can take, and that are collected before a send.
pub const BOX_BYTES: usize = 256 * 1024;

/// What the sockets of one thread share.
#[derive(Debug)]
pub struct Thread {
    /// Coarse clock, moved by [`Thread::sweep`].
    now: Cell<Instant>,
    timeout: Duration,
    spare: RefCell<Vec<Vec<u8>>>,
    open: RefCell<Vec<Option<Rc<Vitals>>>>,
    free: RefCell<Vec<usize>>,
    halted: Cell<bool>,
    /// The target closes only when it sees a FIN; none while it has not closed anything.
    awaits_fin: Cell<Option<bool>>,
}

/// What the sweep needs of a socket.
#[derive(Debug)]
struct Vitals {
    fd: RawFd,
    deadline: Cell<Option<Instant>>,
    end: Cell<Option<End>>,
}

/// Why this side ended a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing came within the time-out.
    TimedOut,
    /// The run is over.
    Halted,
}

impl Thread {
    /// A thread whose sockets give up after `timeout` without progress.
    pub fn new(timeout: Duration) -> Rc<Self> {
        Rc::new(Self {
            now: Cell::new(Instant::now()),
            timeout,
            spare: RefCell::default(),
            open: RefCell::default(),
            free: RefCell::default(),
            halted: Cell::new(false),
            awaits_fin: Cell::new(None),
        })
    }

    /// Moves the coarse clock and shuts down the sockets that waited too long. Call it every [`SWEEP_INTERVAL`].
    pub fn sweep(&self, now: Instant) {
        self.now.set(now);
        for vitals in self.open.borrow().iter().flatten() {
            if vitals.deadline.get().is_some_and(|deadline| deadline <= now) {
                vitals.end(End::TimedOut);
            }
        }
    }

    /// Shuts every socket down; whoever waits for one wakes up and finds [`End::Halted`].
    pub fn halt(&self) {
        self.halted.set(true);
        for vitals in self.open.borrow().iter().flatten() {
            vitals.end(End::Halted);
        }
    }

    /// [`Thread::halt`] was called.
    pub fn is_halted(&self) -> bool {
        self.halted.get()
    }

    /// Longest wait without progress.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether the target closes TCP only behind a FIN, as far as is known.
    pub fn awaits_fin(&self) -> bool {
        self.awaits_fin.get() == Some(true)
    }

    /// Takes note of whether the target closed TCP behind a close_notify alone. The first answer stands: a machine that
    /// stops for a moment makes a target late, and must not make every close from then on cost a port.
    pub fn remember_fin(&self, awaits_fin: bool) {
        if self.awaits_fin.get().is_none() {
            self.awaits_fin.set(Some(awaits_fin));
        }
    }

    fn register(&self, vitals: Rc<Vitals>) -> usize {
        if self.halted.get() {
            vitals.end(End::Halted);
        }
        let mut open = self.open.borrow_mut();
        if let Some(key) = self.free.borrow_mut().pop() {
            open[key] = Some(vitals);
            return key;
        }
        open.push(Some(vitals));
        open.len() - 1
    }

    fn deregister(&self, key: usize) {
        self.open.borrow_mut()[key] = None;
        self.free.borrow_mut().push(key);
    }

    fn take_box(&self) -> Vec<u8> {
        self.spare.borrow_mut().pop().unwrap_or_else(|| vec![0; BOX_BYTES])
    }

    fn return_box(&self, spare: Vec<u8>) {
        let mut spares = self.spare.borrow_mut();
        if spares.len() < SPARE_BOXES_MAX {
            spares.push(spare);
        }
    }
}

impl Vitals {
    fn end(&self, end: End) {
        if self.end.get().is_none() {
            self.end.set(Some(end));
            // A socket that is not connected any more needs no shutdown.
            let _ = shutdown(self.fd, Shutdown::Both);
        }
    }
}

/// A connected TCP socket of this thread.
#[derive(Debug)]
pub struct Socket {
    stream: Option<TcpStream>,
    fd: RawFd,
    thread: Rc<Thread>,
    vitals: Rc<Vitals>,
    key: usize,
    /// Waits in flight; the descriptor belongs to the ring for so long.
    waits: Cell<u32>,
    /// A receive may have something: false until the next readiness after a short receive.
    ready: Cell<bool>,
    /// Reads take what the caller asks for and nothing more: whoever reads on is not OpenSSL.
    exact: Cell<bool>,
    inbox: RefCell<Filled>,
    outbox: RefCell<Vec<u8>>,
}

/// Received bytes that nobody took yet.
#[derive(Debug, Default)]
struct Filled {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Socket {
    /// Connects to `address`, from the address `source` if there is one.
    ///
    /// Cancel safety: dropping the future closes the socket.
    pub async fn connect(
        thread: &Rc<Thread>,
        address: SocketAddr,
        source: Option<IpAddr>,
    ) -> Result<Rc<Self>, ErrorClass> {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = NewSocket::new(Domain::for_address(address), kind, Some(Protocol::TCP)).map_err(|e| class(&e))?;
        // Nagle would hold the Finished back until the server's tickets are acknowledged.
        socket.set_tcp_nodelay(true).map_err(|e| class(&e))?;
        never_pace_loopback(&socket, address);
        if let Some(source) = source {
            socket.bind(&SocketAddr::from((source, 0)).into()).map_err(|e| class(&e))?;
        }
        let pending = match socket.connect(&address.into()) {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => true,
            Err(error) => return Err(connect_class(&error)),
        };
        let socket = Self::adopt(thread, socket.into()).map_err(|e| class(&e))?;
        if pending {
            socket.wait_writable().await?;
            // A second connect tells how the first one ended.
            match connect(socket.fd, &SockaddrStorage::from(address)) {
                Ok(()) | Err(Errno::EISCONN) => {}
                Err(errno) => return Err(socket.ended().unwrap_or_else(|| connect_class(&errno.into()))),
            }
        }
        Ok(socket)
    }

    /// Takes over a connected, non-blocking socket.
    pub fn adopt(thread: &Rc<Thread>, stream: std::net::TcpStream) -> io::Result<Rc<Self>> {
        let fd = stream.as_raw_fd();
        let stream = TcpStream::from_std(stream)?;
        let vitals = Rc::new(Vitals { fd, deadline: Cell::new(None), end: Cell::new(None) });
        let key = thread.register(Rc::clone(&vitals));
        Ok(Rc::new(Self {
            stream: Some(stream),
            fd,
            thread: Rc::clone(thread),
            vitals,
            key,
            waits: Cell::new(0),
            ready: Cell::new(false),
            exact: Cell::new(false),
            inbox: RefCell::default(),
            outbox: RefCell::default(),
        }))
    }

    /// Waits until a receive has something to say, within the time-out.
    pub async fn wait_readable(&self) -> Result<(), ErrorClass> {
        self.wait_readable_within(self.thread.timeout).await
    }

    /// Waits until a receive has something to say, within about `patience`; after that the socket is shut down.
    pub async fn wait_readable_within(&self, patience: Duration) -> Result<(), ErrorClass> {
        self.vitals.deadline.set(Some(self.thread.now.get() + patience));
        self.wait_readable_forever().await
    }

    /// Waits until a receive has something to say, as long as the run goes on.
    pub async fn wait_readable_forever(&self) -> Result<(), ErrorClass> {
        let Some(stream) = &self.stream else { return Err(ErrorClass::Closed) };
        self.waits.set(self.waits.get() + 1);
        let outcome = stream.readable(false).await;
        self.waits.set(self.waits.get() - 1);
        self.vitals.deadline.set(None);
        self.ready.set(true);
        outcome.map_err(|error| class(&error))?;
        self.ended().map_or(Ok(()), Err)
    }

    /// Waits until a send has room, within the time-out.
    pub async fn wait_writable(&self) -> Result<(), ErrorClass> {
        let Some(stream) = &self.stream else { return Err(ErrorClass::Closed) };
        self.vitals.deadline.set(Some(self.thread.now.get() + self.thread.timeout));
        self.waits.set(self.waits.get() + 1);
        let outcome = stream.writable(false).await;
        self.waits.set(self.waits.get() - 1);
        self.vitals.deadline.set(None);
        outcome.map_err(|error| class(&error))?;
        self.ended().map_or(Ok(()), Err)
    }

    /// Sends what was collected.
    pub async fn flush(&self) -> Result<(), ErrorClass> {
        let mut sent = 0;
        loop {
            let outcome = {
                let outbox = self.outbox.borrow();
                if sent == outbox.len() {
                    break;
                }
                self.send_some(&outbox[sent..])
            };
            match outcome? {
                0 => self.wait_writable().await?,
                count => sent += count,
            }
        }
        self.outbox.borrow_mut().clear();
        Ok(())
    }

    /// Sends `data` past the outbox, which must be empty.
    pub async fn send_all(&self, mut data: &[u8]) -> Result<(), ErrorClass> {
        debug_assert!(self.outbox.borrow().is_empty(), "bytes in the outbox go first");
        while !data.is_empty() {
            match self.send_some(data)? {
                0 => self.wait_writable().await?,
                count => data = &data[count..],
            }
        }
        Ok(())
    }

    /// Sends `count` bytes from the start of `file`, which has as many, past the outbox, which must be empty.
    pub async fn send_file(&self, file: BorrowedFd<'_>, count: usize) -> Result<(), ErrorClass> {
        debug_assert!(self.outbox.borrow().is_empty(), "bytes in the outbox go first");
        let mut left = count;
        while left > 0 {
            match sendfile(self.as_fd(), file, Some(&mut 0), left) {
                Ok(0) => return Err(ErrorClass::Local),
                Ok(sent) => left -= sent,
                Err(Errno::EAGAIN) => self.wait_writable().await?,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.ended().unwrap_or_else(|| class(&errno.into()))),
            }
        }
        Ok(())
    }

    /// Receives up to `count` bytes and drops them, for who only wants their number. Everything received before must have
    /// been read.
    pub fn discard(&self, count: usize) -> io::Result<usize> {
        debug_assert!(self.inbox.borrow().bytes.is_empty(), "bytes in the inbox come first");
        self.receive_with(count, || sys::discard(self.as_fd(), count))
    }

    /// From here on nothing is read beyond what is asked for.
    pub fn read_exactly(&self) {
        self.exact.set(true);
    }

    /// Reads payload or another record from a socket whose records the kernel protects.
    pub fn receive_record(&self, into: &mut [u8], control: &mut [u8]) -> io::Result<kernel_tls::Received> {
        if !self.ready.get() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let outcome = kernel_tls::receive(self.as_fd(), into, control);
        self.ready.set(outcome.is_ok());
        outcome
    }

    /// Bytes collected and not yet sent.
    pub fn pending_bytes(&self) -> usize {
        self.outbox.borrow().len()
    }

    /// Ends the sending side.
    pub fn finish_sending(&self) {
        // A peer that is already gone makes this fail, which is as good as done.
        let _ = shutdown(self.fd, Shutdown::Write);
    }

    /// The class of the reason why this side ended the socket.
    pub fn ended(&self) -> Option<ErrorClass> {
        self.vitals.end.get().map(|end| match end {
            End::TimedOut => ErrorClass::Timeout,
            End::Halted => ErrorClass::Closed,
        })
    }

    /// The thread it belongs to.
    pub fn thread(&self) -> &Rc<Thread> {
        &self.thread
    }

    /// Sent count, 0 when there is no room.
    fn send_some(&self, data: &[u8]) -> Result<usize, ErrorClass> {
        match send(self.fd, data, MsgFlags::MSG_NOSIGNAL) {
            Ok(count) => Ok(count),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
            Err(errno) => Err(self.ended().unwrap_or_else(|| class(&errno.into()))),
        }
    }

    fn receive(&self, into: &mut [u8]) -> io::Result<usize> {
        self.receive_with(into.len(), || Ok(recv(self.fd, into, MsgFlags::empty())?))
    }

    /// Receives at most `room` bytes with `call`.
    fn receive_with(&self, room: usize, call: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
        if !self.ready.get() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let outcome = call();
        // After a short receive the next one would most likely find nothing: wait first. The end of the stream stays
        // readable.
        self.ready.set(outcome.as_ref().is_ok_and(|count| *count == 0 || *count == room));
        outcome
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Some(stream) => sys::borrow(stream),
            None => unreachable!("the stream goes when the socket does"),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.thread.deregister(self.key);
        let Filled { bytes, .. } = self.inbox.take();
        if !bytes.is_empty() {
            self.thread.return_box(bytes);
        }
        // Closing directly saves the ring two entries; while a wait is in flight the ring has to do it.
        if let (Some(stream), 0) = (self.stream.take(), self.waits.get()) {
            let _ = nix::unistd::close(stream);
        }
    }
}

/// The socket as OpenSSL sees it.
#[derive(Clone, Debug)]
pub struct Wire(pub Rc<Socket>);

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let socket = &*self.0;
        let mut inbox = socket.inbox.borrow_mut();
        if inbox.bytes.is_empty() {
            if socket.exact.get() || into.len() >= DIRECT_BYTES_MIN {
                return socket.receive(into);
            }
            if !socket.ready.get() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let mut bytes = socket.thread.take_box();
            match socket.receive(&mut bytes) {
                Ok(count @ 1..) => *inbox = Filled { bytes, start: 0, end: count },
                other => {
                    socket.thread.return_box(bytes);
                    return other;
                }
            }
        }
        let count = into.len().min(inbox.end - inbox.start);
        into[..count].copy_from_slice(&inbox.bytes[inbox.start..inbox.start + count]);
        inbox.start += count;
        if inbox.start == inbox.end {
            socket.thread.return_box(std::mem::take(&mut *inbox).bytes);
        }
        Ok(count)
    }
}

impl Write for Wire {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.outbox.borrow_mut().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has `socket`, which is not connected yet, send as soon as the peer has room if `address` is of this machine: over loopback there
/// is no congestion to control, and an algorithm of the machine that paces (bbr) would make the sender the bottleneck, not what
/// is measured. A listening socket hands this down to what it accepts.
pub fn never_pace_loopback(socket: &NewSocket, address: SocketAddr) {
    if address.ip().to_canonical().is_loopback() {
        // Part of every kernel. Refused, the machine's own choice stays.
        let _ = socket.set_tcp_congestion(b"reno");
    }
}

/// The class of a socket error.
pub fn class(error: &io::Error) -> ErrorClass {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::EADDRNOTAVAIL | libc::EADDRINUSE) => {
            ErrorClass::Local
        }
        Some(libc::ETIMEDOUT) => ErrorClass::Timeout,
        _ => ErrorClass::Io,
    }
}

fn connect_class(error: &io::Error) -> ErrorClass {
    match (error.raw_os_error(), class(error)) {
        (Some(libc::ECONNREFUSED), _) => ErrorClass::ConnectRefused,
        (_, ErrorClass::Io) => ErrorClass::Connect,
        (_, other) => other,
    }
}

/// How often a thread looks for sockets that waited too long.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(50);
/// Spare boxes a thread keeps; more go back to the allocator.
const SPARE_BOXES_MAX: usize = 16;
/// A read of so many bytes goes past the inbox: the caller has a large buffer already.
const DIRECT_BYTES_MIN: usize = 32 * 1024;
