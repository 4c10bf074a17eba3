//! Limits of memory that are set from outside, also while the process runs: what cannot be had is told, and what would come
//! to the limit is given up before.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod run_support;
mod support;

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use socket2::SockRef;
use support::backend::{self, Backend};
use support::client::{Client, Tls, assert_echoes};
use support::proxy::{Options, Proxy};
use support::{crowd, wait_until};

/// Of RLIMIT_DATA; the process takes about 60 MiB in the builds that are tested, and sets 34 MiB aside for each thread.
const DATA_BYTES_MAX: u64 = 240 << 20;
/// Clients that read nothing and hold a large buffer each.
const STALLED_MAX: usize = 2000;

#[test]
fn limit_of_data_is_a_ceiling_that_is_obeyed_before_allocations_fail() {
    crowd::allow_descriptors();
    let (backend, _) = Backend::listen().serve(backend::endless_or_echo);
    let options = Options {
        // More than there is room for.
        worker_keys: "buffer_memory = \"4GiB\"\n".into(),
        idle_timeout: Duration::from_secs(600),
        ..Options::to([backend])
    };
    for while_it_runs in [false, true] {
        let limit = format!("--data={DATA_BYTES_MAX}:");
        let limits = if while_it_runs { Vec::new() } else { vec![limit.clone()] };
        let proxy = Proxy::start(&Options { limits, ..options.clone() });
        if while_it_runs {
            assert_eq!(proxy.metric("sluice_memory_ceiling_bytes"), 0);
            prlimit(proxy.pid().as_raw(), &limit);
        }
        wait_until("the limit is seen", || proxy.metric("sluice_memory_ceiling_bytes") > 0);
        let ceiling = proxy.metric("sluice_memory_ceiling_bytes");
        assert!((DATA_BYTES_MAX / 2..DATA_BYTES_MAX).contains(&ceiling), "{ceiling}");

        let mut open = Client::of(&proxy).connect();
        assert_echoes(&mut open);
        let mut stalled = Vec::new();
        while proxy.metric("sluice_memory_steps_total{step=\"buffers\"}") == 0 {
            assert!(stalled.len() < STALLED_MAX, "memory was never short: {} bytes", proxy.resident_bytes());
            stalled.extend(stall_some(&proxy));
        }
        let log = proxy.log();
        assert!(log.contains("memory is short") && log.contains("RLIMIT_DATA of the process"), "{log}");
        // It goes on, with small buffers.
        stalled.extend(stall_some(&proxy));
        assert_echoes(&mut open);
        let used = proxy.resident_bytes() as u64;
        assert!(used < DATA_BYTES_MAX, "{used}");
        drop(stalled);
        wait_until("it is not short any more", || proxy.metric("sluice_memory_pressure") == 0);
        assert_echoes(&mut Client::of(&proxy).connect());
        assert_eq!(proxy.metric("sluice_panics_total"), 0);
    }
}

#[test]
fn thread_that_cannot_be_had_fails_the_reload_and_the_upgrade_and_nothing_else() {
    let backend = run_support::Backend::start();
    let mut proxy = run_support::Proxy::start(&run_support::Options::to(backend.address));
    let fetch = |proxy: &run_support::Proxy| {
        backend.proceed();
        let output = proxy.curl(&[]).output().unwrap();
        assert!(output.stdout == run_support::Backend::body(), "{}", String::from_utf8_lossy(&output.stderr));
        backend.wait_for_half();
    };
    fetch(&proxy);
    // Room for what is small, and for no stack of a thread.
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let size = size.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024;
    prlimit(proxy.pid() as i32, &format!("--as={}:", size + (1 << 20)));

    let (code, body) = proxy.reload();
    assert!(code == 503 && body.contains("no thread to read the configuration on"), "{code} {body}");
    proxy.signal(Signal::SIGUSR2);
    let line = proxy.log().wait_for("upgrade failed");
    assert!(line.contains("no thread to wait for the new process on"), "{line}");
    fetch(&proxy);
    let metrics = proxy.metrics();
    let value = |sample: &str| run_support::openmetrics::value(&metrics, sample);
    assert_eq!(value("sluice_reloads_total{result=\"failed\"}"), Some(1.0));
    assert_eq!(value("sluice_upgrades_failed_total"), Some(1.0));

    prlimit(proxy.pid() as i32, "--as=unlimited:");
    assert_eq!(proxy.reload().0, 200);
    fetch(&proxy);
    assert!(proxy.is_running());
}

/// Sets a soft limit of a running process: only some may raise a hard one again.
fn prlimit(pid: i32, limit: &str) {
    let status = Command::new("prlimit").args(["--pid", &pid.to_string(), limit]).status().unwrap();
    assert!(status.success(), "prlimit {limit}");
}

/// Some more of them, connected side by side.
fn stall_some(proxy: &Proxy) -> Vec<Tls> {
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| (0..5).map(|_| stall(proxy)).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

/// A client that asks for everything and reads nothing.
fn stall(proxy: &Proxy) -> Tls {
    let mut client = Client::of(proxy).connect();
    // Only now: a handshake through so small a buffer takes its time.
    SockRef::from(client.socket()).set_recv_buffer_size(4096).unwrap();
    client.send(b"d");
    client
}
