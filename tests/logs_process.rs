//! The log of the process itself: where it goes, what it holds, and what a reload changes of it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod run_support;

use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use run_support::{Backend, DEADLINE, Options, Port, Proxy, wait_until};
use serde_json::Value;

/// Waits until a line of the file holds these words.
fn wait_in(proxy: &Proxy, file: &Path, words: &str) -> String {
    let text = || std::fs::read_to_string(file).unwrap_or_default();
    let find = || text().lines().find(|line| line.contains(words)).map(str::to_owned);
    wait_until(&format!("{words:?} is in {}", file.display()), find, || format!("{}\n{}", text(), proxy.log().text()))
}

#[test]
fn file_has_lines_of_json_from_the_start_on_and_follows_a_rename() {
    let admin = Port::reserve();
    let options = Options {
        admin: format!("address = \"{}\"", admin.address),
        sections: "[log]\nformat = \"json\"\noutput = \"file:process.log\"".to_owned(),
        ..Options::to(Backend::start().address)
    };
    let mut proxy = Proxy::spawn(&options);
    let file = proxy.directory().join("process.log");
    let line = wait_in(&proxy, &file, "every worker accepts connections");
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["level"], &line["workers"]), (&"INFO".into(), &1.into()), "{line}");
    let text = std::fs::read_to_string(&file).unwrap();
    for line in text.lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }

    // A reload opens it anew, whenever it was renamed.
    std::fs::rename(&file, proxy.directory().join("process.log.1")).unwrap();
    proxy.signal(Signal::SIGHUP);
    wait_in(&proxy, &file, "\"reloaded\"");
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(std::fs::read_to_string(&file).unwrap().contains("every worker has ended"), "the last lines are written");
    assert_eq!(proxy.log().text(), "", "nothing of it is on standard error");
}

#[test]
fn reload_changes_level_and_output_and_names_what_it_cannot_change() {
    let sections = "[log]\nlevel = \"warn,sluice::server=info\"\noutput = \"stderr\"".to_owned();
    let prepared = Proxy::prepare(&Options { sections, ..Options::to(Backend::start().address) });
    // A folder that it is to write to only since a reload is out of reach otherwise.
    prepared.edit("[server]\n", "[server]\nsandbox = \"off\"\n");
    let proxy = prepared.run();
    proxy.log().wait_for("every worker accepts connections");
    let file = proxy.directory().join("process.log");
    proxy.edit("output = \"stderr\"", "output = \"file:process.log\"\nformat = \"json\"");
    proxy.edit("level = \"warn,sluice::server=info\"", "level = \"debug\"");
    let (code, body) = proxy.reload();
    assert!(code == 200 && body.contains("log.format has changed"), "{code} {body}");
    wait_in(&proxy, &file, "reloaded cause=admin");
    // What only the new level lets through.
    drop(std::net::TcpStream::connect(proxy.address()).unwrap());
    wait_in(&proxy, &file, "connection closed");
    assert!(!proxy.log().text().contains("connection closed"));
    proxy.edit("level = \"debug\"", "level = \"sluice=loud\"");
    let (code, body) = proxy.reload();
    assert!(code == 422 && body.contains("invalid value for `log.level`"), "{code} {body}");
}

#[test]
fn command_line_goes_before_the_configuration_and_stays_so() {
    let sections = "[log]\nlevel = \"error\"\nformat = \"json\"".to_owned();
    let arguments = vec!["--log-level", "info", "--log-format", "text"];
    let proxy = Proxy::start(&Options { sections, arguments, ..Options::to(Backend::start().address) });
    let line = proxy.log().wait_for("every worker accepts connections");
    assert!(!line.starts_with('{'), "{line}");
    proxy.edit("level = \"error\"", "level = \"off\"");
    assert_eq!(proxy.reload().0, 200);
    proxy.log().wait_for("reloaded cause=admin");
}

#[test]
fn journal_and_syslog_get_the_severity_of_each_line() {
    let folder = tempfile::tempdir().unwrap();
    let journal = UnixDatagram::bind(folder.path().join("journal")).unwrap();
    let syslog = UdpSocket::bind("127.0.0.1:0").unwrap();
    journal.set_read_timeout(Some(DEADLINE)).unwrap();
    syslog.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut buffer = [0; 8192];
    let outputs = [
        format!("journald:{}", folder.path().join("journal").display()),
        format!("syslog+udp:{}", syslog.local_addr().unwrap()),
    ];
    for (turn, output) in outputs.iter().enumerate() {
        let mut receive = |words: &str| loop {
            let len = if turn == 0 { journal.recv(&mut buffer) } else { syslog.recv(&mut buffer) };
            let text = String::from_utf8_lossy(&buffer[..len.unwrap()]).into_owned();
            if text.contains(words) {
                return text;
            }
        };
        let admin = Port::reserve();
        let options = Options {
            admin: format!("address = \"{}\"", admin.address),
            sections: format!("[log]\noutput = \"{output}\""),
            ..Options::to(Backend::start().address)
        };
        let proxy = Proxy::spawn(&options);
        let good = receive("every worker accepts connections");
        proxy.edit("connections_max = 1000", "connections_max = 0");
        proxy.signal(Signal::SIGHUP);
        let bad = receive("reload refused");
        let begins = match turn {
            0 => ["PRIORITY=6\nSYSLOG_IDENTIFIER=sluice\nSLUICE_LOG=process\n", "PRIORITY=3\n"],
            _ => ["<30>1 ", "<27>1 "],
        };
        assert!(good.starts_with(begins[0]) && bad.starts_with(begins[1]), "{good}\n{bad}");
        assert!(turn == 0 || good.contains(&format!(" sluice {} process - ", proxy.pid())), "{good}");
    }
}

#[test]
fn output_that_is_full_is_told_on_standard_error_once_and_stops_nobody() {
    let backend = Backend::start();
    let admin = Port::reserve();
    let options = Options {
        admin: format!("address = \"{}\"", admin.address),
        sections: "[log]\noutput = \"file:/dev/full\"".to_owned(),
        ..Options::to(backend.address)
    };
    let proxy = Proxy::spawn(&options);
    let line = proxy.log().wait_for("log output failed");
    assert!(line.contains("log=\"process\"") && line.contains("No space left on device"), "{line}");
    let get = |path: &str| {
        let output = Command::new("curl").args(["--silent", &format!("http://{}{path}", admin.address)]).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    wait_until("it serves", || (get("/readyz") == "ok\n").then_some(()), || proxy.log().text());
    let lost =
        run_support::openmetrics::value(&get("/metrics"), "sluice_log_lines_total{log=\"process\",result=\"lost\"}");
    assert!(lost > Some(5.0), "{lost:?}");
    assert_eq!(proxy.log().text().lines().count(), 1, "{}", proxy.log().text());
}
