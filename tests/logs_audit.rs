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
    let sender = serde_json::json!({
        "signal": "SIGTERM", "pid": std::process::id(), "uid": nix::unistd::getuid().as_raw(),
    });
    assert_eq!(records[1]["by"]["signal"], sender);
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
fn acts_have_their_senders_swaps_their_certificates_and_revocations_their_ring() {
    let folder = tempfile::tempdir().unwrap();
    let ring = folder.path().join("ring");
    let tickets = |command: &str| {
        let status =
            Command::new(env!("CARGO_BIN_EXE_sluice")).args(["tickets", command, "--ring"]).arg(&ring).output();
        assert!(status.unwrap().status.success(), "sluice tickets {command}");
    };
    tickets("new");
    let sections = format!("[audit_log]\nfile = \"audit.log\"\n[tickets]\nring = {ring:?}");
    let mut proxy = Proxy::start(&Options { sections, ..Options::to(Backend::start().address) });
    let path = proxy.directory().join("audit.log");
    let records = || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    let next = |event: &str| {
        let find = || records().into_iter().find(|record| record["event"] == event);
        wait_until(&format!("{event} is in the audit log"), find, || proxy.log().text())
    };
    next("start");
    proxy.signal(Signal::SIGHUP);
    let this = serde_json::json!({ "pid": std::process::id(), "uid": nix::unistd::getuid().as_raw() });
    let is_ours = |by: &Value| by["pid"] == this["pid"] && by["uid"] == this["uid"];
    let reload = next("reload");
    assert!(is_ours(&reload["by"]["signal"]), "{reload}");
    assert!(reload.get("certificates_before").is_none(), "the same are in service: {reload}");

    let new = tempfile::tempdir_in(proxy.directory()).unwrap();
    run_support::issue(new.path());
    for name in ["edge.key", "edge.crt"] {
        std::fs::rename(new.path().join(name), proxy.directory().join(name)).unwrap();
    }
    let swap = next("certificates_changed");
    let chain = std::fs::read(proxy.directory().join("edge.crt")).unwrap();
    let digest = openssl::x509::X509::from_pem(&chain).unwrap().digest(openssl::hash::MessageDigest::sha256()).unwrap();
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(swap["certificates"][0]["sha256"], digest.as_str(), "{swap}");
    assert_eq!(swap["certificates_before"], reload["certificates"], "{swap}");
    assert!(swap["by"]["process"]["pid"] == proxy.pid(), "{swap}");

    tickets("revoke");
    let revoked = next("tickets_revoked");
    let detail = revoked["detail"].as_str().unwrap();
    assert!(detail.starts_with("revoked: every ticket from before is refused; generation 1, ring "), "{detail}");

    proxy.edit("[tickets]", "[tickets]\nlifetime = \"1h\"");
    proxy.signal(Signal::SIGUSR2);
    assert!(is_ours(&next("upgrade")["by"]["signal"]));
    assert_eq!(proxy.wait().code(), Some(0));
    let successor = proxy.successors()[0];
    nix::sys::signal::kill(successor, Signal::SIGINT).unwrap();
    let find = || records().into_iter().rfind(|record| record["by"]["signal"]["signal"] == "SIGINT");
    let drain = wait_until("the drain is in it", find, || proxy.log().text());
    assert!(is_ours(&drain["by"]["signal"]) && drain["event"] == "drain", "{drain}");
    // One chain over both processes.
    wait_until(
        "the end is in it",
        || (records().iter().filter(|record| record["event"] == "end").count() == 2).then_some(()),
        || proxy.log().text(),
    );
    assert_eq!(verify(&[path.to_str().unwrap()]).0, Some(0));
}

#[test]
fn audit_log_that_cannot_be_opened_refuses_the_start() {
    let sections = "[audit_log]\nfile = \"sluice.toml/audit.log\"".to_owned();
    let mut proxy = Proxy::spawn(&Options { sections, ..Options::to(Backend::start().address) });
    assert_eq!(proxy.wait().code(), Some(1));
    assert!(proxy.log().text().contains("`audit_log.file`"), "{}", proxy.log().text());
}
