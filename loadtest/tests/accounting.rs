//! What the harness counts is what the target served.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod common;

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use std::io::{Read, Write};

use common::{Answer, Behaviour, Target, Tickets, read_until, run, wait_until};
use sluice_loadtest::backend;
use sluice_loadtest::plan::{Direction, Plan, TlsPlan, TlsVersion};
use sluice_loadtest::result::{Doubt, ErrorClass, HandshakeKind, Scenario, WorkUnit};

/// A built-in backend in this process.
fn plain_backend() -> (std::net::SocketAddr, std::sync::Arc<backend::Served>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (address, backend::spawn_on(listener).unwrap())
}

fn version(plan: &mut Plan, version: TlsVersion) {
    plan.tls.as_mut().unwrap().version = Some(version);
}

#[test]
fn requests_counted_are_requests_served() {
    let target = Target::start(Behaviour::default());
    let plan = Plan { requests: Some(1000), threads: 2, ..target.plan(Scenario::Request) };
    let result = run(&plan);
    assert_eq!(result.work.count, 1000, "{result:#?}");
    assert_eq!(target.requests(), 1000);
    assert_eq!(result.bytes.received, 1000 * 1024);
    assert_eq!(result.latency.unwrap().count, 1000);
    assert_eq!(result.errors, BTreeMap::new());
    assert_eq!(result.work.unit, WorkUnit::Requests);
}

#[test]
fn requests_of_a_timed_run_are_counted_to_within_the_connections() {
    let target = Target::start(Behaviour::default());
    let plan = target.plan(Scenario::Request);
    let result = run(&plan);
    let served = target.requests();
    assert!(result.work.count > 100, "{result:#?}");
    // What was on the wire at the end is served, and not counted.
    assert!(served - result.work.count <= plan.connections as u64, "{served} served, {} counted", result.work.count);
    assert!((0.9..1.5).contains(&result.duration_seconds), "{}", result.duration_seconds);
}

#[test]
fn requests_on_connections_that_the_target_closes_are_all_served_once() {
    let target = Target::start(Behaviour { requests_per_connection: Some(7), ..Behaviour::default() });
    let result = run(&Plan { requests: Some(200), ..target.plan(Scenario::Request) });
    assert_eq!((result.work.count, target.requests()), (200, 200), "{:?}", result.errors);
}

#[test]
fn handshakes_counted_are_handshakes_served() {
    for version_asked in [TlsVersion::Tls12, TlsVersion::Tls13] {
        let target = Target::start(Behaviour::default());
        let mut plan = Plan { requests: Some(100), ..target.plan(Scenario::Handshake) };
        version(&mut plan, version_asked);
        let result = run(&plan);
        assert_eq!(result.work.count, 100, "{result:#?}");
        // One more was the probe before the run.
        wait_until("101 handshakes on the target", || target.handshakes() == 101);
        assert_eq!(target.served.resumed.load(std::sync::atomic::Ordering::SeqCst), 0);
        assert_eq!(result.tls.unwrap().version, format!("TLSv{}", version_asked.label()));
    }
}

#[test]
fn target_that_ignores_close_notify_is_waited_for_only_once() {
    let target = Target::start(Behaviour { close: common::Close::Fin, ..Behaviour::default() });
    let result =
        run(&Plan { requests: Some(100), duration: Duration::from_secs(20), ..target.plan(Scenario::Handshake) });
    assert_eq!((result.work.count, result.errors.len()), (100, 0), "{result:#?}");
    assert!(result.duration_seconds < 3.0, "{}", result.duration_seconds);
    assert!(ports_in_time_wait(&target) > 20, "only a FIN ends these connections");
}

#[test]
fn target_that_waits_for_the_answer_to_its_close_notify_gets_it() {
    let target = Target::start(Behaviour { close: common::Close::Answer, ..Behaviour::default() });
    let plan = Plan { requests: Some(100), requests_per_connection: 1, ..target.plan(Scenario::Handshake) };
    let result = run(&Plan { duration: Duration::from_secs(20), ..plan });
    assert_eq!((result.work.count, result.errors.len()), (100, 0), "{result:#?}");
    assert!(result.duration_seconds < 3.0, "{}", result.duration_seconds);
    assert!(ports_in_time_wait(&target) <= FEW_PORTS, "{} ports wait", ports_in_time_wait(&target));
}

