//! Many clients at once, and what is left of them: nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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
fn clients_that_stop_reading_cost_bounded_memory() {
    let (address, _) = Backend::listen().serve(|mut stream: TcpStream| send_endlessly(|block| stream.write_all(block)));
    let proxy = Proxy::start(&Options::to([address]));
    let client = Client::of(&proxy).small_receive_buffer();
    assert_bounded(&proxy, || (0..STALLED).map(|_| client.connect()).collect::<Vec<_>>());
}

#[test]
fn backends_that_stop_reading_cost_bounded_memory() {
    let is_over = Arc::<AtomicBool>::default();
    let seen = Arc::clone(&is_over);
    let (address, _) = Backend::listen_with_small_buffers().serve(move |stream: TcpStream| {
        wait_until("the test is over", || seen.load(Ordering::Relaxed));
        drop(stream);
    });
    let proxy = Proxy::start(&Options::to([address]));
    let client = Client::of(&proxy);
    let stall = || {
        for _ in 0..STALLED {
            let mut client = client.connect();
            std::thread::spawn(move || send_endlessly(|block| client.try_send(block)));
        }
        OverOnDrop(is_over)
    };
    assert_bounded(&proxy, stall);
}

const STALLED: usize = 100;

/// One small buffer for each and the budget of large ones (workers.buffer_memory) are far below this.
const STALLED_BYTES_MAX: usize = 96 << 20;

/// Looks at the memory while the clients that `stall` makes are stalled.
fn assert_bounded<T>(proxy: &Proxy, stall: impl FnOnce() -> T) {
    let before = proxy.usage();
    let stalled = stall();
    wait_until("all are open", || proxy.connections_open() == STALLED as u64);
    let mut last = 0;
    wait_until("memory grows no more", || {
        std::thread::park_timeout(Duration::from_millis(100));
        let now = proxy.usage().memory_bytes;
        std::mem::replace(&mut last, now) == now
    });
    let grown = proxy.usage().memory_bytes.saturating_sub(before.memory_bytes);
    assert!(grown < STALLED_BYTES_MAX, "{} KiB for {STALLED} stalled connections", grown / 1024);
    drop(stalled);
    wait_until("all are gone", || proxy.connections_open() == 0);
}

/// Lets the backends go.
struct OverOnDrop(Arc<AtomicBool>);

impl Drop for OverOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn send_endlessly(mut send: impl FnMut(&[u8]) -> io::Result<()>) {
    let block = body::bytes(1 << 18, 1);
    while send(&block).is_ok() {}
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
