//! The admin endpoint of the real process, asked by curl and by clients that behave badly.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod run_support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use run_support::openmetrics;
use run_support::{Backend, Options, Proxy, text_of, wait_until};
use serde_json::Value;

fn status(proxy: &Proxy) -> Value {
    let (code, body) = proxy.admin_request(&[], "/status");
    assert_eq!(code, 200);
    serde_json::from_str(&body).unwrap()
}

#[test]
fn scrape_counts_what_happened() {
    let backend = Backend::start();
    let proxy = Proxy::start(&Options::to(backend.address));
    for version in ["--tlsv1.3", "--tls-max=1.2"] {
        backend.proceed();
        assert!(proxy.curl(&version.split('=').collect::<Vec<_>>()).output().unwrap().status.success());
    }
    assert!(!proxy.curl(&["--cacert", "/dev/null"]).output().unwrap().status.success());

    let closed = || {
        let metrics = proxy.metrics();
        let value = |sample| openmetrics::value(&metrics, sample);
        let all_came = value("sluice_connections_accepted_total") == Some(3.0);
        (all_came && value("sluice_connections_open") == Some(0.0)).then_some(metrics)
    };
    let metrics = wait_until("every connection has come and is closed", closed, || proxy.log().text());
    let families = openmetrics::parse(&metrics).unwrap_or_else(|error| panic!("{error}\n{metrics}"));
    assert_eq!(families["sluice_relay_bytes"].unit.as_deref(), Some("bytes"));
    let value = |sample: &str| openmetrics::value(&metrics, sample).unwrap_or_else(|| panic!("no {sample}"));
    assert_eq!(value("sluice_handshakes_total{version=\"1.3\",kind=\"full\"}"), 1.0);
    assert_eq!(value("sluice_handshakes_total{version=\"1.2\",kind=\"full\"}"), 1.0);
    assert_eq!(value("sluice_connections_accepted_total"), 3.0);
    assert_eq!(value("sluice_backend_dials_total{result=\"connected\"}"), 2.0);
    let bytes = value("sluice_relay_bytes_total{direction=\"backend_to_client\",path=\"userspace\"}");
    assert!(bytes >= 2.0 * Backend::body().len() as f64, "{bytes}");
    assert_eq!(value("sluice_workers{state=\"running\"}"), 1.0);
    let content_type =
        proxy.admin_request(&["--output", "/dev/null", "--write-out", "%{content_type}\n200"], "/metrics");
    assert_eq!(content_type.1, "application/openmetrics-text; version=1.0.0; charset=utf-8");
}