#[test]
fn target_that_is_late_once_does_not_make_every_later_close_cost_a_port() {
    let target = Target::start(Behaviour { close: common::Close::LateOnce, ..Behaviour::default() });
    // One behind the other, so that most come behind the late one.
    let plan = Plan { requests: Some(100), connections: 1, ..target.plan(Scenario::Handshake) };
    let result = run(&Plan { duration: Duration::from_secs(20), ..plan });
    assert_eq!((result.work.count, result.errors.len()), (100, 0), "{result:#?}");
    assert!(ports_in_time_wait(&target) <= FEW_PORTS, "{} ports wait", ports_in_time_wait(&target));
}

#[test]
fn handshakes_leave_no_port_in_time_wait_here() {
    let target = Target::start(Behaviour::default());
    run(&Plan { requests: Some(50), ..target.plan(Scenario::Handshake) });
    assert!(ports_in_time_wait(&target) <= FEW_PORTS, "{} ports wait", ports_in_time_wait(&target));
}

/// The probe before the run closes first; and a machine that stops for half a second makes the target late for each of the
/// four connections that are open then.
const FEW_PORTS: usize = 5;

/// Ports of this machine that wait because this side closed a connection to `target` first.
fn ports_in_time_wait(target: &Target) -> usize {
    // /proc/net/tcp: local address, remote address, state; 06 is TIME_WAIT.
    let remote = format!(":{:04X} 06", target.address.port());
    std::fs::read_to_string("/proc/net/tcp").unwrap().lines().filter(|line| line.contains(&remote)).count()
}

#[test]
fn requests_behind_a_handshake_are_sent_on_its_connection() {
    let target = Target::start(Behaviour::default());
    let plan = Plan { requests: Some(20), requests_per_connection: 3, ..target.plan(Scenario::Handshake) };
    let result = run(&plan);
    assert_eq!((result.work.count, result.errors.len()), (20, 0), "{result:#?}");
    assert_eq!((target.requests(), target.handshakes()), (60, 21));
}

#[test]
fn resumption_rate_is_one_against_a_target_that_issues_tickets() {
    for version_asked in [TlsVersion::Tls12, TlsVersion::Tls13] {
        let target = Target::start(Behaviour::default());
        let mut plan = Plan { requests: Some(100), ..target.plan(Scenario::Resume) };
        version(&mut plan, version_asked);
        let result = run(&plan);
        let resumption = result.resumption.unwrap();
        assert_eq!(
            (resumption.handshakes, resumption.offered, resumption.resumed),
            (100, 100, 100),
            "{version_asked:?}"
        );
        wait_until("100 resumptions on the target", || {
            target.served.resumed.load(std::sync::atomic::Ordering::SeqCst) == 100
        });
        assert!(!result.doubts.iter().any(|doubt| matches!(doubt, Doubt::ResumptionBelowRequest { .. })));
    }
}

#[test]
fn resumption_rate_is_zero_against_a_target_that_refuses_tickets() {
    for version_asked in [TlsVersion::Tls12, TlsVersion::Tls13] {
        let target = Target::start(Behaviour { tickets: Tickets::Refuse, ..Behaviour::default() });
        let mut plan = Plan { requests: Some(50), ..target.plan(Scenario::Resume) };
        version(&mut plan, version_asked);
        let result = run(&plan);
        let resumption = result.resumption.unwrap();
        assert_eq!((resumption.handshakes, resumption.resumed), (50, 0), "{version_asked:?}");
        assert!(result.doubts.contains(&Doubt::ResumptionBelowRequest { asked: 1.0, achieved: 0.0 }), "{result:#?}");
    }
}

