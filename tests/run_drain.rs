//! Signals: drain, stop at once, and those that must not kill.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod run_support;

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;
use run_support::{Backend, HALF_BYTES, Options, Proxy, wait_until};

/// A download through the proxy that is half way.
fn half_way(proxy: &Proxy, backend: &Backend) -> Child {
    let download = proxy.curl(&[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    backend.wait_for_half();
    download
}

fn wait_for_refusal(proxy: &Proxy) {
    let address = proxy.address();
    wait_until("new connections are refused", || TcpStream::connect(address).err(), || proxy.log().text());
}

#[test]
fn sigterm_lets_a_download_finish_and_refuses_new_connections() {
    let backend = Backend::start();
    let mut proxy = Proxy::start(&Options::to(backend.address));
    let download = half_way(&proxy, &backend);

    proxy.signal(Signal::SIGTERM);
    proxy.log().wait_for("draining");
    wait_for_refusal(&proxy);
    assert_eq!(proxy.admin_request(&[], "/readyz"), (503, "draining\n".to_owned()));
    assert_eq!(proxy.admin_request(&[], "/livez").0, 200);
    assert!(proxy.is_running());

    backend.proceed();
    let output = download.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == Backend::body(), "{} bytes arrived", output.stdout.len());
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn second_signal_stops_at_once() {
    let backend = Backend::start();
    let mut proxy = Proxy::start(&Options { drain_timeout: "1h", ..Options::to(backend.address) });
    let download = half_way(&proxy, &backend);

    proxy.signal(Signal::SIGTERM);
    proxy.log().wait_for("draining");
    assert!(proxy.is_running());
    proxy.signal(Signal::SIGINT);
    proxy.log().wait_for("stopping");
    assert_eq!(proxy.wait().code(), Some(0));

    // Cut, and seen to be cut.
    let output = download.wait_with_output().unwrap();
    assert!(!output.status.success());
    assert!(output.stdout.len() <= HALF_BYTES);
}

#[test]
fn drain_ends_at_its_timeout_with_connections_still_open() {
    let backend = Backend::start();
    let mut proxy = Proxy::start(&Options { drain_timeout: "1s", ..Options::to(backend.address) });
    let download = half_way(&proxy, &backend);
    proxy.signal(Signal::SIGTERM);
    let status = proxy.admin_request(&[], "/status").1;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
    // Where it could still be asked.
    if status["phase"] == "draining" {
        assert_eq!((&status["drain"]["cause"], &status["drain"]["connections_open"]), (&"SIGTERM".into(), &1.into()));
    }
    assert_eq!(proxy.wait().code(), Some(0));
    proxy.log().wait_for("drain timed out");
    let line = proxy.log().wait_for("every worker has ended");
    assert!(line.contains("cut=1"), "{line}");
    assert!(!download.wait_with_output().unwrap().status.success());
}

#[test]
fn idle_process_ends_on_each_signal_that_asks_for_it() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut proxy = Proxy::start(&Options::to(Backend::start().address));
        proxy.signal(signal);
        assert_eq!(proxy.wait().code(), Some(0), "{signal}");
    }
}

#[test]
fn sigpipe_is_ignored_and_no_thread_is_interrupted_by_a_signal() {
    let proxy = Proxy::start(&Options { cpus: "0", ..Options::to(Backend::start().address) });
    let process = format!("/proc/{}", proxy.pid());
    let ignored = mask(&format!("{process}/status"), "SigIgn:");
    assert!(ignored & bit(Signal::SIGPIPE) != 0, "{ignored:x}");

    // A thread gets its name when it runs for the first time.
    let name = |task: &Path| std::fs::read_to_string(task.join("comm")).unwrap_or_default();
    let tasks = || std::fs::read_dir(format!("{process}/task")).unwrap().map(|task| task.unwrap().path());
    let worker = || tasks().find(|task| name(task).starts_with("worker-"));
    wait_until("the worker runs", worker, || proxy.log().text());
    // They come through a descriptor, so that it is known who sent them.
    for task in tasks() {
        let blocked = mask(task.join("status").to_str().unwrap(), "SigBlk:");
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR2] {
            assert!(blocked & bit(signal) != 0, "{signal} interrupts {}", name(&task));
        }
    }
}

fn mask(path: &str, field: &str) -> u64 {
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

fn bit(signal: Signal) -> u64 {
    1 << (signal as u32 - 1)
}
