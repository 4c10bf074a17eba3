//! The built-in plain backend: a small HTTP/1.1 server without TLS, to stand behind a proxy under test.
//!
//! `GET /bytes/N` answers `N` bytes, `POST` and `PUT` take any body and answer its length, `GET /stats` answers what
//! was served, and any other `GET` answers `ok`. Connections are kept alive.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream as StdStream};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use monoio::net::TcpStream;
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::Serialize;
use socket2::{Domain, Protocol, Type};

use crate::engine::http::{Body, HEAD_BYTES_MAX, Head};
use crate::engine::runtime::{Engine, pin_to};
use crate::engine::socket::{BOX_BYTES, SWEEP_INTERVAL, Socket, Thread, Wire, never_pace_loopback};
use crate::result::ErrorClass;

/// What was served.
#[derive(Debug, Default)]
pub struct Served {
    connections: AtomicU64,
    requests: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

/// A reading of [`Served`], and the form of `GET /stats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Stats {
    /// Accepted connections.
    pub connections: u64,
    /// Finished requests, `GET /stats` not counted.
    pub requests: u64,
    /// Body bytes received.
    pub received: u64,
    /// Body bytes sent in answer to `GET /bytes/N`.
    pub sent: u64,
}

impl Served {
    /// What it says now.
    pub fn read(&self) -> Stats {
        Stats {
            connections: self.connections.load(Relaxed),
            requests: self.requests.load(Relaxed),
            received: self.received.load(Relaxed),
            sent: self.sent.load(Relaxed),
        }
    }
}

/// Listens on `address` with one thread for each of `cpus` (pinned), or `threads` threads without pinning, and serves
/// until the process ends. Prints the address on standard output as soon as connections are taken.
pub fn serve(address: SocketAddr, threads: usize, cpus: &[usize]) -> io::Result<()> {
    let served = Arc::new(Served::default());
    let first = listen(address)?;
    let address = first.local_addr()?;
    let engine = Engine::detect();
    let mut handles = vec![spawn(engine, first, cpus.first().copied(), &served)?];
    for number in 1..threads.max(cpus.len()).max(1) {
        handles.push(spawn(engine, listen(address)?, cpus.get(number).copied(), &served)?);
    }
    println!("{address}");
    io::stdout().flush()?;
    for handle in handles {
        handle.join().map_err(|_| io::Error::other("a backend thread panicked"))??;
    }
    Ok(())
}

/// Serves on `listener` in a thread of its own that nothing ends; gives the live counters. For tests.
pub fn spawn_on(listener: TcpListener) -> io::Result<Arc<Served>> {
    let served = Arc::new(Served::default());
    listener.set_nonblocking(true)?;
    spawn(Engine::detect(), listener, None, &served)?;
    Ok(served)
}

fn spawn(
    engine: Engine,
    listener: TcpListener,
    cpu: Option<usize>,
    served: &Arc<Served>,
) -> io::Result<std::thread::JoinHandle<io::Result<()>>> {
    let served = Arc::clone(served);
    std::thread::Builder::new().name("backend".to_owned()).spawn(move || {
        if let Some(cpu) = cpu {
            pin_to(cpu)?;
        }
        engine.block_on(accept(listener, served))?
    })
}

/// A listener that may share its port, so that each thread has its own.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket =
        socket2::Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    never_pace_loopback(&socket, address);
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

async fn accept(listener: TcpListener, served: Arc<Served>) -> io::Result<()> {
    let thread = Thread::new(WRITE_TIMEOUT);
    monoio::spawn(sweep(Rc::clone(&thread)));
    // Only its readiness is used, which the runtime offers for sockets in any clothes.
    let readiness = TcpStream::from_std(StdStream::from(OwnedFd::from(listener.try_clone()?)))?;
    let payload = Rc::new(payload_file()?);
    loop {
        readiness.readable(false).await?;
        while let Some(stream) = accept_one(&listener).await {
            served.connections.fetch_add(1, Relaxed);
            let Ok(socket) = Socket::adopt(&thread, stream) else { continue };
            let (served, payload) = (Arc::clone(&served), Rc::clone(&payload));
            monoio::spawn(async move {
                // A client that goes away ends its connection; there is nobody to tell.
                let _ = Session { wire: Wire(socket), served, payload, buffer: vec![0; BUFFER_BYTES], filled: 0 }
                    .run()
                    .await;
            });
        }
    }
}

