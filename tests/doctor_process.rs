//! `sluice doctor` as the operator runs it: both outputs, the exit status, and a configuration.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

#[path = "check_support/mod.rs"]
mod check_support;
mod doctor_support;

use std::process::Command;
use std::time::{Duration, SystemTime};

use check_support::{Folder, GOOD, certificate, ec_key, good_with};
use doctor_support::{Report, doctor, doctor_json};

#[test]
fn json_is_one_document_of_complete_findings() {
    let report = doctor_json(&[]);
    assert_eq!(report.json["schema_version"], 1);
    assert_eq!(report.json["sluice_version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(report.json["kernel_tls"]["kernel"], release());
    let subjects = ["kernel", "io_uring", "kernel_tls", "limits", "network", "cpu", "openssl"];
    for subject in subjects {
        assert!(report.findings().iter().any(|finding| finding["subject"] == subject), "{subject}: {}", report.json);
    }
    assert!(report.of_subject("configuration").is_empty());
}

#[test]
fn every_finding_that_is_not_ok_has_a_remedy_and_the_counts_add_up() {
    let folder = Folder::new();
    folder.write("sluice.toml", good_with("[listener.tls]", "kernel_tls = \"required\"\n[listener.tls]").as_bytes());
    let config = folder.path().join("sluice.toml");
    for report in [doctor_json(&[]), doctor_json(&["--config", config.to_str().unwrap()])] {
        let mut counts = std::collections::BTreeMap::new();
        for finding in report.findings() {
            let level = finding["level"].as_str().unwrap();
            *counts.entry(level.to_owned()).or_insert(0) += 1;
            assert!(!finding["found"].as_str().unwrap().is_empty(), "{finding}");
            match level {
                "ok" => assert!(finding["remedy"].is_null(), "{finding}"),
                _ => assert!(!finding["remedy"].as_str().unwrap().is_empty(), "{finding}"),
            }
        }
        for level in ["ok", "note", "warning", "broken"] {
            assert_eq!(report.json["counts"][level], counts.get(level).copied().unwrap_or(0), "{level}");
        }
        assert_eq!(report.code == 1, counts.contains_key("broken"), "{}", report.json);
    }
}

#[test]
fn text_says_the_same_as_json() {
    let report = doctor_json(&[]);
    let output = doctor(&[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(report.code));
    assert!(text.contains(&format!("Linux {}", release())), "{text}");
    assert!(!text.contains('\u{1b}'), "colours only on a terminal: {text}");
    let count = |level| report.json["counts"][level].as_u64().unwrap();
    let last = text.lines().last().unwrap();
    assert!(last.starts_with(&format!("{} broken, {} warning", count("broken"), count("warning"))), "{text}");
    let remedies = text.lines().filter(|line| line.trim_start().starts_with("remedy  ")).count() as u64;
    assert_eq!(remedies, count("note") + count("warning") + count("broken"), "{text}");
}

#[test]
fn good_configuration_is_judged_with_its_certificate() {
    let report = with_config(&Folder::new(), GOOD);
    let findings = report.of_subject("configuration");
    assert!(findings.iter().all(|finding| finding["level"] == "ok"), "{findings:?}");
    let certificate = report.find("certificate", Some("edge"));
    assert!(certificate["found"].as_str().unwrap().contains("2099-12-31T23:59:59Z"), "{certificate}");
    assert_eq!(report.code, 0, "{}", report.json);
}

#[test]
fn configuration_with_an_error_is_broken_with_its_line() {
    let report = with_config(&Folder::new(), &good_with("address =", "adress ="));
    assert_eq!((report.code, &report.json["verdict"]), (1, &"broken".into()));
    let finding = report.find("file", None);
    assert_eq!(finding["level"], "broken");
    assert!(finding["found"].as_str().unwrap().contains("sluice.toml:4:1: "), "{finding}");
    assert_eq!(finding["remedy"], "did you mean `address`?");
}

#[test]
fn configuration_that_cannot_be_read_is_broken() {
    let report = doctor_json(&["--config", "/nonexistent/sluice.toml"]);
    assert_eq!(report.code, 1);
    assert_eq!(report.find("file", None)["level"], "broken");
}

#[test]
fn certificate_that_ends_within_thirty_days_is_a_warning() {
    let folder = Folder::new();
    let key = ec_key();
    let end = SystemTime::now() + Duration::from_secs(29 * 24 * 3600);
    let end = humantime::format_rfc3339_seconds(end).to_string().replace(['-', ':', 'T'], "");
    folder.write("edge.crt", &certificate(&key, "20200101000000Z", &end).to_pem().unwrap());
    folder.write_key("edge.key", &key.private_key_to_pem_pkcs8().unwrap());
    let report = with_config(&folder, GOOD);
    let certificate = report.find("certificate", Some("edge"));
    assert_eq!(certificate["level"], "warning");
    assert!(certificate["found"].as_str().unwrap().contains("28 days left"), "{certificate}");
    assert_eq!(report.code, 0, "a warning is not a failure");
}

#[test]
fn descriptors_are_judged_against_the_configuration() {
    let folder = Folder::new();
    let text = format!("workers = {{ count = 1, connections_max = 1000 }}\n{GOOD}");
    folder.write("sluice.toml", text.as_bytes());
    let open_files = |limit: u32| {
        let script = format!("ulimit -n {limit} && exec \"$0\" doctor --json --config sluice.toml");
        let mut command = Command::new("sh");
        command.current_dir(folder.path()).args(["-c", &script, env!("CARGO_BIN_EXE_sluice")]);
        let report = Report::of(&command.output().unwrap());
        (report.find("open_files", None)["level"].as_str().unwrap().to_owned(), report.code)
    };
    assert_eq!(open_files(2256), ("ok".to_owned(), 0));
    assert_eq!(open_files(2255), ("warning".to_owned(), 0));
    assert_eq!(open_files(256), ("broken".to_owned(), 1));
}

fn with_config(folder: &Folder, text: &str) -> Report {
    folder.write("sluice.toml", text.as_bytes());
    doctor_json(&["--config", folder.path().join("sluice.toml").to_str().unwrap()])
}

fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim().to_owned()
}
