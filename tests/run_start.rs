//! The start of the real process: what it says, and how it refuses.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod run_support;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use nix::sys::signal::Signal;
use run_support::{Backend, Options, Proxy, Reader, openmetrics, wait_until};
use sluice::admin::{self, BindError, Endpoint};
use sluice::server::{self, Ended, ServeError};

#[test]
fn summary_names_what_runs() {
    let proxy = Proxy::start(&Options::to(Backend::start().address));
    let line = proxy.log().wait_for("sluice started");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    for word in [
        format!("version={}", env!("CARGO_PKG_VERSION")),
        format!("kernel={}", kernel.trim()),
        "openssl=OpenSSL ".to_owned(),
        "ring_flags=".to_owned(),
        "cpus=0 ".to_owned(),
        format!("listeners=edge={}", proxy.address()),
        format!("admin={}", proxy.admin()),
    ] {
        assert!(line.contains(&word), "no {word} in {line}");
    }
}

#[test]
fn huge_pages_are_refused() {
    let proxy = Proxy::start(&Options::to(Backend::start().address));
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    assert_eq!(status.lines().find_map(|line| line.strip_prefix("THP_enabled:")).map(str::trim), Some("0"));
}

#[test]
fn json_log_is_one_object_per_line() {
    let mut proxy =
        Proxy::start(&Options { arguments: vec!["--log-format", "json"], ..Options::to(Backend::start().address) });
    proxy.signal(Signal::SIGTERM);
    proxy.wait();
    proxy.log().wait_for("every worker has ended");
    let lines: Vec<serde_json::Value> =
        proxy.log().text().lines().map(|line| serde_json::from_str(line).expect("no JSON")).collect();
    let listening = lines.iter().find(|line| line["message"] == "listening").unwrap();
    assert_eq!((&listening["level"], &listening["listener"]), (&"INFO".into(), &"edge".into()));
}

#[test]
fn log_filter_comes_from_the_option_before_the_environment() {
    let options = Options::to(Backend::start().address);
    let debug = ("SLUICE_LOG", "debug");
    let quiet = Options { environment: vec![("SLUICE_LOG", "error")], ..options.clone() };
    let mut proxy = Proxy::spawn(&quiet);
    wait_until("signals are held back", || handles(proxy.pid(), Signal::SIGTERM).then_some(()), || proxy.log().text());
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.wait().code(), Some(0));
    assert_eq!(proxy.log().text(), "");

    let bad = Options { arguments: vec!["--log-level", "sluice=loud"], environment: vec![debug], ..options };
    let mut proxy = Proxy::spawn(&bad);
    assert_eq!(proxy.wait().code(), Some(2));
    proxy.log().wait_for("allowed: a level");
}

#[test]
fn address_in_use_is_named_and_ends_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let mut proxy = Proxy::spawn(&Options { listen: Some(listen), ..Options::to(Backend::start().address) });
    assert_eq!(proxy.wait().code(), Some(69));
    let line = proxy.log().wait_for("another process listens there");
    assert!(line.contains(&listen.to_string()), "{line}");
}

#[test]
fn short_of_descriptors_it_says_so_and_ends_or_serves_but_never_hangs() {
    let mut worker_failures = 0;
    for limit in 8..40 {
        let mut proxy =
            Proxy::spawn(&Options { descriptors: Some((limit, limit)), ..Options::to(Backend::start().address) });
        let log = proxy.log().clone();
        let settled = || {
            let listens = log.text().contains("admin listening");
            (listens || !proxy.is_running()).then_some(())
        };
        wait_until("it listens or ends", settled, || log.text());
        // A worker that fails does so soon after the control thread listens; one that serves ends on the signal.
        if proxy.is_running() {
            proxy.signal(Signal::SIGTERM);
        }
        let code = proxy.wait().code();
        let failed = proxy.log().text().contains("worker 0 failed");
        worker_failures += u32::from(failed);
        assert!(matches!(code, Some(0 | 69)) || code == Some(1), "limit {limit}: {code:?}\n{}", proxy.log().text());
        assert!(!failed || code == Some(69), "limit {limit}: {code:?}\n{}", proxy.log().text());
    }
    assert!(worker_failures > 0, "no limit made a worker fail");
}

