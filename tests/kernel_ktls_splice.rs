//! Splicing between kernel-TLS sockets and pipes: what the relay relies on, and what it has to work around.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod kernel_support;

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use kernel_support::record::Reference;
use kernel_support::{VERSIONS, kernel_tls, keys, pattern, socket};
use nix::poll::PollFlags;
use nix::sys::socket::MsgFlags;
use sluice::ktls::control::{self, Received};
use sluice::record::{Aead, ProtocolVersion};
use sluice::sys::splice::Pipe;

use ProtocolVersion::Tls13;

const AEAD: Aead = Aead::Aes128Gcm;
/// How many pipe buffers the kernel hands to a socket at once.
const BATCH_BUFFERS: usize = 16;
const PAGE_BYTES: usize = 4096;
/// Long enough for a delayed segment (200 ms), so that what is still missing is held back.
const HELD_BACK: Duration = Duration::from_secs(2);

#[test]
fn spliced_records_come_one_by_one_and_unchanged() {
    let Some(kernel) = kernel_tls() else { return };
    for version in VERSIONS {
        let (peer, socket) = socket::receiving(&keys(version, AEAD, 1, 0));
        let mut to_socket = Reference::new(keys(version, AEAD, 1, 0));
        let payload = pattern(3 * 10_000);
        payload.chunks(10_000).for_each(|part| socket::send_all(&peer, &to_socket.seal(23, part)));
        let pipe = Pipe::new().unwrap();
        let (out, sink) = socket::pair();
        let mut spliced = Vec::new();
        while spliced.len() < payload.len() {
            socket::await_readable(&socket);
            let len = pipe.fill(socket.as_fd(), 64 * 1024).unwrap();
            assert_eq!(len, 10_000, "one record, {version:?}");
            assert_eq!(pipe.queued_bytes().unwrap(), len);
            assert_eq!(pipe.drain(out.as_fd(), len).unwrap(), len);
            spliced.extend(socket::read_exactly(&sink, len));
        }
        assert_eq!(spliced, payload, "{version:?}");
    }
    assert!(kernel.grown("TlsRxSw") >= 2);
}

#[test]
fn spliced_part_of_a_record_leaves_the_rest_readable() {
    let Some(_kernel) = kernel_tls() else { return };
    let (peer, socket) = socket::receiving(&keys(Tls13, AEAD, 1, 0));
    socket::send_all(&peer, &Reference::new(keys(Tls13, AEAD, 1, 0)).seal(23, b"first and second"));
    socket::await_readable(&socket);
    let pipe = Pipe::new().unwrap();
    assert_eq!(pipe.fill(socket.as_fd(), 6).unwrap(), 6);
    assert_eq!(socket::receive_data(&socket, 10), b"and second");
}

#[test]
fn splice_into_the_kernel_makes_full_records_of_exact_lengths() {
    let Some(kernel) = kernel_tls() else { return };
    for version in VERSIONS {
        let (socket, peer) = socket::sending(&keys(version, AEAD, 1, 0));
        let (source, feed) = socket::pair();
        let pipe = Pipe::new().unwrap();
        let payload = pattern(40_000);
        socket::send_all(&feed, &payload);
        let mut from_socket = Reference::new(keys(version, AEAD, 1, 0));
        let mut received = Vec::new();
        while received.len() < payload.len() {
            socket::await_readable(&source);
            let len = pipe.fill(source.as_fd(), 64 * 1024).unwrap();
            assert_eq!(pipe.drain(socket.as_fd(), len).unwrap(), len);
            let target = received.len() + len;
            while received.len() < target {
                received.extend(from_socket.read(&peer).payload);
            }
        }
        assert_eq!(received, payload, "{version:?}");
    }
    assert!(kernel.grown("TlsTxSw") >= 2);
}

/// As the end of the stream would: the relay has to ask further before it believes a 0.
#[test]
fn splice_of_an_empty_record_returns_0_without_an_end() {
    let Some(_kernel) = kernel_tls() else { return };
    for version in VERSIONS {
        let (peer, socket) = socket::receiving(&keys(version, AEAD, 1, 0));
        let mut to_socket = Reference::new(keys(version, AEAD, 1, 0));
        let pipe = Pipe::new().unwrap();
        socket::send_all(&peer, &to_socket.seal(23, b""));
        socket::await_readable(&socket);
        assert_eq!(pipe.fill(socket.as_fd(), 64 * 1024).unwrap(), 0, "{version:?}");
        assert_eq!(control::receive(socket.as_fd(), &mut [0; 16]).unwrap(), Received::WouldBlock, "{version:?}");
        peer.shutdown(Shutdown::Write).unwrap();
        socket::await_readable(&socket);
        assert_eq!(pipe.fill(socket.as_fd(), 64 * 1024).unwrap(), 0, "{version:?}");
        assert_eq!(control::receive(socket.as_fd(), &mut [0; 16]).unwrap(), Received::Eof, "{version:?}");
    }
}

