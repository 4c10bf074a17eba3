//! What the process gives up at its start, seen from outside: the user, capabilities, files, core dumps.
//!
//! What only root can prove is proved where the tests run as root, as they do in CI.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod run_support;
mod skip_support;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use run_support::{Backend, Options, Proxy, issue, wait_until};
use skip_support::skip;

/// A field of /proc/PID/status.
fn field(pid: Pid, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in\n{status}")).trim().to_owned()
}

fn fetch(proxy: &Proxy, backend: &Backend) {
    backend.proceed();
    let output = proxy.curl(&[]).output().unwrap();
    assert!(output.stdout == Backend::body(), "{}", String::from_utf8_lossy(&output.stderr));
    backend.wait_for_half();
}

/// Lets `user` have the folder of the proxy's files.
fn give_to(user: &User, folder: &Path) {
    let give = |path: &Path| chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    give(folder);
    fs::read_dir(folder).unwrap().for_each(|entry| give(&entry.unwrap().path()));
    fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn root_becomes_the_user_keeps_what_it_needs_and_so_does_its_successor() {
    if !geteuid().is_root() {
        return skip("needs root");
    }
    let user = User::from_name("nobody").unwrap().unwrap();
    let backend = Backend::start();
    for (low_port, capabilities) in [(false, "0000000000000000"), (true, "0000000000000400")] {
        let prepared = Proxy::prepare(&Options::to(backend.address));
        prepared.edit("[server]\n", "[server]\nuser = \"nobody\"\n");
        prepared.edit("core_dumps = \"allow\"", "core_dumps = \"refuse\"");
        give_to(&user, prepared.directory());
        if low_port {
            // An address of loopback that nobody else uses, and a port that only root and this capability can bind.
            prepared.append(
                "[[listener]]\nname = \"low\"\naddress = \"127.83.76.85:443\"\nbackend = \"app\"\nkernel_tls = \"off\"\n\
                 [listener.tls]\ncertificates = [ { chain = \"edge.crt\", key = \"edge.key\" } ]\n",
            );
        }
        let mut proxy = prepared.run();
        proxy.log().wait_for("every worker accepts connections");
        let pid = Pid::from_raw(proxy.pid() as i32);
        let check = |pid: Pid| {
            let id = user.uid.to_string();
            assert_eq!(field(pid, "Uid").split_whitespace().collect::<Vec<_>>(), [&id, &id, &id, &id]);
            for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
                let task = Pid::from_raw(task.unwrap().file_name().to_str().unwrap().parse().unwrap());
                for set in ["CapPrm", "CapEff", "CapBnd"] {
                    assert_eq!(field(task, set), capabilities, "{set}");
                }
                assert_eq!(field(task, "NoNewPrivs"), "1");
            }
            // The kernel keeps the owner of these from a process that may dump no core.
            assert_eq!(fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid(), 0);
        };
        check(pid);
        fetch(&proxy, &backend);
        assert_eq!(proxy.reload().0, 200, "it can read its files as that user");
        proxy.signal(Signal::SIGUSR2);
        proxy.log().wait_for(" upgraded: ");
        assert_eq!(proxy.wait().code(), Some(0));
        let successor = proxy.successors()[0];
        check(successor);
        fetch(&proxy, &backend);
        assert_eq!(proxy.reload().0, 200);
    }
}

#[test]
fn certificate_that_the_user_may_not_read_is_refused_at_the_start() {
    if !geteuid().is_root() {
        return skip("needs root");
    }
    let prepared = Proxy::prepare(&Options::to(Backend::start().address));
    prepared.edit("[server]\n", "[server]\nuser = \"nobody\"\n");
    fs::set_permissions(prepared.directory(), Permissions::from_mode(0o755)).unwrap();
    let mut proxy = prepared.run();
    assert_eq!(proxy.wait().code(), Some(69));
    let line = proxy.log().wait_for("user nobody cannot read ");
    assert!(line.contains("Permission denied"), "{line}");
}

