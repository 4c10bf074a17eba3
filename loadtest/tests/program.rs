//! The program from outside: exit codes, messages, ctrl-C.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod common;

use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Answer, Behaviour, ClientCertificate, Target, sluice_load, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sluice_loadtest::result::{Doubt, ErrorClass, RunResult, SCHEMA_VERSION};

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn result(output: &Output) -> RunResult {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Runs a scenario against `target`.
fn against(target: &Target, scenario: &str, more: &[&str]) -> Output {
    let (address, ca) = (target.address.to_string(), target.ca.display().to_string());
    let mut arguments = vec![scenario, "--target", &address, "--ca", &ca, "--connections", "2", "--duration", "10s"];
    arguments.extend_from_slice(more);
    sluice_load(&arguments)
}

#[test]
fn good_run_exits_with_0_and_prints_its_json() {
    let target = Target::start(Behaviour::default());
    let output = against(&target, "request", &["--requests", "50", "--json"]);
    assert_eq!(code(&output), 0, "{}", message(&output));
    let result = result(&output);
    assert_eq!((result.schema_version, result.work.count), (SCHEMA_VERSION, 50));
    assert!(result.settings.tls.unwrap().verified);
}

#[test]
fn good_run_says_in_words_what_it_found() {
    let target = Target::start(Behaviour::default());
    let output = against(&target, "handshake", &["--requests", "30", "--tls", "1.3"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["handshake against", "TLSv1.3, TLS_", "30 handshakes", "p99.9", "client"] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

#[test]
fn every_scenario_runs_from_the_command_line() {
    let target = Target::start(Behaviour::default());
    let weights = ["--requests", "30", "--weights", "request=2,handshake=1", "--body", "10"];
    let runs: [(&str, &[&str]); 6] = [
        ("handshake", &["--requests", "30"]),
        ("resume", &["--requests", "30"]),
        ("request", &["--requests", "30", "--body", "0"]),
        ("transfer", &["--requests", "30", "--body", "100000", "--direction", "both"]),
        ("idle", &["--duration", "300ms", "--requests-per-connection", "1"]),
        ("mixed", &weights),
    ];
    for (scenario, more) in runs {
        let (address, ca) = (target.address.to_string(), target.ca.display().to_string());
        let mut arguments = vec![scenario, "--target", &address, "--ca", &ca, "--connections", "2", "--json"];
        arguments.extend_from_slice(more);
        let output = sluice_load(&arguments);
        assert_eq!(code(&output), 0, "{scenario}: {}", message(&output));
        assert_eq!(result(&output).scenario.label(), scenario);
    }
}

#[test]
fn failed_work_exits_with_1() {
    let target = Target::start(Behaviour { answer: Answer::Unavailable, ..Behaviour::default() });
    let output = against(&target, "request", &["--requests", "5", "--json"]);
    assert_eq!(code(&output), 1);
    assert_eq!(result(&output).errors[&ErrorClass::Status], 5);
}

#[test]
fn wrong_usage_exits_with_2_and_names_the_value() {
    let cases: [(&[&str], &str); 5] = [
        (&["request", "--target", "127.0.0.1:1", "--connections", "many"], "many"),
        (&["request", "--target", "nowhere"], "nowhere"),
        (&["request", "--target", "127.0.0.1:1", "--rate", "-3", "--insecure"], "-3"),
        (&["handshake", "--target", "127.0.0.1:1", "--group", "X25518", "--insecure"], "X25518"),
        (&["transfer", "--target", "127.0.0.1:1", "--plain", "--direction", "both", "--connections", "1"], "both"),
    ];
    for (arguments, value) in cases {
        let output = sluice_load(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}: {}", message(&output));
        assert!(message(&output).contains(value), "{}", message(&output));
    }
}

#[test]
fn refused_target_exits_with_3_and_says_so() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let output = sluice_load(&["request", "--plain", "--target", &address]);
    assert_eq!(code(&output), 3);
    assert!(message(&output).contains("connection refused"), "{}", message(&output));
}

#[test]
fn unknown_certificate_exits_with_4_and_names_the_remedy() {
    let target = Target::start(Behaviour::default());
    let other = Target::start(Behaviour::default());
    let ca = other.ca.display().to_string();
    let output = sluice_load(&["handshake", "--target", &target.address.to_string(), "--ca", &ca]);
    assert_eq!(code(&output), 4);
    assert!(message(&output).contains("certificate refused"), "{}", message(&output));
    assert!(message(&output).contains("--ca"), "{}", message(&output));
}

#[test]
fn certificate_for_another_name_exits_with_4() {
    let target = Target::start(Behaviour::default());
    let output = against(&target, "handshake", &["--server-name", "example.org"]);
    assert_eq!(code(&output), 4);
    assert!(message(&output).contains("certificate refused"), "{}", message(&output));
}

#[test]
fn missing_client_certificate_exits_with_4_in_both_versions() {
    let behaviour = Behaviour { client_certificate: ClientCertificate::Required, ..Behaviour::default() };
    let target = Target::start(behaviour);
    for version in ["1.2", "1.3"] {
        let output = against(&target, "handshake", &["--tls", version]);
        assert_eq!(code(&output), 4, "TLS {version}: {}", message(&output));
        assert!(message(&output).contains("handshake"), "{}", message(&output));
    }
}

#[test]
fn target_that_does_not_speak_tls_exits_with_4_within_the_time_out() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let output = sluice_load(&["handshake", "--insecure", "--target", &address, "--timeout", "300ms"]);
    assert_eq!(code(&output), 4);
    assert!(message(&output).contains("no answer within 300ms"), "{}", message(&output));
}

#[test]
fn process_that_is_not_there_exits_with_5() {
    let target = Target::start(Behaviour::default());
    let output = against(&target, "request", &["--pid", "2147483647"]);
    assert_eq!(code(&output), 5);
    assert!(message(&output).contains("2147483647"), "{}", message(&output));
}

#[test]
fn more_connections_than_descriptors_exit_with_5_and_name_the_limit() {
    let target = Target::start(Behaviour::default());
    let output = against(&target, "request", &["--connections=2000000000"]);
    assert_eq!(code(&output), 2, "given twice: {}", message(&output));
    let address = target.address.to_string();
    let output = sluice_load(&["request", "--target", &address, "--insecure", "--connections", "2000000000"]);
    assert_eq!(code(&output), 5, "{}", message(&output));
    assert!(message(&output).contains("ulimit -n"), "{}", message(&output));
}

#[test]
fn ctrl_c_still_prints_what_was_measured() {
    let target = Target::start(Behaviour::default());
    let (address, ca) = (target.address.to_string(), target.ca.display().to_string());
    let child = Command::new(env!("CARGO_BIN_EXE_sluice-load"))
        .args(["request", "--target", &address, "--ca", &ca, "--duration", "60s", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("a hundred requests", || target.requests() > 100);
    let asked = Instant::now();
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert_eq!(code(&output), 130, "{}", message(&output));
    let result = result(&output);
    assert!(result.interrupted && result.work.count > 0, "{result:#?}");
    assert!(result.doubts.contains(&Doubt::Interrupted));
}

#[test]
fn ctrl_c_ends_an_idle_run_and_reports_its_connections() {
    let target = Target::start(Behaviour::default());
    let (address, ca) = (target.address.to_string(), target.ca.display().to_string());
    let child = Command::new(env!("CARGO_BIN_EXE_sluice-load"))
        .args(["idle", "--target", &address, "--ca", &ca, "--duration", "60s", "--connections", "20", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // One more is the probe.
    wait_until("20 connections", || target.handshakes() == 21);
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 130);
    let result = result(&output);
    assert!(result.work.count >= 19, "{result:#?}");
    assert!(result.errors.is_empty(), "{result:#?}");
}

#[test]
fn idle_connections_that_the_target_closes_are_missed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let output =
        sluice_load(&["idle", "--plain", "--target", &address, "--connections", "10", "--duration", "1s", "--json"]);
    assert_eq!(code(&output), 1);
    let result = result(&output);
    assert_eq!((result.work.count, result.errors[&ErrorClass::Closed]), (0, 10));
    assert!(result.doubts.contains(&Doubt::ConnectionsMissing { asked: 10, open: 0 }));
}
