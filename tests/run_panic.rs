//! What becomes of the listening sockets of a worker that panicked: nobody inherits them, and nobody waits at them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod run_support;

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;
use run_support::{Backend, Options, Port, Proxy, openmetrics, wait_until};
use serde_json::Value;

/// Enough that each of two workers gets some.
const CONNECTIONS: usize = 32;

/// A proxy with two workers, and the file that makes the first one panic.
fn start(backend: &Backend) -> (Proxy, PathBuf) {
    let prepared = Proxy::prepare(&Options { cpus: "0,1", ..Options::to(backend.address) });
    let trigger = prepared.directory().join("panic");
    let proxy = prepared.run_with(|executable: &Path| {
        let mut command = Command::new(executable);
        command.env("SLUICE_FAULT_PANIC", executable.with_file_name("panic"));
        command
    });
    proxy.log().wait_for("every worker accepts connections");
    (proxy, trigger)
}

/// Makes the first worker panic, and waits until it has ended.
fn panic(proxy: &Proxy, trigger: &Path) {
    std::fs::write(trigger, "0").unwrap();
    let failed = || openmetrics::value(&proxy.metrics(), "sluice_workers{state=\"failed\"}") == Some(1.0);
    wait_until("the worker has failed", || failed().then_some(()), || proxy.log().text());
    // The environment of a successor names it, too.
    std::fs::remove_file(trigger).unwrap();
}

fn fetch(proxy: &Proxy, port: u16, backend: &Backend) {
    backend.proceed();
    let output = proxy.curl_at(port, &[]).output().unwrap();
    assert!(output.stdout == Backend::body(), "{}", String::from_utf8_lossy(&output.stderr));
    backend.wait_for_half();
}

#[test]
fn upgrade_after_a_panic_gives_every_worker_a_socket_that_listens() {
    let backend = Backend::start();
    let (mut proxy, trigger) = start(&backend);
    let port = proxy.address().port();
    panic(&proxy, &trigger);
    proxy.signal(Signal::SIGUSR2);
    proxy.log().wait_for("taken over from the former process");
    // The former one has a failure to tell of.
    assert_eq!(proxy.wait().code(), Some(70));
    (0..CONNECTIONS).for_each(|_| fetch(&proxy, port, &backend));
    let status: Value = serde_json::from_str(&proxy.admin_request(&[], "/status").1).unwrap();
    let workers = status["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 2);
    for worker in workers {
        assert_eq!(worker["state"], "running");
        assert!(worker["connections_accepted"].as_u64().unwrap() > 0, "{status}");
    }
    assert!(!proxy.log().text().contains("accept failed"), "{}", proxy.log().text());
}

#[test]
fn socket_that_the_workers_share_outlives_the_panic_of_one() {
    let backend = Backend::start();
    let port = Port::reserve().address;
    // As systemd hands one over whose unit has no ReusePort=: no worker can bind one of its own beside it.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&port.into()).unwrap();
    socket.listen(128).unwrap();
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let prepared = Proxy::prepare(&Options { cpus: "0,1", listen: Some(port), ..Options::to(backend.address) });
    let trigger = prepared.directory().join("panic");
    let script = format!("export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\" 3<&{}", socket.as_raw_fd());
    let proxy = prepared.run_with(|executable: &Path| {
        let mut command = Command::new("bash");
        command.args(["-c", &script]).arg(executable);
        command.env("SLUICE_FAULT_PANIC", executable.with_file_name("panic"));
        command
    });
    proxy.log().wait_for("workers share inherited sockets");
    proxy.log().wait_for("every worker accepts connections");
    drop(socket);
    panic(&proxy, &trigger);
    (0..CONNECTIONS).for_each(|_| fetch(&proxy, port.port(), &backend));
}

#[test]
fn listener_that_a_reload_adds_after_a_panic_answers_every_client() {
    let backend = Backend::start();
    let (proxy, trigger) = start(&backend);
    panic(&proxy, &trigger);
    let added = Port::reserve();
    proxy.append(&format!(
        "[[listener]]\nname = \"added\"\naddress = \"{}\"\nbackend = \"app\"\nkernel_tls = \"off\"\n\
         [listener.tls]\ncertificates = [ {{ chain = \"edge.crt\", key = \"edge.key\" }} ]\n",
        added.address
    ));
    let (code, body) = proxy.reload();
    assert_eq!(code, 200, "{body}");
    for port in [added.address.port(), proxy.address().port()] {
        (0..CONNECTIONS / 2).for_each(|_| fetch(&proxy, port, &backend));
    }
}
