//! Sides that stop reading are cut off in time, and a client that goes away is noticed though nobody reads from it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use support::backend::Backend;
use support::body::{self, End};
use support::client::Client;
use support::proxy::{Options, Proxy};
use support::{DEADLINE, wait_until};

/// Long against what a busy machine delays, short against the patience of who waits for the test.
const SHORT: &str = "stall_timeout = \"1500ms\"\n";

fn stalling(backend: &Backend) -> Proxy {
    Proxy::start(&Options { listener: SHORT.into(), ..Options::to([backend.address()]) })
}

#[test]
fn client_that_stops_reading_is_cut_off_although_it_goes_on_sending() {
    let backend = Backend::listen();
    let proxy = stalling(&backend);
    let mut client = Client::of(&proxy).small_receive_buffer().connect();
    let mut server = backend.accept();
    let mut requests = server.try_clone().unwrap();
    let answering = std::thread::spawn(move || {
        let block = body::bytes(1 << 20, 1);
        while server.write_all(&block).is_ok() {}
    });
    let reading = std::thread::spawn(move || while requests.read(&mut [0; 4096]).is_ok_and(|len| len > 0) {});
    let begun = Instant::now();
    // Each of these moves the idle time-out.
    while client.try_send(b"and another thing").is_ok() {
        assert!(begun.elapsed() < DEADLINE, "it was never cut off");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    proxy.wait_closed("client_stalled");
    answering.join().unwrap();
    reading.join().unwrap();
    assert_eq!(proxy.closed("idle_timeout"), 0);
}

#[test]
fn backend_that_stops_reading_is_cut_off() {
    let backend = Backend::listen_with_small_buffers();
    let proxy = stalling(&backend);
    let mut client = Client::of(&proxy).connect();
    let mut server = backend.accept();
    let block = body::bytes(1 << 20, 1);
    while client.try_send(&block).is_ok() {}
    proxy.wait_closed("backend_stalled");
    assert_eq!(body::drain(&mut server).end, End::Reset);
}

#[test]
fn client_that_reads_slowly_is_not_cut_off() {
    let backend = Backend::listen();
    let proxy = stalling(&backend);
    let mut client = Client::of(&proxy).small_receive_buffer().connect();
    let mut server = backend.accept();
    let sending = std::thread::spawn(move || {
        let block = body::bytes(1 << 18, 1);
        // More than all buffers on the way take.
        (0..60).try_for_each(|_| server.write_all(&block)).is_ok()
    });
    let begun = Instant::now();
    let mut received = 0;
    // At most 2 MB a second, for longer than the time-out.
    while begun.elapsed() < Duration::from_secs(4) {
        received += client.receive(20_000).len();
        std::thread::park_timeout(Duration::from_millis(10));
    }
    assert_eq!(proxy.closed("client_stalled"), 0, "{received} bytes received");
    while received < 60 << 18 {
        received += client.receive((1 << 16).min((60 << 18) - received)).len();
    }
    assert!(sending.join().unwrap());
}

#[test]
fn bug_0001_client_that_resets_while_its_upload_waits_is_noticed_soon() {
    let backend = Backend::listen_with_small_buffers();
    // Neither time-out can be what notices it.
    let proxy = Proxy::start(&Options::to([backend.address()]));
    for _ in 0..2 {
        let mut client = Client::of(&proxy).connect();
        let server = backend.accept();
        client.socket().set_nonblocking(true).unwrap();
        let block = body::bytes(1 << 20, 1);
        let mut full_since = None;
        // Until nothing has been taken for a while: the proxy waits for the backend then.
        while full_since.is_none_or(|since: Instant| since.elapsed() < Duration::from_millis(300)) {
            match client.try_send(&block) {
                Ok(()) => full_since = None,
                Err(_) => {
                    full_since.get_or_insert_with(Instant::now);
                    std::thread::park_timeout(Duration::from_millis(20));
                }
            }
        }
        client.reset();
        let begun = Instant::now();
        // It reads nothing before, so the socket's error is all that it can see.
        wait_until("the backend is told", || server.take_error().unwrap().is_some());
        assert!(begun.elapsed() < DEADLINE / 2, "well before the idle time-out: {:?}", begun.elapsed());
    }
    wait_until("both are counted", || proxy.closed("client_failed") == 2);
}
