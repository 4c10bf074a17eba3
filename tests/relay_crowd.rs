//! Many clients at once, and what is left of them: nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::io::Write;

use support::backend::Backend;
use support::client::Client;
use support::proxy::{Options, Proxy, Usage};
use support::suite::Version;
use support::{body, crowd, wait_until};

const CROWD: usize = 500;
/// By how much the memory kept by allocator and buffer pools was seen to differ from crowd to crowd, and some more.
const CROWD_TOLERANCE_BYTES: usize = 6 << 20;

#[test]
fn crowd_of_500_leaves_no_descriptor_and_no_memory_behind() {
    let proxy = Proxy::start(&Options { workers: 2, ..Options::to([crowd::backend()]) });
    // The first crowd fills pools, caches and the allocator: the base line is what it leaves.
    let base = usage_after_crowd(&proxy);
    for round in 0..2 {
        let usage = usage_after_crowd(&proxy);
        assert!(usage.memory_bytes < base.memory_bytes + CROWD_TOLERANCE_BYTES, "round {round}: {base:?} {usage:?}");
    }
    assert_eq!(proxy.metric("sluice_panics_total"), 0);
    assert_serves(&proxy);
}

#[test]
fn connections_one_after_another_leave_no_memory_behind() {
    const COUNT: usize = 1000;
    let proxy = Proxy::start(&Options::to([Backend::echo()]));
    let serve = |count: usize| {
        for number in 0..count {
            let mut client = Client::of(&proxy).version(Version::ALL[number % 2]).connect();
            client.send(b"ping");
            client.receive(4);
            client.close_notify();
        }
        wait_until("every connection is over", || proxy.connections_open() == 0);
        settled(&proxy)
    };
    let base = serve(COUNT / 2);
    let usage = serve(COUNT);
    let grown = usage.memory_bytes.saturating_sub(base.memory_bytes);
    assert!(grown < COUNT * 512, "{grown} bytes after {COUNT} connections: {base:?} {usage:?}");
}

#[test]
fn crowd_that_stops_reading_costs_bounded_memory() {
    const STALLED: usize = 100;
    let endless = |mut stream: std::net::TcpStream| {
        let block = body::bytes(1 << 18, 1);
        while stream.write_all(&block).is_ok() {}
    };
    let (address, _) = Backend::listen().serve(endless);
    let proxy = Proxy::start(&Options::to([address]));
    let before = proxy.usage();
    let client = Client::of(&proxy).small_receive_buffer();
    let clients: Vec<_> = (0..STALLED).map(|_| client.connect()).collect();
    wait_until("all are open", || proxy.connections_open() == STALLED as u64);
    let mut last = 0;
    wait_until("memory grows no more", || {
        let now = proxy.usage().memory_bytes;
        std::mem::replace(&mut last, now) == now
    });
    // One small buffer each and the budget of large ones (workers.buffer_bytes_max) are far below this.
    let grown = proxy.usage().memory_bytes.saturating_sub(before.memory_bytes);
    assert!(grown < 96 << 20, "{} KiB for {STALLED} stalled clients", grown / 1024);
    drop(clients);
    wait_until("all are gone", || proxy.connections_open() == 0);
}

fn usage_after_crowd(proxy: &Proxy) -> Usage {
    crowd::run(proxy, CROWD);
    wait_until("every connection is over", || proxy.connections_open() == 0);
    settled(proxy)
}

/// What it holds once it is idle, the test's own look at its counters included.
fn settled(proxy: &Proxy) -> Usage {
    wait_until("no descriptor is left over", || proxy.usage().descriptors <= proxy.idle_descriptors());
    proxy.usage()
}

fn assert_serves(proxy: &Proxy) {
    let mut client = Client::of(proxy).connect();
    client.send(b"estill there?");
    assert_eq!(client.receive(12), b"still there?");
}