#[test]
fn negotiated_parameters_are_the_asked_ones() {
    let cases = [
        (TlsVersion::Tls13, "TLS_AES_128_GCM_SHA256", "X25519", "ECDSA+SHA256", "ecdsa"),
        (TlsVersion::Tls13, "TLS_CHACHA20_POLY1305_SHA256", "P-256", "RSA-PSS+SHA256", "rsa"),
        (TlsVersion::Tls12, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "P-256", "ECDSA+SHA256", "ecdsa"),
        (TlsVersion::Tls12, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "X25519", "RSA-PSS+SHA256", "rsa"),
    ];
    let target = Target::start(Behaviour::default());
    for (version, suite, group, sigalgs, certificate) in cases {
        let mut plan = Plan { requests: Some(8), ..target.plan(Scenario::Handshake) };
        plan.tls = Some(TlsPlan {
            version: Some(version),
            suite: Some(suite.to_owned()),
            group: Some(group.to_owned()),
            sigalgs: Some(sigalgs.to_owned()),
            trust: sluice_loadtest::plan::Trust::Insecure,
            ..TlsPlan::default()
        });
        let result = run(&plan);
        let tls = result.tls.unwrap();
        assert_eq!((tls.suite.as_str(), tls.certificate.as_deref()), (suite, Some(certificate)));
        assert_eq!(tls.kind, HandshakeKind::Full);
        let named = tls.group.unwrap().to_ascii_lowercase();
        assert!([group.to_ascii_lowercase().as_str(), "secp256r1"].contains(&named.as_str()), "{named}");
        assert!(!result.doubts.iter().any(|doubt| matches!(doubt, Doubt::SuiteMismatch { .. })), "{:?}", result.doubts);
    }
}

#[test]
fn bytes_counted_are_bytes_moved_in_both_directions() {
    let (address, served) = plain_backend();
    for (direction, requests) in [(Direction::Down, 20), (Direction::Up, 20), (Direction::Both, 20)] {
        let before = served.read();
        let plan = Plan {
            direction,
            requests: Some(requests),
            connections: 4,
            body_bytes: 1_000_000,
            ..Plan::new(Scenario::Transfer, address)
        };
        let result = run(&plan);
        let after = served.read();
        assert_eq!(after.requests - before.requests, requests, "{direction:?} {result:#?}");
        assert_eq!(result.bytes.sent, after.received - before.received, "{direction:?}");
        // The answers to uploads have a few bytes of their own.
        let surplus = result.bytes.received - (after.sent - before.sent);
        assert!(surplus <= requests * 8, "{direction:?}: {surplus}");
        assert_eq!(result.bytes.sent > 0, direction != Direction::Down);
        assert_eq!(after.sent > before.sent, direction != Direction::Up);
        assert_eq!(result.work.count, result.bytes.sent + result.bytes.received);
    }
}

#[test]
fn transfer_over_tls_is_counted_to_the_byte() {
    let target = Target::start(Behaviour::default());
    for direction in [Direction::Down, Direction::Up] {
        let plan = Plan { direction, requests: Some(8), body_bytes: 3_000_001, ..target.plan(Scenario::Transfer) };
        let plan = Plan { duration: Duration::from_secs(20), ..plan };
        let result = run(&plan);
        let moved = if direction == Direction::Down { result.bytes.received } else { result.bytes.sent };
        assert_eq!(moved, 8 * 3_000_001, "{result:#?}");
    }
}

#[test]
fn mixed_operations_keep_their_weights_and_add_up() {
    let target = Target::start(Behaviour::default());
    let weights = BTreeMap::from([
        (Scenario::Handshake, 1),
        (Scenario::Resume, 2),
        (Scenario::Request, 6),
        (Scenario::Transfer, 1),
    ]);
    let plan = Plan { weights, requests: Some(400), ..target.plan(Scenario::Mixed) };
    let result = run(&Plan { duration: Duration::from_secs(20), ..plan });
    assert_eq!(result.work.count, 400, "{result:#?}");
    let counts: BTreeMap<_, _> = result.parts.iter().map(|part| (part.scenario, part.count)).collect();
    assert_eq!(counts.values().sum::<u64>(), 400);
    for (scenario, share) in [(Scenario::Handshake, 40), (Scenario::Resume, 80), (Scenario::Request, 240)] {
        assert!(counts[&scenario].abs_diff(share) <= 12, "{scenario}: {counts:?}");
    }
    assert_eq!(target.requests(), counts[&Scenario::Request] + counts[&Scenario::Transfer]);
    assert_eq!(result.resumption.unwrap().resumed, counts[&Scenario::Resume]);
}

#[test]
fn every_engine_counts_the_same_in_closed_and_in_open_loop() {
    use sluice_loadtest::engine::runtime::Engine;
    for engine in [Engine::RingDeferred, Engine::RingCooperative, Engine::RingPlain, Engine::Epoll] {
        let target = Target::start(Behaviour::default());
        for rate in [None, Some(400.0)] {
            let before = target.requests();
            let plan = Plan { engine: Some(engine), rate, requests: Some(100), ..target.plan(Scenario::Request) };
            let result = run(&Plan { duration: Duration::from_secs(5), ..plan });
            assert_eq!((result.work.count, result.errors.len()), (100, 0), "{engine:?} {rate:?} {result:#?}");
            assert_eq!(target.requests() - before, 100, "{engine:?} {rate:?}");
            assert_eq!(result.settings.engine, engine.label());
        }
        let result = run(&Plan { engine: Some(engine), requests: Some(30), ..target.plan(Scenario::Resume) });
        assert_eq!(result.resumption.unwrap().resumed, 30, "{engine:?}");
    }
}

