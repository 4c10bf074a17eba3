//! The client's records in its own kernel: what is counted stays true, and the kernel says that it did the work. On a
//! kernel without TLS the asking is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod common;

use std::fs;

use common::{Behaviour, Target, run, sluice_load};
use sluice_loadtest::plan::{Direction, Plan, Records, TlsVersion};
use sluice_loadtest::result::{RunResult, Scenario};

/// Connections that the kernel has taken in both directions since it was started.
fn taken() -> u64 {
    let text = fs::read_to_string("/proc/net/tls_stat").unwrap();
    let of = |name: &str| {
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    of("TlsTxSw").min(of("TlsRxSw"))
}

fn has_kernel_tls() -> bool {
    let is_there = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp").is_ok_and(|names| names.contains("tls"));
    assert!(is_there || std::env::var_os("SLUICE_EXPECT_KTLS").is_none(), "kernel TLS is expected here");
    is_there
}

const CONNECTIONS: usize = 3;

fn measure(target: &Target, scenario: Scenario, version: TlsVersion, suite: &str, change: fn(&mut Plan)) -> RunResult {
    let mut plan = Plan { connections: CONNECTIONS, requests: Some(30), ..target.plan(scenario) };
    // Ends by its number of requests, however slow the machine is.
    plan.duration = std::time::Duration::from_secs(60);
    let tls = plan.tls.as_mut().unwrap();
    (tls.version, tls.suite, tls.records) = (Some(version), Some(suite.to_owned()), Records::Kernel);
    change(&mut plan);
    run(&plan)
}

#[test]
fn kernel_protects_the_clients_records_in_every_suite_and_nothing_is_miscounted() {
    if !has_kernel_tls() {
        return;
    }
    let suites = [
        (TlsVersion::Tls13, "TLS_AES_128_GCM_SHA256"),
        (TlsVersion::Tls13, "TLS_AES_256_GCM_SHA384"),
        (TlsVersion::Tls13, "TLS_CHACHA20_POLY1305_SHA256"),
        (TlsVersion::Tls12, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
        (TlsVersion::Tls12, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
        (TlsVersion::Tls12, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    ];
    for (version, suite) in suites {
        let target = Target::start(Behaviour::default());
        let before = taken();
        let result = measure(&target, Scenario::Request, version, suite, |_| {});
        assert!(result.errors.is_empty(), "{suite}: {result:#?}");
        assert_eq!((result.work.count, target.requests()), (30, 30), "{suite}");
        assert_eq!(result.tls.unwrap().suite, suite);
        assert_eq!(result.settings.tls.unwrap().records, "kernel");
        assert!(taken() >= before + CONNECTIONS as u64, "{suite}: the kernel has not taken every connection");
    }
}

#[test]
fn kernel_moves_bodies_in_both_directions_and_they_are_counted_to_the_byte() {
    if !has_kernel_tls() {
        return;
    }
    for direction in [Direction::Down, Direction::Up] {
        let target = Target::start(Behaviour::default());
        let change = match direction {
            Direction::Up => |plan: &mut Plan| (plan.direction, plan.body_bytes) = (Direction::Up, 300_000),
            _ => |plan: &mut Plan| (plan.direction, plan.body_bytes) = (Direction::Down, 300_000),
        };
        let result = measure(&target, Scenario::Transfer, TlsVersion::Tls13, "TLS_AES_128_GCM_SHA256", change);
        assert!(result.errors.is_empty(), "{direction:?}: {result:#?}");
        let moved = if direction == Direction::Up { result.bytes.sent } else { result.bytes.received };
        assert!(moved >= 30 * 300_000, "{direction:?}: {result:#?}");
    }
}

#[test]
fn kernel_tls_where_there_is_none_exits_with_5_and_the_remedy() {
    if has_kernel_tls() {
        return;
    }
    let target = Target::start(Behaviour::default());
    let (address, ca) = (target.address.to_string(), target.ca.display().to_string());
    let output = sluice_load(&["request", "--target", &address, "--ca", &ca, "--kernel-tls", "--requests", "10"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{message}");
    assert!(message.contains("--kernel-tls") && message.contains("modprobe tls"), "{message}");
    assert_eq!(target.requests(), 0);
}

#[test]
fn kernel_tls_for_handshakes_exits_with_2_and_says_why() {
    let output = sluice_load(&["resume", "--target", "127.0.0.1:1", "--insecure", "--kernel-tls"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("tickets come inside of TLS"), "{message}");
}