#[test]
fn files_outside_of_the_configuration_are_out_of_reach_in_the_sandbox() {
    let elsewhere = tempfile::tempdir().unwrap();
    issue(elsewhere.path());
    let here = "certificates = [ { chain = \"edge.crt\", key = \"edge.key\" } ]";
    let there = format!(
        "certificates = [ {{ chain = \"{0}/edge.crt\", key = \"{0}/edge.key\" }} ]",
        elsewhere.path().display()
    );
    for (sandbox, code) in [("required", 422), ("off", 200)] {
        let backend = Backend::start();
        let prepared = Proxy::prepare(&Options::to(backend.address));
        prepared.edit("[server]\n", &format!("[server]\nsandbox = \"{sandbox}\"\n"));
        let proxy = prepared.run();
        proxy.log().wait_for("every worker accepts connections");
        proxy.edit(here, &there);
        let (found, body) = proxy.reload();
        assert_eq!(found, code, "{body}");
        assert_eq!(body.contains("Permission denied"), sandbox == "required", "{body}");
        // What the configuration names stays within reach.
        proxy.edit(&there, here);
        assert_eq!(proxy.reload().0, 200);
        fetch(&proxy, &backend);
    }
}

#[test]
fn ring_and_admin_socket_can_be_written_in_the_sandbox_and_an_upgrade_goes_on() {
    let backend = Backend::start();
    let prepared = Proxy::prepare(&Options::to(backend.address));
    prepared.edit("[server]\n", "[server]\nsandbox = \"required\"\n");
    let ring = prepared.directory().join("ring");
    let made = std::process::Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(["tickets", "new", "--ring"])
        .arg(&ring)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    prepared.append("[tickets]\nring = \"ring\"\n");
    let mut proxy = prepared.run();
    fetch(&proxy, &backend);
    for count in 1..=2 {
        let newest = proxy.successors().last().copied().unwrap_or_else(|| Pid::from_raw(proxy.pid() as i32));
        kill(newest, Signal::SIGUSR2).unwrap();
        wait_until("upgraded", || (proxy.successors().len() == count).then_some(()), || proxy.log().text());
        fetch(&proxy, &backend);
        assert_eq!(proxy.reload().0, 200);
    }
    assert_eq!(proxy.wait().code(), Some(0));
    let text = proxy.log().text();
    assert!(!text.contains("could not be rewritten") && !text.contains("Permission denied"), "{text}");
}

#[test]
fn process_that_may_dump_no_core_is_closed_to_its_own_user_unless_told_otherwise() {
    for (core_dumps, is_closed) in [("refuse", true), ("allow", false)] {
        let prepared = Proxy::prepare(&Options::to(Backend::start().address));
        prepared.edit("core_dumps = \"allow\"", &format!("core_dumps = \"{core_dumps}\""));
        let proxy = prepared.run();
        proxy.log().wait_for("every worker accepts connections");
        // proc(5): with the attribute off, these belong to root and are open to nobody else; the mode tells in any case.
        let limits = field(Pid::from_raw(proxy.pid() as i32), "CoreDumping");
        assert_eq!(limits, "0");
        let text = proxy.log().text();
        assert!(!text.contains("core dumps cannot be refused"), "{text}");
        let abort = kill(Pid::from_raw(proxy.pid() as i32), Signal::SIGABRT);
        assert!(abort.is_ok());
        let mut proxy = proxy;
        let status = proxy.wait();
        // wait(2) says whether a core was dumped; with `allow` it depends on the limits of the machine.
        let dumped = std::os::unix::process::ExitStatusExt::core_dumped(&status);
        assert!(!(is_closed && dumped), "{status}");
    }
}

#[test]
fn other_user_without_root_is_refused() {
    if !geteuid().is_root() {
        return skip("needs root");
    }
    // As root, through somebody who is not.
    let nobody = User::from_name("nobody").unwrap().unwrap();
    let prepared = Proxy::prepare(&Options::to(Backend::start().address));
    prepared.edit("[server]\n", "[server]\nuser = \"daemon\"\n");
    give_to(&nobody, prepared.directory());
    let config = prepared.directory().join("sluice.toml");
    // Where the build lies may be closed to others.
    let copy = prepared.directory().join("copy");
    fs::copy(env!("CARGO_BIN_EXE_sluice"), &copy).unwrap();
    fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
    let output = std::process::Command::new("setpriv")
        .args(["--reuid=nobody", "--clear-groups"])
        .arg(&copy)
        .args(["run", "--config"])
        .arg(config)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(69));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("cannot become daemon: start it as root, or leave out server.user"), "{text}");
}
