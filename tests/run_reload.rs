//! Reloads of the real process: what changes, what stays, and what happens when it cannot be.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod run_support;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;

use nix::sys::signal::Signal;
use run_support::openmetrics;
use run_support::{Backend, Options, Port, Proxy, wait_until};
use serde_json::Value;

fn status(proxy: &Proxy) -> Value {
    serde_json::from_str(&proxy.admin_request(&[], "/status").1).unwrap()
}

fn metric(proxy: &Proxy, sample: &str) -> f64 {
    openmetrics::value(&proxy.metrics(), sample).unwrap_or_else(|| panic!("no {sample}"))
}

/// Fetches the whole body on `port` from a backend that stands ready.
fn fetch(proxy: &Proxy, port: u16, backend: &Backend) {
    backend.proceed();
    let output = proxy.curl_at(port, &[]).output().unwrap();
    assert!(output.stdout == Backend::body(), "{}", String::from_utf8_lossy(&output.stderr));
    backend.wait_for_half();
}

fn listener(name: &str, address: SocketAddr) -> String {
    format!(
        "[[listener]]\nname = \"{name}\"\naddress = \"{address}\"\nbackend = \"app\"\nkernel_tls = \"off\"\n\
         [listener.tls]\ncertificates = [ {{ chain = \"edge.crt\", key = \"edge.key\" }} ]\n"
    )
}

fn wait_for_refusal(proxy: &Proxy, address: SocketAddr) {
    wait_until("new connections are refused", || TcpStream::connect(address).err(), || proxy.log().text());
}

