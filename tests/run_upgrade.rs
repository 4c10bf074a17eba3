//! Upgrades of the real process: another one takes over, or nothing changes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod run_support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use run_support::{Backend, Options, Proxy, openmetrics, wait_until};
use serde_json::Value;

fn status(proxy: &Proxy) -> Value {
    serde_json::from_str(&proxy.admin_request(&[], "/status").1).unwrap()
}

/// Upgrades, and waits until the former process drains.
fn upgrade(proxy: &Proxy) -> String {
    proxy.signal(Signal::SIGUSR2);
    proxy.log().wait_for(" upgraded: ")
}

fn fetch(proxy: &Proxy, backend: &Backend) {
    backend.proceed();
    let output = proxy.curl(&[]).output().unwrap();
    assert!(output.stdout == Backend::body(), "{}", String::from_utf8_lossy(&output.stderr));
    backend.wait_for_half();
}

#[test]
fn upgrade_hands_listeners_and_admin_endpoint_over_and_lets_connections_finish() {
    let backend = Backend::start();
    let mut proxy = Proxy::start(&Options { cpus: "0,1", ..Options::to(backend.address) });
    fetch(&proxy, &backend);
    let download = proxy.curl(&[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    backend.wait_for_half();
    assert_eq!(status(&proxy)["connections"]["accepted"], 2);

    let line = upgrade(&proxy);
    assert!(line.contains("open=1"), "{line}");
    proxy.log().wait_for("taken over from the former process");
    // The new one answers, and has accepted nothing yet.
    let after = status(&proxy);
    assert_eq!((&after["phase"], &after["connections"]["accepted"]), (&"serving".into(), &0.into()));
    assert_eq!(proxy.admin_request(&[], "/readyz").0, 200);
    assert!(proxy.is_running(), "the former process lets the download finish");

    backend.proceed();
    let output = download.wait_with_output().unwrap();
    assert!(output.stdout == Backend::body(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(proxy.wait().code(), Some(0));
    fetch(&proxy, &backend);
    assert_eq!(status(&proxy)["connections"]["accepted"], 1);
    assert_eq!(proxy.reload().0, 200, "the new process has the configuration file, too");
    // It may be upgraded again.
    let successor = proxy.successors()[0];
    nix::sys::signal::kill(successor, Signal::SIGUSR2).unwrap();
    wait_until("a second upgrade", || (proxy.successors().len() == 2).then_some(()), || proxy.log().text());
    fetch(&proxy, &backend);
}

#[test]
fn new_process_with_other_workers_serves_every_inherited_socket() {
    for (before, after) in [("0,1", "0"), ("0", "0,1")] {
        let backend = Backend::start();
        let mut proxy = Proxy::start(&Options { cpus: before, ..Options::to(backend.address) });
        proxy.edit(&format!("cpus = \"{before}\""), &format!("cpus = \"{after}\""));
        upgrade(&proxy);
        assert_eq!(proxy.wait().code(), Some(0));
        // Wherever the kernel puts a connection, somebody accepts it.
        for _ in 0..16 {
            fetch(&proxy, &backend);
        }
        assert_eq!(status(&proxy)["workers"].as_array().unwrap().len(), after.split(',').count());
    }
}

#[test]
fn new_process_that_does_not_start_changes_nothing() {
    let backend = Backend::start();
    let mut proxy = Proxy::start(&Options::to(backend.address));
    let executable = proxy.directory().join("sluice");
    let good = fs::read_link(&executable).unwrap();
    let failures = |proxy: &Proxy| openmetrics::value(&proxy.metrics(), "sluice_upgrades_failed_total");

    replace(&executable, "#!/bin/sh\nexit 3\n");
    proxy.signal(Signal::SIGUSR2);
    let line = proxy.log().wait_for("upgrade failed");
    assert!(line.contains("the new process ended before it served (exit status: 3)"), "{line}");
    fetch(&proxy, &backend);

    replace(&executable, "not a program");
    proxy.signal(Signal::SIGUSR2);
    wait_until("it failed again", || (failures(&proxy) == Some(2.0)).then_some(()), || proxy.log().text());

    fs::remove_file(&executable).unwrap();
    std::os::unix::fs::symlink(&good, &executable).unwrap();
    proxy.edit("connections_max = 1000", "connections_max = 0");
    proxy.signal(Signal::SIGUSR2);
    wait_until("and again", || (failures(&proxy) == Some(3.0)).then_some(()), || proxy.log().text());
    fetch(&proxy, &backend);
    assert_eq!(status(&proxy)["phase"], "serving");
    assert!(proxy.is_running());

    proxy.edit("connections_max = 0", "connections_max = 1000");
    upgrade(&proxy);
    assert_eq!(proxy.wait().code(), Some(0));
    fetch(&proxy, &backend);
}

fn replace(executable: &Path, content: &str) {
    let new = executable.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&new, executable).unwrap();
}

#[test]
fn session_of_the_former_process_resumes_on_the_new_one() {
    let backend = Backend::start();
    // The ring is in memory: nothing but the channel between the two can have carried it over.
    let mut proxy = Proxy::start(&Options::to(backend.address));
    let (first, second) = (proxy.directory().join("first"), proxy.directory().join("second"));
    for version in ["-tls1_2", "-tls1_3"] {
        assert!(!exchange(&proxy, &backend, version, None, &first));
        let pid = proxy.successors().last().copied();
        match pid {
            None => drop(upgrade(&proxy)),
            Some(pid) => nix::sys::signal::kill(pid, Signal::SIGUSR2).unwrap(),
        }
        let count = if pid.is_none() { 1 } else { 2 };
        wait_until("upgraded", || (proxy.successors().len() == count).then_some(()), || proxy.log().text());
        assert!(exchange(&proxy, &backend, version, Some(&first), &second), "{version}");
    }
    assert_eq!(proxy.wait().code(), Some(0));
    // What must not be seen from outside: neither the environment nor the command line of the successor holds a secret.
    let pid = *proxy.successors().last().unwrap();
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    for text in [environment, command_line] {
        assert!(!String::from_utf8_lossy(&text).contains("chain-secret"));
    }
}

#[test]
fn session_resumes_by_the_ring_file_after_an_upgrade_and_after_a_restart() {
    let backend = Backend::start();
    let prepared = Proxy::prepare(&Options::to(backend.address));
    let mut tickets = Command::new(env!("CARGO_BIN_EXE_sluice"));
    let made = tickets.args(["tickets", "new", "--ring"]).arg(prepared.directory().join("ring")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    prepared.append("[tickets]\nring = \"ring\"\n");
    let mut proxy = prepared.run();
    let folder = proxy.directory().to_path_buf();
    let session = |version: &str| folder.join(format!("session{version}"));
    let versions = ["-tls1_2", "-tls1_3"];
    for version in versions {
        assert!(!exchange(&proxy, &backend, version, None, &session(version)), "{version}");
    }
    let resumes = |proxy: &Proxy, what: &str| {
        for version in versions {
            let resumed = exchange(proxy, &backend, version, Some(&session(version)), &folder.join("unused"));
            assert!(resumed, "{version}: {what}");
        }
    };
    upgrade(&proxy);
    assert_eq!(proxy.wait().code(), Some(0));
    resumes(&proxy, "after the upgrade");
    let successor = proxy.successors()[0];
    nix::sys::signal::kill(successor, Signal::SIGTERM).unwrap();
    wait_until("the process ends", || has_ended(successor).then_some(()), || proxy.log().text());
    proxy.restart(|executable| Command::new(executable));
    proxy.log().wait_for("admin listening");
    resumes(&proxy, "after the restart");
}

/// Whether a process is gone, or waits for nothing but to be asked how it ended.
fn has_ended(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}

/// One request to the backend by openssl; whether it resumed the session of the file `from`. The new one goes to `to`.
fn exchange(proxy: &Proxy, backend: &Backend, version: &str, from: Option<&Path>, to: &Path) -> bool {
    let mut client = Command::new("openssl");
    client.args(["s_client", "-connect", &proxy.address().to_string(), "-servername", "localhost", version]);
    client.args(["-ign_eof", "-sess_out"]).arg(to);
    if let Some(from) = from {
        client.arg("-sess_in").arg(from);
    }
    let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    backend.proceed();
    client.stdin.take().unwrap().write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let output = client.wait_with_output().unwrap();
    backend.wait_for_half();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("New, TLSv1") || text.contains("Reused, TLSv1"), "{text}");
    text.contains("Reused, TLSv1")
}

#[test]
fn killed_predecessor_or_successor_leaves_one_that_serves() {
    let backend = Backend::start();
    let mut proxy = Proxy::start(&Options::to(backend.address));
    // A successor that hangs: the former one serves on, and once it is killed, nothing is left behind.
    let executable = proxy.directory().join("sluice");
    let good = fs::read_link(&executable).unwrap();
    replace(&executable, "#!/bin/sh\nexec sleep 60\n");
    proxy.signal(Signal::SIGUSR2);
    let hanging = wait_until("the hanging successor runs", || child_of(proxy.pid()), || proxy.log().text());
    fetch(&proxy, &backend);
    nix::sys::signal::kill(hanging, Signal::SIGKILL).unwrap();
    let line = proxy.log().wait_for("upgrade failed");
    assert!(line.contains("signal: 9"), "{line}");
    fetch(&proxy, &backend);

    // A predecessor that is killed in its drain.
    fs::remove_file(&executable).unwrap();
    std::os::unix::fs::symlink(&good, &executable).unwrap();
    let download = proxy.curl(&[]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    backend.wait_for_half();
    upgrade(&proxy);
    proxy.signal(Signal::SIGKILL);
    proxy.wait();
    backend.proceed();
    assert!(!download.wait_with_output().unwrap().status.success());
    fetch(&proxy, &backend);
}

/// The process that `parent` has started.
fn child_of(parent: u32) -> Option<Pid> {
    let processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let is_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Behind the name in parentheses: the state, then the parent (proc(5)).
        let parent_of = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        parent_of == Some(parent)
    };
    processes.into_iter().find(is_child).map(Pid::from_raw)
}

#[test]
fn variable_that_names_no_channel_is_refused_with_the_remedy() {
    for value in ["7", "x", "-1", "1"] {
        let options =
            Options { environment: vec![("SLUICE_UPGRADE_CHANNEL", value)], ..Options::to(Backend::start().address) };
        let mut proxy = Proxy::spawn(&options);
        assert_eq!(proxy.wait().code(), Some(69));
        let line = proxy.log().wait_for("is not the channel of an upgrade: unset it");
        assert!(line.contains(value), "{line}");
    }
}
