//! The status page in a real browser: Chromium without a window runs the page's script and shows what it made.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod run_support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use run_support::{Backend, Options, Proxy, text_of};

#[test]
fn page_in_a_browser_shows_the_figures_of_the_process() {
    let backend = Backend::start();
    let proxy = Proxy::start(&Options { cpus: "0", ..Options::to(backend.address) });
    backend.proceed();
    assert!(proxy.curl(&["--output", "/dev/null"]).status().unwrap().success());
    let mut plain = TcpStream::connect(proxy.address()).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let _ = plain.read_to_end(&mut Vec::new());
    let download = proxy.curl(&[]).stdout(Stdio::null()).spawn().unwrap();
    backend.wait_for_half();

    let dom = text_of(&chromium(&proxy, &["--dump-dom", "--virtual-time-budget=9000"]));
    let text = without_tags(&dom);
    assert!(text.contains("serving"), "{text}");
    assert!(text.contains("Open connections 1 3 accepted in all"), "{text}");
    assert!(text.contains("edge 127.0.0.1:"), "{text}");
    assert!(text.contains("2049-12-31"), "{text}");
    assert!(text.contains("worker 0 CPU 0 running"), "{text}");
    assert!(text.contains("policy_off kernel_tls is off for the listener"), "{text}");
    assert!(text.contains("plain_http plain HTTP on the TLS port 1"), "{text}");
    assert!(text.contains("Resumed 0.0 %"), "{text}");
    assert!(dom.contains("<title>Sluice · 1 open</title>"), "{text}");

    backend.proceed();
    assert!(download.wait_with_output().unwrap().status.success());
}

#[test]
fn page_is_drawn_for_phones_and_desktops() {
    let proxy = Proxy::start(&Options::to(Backend::start().address));
    for (size, name) in [("390,2600", "phone"), ("1280,1600", "desktop")] {
        let file = proxy.folder().join(format!("{name}.png"));
        let screenshot = format!("--screenshot={}", file.display());
        chromium(&proxy, &[&screenshot, &format!("--window-size={size}"), "--virtual-time-budget=5000"]);
        let picture = std::fs::read(&file).unwrap();
        assert!(picture.starts_with(b"\x89PNG"), "{name}");
        // A page without content compresses to next to nothing.
        assert!(picture.len() > 20_000, "{name}: {} bytes", picture.len());
        // To be looked at.
        if let Some(folder) = std::env::var_os("SLUICE_TEST_SCREENSHOTS") {
            std::fs::copy(&file, Path::new(&folder).join(format!("{name}.png"))).unwrap();
        }
    }
}

#[test]
fn page_allows_nothing_but_its_own_style_and_script() {
    let proxy = Proxy::start(&Options::to(Backend::start().address));
    let (code, answer) = proxy.admin_request(&["--include"], "/");
    assert_eq!(code, 200);
    let head = answer.split("\r\n\r\n").next().unwrap().to_lowercase();
    assert!(head.contains("content-security-policy: default-src 'none'; style-src 'sha256-"), "{head}");
    assert!(head.contains("frame-ancestors 'none'") && !head.contains("unsafe"), "{head}");
    assert!(head.contains("content-type: text/html; charset=utf-8"), "{head}");
    assert!(head.contains("referrer-policy: no-referrer") && head.contains("nosniff"), "{head}");
}

/// Runs Chromium on the page, with a profile of its own, and without any of its own traffic.
fn chromium(proxy: &Proxy, arguments: &[&str]) -> std::process::Output {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new("timeout")
        .args(["90", "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(arguments)
        .arg(format!("http://{}/", proxy.admin()))
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("chromium: {error}: run `make test`, which installs it"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// The words of the body, one blank between them.
fn without_tags(dom: &str) -> String {
    let body = dom.split("<body>").nth(1).unwrap_or_default().split("<script>").next().unwrap_or_default();
    let mut text = String::new();
    for piece in body.split('<') {
        text.push(' ');
        text.push_str(piece.split_once('>').map_or(piece, |(_, words)| words));
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