#[test]
fn reload_gives_new_connections_the_new_backend_and_leaves_open_ones_theirs() {
    let (before, after) = (Backend::start(), Backend::start());
    let proxy = Proxy::start(&Options { cpus: "0,1", ..Options::to(before.address) });
    let download = proxy.curl(&[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    before.wait_for_half();

    proxy.edit(&before.address.to_string(), &after.address.to_string());
    assert_eq!(proxy.reload(), (200, "reloaded: generation 2\n".to_owned()));
    // Whatever worker it comes to.
    for _ in 0..8 {
        fetch(&proxy, proxy.address().port(), &after);
    }
    before.proceed();
    let output = download.wait_with_output().unwrap();
    assert!(output.stdout == Backend::body(), "{}", String::from_utf8_lossy(&output.stderr));

    let status = status(&proxy);
    assert_eq!(status["configuration"]["generation"], 2);
    assert_eq!(status["configuration"]["last_reload"]["result"], "applied");
    assert_eq!(status["configuration"]["last_reload"]["cause"], "admin");
    assert_eq!((&status["workers"][0]["generation"], &status["workers"][1]["generation"]), (&2.into(), &2.into()));
    assert_eq!(metric(&proxy, "sluice_config_generation"), 2.0);
    assert_eq!(metric(&proxy, "sluice_reloads_total{result=\"applied\"}"), 1.0);
    assert!(
        metric(&proxy, "sluice_config_published_time_seconds") >= metric(&proxy, "sluice_process_start_time_seconds")
    );
}

#[test]
fn reload_adds_moves_and_removes_listeners() {
    let backend = Backend::start();
    let proxy = Proxy::start(&Options::to(backend.address));
    let (second, moved) = (Port::reserve(), Port::reserve());
    let first = proxy.address();
    proxy.append(&listener("second", second.address));
    assert_eq!(proxy.reload().0, 200);
    fetch(&proxy, first.port(), &backend);
    fetch(&proxy, second.address.port(), &backend);

    // A download on a listener that goes away goes on.
    let download = proxy.curl(&[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    backend.wait_for_half();
    proxy.edit(&format!("address = \"{first}\""), &format!("address = \"{}\"", moved.address));
    assert_eq!(proxy.reload().0, 200);
    wait_for_refusal(&proxy, first);
    backend.proceed();
    assert!(download.wait_with_output().unwrap().stdout == Backend::body());
    fetch(&proxy, moved.address.port(), &backend);
    fetch(&proxy, second.address.port(), &backend);
    let status = status(&proxy);
    assert_eq!(status["listeners"][0]["address"], moved.address.to_string());
    assert_eq!(status["listeners"].as_array().unwrap().len(), 2);
    let line = proxy.log().wait_for("no longer listening");
    assert!(line.contains(&first.to_string()), "{line}");
}

#[test]
fn configuration_with_errors_is_refused_with_its_lines_and_changes_nothing() {
    let backend = Backend::start();
    let proxy = Proxy::start(&Options::to(backend.address));
    proxy.edit("connections_max = 1000", "conections_max = 1000");
    let (code, body) = proxy.reload();
    assert_eq!(code, 422);
    assert!(body.contains("sluice.toml:") && body.contains("did you mean `connections_max`?"), "{body}");
    assert!(body.ends_with("reload refused: the former configuration stays in service\n"), "{body}");
    fetch(&proxy, proxy.address().port(), &backend);

    let after = status(&proxy);
    assert_eq!(after["configuration"]["generation"], 1);
    assert_eq!(after["configuration"]["last_reload"]["result"], "refused");
    let details = after["configuration"]["last_reload"]["details"][0].as_str().unwrap();
    assert!(details.contains("unknown key \"conections_max\""), "{details}");
    assert_eq!(metric(&proxy, "sluice_reloads_total{result=\"refused\"}"), 1.0);
    proxy.log().wait_for("reload refused");

    proxy.edit("conections_max = 1000", "connections_max = 1000");
    assert_eq!(proxy.reload().0, 200);
}

#[test]
fn certificate_that_cannot_be_used_refuses_the_reload() {
    let backend = Backend::start();
    let proxy = Proxy::start(&Options::to(backend.address));
    std::fs::write(proxy.directory().join("edge.key"), "-----BEGIN PRIVATE KEY-----\nAAAA\n").unwrap();
    let (code, body) = proxy.reload();
    assert_eq!(code, 422);
    assert!(body.contains("edge.key is damaged"), "{body}");
    fetch(&proxy, proxy.address().port(), &backend);
}

#[test]
fn address_in_use_fails_the_reload_and_changes_nothing() {
    let backend = Backend::start();
    let proxy = Proxy::start(&Options::to(backend.address));
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let free = Port::reserve();
    proxy.append(&listener("free", free.address));
    proxy.append(&listener("second", taken));
    let (code, body) = proxy.reload();
    assert_eq!(code, 503);
    assert!(body.contains(&format!("listener second cannot listen on {taken}")), "{body}");
    assert!(TcpStream::connect(free.address).is_err(), "the listener that could be bound is closed again");
    fetch(&proxy, proxy.address().port(), &backend);
    assert_eq!(metric(&proxy, "sluice_reloads_total{result=\"failed\"}"), 1.0);
    drop(holder);
    assert_eq!(proxy.reload().0, 200);
}

#[test]
fn sighup_reloads_and_says_so() {
    let (before, after) = (Backend::start(), Backend::start());
    let proxy = Proxy::start(&Options::to(before.address));
    proxy.edit(&before.address.to_string(), &after.address.to_string());
    proxy.signal(Signal::SIGHUP);
    let line = proxy.log().wait_for(" reloaded ");
    assert!(line.contains("cause=SIGHUP") && line.contains("generation=2"), "{line}");
    fetch(&proxy, proxy.address().port(), &after);
}

#[test]
fn change_that_needs_a_restart_is_warned_about_and_the_rest_applies() {
    let (before, after) = (Backend::start(), Backend::start());
    let proxy = Proxy::start(&Options::to(before.address));
    let other_admin = Port::reserve();
    proxy.edit(&before.address.to_string(), &after.address.to_string());
    proxy.edit(&proxy.admin().to_string(), &other_admin.address.to_string());
    proxy.edit("cpus = \"0\"", "cpus = \"1\"");
    let (code, body) = proxy.reload();
    assert_eq!(code, 200);
    assert!(body.contains("warning: [admin] has changed: this takes effect with a restart"), "{body}");
    assert!(body.contains("warning: workers.count or workers.cpus has changed"), "{body}");
    fetch(&proxy, proxy.address().port(), &after);
    // Still true, still said.
    assert!(proxy.reload().1.contains("warning: [admin] has changed"));
}

#[test]
fn reload_in_a_drain_is_refused() {
    let backend = Backend::start();
    let mut proxy = Proxy::start(&Options::to(backend.address));
    let download = proxy.curl(&[]).stdout(Stdio::piped()).spawn().unwrap();
    backend.wait_for_half();
    proxy.signal(Signal::SIGTERM);
    proxy.log().wait_for("draining");
    assert_eq!(proxy.reload().0, 503);
    backend.proceed();
    assert!(download.wait_with_output().unwrap().stdout == Backend::body());
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn reloads_that_come_at_once_are_all_answered() {
    let backend = Backend::start();
    let proxy = Proxy::start(&Options::to(backend.address));
    let url = format!("http://{}/reload", proxy.admin());
    let ask = |_| {
        let mut curl = std::process::Command::new("curl");
        curl.args(["--silent", "--max-time", "60", "--request", "POST", &url]).stdout(Stdio::piped());
        curl.spawn().unwrap()
    };
    let asked: Vec<_> = (0..10).map(ask).collect();
    for curl in asked {
        let answer = String::from_utf8(curl.wait_with_output().unwrap().stdout).unwrap();
        assert!(answer.starts_with("reloaded: generation "), "{answer}");
    }
    let generation = metric(&proxy, "sluice_config_generation");
    assert!((2.0..=11.0).contains(&generation), "{generation}");
    fetch(&proxy, proxy.address().port(), &backend);
}
