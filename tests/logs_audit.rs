//! The audit log of the real process, and `sluice audit verify` on what becomes of it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod run_support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use run_support::{Backend, Options, Proxy, wait_until};
use serde_json::Value;

/// Starts and ends a process whose audit log is `file`; gives what `/status` said of the head.
fn run_once(file: &Path) -> String {
    let sections = format!("[audit_log]\nfile = {file:?}");
    let mut proxy = Proxy::start(&Options { sections, ..Options::to(Backend::start().address) });
    let head = || {
        let status: Value = serde_json::from_str(&proxy.admin_request(&[], "/status").1).unwrap();
        status["logs"]["audit_head"].as_str().map(str::to_owned)
    };
    let head = wait_until("the start is in the audit log", head, || proxy.log().text());
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.wait().code(), Some(0));
    head
}

/// Exit status, standard output and standard error of `sluice audit verify`.
fn verify(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sluice")).args(["audit", "verify"]).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn chain_goes_on_over_restarts_and_shows_what_was_done_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let file = path.to_str().unwrap();
    let first_head = run_once(&path);
    let second_head = run_once(&path);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let good = std::fs::read_to_string(&path).unwrap();
    let records: Vec<Value> = good.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<_> = records.iter().map(|record| record["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["start", "drain", "end", "start", "drain", "end"]);
    assert_eq!(records[0]["configuration"].as_str().unwrap().len(), 64);
    assert_eq!(records[1]["by"]["signal"]["signal"], "SIGTERM");
    let (code, stdout, stderr) = verify(&[file, "--head", &first_head]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.contains("good: 6 records") && stdout.contains("head 6:"), "{stdout}");

    // Changed, removed, moved, cut off.
    let lines: Vec<_> = good.lines().collect();
    let write = |lines: &[&str]| std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    let changed = lines[1].replace("SIGTERM", "SIGKILL");
    write(&[lines[0], &changed, lines[2], lines[3], lines[4], lines[5]]);
    let (code, _, stderr) = verify(&[file]);
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with(&format!("{file}:2: the record was changed")), "{stderr}");
    write(&[lines[0], lines[2], lines[3], lines[4], lines[5]]);
    assert!(verify(&[file]).2.contains(":2: the record does not follow the one before it: expected number 2, found 3"));
    write(&[lines[0], lines[2], lines[1], lines[3], lines[4], lines[5]]);
    assert_eq!(verify(&[file]).0, Some(1));
    write(&lines[..3]);
    assert_eq!(verify(&[file]).0, Some(0), "a chain that ends early is a chain");
    let (code, _, stderr) = verify(&[file, "--head", &second_head]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("is not there: the log was cut off"), "{stderr}");

    // Rotated: two files, one chain.
    let rotated = folder.path().join("audit.log.1");
    std::fs::write(&rotated, lines[..3].join("\n") + "\n").unwrap();
    write(&lines[3..]);
    assert_eq!(verify(&[rotated.to_str().unwrap(), file]).0, Some(0));
    let (code, stdout, _) = verify(&[file]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("begins at record 4"), "{stdout}");
}

#[test]
fn audit_log_that_cannot_be_opened_refuses_the_start() {
    let sections = "[audit_log]\nfile = \"sluice.toml/audit.log\"".to_owned();
    let mut proxy = Proxy::spawn(&Options { sections, ..Options::to(Backend::start().address) });
    assert_eq!(proxy.wait().code(), Some(1));
    assert!(proxy.log().text().contains("`audit_log.file`"), "{}", proxy.log().text());
}