#[test]
fn warm_up_is_done_and_not_counted() {
    let target = Target::start(Behaviour::default());
    let plan = Plan {
        warmup: Duration::from_millis(500),
        duration: Duration::from_millis(500),
        ..target.plan(Scenario::Request)
    };
    let result = run(&plan);
    let served = target.requests();
    assert!(
        result.work.count > 10 && served > result.work.count + 10,
        "{served} served, {} counted",
        result.work.count
    );
    assert!(result.duration_seconds < 0.9, "{}", result.duration_seconds);
}

#[test]
fn body_that_ends_early_is_an_error_and_no_work() {
    let target = Target::start(Behaviour { answer: Answer::Half, ..Behaviour::default() });
    let result = run(&Plan { requests: Some(20), ..target.plan(Scenario::Request) });
    assert_eq!(result.work.count, 0);
    assert_eq!(result.errors, BTreeMap::from([(ErrorClass::Closed, 20)]));
    assert!(result.doubts.contains(&Doubt::ErrorsSeen { count: 20 }));
}

#[test]
fn status_other_than_success_is_an_error() {
    let target = Target::start(Behaviour { answer: Answer::Unavailable, ..Behaviour::default() });
    let result = run(&Plan { requests: Some(20), ..target.plan(Scenario::Request) });
    assert_eq!(result.errors, BTreeMap::from([(ErrorClass::Status, 20)]));
}

#[test]
fn target_that_never_answers_is_a_time_out() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let plan = Plan {
        timeout: Duration::from_millis(200),
        requests: Some(4),
        connections: 4,
        ..Plan::new(Scenario::Request, listener.local_addr().unwrap())
    };
    let result = run(&plan);
    assert_eq!(result.errors, BTreeMap::from([(ErrorClass::Timeout, 4)]));
    assert!(result.duration_seconds < 3.0, "{}", result.duration_seconds);
}

#[test]
fn backend_takes_chunked_uploads_and_expectations() {
    let (address, served) = plain_backend();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n").unwrap();
    read_until(&mut stream, "100 Continue\r\n\r\n");
    stream.write_all(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").unwrap();
    read_until(&mut stream, "\r\n\r\n5\n");
    stream.write_all(b"GET /bytes/10 HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    read_until(&mut stream, "\r\n\r\ndddddddddd");
    assert_eq!(served.read().requests, 2);
    assert_eq!((served.read().received, served.read().sent), (5, 10));
}

#[test]
fn backend_takes_no_byte_too_much_of_an_upload_and_sends_none_too_few() {
    let (address, served) = plain_backend();
    let mut stream = TcpStream::connect(address).unwrap();
    let mut total = 0;
    // Around the buffer of the backend (64 KiB), the piece that leaves together with the head (256 KiB in all) and the file that
    // the rest comes from (1 MiB), once and twice.
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 262144\r\n\r\n".len();
    let piece = (1 << 18) - head;
    // Another digit of the length is another byte of the head.
    let around =
        [0, 1 << 16, piece, piece + (1 << 20), piece + (2 << 20)].map(|at: usize| at.saturating_sub(2)..at + 3);
    for length in around.into_iter().flatten() {
        // The next request stands behind the body, in one piece with its end.
        let mut message = format!("POST /x HTTP/1.1\r\nContent-Length: {length}\r\n\r\n").into_bytes();
        message.resize(message.len() + length, b'u');
        message.extend_from_slice(format!("GET /bytes/{length} HTTP/1.1\r\n\r\n").as_bytes());
        stream.write_all(&message).unwrap();
        read_until(&mut stream, &format!("\r\n\r\n{length}\n"));
        read_until(&mut stream, &format!("Content-Length: {length}\r\n\r\n"));
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        assert!(body.iter().all(|byte| *byte == b'd'), "{length}");
        total += length as u64;
    }
    assert_eq!((served.read().received, served.read().sent), (total, total));
}
