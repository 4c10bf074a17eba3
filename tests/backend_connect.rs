//! How a connection to a server comes about: with what the client has sent already, or alone.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::io::Write;
use std::time::{Duration, Instant};

use support::backend::{self, Backend};
use support::client::{Client, Delivery};
use support::proxy::{Options, Proxy};
use support::suite::Version;
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

/// The shortest of ten: a busy machine delays some, never all of them.
fn shortest(round: impl Fn() -> Duration) -> Duration {
    (0..10).map(|_| round()).min().unwrap()
}

#[test]
fn server_that_speaks_first_does_not_wait_for_the_client() {
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options::to([backend.address()]));
    let connecting = shortest(|| {
        let mut client = Client::of(&proxy).connect();
        let begun = Instant::now();
        let mut server = backend.accept();
        let taken = begun.elapsed();
        server.write_all(b"greeting").unwrap();
        assert_eq!(client.receive(8), b"greeting");
        client.send(b"request");
        assert_eq!(backend::receive(&mut server, 7), b"request");
        taken
    });
    assert!(connecting < ACK_DELAY_MIN / 2, "{connecting:?}");
}

#[test]
fn server_does_not_wait_for_the_rest_of_a_record_that_has_begun() {
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options::to([backend.address()]));
    let connecting = shortest(|| {
        let mut client = Client::of(&proxy).version(Version::Tls13).delivery(Delivery::HeldAfterHello).connect();
        client.send(b"request");
        let flight = client.take_held();
        let (now, later) = flight.split_at(flight.len() - 5);
        let begun = Instant::now();
        client.send_raw(now);
        let mut server = backend.accept();
        let taken = begun.elapsed();
        client.send_raw(later);
        assert_eq!(backend::receive(&mut server, 7), b"request");
        taken
    });
    assert!(connecting < ACK_DELAY_MIN / 2, "{connecting:?}");
}

#[test]
fn server_that_leaves_nagles_algorithm_on_does_not_wait_for_the_ack_of_what_it_wrote_first() {
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options::to([backend.address()]));
    let answering = shortest(|| {
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
    assert!(answering < ACK_DELAY_MIN / 2, "{answering:?}");
}
