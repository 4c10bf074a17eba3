//! Loopback sockets that never wait, and waiting for their state with a deadline.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sluice::ktls::control::{self, Received};
use sluice::ktls::{Direction, attach_ulp, install};
use sluice::record::TrafficKeys;

/// Generous, because kernels run here under emulation on busy machines.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Two non-blocking ends of a loopback connection.
pub fn pair() -> (TcpStream, TcpStream) {
    let (sender, receiver) = super::connect();
    for stream in [&sender, &receiver] {
        stream.set_nonblocking(true).unwrap();
        stream.set_nodelay(true).unwrap();
    }
    (sender, receiver)
}

/// A pair whose first end seals in the kernel.
pub fn sending(keys: &TrafficKeys) -> (TcpStream, TcpStream) {
    let (sender, receiver) = pair();
    attach_ulp(sender.as_fd()).unwrap();
    install(sender.as_fd(), Direction::Transmit, keys).unwrap();
    (sender, receiver)
}

/// A pair whose second end opens in the kernel.
pub fn receiving(keys: &TrafficKeys) -> (TcpStream, TcpStream) {
    let (sender, receiver) = pair();
    attach_ulp(receiver.as_fd()).unwrap();
    install(receiver.as_fd(), Direction::Receive, keys).unwrap();
    (sender, receiver)
}

/// Waits for the state; `false` when `timeout` passed before.
pub fn becomes(stream: &TcpStream, flags: PollFlags, timeout: Duration) -> bool {
    let mut fds = [PollFd::new(stream.as_fd(), flags)];
    poll(&mut fds, PollTimeout::try_from(timeout).unwrap()).unwrap() > 0
}

/// Waits until there is something to read.
pub fn await_readable(stream: &TcpStream) {
    assert!(becomes(stream, PollFlags::POLLIN, DEADLINE), "nothing to read within {DEADLINE:?}");
}

/// Waits until there is room to write.
pub fn await_writable(stream: &TcpStream) {
    assert!(becomes(stream, PollFlags::POLLOUT, DEADLINE), "no room to write within {DEADLINE:?}");
}

/// Waits until `condition` holds, giving way to others in between.
pub fn await_that(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        std::thread::yield_now();
    }
}

/// Sends all of `bytes`, waiting for room.
pub fn send_all(mut stream: &TcpStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(len) => bytes = &bytes[len..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => await_writable(stream),
            Err(error) => panic!("send: {error}"),
        }
    }
}

/// Sends until the buffer is full and stays so, and returns what was sent.
///
/// What is on its way to the peer's buffer makes room once more, and what was sealed is pushed by a worker of the kernel:
/// so the buffer has to stay full for a while to count as full.
pub fn stuff(mut stream: &TcpStream) -> Vec<u8> {
    const SETTLED: Duration = Duration::from_millis(300);
    let chunk = super::pattern(16 * 1024);
    let mut sent = Vec::new();
    loop {
        // Full for `poll` is a third of the buffer earlier than full for `write`, so both have to say so.
        let is_settled = !becomes(stream, PollFlags::POLLOUT, SETTLED);
        let before = sent.len();
        while let Ok(len) = stream.write(&chunk) {
            sent.extend_from_slice(&chunk[..len]);
        }
        if is_settled && sent.len() == before {
            return sent;
        }
    }
}

/// Reads exactly `len` bytes as they came over the wire.
pub fn read_exactly(mut stream: &TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match stream.read(&mut bytes[filled..]) {
            Ok(0) => panic!("the stream ended after {filled} of {len} bytes"),
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => await_readable(stream),
            Err(error) => panic!("receive after {filled} of {len} bytes: {error}"),
        }
    }
    bytes
}

/// Reads until the stream ends or is reset.
pub fn read_to_end(mut stream: &TcpStream) -> Vec<u8> {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return bytes,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => await_readable(stream),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return bytes,
            Err(error) => panic!("receive: {error}"),
        }
    }
}

/// What a promoted receive direction has next.
pub fn receive(stream: &TcpStream, buffer: &mut [u8]) -> Received {
    loop {
        match control::receive(stream.as_fd(), buffer).unwrap() {
            Received::WouldBlock => await_readable(stream),
            received => return received,
        }
    }
}

/// Reads `len` bytes of application data from a promoted direction.
pub fn receive_data(stream: &TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match receive(stream, &mut bytes[filled..]) {
            Received::Data(count) => filled += count,
            other => panic!("{other:?} after {filled} of {len} bytes"),
        }
    }
    bytes
}