#[test]
fn descriptor_limit_is_raised_to_the_hard_one() {
    let proxy = Proxy::start(&Options { descriptors: Some((256, 4096)), ..Options::to(Backend::start().address) });
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", proxy.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>()[3..5], ["4096", "4096"]);
    let line = proxy.log().wait_for("open descriptors");
    assert!(line.contains("before=256 limit=4096 needed=2256"), "{line}");
}

#[test]
fn too_few_descriptors_for_the_configuration_are_warned_about() {
    let proxy = Proxy::start(&Options { descriptors: Some((256, 1024)), ..Options::to(Backend::start().address) });
    let line = proxy.log().wait_for("descriptors are short");
    assert!(line.contains("WARN") && line.contains("limit=1024 needed=2256"), "{line}");
}

#[test]
fn log_whose_reader_is_gone_does_not_stop_the_service() {
    let backend = Backend::start();
    let mut proxy = Proxy::start(&Options {
        reader: Reader::Leaves,
        arguments: vec!["--log-level", "trace"],
        ..Options::to(backend.address)
    });
    for _ in 0..3 {
        backend.proceed();
        assert!(proxy.curl(&[]).output().unwrap().stdout == Backend::body());
    }
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn log_that_nobody_reads_does_not_stop_the_service_and_what_is_dropped_is_counted() {
    let backend = Backend::start();
    let mut proxy = Proxy::start(&Options {
        reader: Reader::Stalls,
        arguments: vec!["--log-level", "debug"],
        ..Options::to(backend.address)
    });
    let address = proxy.address();
    let dropped =
        || openmetrics::value(&proxy.metrics(), "sluice_log_lines_dropped_total").filter(|count| *count > 0.0);
    let more = || {
        (0..500).for_each(|_| drop(std::net::TcpStream::connect(address)));
        dropped()
    };
    wait_until("lines are dropped", more, || proxy.metrics());
    backend.proceed();
    assert!(proxy.curl(&[]).output().unwrap().stdout == Backend::body());
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn worker_that_cannot_be_pinned_ends_the_start() {
    let files = tempfile::tempdir().unwrap();
    let settings = run_support::settings(files.path(), vec![0, 1023]);
    let foundation = server::Foundation { signals: server::Signals::hold().unwrap(), log: None };
    let error = server::serve(&settings, Arc::new(|| panic!("nobody reloads here")), foundation).unwrap_err();
    assert!(matches!(error, ServeError::Worker { index: 1, source: Ended::Failed(_) }), "{error:?}");
    assert!(error.to_string().contains("worker 1 cannot be pinned to CPU 1023"), "{error}");
}

#[test]
fn admin_address_that_anyone_can_reach_is_refused() {
    let error = bind_admin("0.0.0.0:0".parse().unwrap());
    assert!(matches!(error, BindError::NotLoopback(_)), "{error}");
    assert!(error.to_string().contains("0.0.0.0:0 is neither a loopback address nor a unix socket"), "{error}");
}

#[test]
fn admin_address_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = bind_admin(taken.local_addr().unwrap());
    assert!(error.to_string().contains(&taken.local_addr().unwrap().to_string()), "{error}");
}

fn bind_admin(address: SocketAddr) -> BindError {
    let settings = admin::Settings { address: Some(admin::Address::Tcp(address)), ..admin::Settings::default() };
    Endpoint::bind(&settings).unwrap_err()
}

/// Whether the process has a handler for `signal`.
fn handles(pid: u32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap_or("0");
    u64::from_str_radix(mask.trim(), 16).unwrap_or(0) & (1 << (signal as u32 - 1)) != 0
}
