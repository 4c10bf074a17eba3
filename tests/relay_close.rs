//! How connections end: half-close, close_notify, truncation, resets, and no byte lost on the way out.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use sluice::record::ContentType;
use support::backend::{self, Backend};
use support::body::{self, End, Received};
use support::client::{Client, Delivery, Tls};
use support::proxy::{Options, Proxy};
use support::record::Forger;
use support::suite::Version;
use support::{tcp, wait_until};

const MIB: usize = 1 << 20;

/// A proxy, and a backend that the test plays itself.
struct World {
    proxy: Proxy,
    backend: Backend,
}

impl World {
    fn start() -> Self {
        Self::before(Backend::listen())
    }

    fn before(backend: Backend) -> Self {
        Self { proxy: Proxy::start(&Options::to([backend.address()])), backend }
    }

    fn connect(&self, version: Version) -> (Tls, TcpStream) {
        let client = Client::of(&self.proxy).version(version).connect();
        (client, self.backend.accept())
    }
}

#[test]
fn close_notify_of_client_ends_the_upload_and_the_download_goes_on() {
    let world = World::start();
    for version in Version::ALL {
        let (mut client, mut server) = world.connect(version);
        client.send(b"request");
        client.close_notify();
        assert_eq!(body::drain(&mut server), Received::of(b"request", End::EndOfStream));
        let download = body::bytes(4 * MIB, 1);
        let expected = Received::of(&download, End::CloseNotify);
        let sending = std::thread::spawn(move || server.write_all(&download).unwrap());
        assert_eq!(client.drain(), expected, "{version:?}");
        sending.join().unwrap();
        client.end_stream();
    }
    wait_until("both are counted", || world.proxy.closed("client_closed") == 2);
}

#[test]
fn tcp_end_behind_close_notify_does_not_stop_the_download() {
    let world = World::start();
    for version in Version::ALL {
        let (mut client, mut server) = world.connect(version);
        client.send(b"request");
        client.close_notify();
        client.end_stream();
        assert_eq!(body::drain(&mut server).end, End::EndOfStream);
        let download = body::bytes(MIB, 1);
        server.write_all(&download).unwrap();
        drop(server);
        assert_eq!(client.drain(), Received::of(&download, End::CloseNotify), "{version:?}");
    }
}

#[test]
fn end_of_backend_stream_is_close_notify_and_the_upload_goes_on() {
    let world = World::start();
    for version in Version::ALL {
        let (mut client, mut server) = world.connect(version);
        server.write_all(b"answer").unwrap();
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.drain(), Received::of(b"answer", End::CloseNotify));
        let upload = body::bytes(4 * MIB, 2);
        let expected = Received::of(&upload, End::EndOfStream);
        let sending = std::thread::spawn(move || {
            client.send(&upload);
            client.close_notify();
            client
        });
        assert_eq!(body::drain(&mut server), expected, "{version:?}");
        sending.join().unwrap();
    }
    wait_until("both are counted", || world.proxy.closed("backend_closed") == 2);
}

#[test]
fn close_notify_and_the_end_come_in_one_segment() {
    let world = World::start();
    for version in Version::ALL {
        let (mut client, mut server) = world.connect(version);
        server.write_all(b"answer").unwrap();
        assert_eq!(client.receive(6), b"answer");
        let before = tcp::info(client.socket()).tcpi_segs_in;
        drop(server);
        assert_eq!(client.drain().end, End::CloseNotify);
        assert_eq!(client.socket().read(&mut [0]).unwrap(), 0);
        assert_eq!(tcp::info(client.socket()).tcpi_segs_in - before, 1, "{version:?}");
    }
}

#[test]
fn first_answer_and_the_end_come_in_one_segment() {
    let backend = Backend::listen();
    let tickets = "lifetime = \"0s\"".to_owned();
    let proxy = Proxy::start(&Options { tickets, ..Options::to([backend.address()]) });
    let world = World { proxy, backend };
    for version in Version::ALL {
        let (mut client, mut server) = world.connect(version);
        // Long enough for the ACK of the handshake's last message.
        std::thread::sleep(std::time::Duration::from_millis(100));
        let before = tcp::info(client.socket()).tcpi_segs_in;
        world.proxy.freeze(|| {
            server.write_all(b"answer").unwrap();
            server.shutdown(Shutdown::Write).unwrap();
        });
        assert_eq!(client.drain(), Received::of(b"answer", End::CloseNotify), "{version:?}");
        assert_eq!(client.socket().read(&mut [0]).unwrap(), 0);
        assert_eq!(tcp::info(client.socket()).tcpi_segs_in - before, 1, "{version:?}");
        client.send(b"the upload goes on");
        assert_eq!(backend::receive(&mut server, 18), b"the upload goes on");
        client.close_notify();
        assert_eq!(body::drain(&mut server), Received::of(b"", End::EndOfStream));
    }
    wait_until("both are counted", || world.proxy.closed("backend_closed") == 2);
}