#[test]
fn splice_stops_before_a_control_record_and_leaves_it_to_receive() {
    let Some(_kernel) = kernel_tls() else { return };
    for version in VERSIONS {
        let (peer, socket) = socket::receiving(&keys(version, AEAD, 1, 0));
        let mut to_socket = Reference::new(keys(version, AEAD, 1, 0));
        let pipe = Pipe::new().unwrap();
        for (content_type, payload) in [(23, &b"data"[..]), (21, &[1, 0]), (23, b"more")] {
            socket::send_all(&peer, &to_socket.seal(content_type, payload));
        }
        socket::await_readable(&socket);
        assert_eq!(pipe.fill(socket.as_fd(), 64 * 1024).unwrap(), 4, "{version:?}");
        socket::await_readable(&socket);
        for _ in 0..2 {
            let error = pipe.fill(socket.as_fd(), 64 * 1024).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{version:?}");
        }
        let alert = Received::Control { content_type: 21, len: 2, end_of_record: true };
        assert_eq!(socket::receive(&socket, &mut [0; 16]), alert, "{version:?}");
        socket::await_readable(&socket);
        assert_eq!(pipe.fill(socket.as_fd(), 64 * 1024).unwrap(), 4, "{version:?}");
        assert_eq!(pipe.queued_bytes().unwrap(), 8);
    }
}

#[test]
fn splice_of_a_record_that_does_not_authenticate_is_an_error() {
    let Some(_kernel) = kernel_tls() else { return };
    let (peer, socket) = socket::receiving(&keys(Tls13, AEAD, 1, 0));
    let mut record = Reference::new(keys(Tls13, AEAD, 1, 0)).seal(23, b"forged");
    *record.last_mut().unwrap() ^= 1;
    socket::send_all(&peer, &record);
    socket::await_readable(&socket);
    let error = Pipe::new().unwrap().fill(socket.as_fd(), 64 * 1024).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBADMSG));
}

#[test]
fn splice_of_exactly_what_the_pipe_holds_is_never_held_back() {
    let Some(_kernel) = kernel_tls() else { return };
    for buffers in [1, BATCH_BUFFERS - 1, BATCH_BUFFERS, BATCH_BUFFERS + 1, 2 * BATCH_BUFFERS] {
        let (socket, peer) = socket::sending(&keys(Tls13, AEAD, 1, 0));
        let (pipe, len) = pipe_of(buffers);
        assert_eq!(pipe.drain(socket.as_fd(), len).unwrap(), len);
        let mut from_socket = Reference::new(keys(Tls13, AEAD, 1, 0));
        let mut received = 0;
        while received < len {
            received += from_socket.read(&peer).payload.len();
        }
        assert_eq!(received, len, "{buffers} buffers");
    }
}

/// The kernel takes a full batch for a sign that more follows, when more was asked for than there is.
#[test]
fn splice_of_more_than_the_pipe_holds_is_held_back_at_a_full_batch() {
    let Some(_kernel) = kernel_tls() else { return };
    let (socket, peer) = socket::sending(&keys(Tls13, AEAD, 1, 0));
    let (pipe, len) = pipe_of(BATCH_BUFFERS);
    assert_eq!(pipe.drain(socket.as_fd(), len + PAGE_BYTES).unwrap(), len);
    assert!(!socket::becomes(&peer, PollFlags::POLLIN, HELD_BACK), "the record is held back");
    socket::send_all(&socket, b"!");
    assert_eq!(Reference::new(keys(Tls13, AEAD, 1, 0)).read(&peer).payload.len(), len + 1, "until the next send");

    let (socket, peer) = socket::sending(&keys(Tls13, AEAD, 1, 0));
    let (pipe, len) = pipe_of(BATCH_BUFFERS - 1);
    assert_eq!(pipe.drain(socket.as_fd(), len + PAGE_BYTES).unwrap(), len);
    assert_eq!(Reference::new(keys(Tls13, AEAD, 1, 0)).read(&peer).payload.len(), len, "not below a full batch");
}

#[test]
fn send_flags_that_kernel_tls_does_not_know_are_refused() {
    let Some(_kernel) = kernel_tls() else { return };
    let (socket, _peer) = socket::sending(&keys(Tls13, AEAD, 1, 0));
    let send = |flags| {
        let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
        nix::sys::socket::send(fd, b"x", MsgFlags::from_bits_retain(flags))
    };
    for flags in [libc::MSG_WAITALL, libc::MSG_OOB, libc::MSG_ZEROCOPY] {
        assert_eq!(send(flags), Err(nix::errno::Errno::EOPNOTSUPP), "{flags:#x}");
    }
    assert_eq!(send(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL), Ok(1));
}

/// A pipe whose content lies in so many buffers, and the length of the content.
fn pipe_of(buffers: usize) -> (Pipe, usize) {
    let pipe = Pipe::new().unwrap();
    pipe.set_capacity_bytes(4 * BATCH_BUFFERS * PAGE_BYTES).unwrap();
    let (feed, source): (TcpStream, TcpStream) = socket::pair();
    for _ in 0..buffers {
        socket::send_all(&feed, &pattern(100));
        socket::await_readable(&source);
        assert_eq!(pipe.fill(source.as_fd(), PAGE_BYTES).unwrap(), 100);
    }
    (pipe, buffers * 100)
}
