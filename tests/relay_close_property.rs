//! The two rules of closing, over random ends of random connections: the backend reads an end of stream only after the
//! client's close_notify, and then every byte; the client gets close_notify only after the backend's end of stream, and
//! then every byte. A failure prints the smallest plan that proptest finds for it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use support::DEADLINE;
use support::backend::Backend;
use support::body::{self, End};
use support::client::{Client, Delivery, Tls};
use support::proxy::{Options, Proxy};
use support::suite::Version;

/// How long all plans together may take before the rest is left out.
const TIME_MAX: Duration = Duration::from_secs(20);
/// Most bytes of one send: more than the socket buffers and the proxy's hold between them.
const SEND_BYTES_MAX: usize = 600_000;

/// What happens next on a connection. What a side can no longer do is left out.
#[derive(Clone, Copy, Debug)]
enum Step {
    ClientSends(usize),
    ClientSaysCloseNotify,
    ClientEndsStream,
    ClientEndsStreamWithinRecord,
    ClientResets,
    BackendSends(usize),
    BackendEndsStream,
    BackendResets,
    /// It does not read for this many turns.
    ClientStopsReading(u8),
    BackendStopsReading(u8),
    /// What was begun goes as far as it can.
    Settle,
}

#[derive(Clone, Debug)]
struct Plan {
    version: Version,
    buffers: Buffers,
    steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Buffers {
    Usual,
    Small,
}

fn plan() -> impl Strategy<Value = Plan> {
    let len = || prop_oneof![3 => 1..100_usize, 2 => 100..20_000_usize, 1 => 20_000..SEND_BYTES_MAX];
    let step = prop_oneof![
        6 => len().prop_map(Step::ClientSends),
        6 => len().prop_map(Step::BackendSends),
        3 => Just(Step::ClientSaysCloseNotify),
        3 => Just(Step::BackendEndsStream),
        1 => Just(Step::ClientEndsStream),
        1 => Just(Step::ClientEndsStreamWithinRecord),
        1 => Just(Step::ClientResets),
        1 => Just(Step::BackendResets),
        2 => (1..20_u8).prop_map(Step::ClientStopsReading),
        2 => (1..20_u8).prop_map(Step::BackendStopsReading),
        5 => Just(Step::Settle),
    ];
    let version = prop_oneof![Just(Version::Tls12), Just(Version::Tls13)];
    let buffers = prop_oneof![2 => Just(Buffers::Usual), 1 => Just(Buffers::Small)];
    (version, buffers, vec(step, 0..12)).prop_map(|(version, buffers, steps)| Plan { version, buffers, steps })
}

#[test]
fn ends_of_both_sides_are_told_truly_in_every_order() {
    let config = ProptestConfig { cases: 300, failure_persistence: None, max_shrink_iters: 300, ..Default::default() };
    let worlds = [World::before(Backend::listen()), World::before(Backend::listen_with_small_buffers())];
    let (begun, played) = (Instant::now(), Cell::new(0));
    let result = TestRunner::new(config).run(&plan(), |plan| {
        if begun.elapsed() < TIME_MAX {
            worlds[usize::from(plan.buffers == Buffers::Small)].play(&plan);
            played.set(played.get() + 1);
        }
        Ok(())
    });
    println!("{} plans played in {:?}", played.get(), begun.elapsed());
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

/// A proxy, and a backend that the test plays itself.
struct World {
    proxy: Proxy,
    backend: Backend,
}

impl World {
    fn before(backend: Backend) -> Self {
        Self { proxy: Proxy::start(&Options::to([backend.address()])), backend }
    }

    fn play(&self, plan: &Plan) {
        let mut client = Client::of(&self.proxy).version(plan.version);
        if plan.buffers == Buffers::Small {
            client = client.small_receive_buffer();
        }
        let mut connection = Connection::new(client.connect(), self.backend.accept());
        for step in &plan.steps {
            connection.take(*step);
            connection.turn(Duration::from_millis(1));
        }
        // Whoever has not ended does so now, in good order.
        connection.take(Step::ClientSaysCloseNotify);
        connection.take(Step::BackendEndsStream);
        connection.finish();
    }
}

/// What one side sends, and how far it is.
#[derive(Default)]
struct Sender {
    /// Application data given to it so far.
    data: Vec<u8>,
    /// As it goes over the wire; `sent_len` bytes of it have left.
    queue: Vec<u8>,
    sent_len: usize,
    end: Option<SenderEnd>,
    /// Whether the TCP stream is to end behind the queue, and whether it has.
    ends_stream: bool,
    has_ended_stream: bool,
    /// A clean end has left, behind everything else; a reset that comes later changes nothing about that.
    has_closed: bool,
    /// The socket took no more.
    has_failed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SenderEnd {
    /// close_notify of the client, end of stream of the backend.
    Clean,
    /// The client's end of stream without close_notify.
    Truncated,
    Reset,
}

/// What one side has received.
#[derive(Default)]
struct Receiver {
    data: Vec<u8>,
    end: Option<End>,
    pause_turns: u8,
}

/// A connection through the proxy with both its ends.
struct Connection {
    client: Option<Tls>,
    backend: Option<TcpStream>,
    upload: Sender,
    download: Sender,
    at_client: Receiver,
    at_backend: Receiver,
}

impl Connection {
    fn new(mut client: Tls, backend: TcpStream) -> Self {
        client.deliver(Delivery::Held);
        client.socket().set_nonblocking(true).unwrap();
        backend.set_nonblocking(true).unwrap();
        Self {
            client: Some(client),
            backend: Some(backend),
            upload: Sender::default(),
            download: Sender::default(),
            at_client: Receiver::default(),
            at_backend: Receiver::default(),
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::ClientSends(len) => self.client_sends(len),
            Step::ClientSaysCloseNotify => self.client_closes(),
            Step::ClientEndsStream => self.client_ends_stream(&[]),
            Step::ClientEndsStreamWithinRecord => self.client_ends_stream(&[23, 3, 3, 1, 0, 9, 9, 9]),
            Step::ClientResets => self.client_resets(),
            Step::BackendSends(len) => self.backend_sends(len),
            Step::BackendEndsStream => {
                self.download.end.get_or_insert(SenderEnd::Clean);
                self.download.ends_stream = true;
            }
            Step::BackendResets => {
                if let Some(backend) = self.backend.take() {
                    support::backend::reset(backend);
                    self.download.end = Some(SenderEnd::Reset);
                }
            }
            Step::ClientStopsReading(turns) => self.at_client.pause_turns = turns,
            Step::BackendStopsReading(turns) => self.at_backend.pause_turns = turns,
            Step::Settle => while self.turn(Duration::from_millis(3)) {},
        }
    }

    fn client_sends(&mut self, len: usize) {
        if let (Some(client), None) = (&mut self.client, self.upload.end) {
            let data = body::bytes(len, self.upload.data.len() as u64);
            client.send(&data);
            self.upload.queue.extend(client.take_held());
            self.upload.data.extend_from_slice(&data);
        }
    }

    fn client_closes(&mut self) {
        if let (Some(client), None) = (&mut self.client, self.upload.end) {
            client.close_notify();
            self.upload.queue.extend(client.take_held());
            self.upload.end = Some(SenderEnd::Clean);
        }
    }

    fn client_ends_stream(&mut self, last_bytes: &[u8]) {
        if self.upload.end.is_none() {
            self.upload.queue.extend_from_slice(last_bytes);
            self.upload.end = Some(SenderEnd::Truncated);
        }
        self.upload.ends_stream = true;
    }

    fn client_resets(&mut self) {
        if let Some(client) = self.client.take() {
            client.reset();
            self.upload.end = Some(SenderEnd::Reset);
        }
    }

    fn backend_sends(&mut self, len: usize) {
        if self.download.end.is_none() {
            let data = body::bytes(len, self.download.data.len() as u64);
            self.download.queue.extend_from_slice(&data);
            self.download.data.extend_from_slice(&data);
        }
    }

    /// Everything that can be done now, after a wait for something to do; false when there was nothing.
    fn turn(&mut self, wait: Duration) -> bool {
        self.wait(wait);
        let mut has_moved = false;
        if let Some(client) = &mut self.client {
            has_moved |= self.upload.advance(client.socket());
            has_moved |= self.at_client.advance(|buffer| client.try_read(buffer));
        }
        if let Some(backend) = &mut self.backend {
            has_moved |= self.download.advance(backend);
            if self.download.has_failed && self.at_backend.end.is_none() {
                // The send took the socket's error with it: a read would tell the reset as an end of stream.
                self.at_backend.end = Some(End::Reset);
            }
            has_moved |= self.at_backend.advance(|buffer| try_read(backend, buffer));
        }
        self.check();
        if self.at_client.end.is_some_and(|end| end != End::CloseNotify) {
            // Its TLS stack takes nothing more; the program behind it would close.
            self.client_resets();
        }
        has_moved
    }

    fn wait(&self, wait: Duration) {
        let mut sockets = Vec::new();
        for (socket, sender, receiver) in [
            (self.client.as_ref().map(Tls::socket), &self.upload, &self.at_client),
            (self.backend.as_ref(), &self.download, &self.at_backend),
        ] {
            let Some(socket) = socket else { continue };
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, receiver.end.is_none() && receiver.pause_turns == 0);
            flags.set(PollFlags::POLLOUT, sender.can_advance());
            if !flags.is_empty() {
                sockets.push(PollFd::new(socket.as_fd(), flags));
            }
        }
        nix::poll::poll(&mut sockets, PollTimeout::try_from(wait).unwrap()).unwrap();
    }

    /// The rules, which hold at any moment.
    fn check(&self) {
        assert!(self.upload.data.starts_with(&self.at_backend.data), "the backend got what the client sent");
        assert!(self.download.data.starts_with(&self.at_client.data), "the client got what the backend sent");
        if self.at_backend.end == Some(End::EndOfStream) {
            assert!(self.upload.has_closed, "the backend reads an end only after close_notify");
            assert_eq!(self.at_backend.data.len(), self.upload.data.len(), "no byte of the upload is missing");
        }
        if self.at_client.end == Some(End::CloseNotify) {
            assert!(self.download.has_closed, "the client gets close_notify only after the backend's end");
            assert_eq!(self.at_client.data.len(), self.download.data.len(), "no byte of the download is missing");
        }
        // And nothing breaks that nobody broke.
        let client_broke = matches!(self.upload.end, Some(SenderEnd::Truncated | SenderEnd::Reset));
        let backend_broke = self.download.end == Some(SenderEnd::Reset);
        assert!(client_broke || matches!(self.at_backend.end, None | Some(End::EndOfStream)), "a reset to the backend");
        if !client_broke && !backend_broke {
            assert!(
                matches!(self.at_client.end, None | Some(End::CloseNotify)),
                "{:?} to the client",
                self.at_client.end
            );
            assert!(!self.upload.has_failed && !self.download.has_failed, "what is sent is taken");
        }
    }

    /// Waits until each side that is left has read an end.
    fn finish(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        while (self.client.is_some() && self.at_client.end.is_none())
            || (self.backend.is_some() && self.at_backend.end.is_none())
        {
            assert!(Instant::now() < deadline, "both sides come to an end");
            self.turn(Duration::from_millis(20));
        }
    }
}

impl Sender {
    fn can_advance(&self) -> bool {
        let has_more = self.sent_len < self.queue.len() || self.ends_stream && !self.has_ended_stream;
        has_more && !self.has_failed
    }

    /// Sends what the socket takes, and the end behind it.
    fn advance(&mut self, mut socket: &TcpStream) -> bool {
        let mut has_moved = false;
        while self.can_advance() {
            let result = match &self.queue[self.sent_len..] {
                [] => socket.shutdown(Shutdown::Write).map(|()| self.has_ended_stream = true),
                rest => socket.write(rest).map(|len| self.sent_len += len),
            };
            match result {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.has_failed = true,
            }
            has_moved = true;
        }
        self.has_closed |= self.end == Some(SenderEnd::Clean) && !self.has_failed && !self.can_advance();
        has_moved
    }
}

impl Receiver {
    /// Receives what is there, up to the end.
    fn advance(&mut self, mut read: impl FnMut(&mut [u8]) -> Option<Result<usize, End>>) -> bool {
        if self.pause_turns > 0 {
            self.pause_turns -= 1;
            return true;
        }
        let (mut has_moved, mut buffer) = (false, vec![0; 32 * 1024]);
        while self.end.is_none() {
            match read(&mut buffer) {
                None => break,
                Some(Ok(len)) => self.data.extend_from_slice(&buffer[..len]),
                Some(Err(end)) => self.end = Some(end),
            }
            has_moved = true;
        }
        has_moved
    }
}

fn try_read(stream: &mut TcpStream, buffer: &mut [u8]) -> Option<Result<usize, End>> {
    match stream.read(buffer) {
        Ok(0) => Some(Err(End::EndOfStream)),
        Ok(len) => Some(Ok(len)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => Some(Err(body::end_of(&error))),
    }
}