#[test]
fn first_answer_that_fills_more_than_one_record_arrives_whole_with_its_end() {
    let world = World::start();
    for (version, len) in
        Version::ALL.into_iter().flat_map(|version| [16_383, 16_384, 16_385].map(|len| (version, len)))
    {
        let (mut client, mut server) = world.connect(version);
        let answer = body::bytes(len, 6);
        world.proxy.freeze(|| {
            server.write_all(&answer).unwrap();
            drop(server);
        });
        assert!(client.drain() == Received::of(&answer, End::CloseNotify), "{version:?} {len}");
    }
}

#[test]
fn truncation_by_client_reaches_backend_as_reset() {
    let world = World::start();
    for version in Version::ALL {
        let (mut client, mut server) = world.connect(version);
        client.send(b"half of a requ");
        assert_eq!(backend::receive(&mut server, 14), b"half of a requ");
        client.end_stream();
        assert_eq!(body::drain(&mut server).end, End::Reset, "{version:?}");
    }
    wait_until("both are counted", || world.proxy.closed("client_truncated") == 2);
}

#[test]
fn truncation_within_a_record_reaches_backend_as_reset() {
    let world = World::start();
    for version in Version::ALL {
        let (client, mut server) = world.connect(version);
        client.send_raw(&[23, 3, 3, 1, 0, 9, 9, 9]);
        client.end_stream();
        assert_eq!(body::drain(&mut server), Received::of(b"", End::Reset), "{version:?}");
    }
    wait_until("both are counted", || world.proxy.closed("client_truncated") == 2);
}

#[test]
fn answer_still_reaches_a_client_that_truncated() {
    let world = World::start();
    let (mut client, mut server) = world.connect(Version::Tls13);
    // As much as the socket takes while nobody reads. The proxy finds the truncation and the answer at once: it waits for
    // an answer for a second only, and a slow machine may take longer to send one.
    let answer = body::bytes(256 * 1024, 5);
    world.proxy.freeze(|| {
        client.end_stream();
        server.write_all(&answer).unwrap();
        drop(server);
    });
    assert_eq!(client.drain(), Received::of(&answer, End::CloseNotify));
}

#[test]
fn reset_by_client_reaches_backend_as_reset() {
    let world = World::start();
    for version in Version::ALL {
        let (mut client, mut server) = world.connect(version);
        client.send(b"begun");
        backend::receive(&mut server, 5);
        client.reset();
        assert_eq!(body::drain(&mut server).end, End::Reset, "{version:?}");
    }
}

#[test]
fn reset_by_backend_never_reads_as_close_notify() {
    let world = World::start();
    for version in Version::ALL {
        let (mut client, mut server) = world.connect(version);
        server.write_all(b"half of an ans").unwrap();
        assert_eq!(client.receive(14), b"half of an ans");
        backend::reset(server);
        let end = client.drain().end;
        assert!(matches!(end, End::EndOfStream | End::Reset), "{version:?}: {end:?}");
    }
    wait_until("both are counted", || world.proxy.closed("backend_failed") == 2);
}

#[test]
fn reset_behind_the_first_answer_never_reads_as_close_notify() {
    let world = World::start();
    for version in Version::ALL {
        let (mut client, mut server) = world.connect(version);
        world.proxy.freeze(|| {
            server.write_all(b"half of an ans").unwrap();
            backend::reset(server);
        });
        assert_eq!(client.receive(14), b"half of an ans", "{version:?}");
        let end = client.drain().end;
        assert!(matches!(end, End::EndOfStream | End::Reset), "{version:?}: {end:?}");
    }
    wait_until("both are counted", || world.proxy.closed("backend_failed") == 2);
}

#[test]
fn answer_before_a_reset_that_cuts_the_upload_reaches_the_client() {
    let world = World::start();
    for version in Version::ALL {
        let (mut client, mut server) = world.connect(version);
        // As much as fits into the buffers on the way, so that the proxy waits for the backend to take more.
        client.deliver(Delivery::Held);
        client.send(&body::bytes(32 * MIB, 3));
        let (records, mut socket) = (client.take_held(), client.socket().try_clone().unwrap());
        let sending = std::thread::spawn(move || socket.write_all(&records));
        wait_until("the upload stalls", || sent_stalls(client.socket()));
        // Like a server that refuses a large body: it answers, and closes with the rest unread.
        world.proxy.freeze(|| {
            server.write_all(b"413 Content Too Large").unwrap();
            drop(server);
        });
        assert_eq!(client.receive(21), b"413 Content Too Large", "{version:?}");
        assert_ne!(client.drain().end, End::CloseNotify, "{version:?}");
        assert!(sending.join().unwrap().is_err(), "nobody took the upload");
    }
}

#[test]
fn fatal_alert_of_client_reaches_backend_as_reset() {
    let world = World::start();
    for version in Version::ALL {
        let suite = version.usual_suite();
        let client = Client::of(&world.proxy).suite(suite).connect();
        let mut server = world.backend.accept();
        Forger::new(client, suite).send(ContentType::Alert, &[2, 80]);
        assert_eq!(body::drain(&mut server).end, End::Reset, "{version:?}");
    }
    wait_until("both are counted", || world.proxy.closed("alert_received") == 2);
}