async fn accept_one(listener: &TcpListener) -> Option<StdStream> {
    match listener.accept() {
        Ok((stream, _)) => {
            stream.set_nonblocking(true).ok()?;
            stream.set_nodelay(true).ok()?;
            Some(stream)
        }
        Err(error) => {
            if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
                // Full: the connection stays in the queue until another one closes.
                monoio::time::sleep(PAUSE_WHEN_FULL).await;
            }
            None
        }
    }
}

async fn sweep(thread: Rc<Thread>) {
    loop {
        monoio::time::sleep(SWEEP_INTERVAL).await;
        thread.sweep(Instant::now());
    }
}

/// One connection.
struct Session {
    wire: Wire,
    served: Arc<Served>,
    /// Holds [`PAYLOAD_FILE_BYTES`] of payload.
    payload: Rc<File>,
    buffer: Vec<u8>,
    /// Bytes in the buffer that belong to the next message.
    filled: usize,
}

/// The part of a request that outlives its head.
struct Request {
    answer: Answer,
    body: Body,
    closes: bool,
    expects_continue: bool,
}

enum Answer {
    Bytes(u64),
    Count,
    Stats,
    Text(u16, &'static str),
}

impl Session {
    async fn run(mut self) -> Result<(), ErrorClass> {
        while let Some(mut request) = self.read_head().await? {
            let received = self.read_body(&mut request).await?;
            let closes = request.closes;
            if !matches!(request.answer, Answer::Stats) {
                self.served.requests.fetch_add(1, Relaxed);
                self.served.received.fetch_add(received, Relaxed);
            }
            self.answer(&request.answer, received, closes).await?;
            if closes {
                break;
            }
        }
        self.wire.0.finish_sending();
        Ok(())
    }

    /// The next head; `None` at the orderly end.
    async fn read_head(&mut self) -> Result<Option<Request>, ErrorClass> {
        loop {
            let parsed = Head::parse(&self.buffer[..self.filled]).map_err(|_| ErrorClass::Protocol)?;
            if let Some(head) = parsed {
                let (method, target) = head.request().map_err(|_| ErrorClass::Protocol)?;
                let request = Request {
                    answer: route(method, target),
                    body: head.request_body(),
                    closes: head.closes,
                    expects_continue: head.expects_continue,
                };
                let length = head.length_bytes;
                self.consume(length);
                return Ok(Some(request));
            }
            match self.receive().await? {
                0 if self.filled == 0 => return Ok(None),
                0 => return Err(ErrorClass::Closed),
                count => self.filled += count,
            }
        }
    }

    async fn read_body(&mut self, request: &mut Request) -> Result<u64, ErrorClass> {
        if request.expects_continue && !request.body.is_finished() {
            self.wire.0.send_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let mut received = 0;
        loop {
            let (taken, payload) = request.body.take(&self.buffer[..self.filled]).map_err(|_| ErrorClass::Protocol)?;
            received += payload;
            self.consume(taken);
            if request.body.is_finished() {
                return Ok(received);
            }
            // Nobody looks at what a body of a known length consists of.
            if let Body::Left(left) = &mut request.body
                && *left > self.buffer.len() as u64
            {
                let count = self.discard(*left).await?;
                received += count;
                *left -= count;
                continue;
            }
            match self.receive().await? {
                0 => return Err(ErrorClass::Closed),
                count => self.filled += count,
            }
        }
    }

    /// Drops up to `count` bytes that the client sends, at least one.
    async fn discard(&mut self, count: u64) -> Result<u64, ErrorClass> {
        loop {
            match self.wire.0.discard(usize::try_from(count).unwrap_or(usize::MAX).min(DISCARDED_BYTES_MAX)) {
                Ok(0) => return Err(ErrorClass::Closed),
                Ok(count) => return Ok(count as u64),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wire.0.wait_readable_forever().await?;
                }
                Err(error) => return Err(crate::engine::socket::class(&error)),
            }
        }
    }

