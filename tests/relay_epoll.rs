//! The basic promises once more on the epoll driver, which machines without io_uring run on.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use support::backend::{self, Backend};
use support::body::{self, End, Received};
use support::certificate::KeyKind;
use support::client::{Client, connect_plain};
use support::http::{get, put, whole};
use support::nginx::Nginx;
use support::proxy::{Options, Proxy};
use support::suite::{Suite, Version};
use support::{crowd, wait_until};

fn epoll(options: Options) -> Proxy {
    Proxy::start(&Options { io: "epoll", ..options })
}

#[test]
fn bodies_arrive_whole_in_both_directions() {
    let nginx = Nginx::start();
    let proxy = epoll(Options::to([nginx.address()]));
    for size in [0, 1, 16_385, 8 << 20] {
        let content = body::bytes(size, size as u64);
        nginx.publish("down", &content);
        for suite in Suite::with_key(KeyKind::EcdsaP256) {
            let client = Client::of(&proxy).suite(suite);
            assert_eq!(get(&client, "down"), whole(&content), "{} {size}", suite.iana);
            let name = format!("{size}-{}", suite.iana);
            put(&client, &name, &content);
            assert!(nginx.uploaded(&name) == content, "{name}");
        }
    }
}

#[test]
fn half_close_works_in_both_directions() {
    let backend = Backend::listen();
    let proxy = epoll(Options::to([backend.address()]));
    let data = body::bytes(4 << 20, 1);
    for version in Version::ALL {
        let mut client = Client::of(&proxy).version(version).connect();
        let mut server = backend.accept();
        client.close_notify();
        assert_eq!(body::drain(&mut server).end, End::EndOfStream);
        let download = data.clone();
        let sending = std::thread::spawn(move || server.write_all(&download).unwrap());
        assert_eq!(client.drain(), Received::of(&data, End::CloseNotify), "{version:?}");
        sending.join().unwrap();

        let mut client = Client::of(&proxy).version(version).connect();
        let mut server = backend.accept();
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.drain().end, End::CloseNotify);
        let upload = data.clone();
        let sending = std::thread::spawn(move || {
            client.send(&upload);
            client.close_notify();
            client
        });
        assert_eq!(body::drain(&mut server), Received::of(&data, End::EndOfStream), "{version:?}");
        sending.join().unwrap();
    }
}

#[test]
fn truncation_and_reset_are_told_from_a_clean_close() {
    let backend = Backend::listen();
    let proxy = epoll(Options::to([backend.address()]));
    for version in Version::ALL {
        let client = Client::of(&proxy).version(version).connect();
        let mut server = backend.accept();
        client.end_stream();
        assert_eq!(body::drain(&mut server).end, End::Reset, "{version:?}");

        let mut client = Client::of(&proxy).version(version).connect();
        backend::reset(backend.accept());
        assert_ne!(client.drain().end, End::CloseNotify, "{version:?}");
    }
}

#[test]
fn timeouts_end_silent_and_idle_clients() {
    let short = Duration::from_millis(500);
    let backend = Backend::listen();
    let options = Options { handshake_timeout: short, idle_timeout: short, ..Options::to([backend.address()]) };
    let proxy = epoll(options);
    let mut silent = connect_plain(&proxy);
    assert_eq!(body::drain(&mut silent).len, 0);
    proxy.wait_handshake_failed("timed_out");
    let mut idle = Client::of(&proxy).connect();
    assert_eq!(idle.drain().end, End::CloseNotify);
    proxy.wait_closed("idle_timeout");
}

#[test]
fn crowd_leaves_no_descriptor_behind() {
    let proxy = epoll(Options { workers: 2, ..Options::to([crowd::backend()]) });
    crowd::run(&proxy, 200);
    wait_until("every connection is over", || proxy.connections_open() == 0);
    wait_until("no descriptor is left over", || proxy.usage().descriptors <= proxy.idle_descriptors());
    assert_eq!(proxy.metric("sluice_panics_total"), 0);
}