#[test]
fn status_tells_what_runs() {
    let backend = Backend::start();
    let proxy = Proxy::start(&Options::to(backend.address));
    let download = proxy.curl(&[]).stdout(Stdio::null()).spawn().unwrap();
    backend.wait_for_half();
    let during = status(&proxy);
    assert_eq!(during["connections"]["open"], 1);
    assert_eq!(during["workers"][0]["connections_open"], 1);
    backend.proceed();
    assert!(download.wait_with_output().unwrap().status.success());

    let closed = || Some(status(&proxy)).filter(|status| status["connections"]["open"] == 0);
    let after = wait_until("the connection is closed", closed, || proxy.log().text());
    assert_eq!(after["version"], env!("CARGO_PKG_VERSION"));
    assert!(after["openssl"].as_str().unwrap().starts_with("OpenSSL "));
    assert!(after["uptime_seconds"].as_u64().unwrap() < 600);
    assert_eq!(after["phase"], "serving");
    assert_eq!((&after["status_version"], &after["pid"]), (&1.into(), &proxy.pid().into()));
    assert_eq!(after["handshakes"]["resumed_ratio"], 0.0);
    assert_eq!(after["kernel_tls"]["kept"]["backend_to_client"]["policy_off"], 1);
    let moved = after["relay_bytes"]["backend_to_client"]["userspace"].as_u64().unwrap();
    assert!(moved >= Backend::body().len() as u64, "{moved}");
    assert_eq!(after["backends"]["dials"]["connected"], 1);
    assert!(["io_uring", "epoll"].contains(&after["ring"]["driver"].as_str().unwrap()));
    assert_eq!(after["listeners"][0]["name"], "edge");
    assert_eq!(after["listeners"][0]["address"], proxy.address().to_string());
    assert_eq!(after["listeners"][0]["backend"], "app");
    assert_eq!(after["listeners"][0]["certificate_not_after"], "2049-12-31T23:59:59Z");
    let kinds = after["handshakes"]["completed"].as_object().unwrap().values();
    let completed: u64 = kinds.flat_map(|kinds| kinds.as_object().unwrap().values()).map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(completed, 1);
    let closes: u64 = after["connections"]["closed"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(closes, 1);
}

#[test]
fn config_shows_what_runs_with_defaults_and_absolute_paths() {
    let backend = Backend::start();
    let proxy = Proxy::start(&Options::to(backend.address));
    let (code, body) = proxy.admin_request(&[], "/config");
    assert_eq!(code, 200);
    let config: Value = serde_json::from_str(&body).unwrap();
    let file = proxy.folder().join("sluice.toml");
    assert_eq!(config["file"], file.to_str().unwrap());
    let digest = openssl::sha::sha256(&std::fs::read(&file).unwrap());
    assert_eq!(config["sha256"], digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let running = &config["configuration"];
    assert_eq!(running["server"]["drain_timeout"], "60s");
    assert_eq!(running["workers"]["count"], 1);
    assert_eq!(running["workers"]["cpus"], "0");
    let listener = &running["listener"][0];
    assert_eq!(listener["address"], proxy.address().to_string());
    assert_eq!(listener["idle_timeout"], "5m");
    let certificate = &listener["tls"]["certificates"][0];
    assert_eq!(certificate["key"], proxy.folder().join("edge.key").to_str().unwrap());
    assert_eq!(running["backend"][0]["servers"][0], backend.address.to_string());
}

#[test]
fn unix_socket_is_private_serves_and_goes_with_the_process() {
    let options =
        Options { admin: "address = \"unix:admin.sock\"".to_owned(), ..Options::to(Backend::start().address) };
    let mut proxy = Proxy::start(&options);
    let socket = proxy.folder().join("admin.sock");
    let ask = |arguments: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "20", "--unix-socket"]).arg(&socket).args(arguments);
        text_of(&curl.output().unwrap())
    };
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(ask(&["http://sluice/readyz"]), "ok\n");
    let second = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(["run", "--config"])
        .arg(proxy.folder().join("sluice.toml"))
        .output()
        .unwrap();
    let refusal = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(refusal.contains("another process listens there (admin.address)"), "{refusal}");
    assert_eq!(second.status.code(), Some(69));
    assert_eq!(ask(&["--request", "POST", "http://sluice/drain"]), "draining\n");
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn endpoint_with_tls_lets_in_only_clients_with_a_certificate_of_its_authorities() {
    let keys = "address = \"127.0.0.1:0\"";
    let tls = "[admin.tls]\nchain = \"edge.crt\"\nkey = \"edge.key\"\nclient_ca = \"edge.crt\"";
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let options = Options {
        admin: format!("{}\n{tls}", keys.replace("127.0.0.1:0", &port.to_string())),
        ..Options::to(Backend::start().address)
    };
    let proxy = Proxy::start(&options);
    let file = |name: &str| proxy.folder().join(name).to_str().unwrap().to_owned();
    let ask = |arguments: &[&str]| {
        let mut curl = Command::new("curl");
        let url = format!("https://localhost:{}/livez", proxy.admin().port());
        curl.args(["--silent", "--show-error", "--max-time", "20", "--cacert", &file("edge.crt")]);
        curl.args(["--resolve", &format!("localhost:{}:127.0.0.1", proxy.admin().port())]).args(arguments).arg(url);
        curl.output().unwrap()
    };
    assert_eq!(text_of(&ask(&["--cert", &file("edge.crt"), "--key", &file("edge.key")])), "ok\n");
    let bare = ask(&[]);
    assert!(!bare.status.success() && text_of(&bare).is_empty(), "{bare:?}");
    let plain = proxy.admin_request(&["--http0.9"], "/livez");
    assert!(!plain.1.contains("ok"), "{plain:?}");
}

