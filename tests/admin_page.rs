//! The status page in a real browser: Chromium without a window runs the page's script and shows what it made.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod browser_support;
mod run_support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use browser_support::Browser;
use run_support::{Backend, Options, Proxy, text_of};
use serde_json::json;

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

/// What holds when the page has its first figures.
const IS_READY: &str =
    "document.getElementById('phase')?.textContent === 'serving' && document.querySelectorAll('.tile').length > 3";

/// Every text of the page whose contrast with what is behind it is below 4.5 (WCAG 2.1, 1.4.3; 3 for large text), as an array.
const TOO_FAINT: &str = r#"(() => {
  const parse = (color) => { const [r, g, b, a] = color.match(/[\d.]+/g).map(Number); return { r, g, b, a: a === undefined ? 1 : a }; };
  const light = ({ r, g, b }) => [r, g, b].map((part) => part / 255)
    .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.a > 0) return color;
    }
    return { r: 255, g: 255, b: 255, a: 1 };
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim() !== "");
    if (!own || element.closest(".hidden, .skip, script, noscript") || element.getClientRects().length === 0) continue;
    const style = getComputedStyle(element);
    const [one, other] = [light(parse(style.color)), light(behind(element))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    const size = parseFloat(style.fontSize);
    if (contrast < (size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5)) {
      found.push(element.tagName + " " + element.textContent.trim().slice(0, 40) + ": " + contrast.toFixed(2));
    }
  }
  return found;
})()"#;

#[test]
fn page_is_legible_on_phones_and_desktops_in_light_and_dark() {
    let backend = Backend::start();
    let proxy = Proxy::start(&Options { cpus: "0,1", ..Options::to(backend.address) });
    // Something of everything that has a colour of its own.
    backend.proceed();
    assert!(proxy.curl(&["--output", "/dev/null"]).status().unwrap().success());
    let mut plain = TcpStream::connect(proxy.address()).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let _ = plain.read_to_end(&mut Vec::new());
    let mut browser = Browser::start();
    let url = format!("http://{}/", proxy.admin());
    for (size, device) in [((390, 844), "phone"), ((1280, 900), "desktop")] {
        for scheme in ["light", "dark"] {
            let name = format!("{device}-{scheme}");
            browser.show(&url, size, scheme, IS_READY);
            assert_eq!(browser.evaluate(TOO_FAINT), json!([]), "{name}");
            let background = browser.evaluate("getComputedStyle(document.body).backgroundColor");
            let is_dark = background == json!("rgb(15, 21, 27)");
            assert_eq!(is_dark, scheme == "dark", "{name}: {background}");
            let width = browser.evaluate("document.documentElement.scrollWidth");
            assert_eq!(width, json!(size.0), "{name}: the page is wider than its window");
            let picture = browser.picture();
            assert!(picture.starts_with(b"\x89PNG"), "{name}");
            // A page without content compresses to next to nothing.
            assert!(picture.len() > 20_000, "{name}: {} bytes", picture.len());
            // To be looked at.
            if let Some(folder) = std::env::var_os("SLUICE_TEST_SCREENSHOTS") {
                std::fs::write(Path::new(&folder).join(format!("{name}.png")), &picture).unwrap();
            }
        }
    }
}

#[test]
fn page_is_used_by_the_keyboard_alone() {
    let proxy = Proxy::start(&Options::to(Backend::start().address));
    let mut browser = Browser::start();
    browser.show(&format!("http://{}/", proxy.admin()), (1280, 900), "light", IS_READY);
    let focus = "(document.activeElement.textContent || document.activeElement.ariaLabel || '').trim()";
    let tab = |browser: &mut Browser| browser.press("Tab", 9, "");

    // The first stop skips what is above the figures, and can be seen while it is there.
    tab(&mut browser);
    assert_eq!(browser.evaluate(focus), json!("Skip to the figures"));
    assert_eq!(browser.evaluate("document.activeElement.getBoundingClientRect().left >= 0"), json!(true));
    browser.press("Enter", 13, "\r");
    assert_eq!(browser.evaluate("document.activeElement.id"), json!("main"));

    browser.evaluate("document.activeElement.blur()");
    browser.show(&format!("http://{}/", proxy.admin()), (1280, 900), "light", IS_READY);
    tab(&mut browser);
    tab(&mut browser);
    assert_eq!(browser.evaluate(focus), json!("Pause"));
    let outline = "getComputedStyle(document.activeElement).outlineStyle";
    assert_eq!(browser.evaluate(outline), json!("solid"), "where the focus is can be seen");
    browser.press("Enter", 13, "\r");
    assert_eq!(browser.evaluate(focus), json!("Resume"));
    assert_eq!(browser.evaluate("document.activeElement.ariaPressed"), json!("true"));
    browser.press(" ", 32, " ");
    assert_eq!(browser.evaluate(focus), json!("Pause"));

    // Behind it every table that may scroll, then the links.
    let mut stops = Vec::new();
    for _ in 0..40 {
        tab(&mut browser);
        let stop = browser.evaluate("document.activeElement.getAttribute('href') || document.activeElement.ariaLabel");
        stops.push(stop.as_str().unwrap_or_default().to_owned());
        if stops.last().is_some_and(|stop| stop == "/readyz") {
            break;
        }
    }
    for wanted in ["Workers", "Listeners and certificates", "/status", "/config", "/metrics", "/livez", "/readyz"] {
        assert!(stops.iter().any(|stop| stop == wanted), "{wanted} cannot be reached: {stops:?}");
    }

    // New figures take the focus from nobody.
    let table = "document.querySelector('[aria-label=\"Workers\"]')";
    browser.evaluate(&format!("window.before = {table}; window.before.focus()"));
    let is_redrawn = format!("window.before !== {table}");
    let is_redrawn_within = |browser: &mut Browser| {
        (0..200).any(|_| {
            std::thread::park_timeout(Duration::from_millis(50));
            browser.evaluate(&is_redrawn) == json!(true)
        })
    };
    assert!(is_redrawn_within(&mut browser));
    assert_eq!(browser.evaluate(&format!("document.activeElement === {table}")), json!(true));
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
