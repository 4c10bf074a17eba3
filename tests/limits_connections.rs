//! What happens at the bounds: of connections, and of descriptors.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use support::backend::Backend;
use support::client::{Client, assert_echoes, connect_plain};
use support::proxy::{Options, Proxy};
use support::wait_until;

#[test]
fn accepting_pauses_at_the_connection_limit_and_goes_on_when_one_closes() {
    for io in ["auto", "epoll"] {
        let options = Options { io, connections_max: 3, ..Options::to([Backend::echo()]) };
        let proxy = Proxy::start(&options);
        let mut clients: Vec<_> = (0..3).map(|_| Client::of(&proxy).connect()).collect();
        wait_until("the limit is noticed", || proxy.metric("sluice_connection_limit_reached_total") > 0);
        // The kernel completes this one, but nobody answers its ClientHello.
        let waiting = {
            let (client, socket) = (Client::of(&proxy), connect_plain(&proxy));
            std::thread::spawn(move || client.handshake_over(socket).expect("a place in the end"))
        };
        let before = proxy.cpu_time();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(500) {
            clients.iter_mut().for_each(assert_echoes);
            assert_eq!(proxy.connections_open(), 3, "{io}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
        assert!(!waiting.is_finished(), "{io}");
        assert!(proxy.cpu_time() - before < Duration::from_millis(400), "{io}: waiting for a place must not spin");
        clients.pop();
        assert_echoes(&mut waiting.join().unwrap());
        clients.iter_mut().for_each(assert_echoes);
    }
}

#[test]
fn worker_out_of_descriptors_does_not_spin_and_recovers() {
    for io in ["auto", "epoll"] {
        let options = Options { io, descriptors_max: Some(40), ..Options::to([Backend::echo()]) };
        let proxy = Proxy::start(&options);
        // Nothing on these: each costs the proxy one descriptor for as long as its handshake may take.
        let mut held: Vec<TcpStream> = (0..80).map(|_| connect_plain(&proxy)).collect();
        wait_until("accept fails for want of descriptors", || proxy.log().contains("accept failed"));
        let (before, begun) = (proxy.cpu_time(), Instant::now());
        std::thread::park_timeout(Duration::from_secs(1));
        let (spent, elapsed) = (proxy.cpu_time() - before, begun.elapsed());
        assert!(spent < elapsed / 4, "{io}: {spent:?} of CPU time in {elapsed:?}");
        held.clear();
        assert_echoes(&mut Client::of(&proxy).connect());
        assert!(proxy.metric("sluice_accept_errors_total{error=\"descriptors\"}") > 0, "{io}");
    }
}

#[test]
fn no_descriptor_for_the_backend_ends_that_connection_only() {
    let options = Options { descriptors_max: Some(40), ..Options::to([Backend::echo()]) };
    let proxy = Proxy::start(&options);
    let mut held: Vec<TcpStream> = (0..80).map(|_| connect_plain(&proxy)).collect();
    wait_until("accept fails for want of descriptors", || proxy.log().contains("accept failed"));
    // One of those that were accepted goes on, and finds no descriptor for its backend.
    let refused = Client::of(&proxy).handshake_over(held.remove(0));
    let mut refused = refused.expect("its socket was accepted");
    refused.drain();
    held.clear();
    assert_echoes(&mut Client::of(&proxy).connect());
}
