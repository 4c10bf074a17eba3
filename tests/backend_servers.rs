//! Which server a connection goes to, and what becomes of it when there is none.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use support::backend::Backend;
use support::body::{End, Received};
use support::client::Client;
use support::proxy::{Options, Proxy};
use support::suite::Version;
use support::wait_until;

/// The name of the server that the next connection gets to.
fn served_by(proxy: &Proxy) -> Vec<u8> {
    Client::of(proxy).connect().receive(1)
}

#[test]
fn connections_take_turns_over_tcp_and_unix_servers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.sock");
    Backend::named_unix(&path, "c");
    let servers =
        [Backend::named("a").to_string(), Backend::named("b").to_string(), format!("unix:{}", path.display())];
    let proxy = Proxy::start(&Options::to(servers));
    let turns: Vec<u8> = (0..9).flat_map(|_| served_by(&proxy)).collect();
    let first = turns[..3].to_vec();
    assert!([&b"abc"[..], b"bca", b"cab"].contains(&first.as_slice()), "{turns:?}");
    assert_eq!(turns, first.repeat(3));
}

#[test]
fn unix_server_carries_data_both_ways() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    Backend::named_unix(&path, "");
    let proxy = Proxy::start(&Options::to([format!("unix:{}", path.display())]));
    for version in Version::ALL {
        let mut client = Client::of(&proxy).version(version).connect();
        let data = support::body::bytes(100_000, 1);
        client.send(&data);
        assert!(client.receive(data.len()) == data);
        client.close_notify();
        assert_eq!(client.drain().end, End::CloseNotify);
    }
}

#[test]
fn server_that_refuses_is_passed_over() {
    let refusing = Backend::refusing();
    let missing = "unix:/nonexistent/sluice.sock".to_owned();
    let servers = [refusing.address().to_string(), missing, Backend::named("a").to_string()];
    let proxy = Proxy::start(&Options::to(servers));
    for _ in 0..6 {
        assert_eq!(served_by(&proxy), b"a");
    }
    assert_eq!(proxy.metric("sluice_backend_dials_total{result=\"connected\"}"), 6);
    assert!(proxy.metric("sluice_backend_dials_total{result=\"refused\"}") > 0);
}

#[test]
fn server_that_does_not_answer_is_passed_over_after_the_connect_timeout() {
    let short = Duration::from_millis(300);
    let silent = FullBacklog::new();
    let options = Options::to([silent.address().to_string(), Backend::named("a").to_string()]);
    let proxy = Proxy::start(&Options { connect_timeout: short, ..options });
    let begun = Instant::now();
    for _ in 0..2 {
        assert_eq!(served_by(&proxy), b"a");
    }
    assert!(begun.elapsed() >= short, "one of the two had to wait");
    assert_eq!(proxy.metric("sluice_backend_dials_total{result=\"timed_out\"}"), 1);
}

#[test]
fn connection_without_any_server_is_closed_cleanly() {
    let refusing = Backend::refusing();
    let proxy =
        Proxy::start(&Options::to([refusing.address().to_string(), "unix:/nonexistent/sluice.sock".to_owned()]));
    for version in Version::ALL {
        let mut client = Client::of(&proxy).version(version).connect();
        assert_eq!(client.drain(), Received::of(b"", End::CloseNotify), "{version:?}");
    }
    wait_until("both are counted", || proxy.closed("backend_unavailable") == 2);
    assert_eq!(proxy.metric("sluice_backend_dials_total{result=\"refused\"}"), 4);
}

#[test]
fn request_that_was_sent_before_the_close_does_not_turn_it_into_a_reset() {
    let refusing = Backend::refusing();
    let proxy = Proxy::start(&Options::to([refusing.address()]));
    for version in Version::ALL {
        let mut client = Client::of(&proxy).version(version).connect();
        let _ = client.try_send(&[b'x'; 10_000]);
        assert_eq!(client.drain(), Received::of(b"", End::CloseNotify), "{version:?}");
    }
}

#[test]
fn server_that_comes_up_is_used() {
    let place = Backend::refusing();
    let proxy = Proxy::start(&Options::to([place.address()]));
    assert_eq!(Client::of(&proxy).connect().drain().end, End::CloseNotify);
    let backend = Backend::listen_at(place.address());
    let mut client = Client::of(&proxy).connect();
    let mut server = backend.accept();
    client.send(b"hello");
    assert_eq!(support::backend::receive(&mut server, 5), b"hello");
}

/// A listener whose queue is full, so that the kernel drops further connection attempts.
struct FullBacklog {
    listener: Socket,
    _queued: Vec<Socket>,
}

impl FullBacklog {
    fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        // A queue of length 0 holds one connection; the attempt behind it stays without an answer.
        loop {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let connected = socket.connect_timeout(&address, Duration::from_millis(200));
            queued.push(socket);
            if connected.is_err() {
                return Self { listener, _queued: queued };
            }
            assert!(queued.len() < 16, "the queue does not fill up");
        }
    }

    fn address(&self) -> std::net::SocketAddr {
        self.listener.local_addr().unwrap().as_socket().unwrap()
    }
}