#[test]
fn download_queued_before_the_backend_closed_arrives_whole_at_a_late_reader() {
    let world = World::start();
    for (len, version) in [(1, Version::Tls13), (300_000, Version::Tls12), (300_000, Version::Tls13)] {
        let client = Client::of(&world.proxy).version(version).small_receive_buffer();
        let mut client = client.connect();
        let mut server = world.backend.accept();
        let download = body::bytes(len, 7);
        server.write_all(&download).unwrap();
        drop(server);
        // Everything is in the buffers of the kernel and the proxy before the first byte is read.
        assert_eq!(client.drain(), Received::of(&download, End::CloseNotify), "{version:?}");
    }
}

#[test]
fn long_download_to_a_slow_reader_loses_nothing_when_the_backend_closes() {
    let world = World::start();
    for version in Version::ALL {
        let mut client = Client::of(&world.proxy).version(version).small_receive_buffer().connect();
        let mut server = world.backend.accept();
        let download = body::bytes(8 * MIB, 8);
        let expected = Received::of(&download, End::CloseNotify);
        let sending = std::thread::spawn(move || server.write_all(&download).unwrap());
        let received = body::drain_with(|buffer| client.read(&mut buffer[..700]));
        assert_eq!(received, expected, "{version:?}");
        sending.join().unwrap();
    }
}

#[test]
fn upload_queued_before_the_client_closed_arrives_whole_at_a_late_reader() {
    let world = World::before(Backend::listen_with_small_buffers());
    for (len, version) in [(1, Version::Tls13), (300_000, Version::Tls12), (300_000, Version::Tls13)] {
        let (mut client, mut server) = world.connect(version);
        let upload = body::bytes(len, 9);
        client.send(&upload);
        client.close_notify();
        client.end_stream();
        assert_eq!(body::drain(&mut server), Received::of(&upload, End::EndOfStream), "{version:?}");
    }
}

#[test]
fn long_upload_to_a_slow_backend_loses_nothing_when_the_client_closes() {
    let world = World::before(Backend::listen_with_small_buffers());
    for version in Version::ALL {
        let (mut client, mut server) = world.connect(version);
        let upload = body::bytes(8 * MIB, 10);
        let expected = Received::of(&upload, End::EndOfStream);
        let sending = std::thread::spawn(move || {
            client.send(&upload);
            client.close_notify();
            client.end_stream();
            client
        });
        let received = body::drain_with(|buffer| match server.read(&mut buffer[..700]) {
            Ok(0) => Err(End::EndOfStream),
            Ok(len) => Ok(len),
            Err(error) => Err(body::end_of(&error)),
        });
        assert_eq!(received, expected, "{version:?}");
        sending.join().unwrap();
    }
}

#[test]
fn both_directions_at_full_speed_lose_nothing() {
    let world = World::start();
    for version in Version::ALL {
        let (mut client, server) = world.connect(version);
        let data = body::bytes(16 * MIB, 11);
        let uploaded = Received::of(&data, End::EndOfStream);
        let mut reading = server.try_clone().unwrap();
        let receiving = std::thread::spawn(move || body::drain(&mut reading));
        let mut writing = server;
        let download = data.clone();
        let sending = std::thread::spawn(move || {
            writing.write_all(&download).unwrap();
            writing.shutdown(Shutdown::Write).unwrap();
        });
        // One piece up, the same amount down: neither buffer of the client can fill up for good.
        let mut digest = openssl::sha::Sha256::new();
        for piece in data.chunks(100_000) {
            client.send(piece);
            digest.update(&client.receive(piece.len()));
        }
        client.close_notify();
        assert_eq!(client.drain().end, End::CloseNotify);
        assert_eq!(digest.finish(), uploaded.digest, "{version:?}");
        assert_eq!(receiving.join().unwrap(), uploaded, "{version:?}");
        sending.join().unwrap();
    }
}

#[test]
fn data_behind_close_notify_is_ignored() {
    let world = World::start();
    for version in Version::ALL {
        let suite = version.usual_suite();
        let client = Client::of(&world.proxy).suite(suite).connect();
        let mut server = world.backend.accept();
        let mut forger = Forger::new(client, suite);
        let mut records = forger.seal(ContentType::ApplicationData, b"before");
        records.extend(forger.seal(ContentType::Alert, &[1, 0]));
        records.extend(forger.seal(ContentType::ApplicationData, b"behind"));
        forger.tls.send_raw(&records);
        assert_eq!(body::drain(&mut server), Received::of(b"before", End::EndOfStream), "{version:?}");
        server.write_all(b"answer").unwrap();
        drop(server);
        assert_eq!(forger.tls.drain(), Received::of(b"answer", End::CloseNotify), "{version:?}");
    }
}

/// Whether what the socket's owner sends is not taken any more: nothing moves while the test looks.
fn sent_stalls(socket: &TcpStream) -> bool {
    let mut poll = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    nix::poll::poll(&mut poll, PollTimeout::from(200u8)).unwrap() == 0
}