#[test]
fn probes_are_good_while_serving() {
    let proxy = Proxy::start(&Options::to(Backend::start().address));
    for path in ["/livez", "/readyz"] {
        assert_eq!(proxy.admin_request(&[], path), (200, "ok\n".to_owned()));
    }
    let (code, body) = proxy.admin_request(&["--head"], "/livez");
    assert_eq!(code, 200);
    assert!(body.to_lowercase().contains("content-length: 3") && !body.contains("\nok"), "{body}");
}

#[test]
fn unknown_paths_and_methods_are_refused_and_nothing_happens() {
    let mut proxy = Proxy::start(&Options::to(Backend::start().address));
    for path in ["/index.html", "/config.json", "/metrics/../drain", "/%6detrics", "/drain/", "/metrics%00"] {
        assert_eq!(proxy.admin_request(&[], path).0, 404, "{path}");
        assert_eq!(proxy.admin_request(&["--request", "POST"], path).0, 404, "{path}");
    }
    for (method, path) in [
        ("POST", "/metrics"),
        ("DELETE", "/status"),
        ("POST", "/"),
        ("PUT", "/config"),
        ("GET", "/drain"),
        ("PUT", "/drain"),
        ("GET", "/reload"),
    ] {
        assert_eq!(proxy.admin_request(&["--request", method], path).0, 405, "{method} {path}");
    }
    assert_eq!(proxy.admin_request(&["--request", "POST", "--header", "Origin: http://localhost"], "/drain").0, 403);
    assert_eq!(proxy.admin_request(&[], "/readyz").0, 200);
    assert!(proxy.is_running());
}

#[test]
fn oversized_and_malformed_requests_are_refused() {
    let proxy = Proxy::start(&Options::to(Backend::start().address));
    let header = format!("X-Long: {}", "a".repeat(20_000));
    assert_eq!(proxy.admin_request(&["--header", &header], "/livez").0, 431);
    let body = "b".repeat(5_000);
    assert_eq!(proxy.admin_request(&["--data", &body], "/drain").0, 413);

    for request in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"GET / HTTP/9.9\r\n\r\n", b"\r\n\r\n\0\0\0\0"]
    {
        let mut stream = proxy.admin_socket();
        stream.write_all(request).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // An answer of 400 or a bare close: either way the connection ends, and nothing else does.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    assert_eq!(proxy.admin_request(&[], "/livez").0, 200);
}

#[test]
fn slow_clients_do_not_keep_out_the_next_one() {
    let proxy = Proxy::start(&Options::to(Backend::start().address));
    let begin = |_| {
        let mut stream = proxy.admin_socket();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ").unwrap();
        stream
    };
    let slow: Vec<TcpStream> = (0..200).map(begin).collect();
    let started = Instant::now();
    assert_eq!(proxy.admin_request(&[], "/livez").0, 200);
    assert!(started.elapsed() < Duration::from_secs(4), "waited for the slow ones: {:?}", started.elapsed());
    // The ones that were cut for the sake of others, and those whose time is over.
    for mut stream in slow {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 200"));
    }
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[test]
fn drain_is_accepted_shows_in_readiness_and_ends_the_process() {
    let backend = Backend::start();
    let mut proxy = Proxy::start(&Options::to(backend.address));
    let download = proxy.curl(&[]).stdout(Stdio::piped()).spawn().unwrap();
    backend.wait_for_half();

    assert_eq!(proxy.admin_request(&["--request", "POST"], "/drain"), (202, "draining\n".to_owned()));
    let not_ready = || (proxy.admin_request(&[], "/readyz").0 == 503).then_some(());
    wait_until("readiness is off", not_ready, || proxy.log().text());
    assert_eq!(proxy.admin_request(&["--request", "POST"], "/drain").0, 202);
    assert_eq!(status(&proxy)["phase"], "draining");
    assert_eq!(openmetrics::value(&proxy.metrics(), "sluice_draining"), Some(1.0));

    backend.proceed();
    assert!(download.wait_with_output().unwrap().stdout == Backend::body());
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn answers_hold_no_key() {
    let proxy =
        Proxy::start(&Options { arguments: vec!["--log-level", "trace"], ..Options::to(Backend::start().address) });
    let key = proxy.key();
    let secret = key.lines().nth(1).unwrap();
    for path in ["/", "/metrics", "/status", "/config", "/livez", "/readyz"] {
        assert!(!proxy.admin_request(&[], path).1.contains(secret));
    }
    assert!(!proxy.log().text().contains(secret));
}
