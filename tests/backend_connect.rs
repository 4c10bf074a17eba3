//! How a connection to a server comes about: with what the client has sent already, or alone.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::io::Write;
use std::time::{Duration, Instant};

use support::backend::{self, Backend};
use support::client::Client;
use support::proxy::{Options, Proxy};
use support::tcp;

/// A receiver that holds back its ACKs does so for at least this long (TCP_DELACK_MIN in the kernel's net/tcp.h).
const ACK_DELAY_MIN: Duration = Duration::from_millis(40);

#[test]
fn request_that_came_with_the_handshake_completes_the_connection_to_the_server() {
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options::to([backend.address()]));
    let _client = Client::of(&proxy).connect_and_send(b"request");
    let mut server = backend.accept();
    assert_eq!(backend::receive(&mut server, 7), b"request");
    assert_eq!(tcp::info(&server).tcpi_segs_in, 2, "SYN, and ACK with the request");
}

#[test]
fn server_that_speaks_first_is_connected_to_before_the_client_has_sent_anything() {
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options::to([backend.address()]));
    let mut client = Client::of(&proxy).connect();
    let mut server = backend.accept();
    assert_eq!(tcp::info(&server).tcpi_segs_in, 2, "SYN, and ACK alone");
    server.write_all(b"greeting").unwrap();
    assert_eq!(client.receive(8), b"greeting");
    client.send(b"request");
    assert_eq!(backend::receive(&mut server, 7), b"request");
}

#[test]
fn server_that_leaves_nagles_algorithm_on_does_not_wait_for_the_ack_of_what_it_wrote_first() {
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options::to([backend.address()]));
    // A busy machine delays some, never all of them.
    let quickest = (0..10).map(|_| {
        let mut client = Client::of(&proxy).connect_and_send(b"request");
        let mut server = backend.accept();
        server.set_nodelay(false).unwrap();
        assert_eq!(backend::receive(&mut server, 7), b"request");
        let begun = Instant::now();
        server.write_all(b"head").unwrap();
        server.write_all(b"body").unwrap();
        assert_eq!(client.receive(8), b"headbody");
        begun.elapsed()
    });
    let quickest = quickest.min().unwrap();
    assert!(quickest < ACK_DELAY_MIN / 2, "{quickest:?}");
}
