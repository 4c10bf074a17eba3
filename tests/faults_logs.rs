//! A disk that is full: the audit log loses records, says so, and is a good chain afterwards; serving goes on.
//!
//! The disk is a small tmpfs in a mount namespace of the process's own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod run_support;
mod skip_support;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use run_support::{Backend, Options, Proxy, openmetrics, wait_until};
use serde_json::Value;
use skip_support::skip;

/// Reloads until the last page of the file is full: a record has half a kilobyte.
const RELOADS_MAX: usize = 30;

/// Runs what follows its arguments in a mount namespace of its own; none where that is not allowed.
fn unshare() -> Option<Command> {
    let mut plain = vec!["--mount"];
    if !nix::unistd::geteuid().is_root() {
        plain.push("--map-root-user");
    }
    let works = Command::new("unshare").args(&plain).args(["mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        skip("needs root, or user namespaces, to mount a tmpfs of its own");
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(plain);
    Some(command)
}

#[test]
fn full_disk_loses_audit_records_that_the_next_one_tells_of() {
    let Some(mut command) = unshare() else { return };
    let backend = Backend::start();
    let sections = "[audit_log]\nfile = \"disk/audit.log\"".to_owned();
    let prepared = Proxy::prepare(&Options { sections, ..Options::to(backend.address) });
    let disk = prepared.directory().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = "mount -t tmpfs -o size=16k tmpfs \"$1\" && shift && exec \"$@\"";
    command.args(["sh", "-c", mount, "sh"]).arg(&disk);
    let proxy = prepared.run_with(|executable| {
        command.arg(executable);
        command
    });
    proxy.log().wait_for("every worker accepts connections");
    // The disk as the process sees it.
    let disk = PathBuf::from(format!("/proc/{}/root", proxy.pid())).join(disk.strip_prefix("/").unwrap());
    let (audit, filler) = (disk.join("audit.log"), disk.join("filler"));
    wait_until("the start is in it", || (!records(&audit).is_empty()).then_some(()), || proxy.log().text());

    let mut file = File::create(&filler).unwrap();
    while file.write_all(&[0; 512]).is_ok() {}
    let lost = || {
        let sample = "sluice_log_lines_total{log=\"audit\",result=\"lost\"}";
        openmetrics::value(&proxy.metrics(), sample).unwrap()
    };
    let mut reloads = 0;
    while lost() < 2.0 {
        assert!(reloads < RELOADS_MAX, "no record was lost: {}", proxy.log().text());
        reloads += 1;
        // A log that cannot be written is no reason not to serve.
        assert_eq!(proxy.reload().0, 200);
    }
    let line = proxy.log().wait_for("audit record lost");
    assert!(line.contains("No space left on device"), "{line}");
    backend.proceed();
    assert!(proxy.curl(&[]).output().unwrap().stdout == Backend::body());
    let (lost, written) = (lost(), records(&audit).len());

    // As long as it is open, its space is not free.
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(proxy.reload().0, 200);
    let next = || records(&audit).get(written).cloned();
    let record = wait_until("the next record is written", next, || proxy.log().text());
    assert_eq!((&record["event"], &record["lost_before"]), (&"reload".into(), &(lost as u64).into()), "{record}");
    let verified = Command::new(env!("CARGO_BIN_EXE_sluice")).args(["audit", "verify"]).arg(&audit).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

/// The whole records in the file.
fn records(audit: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(audit).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
