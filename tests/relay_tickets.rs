//! When session tickets of TLS 1.3 leave: with the answer to a request that came with the end of the handshake, else at once.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use support::backend::{self, Backend};
use support::body::{self, End, Received};
use support::client::Client;
use support::proxy::{Options, Proxy};
use support::suite::Version;
use support::{tcp, wait_until};

/// Two tickets take more.
const TICKETS_LEN_MIN: usize = 300;

/// What has come, and is still to be read.
fn arrived(socket: &TcpStream) -> usize {
    socket.set_nonblocking(true).unwrap();
    let peeked = socket.peek(&mut [0; 4096]);
    socket.set_nonblocking(false).unwrap();
    match peeked {
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        peeked => peeked.unwrap(),
    }
}

#[test]
fn tickets_come_in_one_segment_with_the_answer() {
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options::to([backend.address()]));
    let mut client = Client::of(&proxy).connect_and_send(b"request");
    let mut server = backend.accept();
    assert_eq!(backend::receive(&mut server, 7), b"request");
    // Long enough for tickets that do not wait.
    thread::sleep(Duration::from_millis(100));
    assert_eq!(arrived(client.socket()), 0);
    let before = tcp::info(client.socket()).tcpi_segs_in;
    server.write_all(b"answer").unwrap();
    wait_until("the answer is there", || arrived(client.socket()) > TICKETS_LEN_MIN);
    assert_eq!(tcp::info(client.socket()).tcpi_segs_in - before, 1);
    assert_eq!(client.receive(6), b"answer");
    server.write_all(b"more").unwrap();
    assert_eq!(client.receive(4), b"more");
}

#[test]
fn tickets_come_at_once_to_a_client_that_has_not_asked_yet() {
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options::to([backend.address()]));
    let client = Client::of(&proxy).version(Version::Tls13).connect();
    wait_until("tickets are there", || arrived(client.socket()) > TICKETS_LEN_MIN);
}

#[test]
fn tickets_answer_and_end_come_in_one_segment_where_the_backend_closes_behind_its_answer() {
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options::to([backend.address()]));
    let mut client = Client::of(&proxy).connect_and_send(b"request");
    let mut server = backend.accept();
    assert_eq!(backend::receive(&mut server, 7), b"request");
    // Long enough for an ACK that was held back.
    thread::sleep(Duration::from_millis(100));
    let before = tcp::info(client.socket()).tcpi_segs_in;
    proxy.freeze(|| {
        server.write_all(b"answer").unwrap();
        drop(server);
    });
    assert_eq!(client.drain(), Received::of(b"answer", End::CloseNotify));
    assert_eq!(client.socket().read(&mut [0]).unwrap(), 0);
    assert_eq!(tcp::info(client.socket()).tcpi_segs_in - before, 1);
    client.close_notify();
    proxy.wait_closed("backend_closed");
}

#[test]
fn tickets_come_before_the_end_where_there_is_no_answer() {
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options::to([backend.address()]));
    let mut client = Client::of(&proxy).connect_and_send(b"request");
    let mut server = backend.accept();
    assert_eq!(backend::receive(&mut server, 7), b"request");
    drop(server);
    wait_until("tickets are there", || arrived(client.socket()) > TICKETS_LEN_MIN);
    assert_eq!(client.drain(), Received::of(b"", End::CloseNotify));
}

#[test]
fn tickets_come_before_the_end_where_there_is_no_backend() {
    let gone = Backend::listen().address();
    let proxy = Proxy::start(&Options::to([gone]));
    let mut client = Client::of(&proxy).connect_and_send(b"request");
    wait_until("tickets are there", || arrived(client.socket()) > TICKETS_LEN_MIN);
    assert_eq!(client.drain().end, End::CloseNotify);
}

#[test]
fn answer_that_fills_the_socket_comes_whole_behind_the_tickets() {
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options::to([backend.address()]));
    let mut client = Client::of(&proxy).small_receive_buffer().connect_and_send(b"request");
    let mut server = backend.accept();
    assert_eq!(backend::receive(&mut server, 7), b"request");
    let answer = body::bytes(4 << 20, 5);
    let expected = Received::of(&answer, End::CloseNotify);
    let sending = thread::spawn(move || server.write_all(&answer).unwrap());
    thread::sleep(Duration::from_millis(100));
    assert_eq!(client.drain(), expected);
    sending.join().unwrap();
}
