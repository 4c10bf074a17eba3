//! Memory near its ceiling: what is given up in which order, and that it comes back.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::time::Duration;

use socket2::SockRef;
use support::backend::{self, Backend};
use support::body::End;
use support::client::{Client, Tls, assert_echoes};
use support::proxy::{Options, Proxy};
use support::{crowd, wait_until};

/// Clients that hold memory by not reading: a small buffer each, for which there is not room enough. Large ones are given
/// up before that.
const STALLED: usize = 640;
/// Threads that connect them.
const THREADS: usize = 8;
/// What there is beyond what the process takes with as many connections that are idle.
const ROOM_BYTES: usize = 4 << 20;
/// The lowest ceiling that the configuration takes.
const CEILING_BYTES_MIN: usize = 32 << 20;

#[test]
fn memory_at_its_ceiling_is_freed_in_steps_and_service_comes_back() {
    crowd::allow_descriptors();
    let (backend, _) = Backend::listen().serve(backend::endless_or_echo);
    let ceiling = {
        let proxy = Proxy::start(&Options::to([backend]));
        let _open = connect(&proxy);
        (proxy.resident_bytes() + ROOM_BYTES).max(CEILING_BYTES_MIN)
    };
    let options = Options {
        server_keys: format!("memory_max = \"{ceiling}B\"\n"),
        idle_timeout: Duration::from_secs(600),
        ..Options::to([backend])
    };
    let proxy = Proxy::start(&options);
    let mut stalled = connect(&proxy);
    let mut idle = stalled.remove(0);
    assert_echoes(&mut idle);
    for client in &mut stalled {
        client.send(b"d");
    }

    for step in ["buffers", "accepting", "idle"] {
        let reached = || proxy.metric(&format!("sluice_memory_steps_total{{step=\"{step}\"}}")) > 0;
        wait_until(&format!("the step {step} is reached"), reached);
    }
    let log = proxy.log();
    assert!(log.contains("memory is short") && log.contains("server.memory_max"), "{log}");
    // It said nothing for longer than anybody else.
    assert_eq!(idle.drain().end, End::CloseNotify);
    proxy.wait_closed("memory_short");

    drop(stalled);
    // What the allocator keeps may be near so low a ceiling.
    wait_until("connections are accepted again", || proxy.metric("sluice_memory_pressure") <= 1);
    assert_echoes(&mut Client::of(&proxy).connect());
    assert!(proxy.log().contains("memory is less short"));
}

/// Connects them all, the first one before all others.
fn connect(proxy: &Proxy) -> Vec<Tls> {
    let client = Client::of(proxy);
    let connect = || {
        let client = client.connect();
        // Only now: a handshake through so small a buffer takes its time.
        SockRef::from(client.socket()).set_recv_buffer_size(4096).unwrap();
        client
    };
    let first = connect();
    std::thread::scope(|scope| {
        let some = || (0..STALLED / THREADS).map(|_| connect()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(some)).collect();
        let rest = threads.into_iter().flat_map(|thread| thread.join().unwrap());
        std::iter::once(first).chain(rest).collect()
    })
}