    async fn answer(&mut self, answer: &Answer, received: u64, closes: bool) -> Result<(), ErrorClass> {
        let (status, length, text) = match answer {
            Answer::Bytes(length) => (200, *length, String::new()),
            Answer::Count => text(200, format!("{received}\n")),
            Answer::Stats => text(200, serde_json::to_string(&self.served.read()).unwrap_or_default()),
            Answer::Text(status, words) => text(*status, (*words).to_owned()),
        };
        let connection = if closes { "Connection: close\r\n" } else { "" };
        let mut first = format!(
            "HTTP/1.1 {status} {}\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n{connection}\r\n{text}",
            if status == 200 { "OK" } else { "Not Found" },
        )
        .into_bytes();
        let mut left = if let Answer::Bytes(length) = answer { *length } else { 0 };
        self.served.sent.fetch_add(left, Relaxed);
        let beside_head = left.min((BOX_BYTES - first.len().min(BOX_BYTES)) as u64);
        first.extend_from_slice(&PAYLOAD[..usize::try_from(beside_head).unwrap_or(0)]);
        left -= beside_head;
        self.wire.0.send_all(&first).await?;
        while left > 0 {
            let count = left.min(PAYLOAD_FILE_BYTES as u64);
            self.wire.0.send_file(self.payload.as_fd(), count as usize).await?;
            left -= count;
        }
        Ok(())
    }

    async fn receive(&mut self) -> Result<usize, ErrorClass> {
        if self.filled == self.buffer.len() {
            return Err(ErrorClass::Protocol);
        }
        loop {
            match io::Read::read(&mut self.wire, &mut self.buffer[self.filled..]) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wire.0.wait_readable_forever().await?;
                }
                Err(error) => return Err(crate::engine::socket::class(&error)),
            }
        }
    }

    fn consume(&mut self, count: usize) {
        self.buffer.copy_within(count..self.filled, 0);
        self.filled -= count;
    }
}

fn route(method: &str, target: &str) -> Answer {
    match (method, target) {
        ("POST" | "PUT", _) => Answer::Count,
        ("GET", "/stats") => Answer::Stats,
        ("GET", _) => match target.strip_prefix("/bytes/") {
            Some(digits) => digits.parse().map_or(Answer::Text(404, "not a number of bytes\n"), Answer::Bytes),
            None => Answer::Text(200, "ok\n"),
        },
        _ => Answer::Text(404, "GET, POST and PUT are served\n"),
    }
}

fn text(status: u16, text: String) -> (u16, u64, String) {
    (status, text.len() as u64, text)
}

/// A file in memory from which large downloads are sent.
fn payload_file() -> io::Result<File> {
    let mut file = File::from(memfd_create("payload", MFdFlags::MFD_CLOEXEC)?);
    for _ in 0..PAYLOAD_FILE_BYTES / PAYLOAD.len() {
        file.write_all(&PAYLOAD)?;
    }
    Ok(file)
}

const PAYLOAD_FILE_BYTES: usize = 4 * PAYLOAD.len();
/// Most that one call takes off an upload.
const DISCARDED_BYTES_MAX: usize = 1 << 20;
/// What downloads consist of.
static PAYLOAD: [u8; BOX_BYTES] = [b'd'; BOX_BYTES];
/// Room for a head and for a good part of an upload.
const BUFFER_BYTES: usize = HEAD_BYTES_MAX * 2;
const LISTEN_BACKLOG: i32 = 4096;
/// Longest wait for a client to take what it asked for.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
const PAUSE_WHEN_FULL: Duration = Duration::from_millis(10);
