//! testssl.sh and sslyze look at a listener of each policy. Everything that they complain about is accepted here, with the
//! reason, or fails the test; and so does what is accepted and no longer said.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod pki_support;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pki_support::{Authority, Profile, Purpose};
use serde_json::Value;
use support::nginx::Nginx;
use support::proxy::{Options, Proxy};
use tempfile::TempDir;

/// How long one scan may take; on an idle machine it is a minute or two.
const SCAN_TIME_MAX: Duration = Duration::from_secs(900);

/// A complaint that is right and nothing that we would change, or that is about the test and not about the proxy.
struct Accepted {
    /// As the scanner names it.
    id: &'static str,
    occurs: Occurs,
    reason: &'static str,
}

/// How often a complaint is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Occurs {
    /// In each run: where it is gone, it is to be accepted no longer.
    Always,
    /// As it happens: the scanner's own doing.
    AtTimes,
}

/// What testssl.sh says of either policy.
const TESTSSL: &[Accepted] = &[
    Accepted {
        id: "engine_problem",
        occurs: Occurs::Always,
        reason: "of the scanner's own OpenSSL, which has no engine for GOST",
    },
    Accepted {
        id: "cert_expirationStatus",
        occurs: Occurs::Always,
        reason: "the certificate of the test is valid for 30 days",
    },
    Accepted { id: "cert_notAfter", occurs: Occurs::Always, reason: "the same, as a date" },
    Accepted {
        id: "cert_revocation",
        occurs: Occurs::Always,
        reason: "the authority of the test publishes neither lists nor answers; ocsp_stapling.rs is about the latter",
    },
    Accepted { id: "DNS_CAArecord", occurs: Occurs::Always, reason: "nobody can have a CAA record for localhost" },
    Accepted {
        id: "sessionresumption_ticket",
        occurs: Occurs::AtTimes,
        reason: "the scanner leaves before the tickets of TLS 1.3 come and has none to try; ticket_resumption.rs has",
    },
];

#[test]
fn testssl_has_nothing_to_say_of_modern_that_is_not_accepted() {
    check_testssl("modern");
}

#[test]
fn testssl_has_nothing_to_say_of_intermediate_that_is_not_accepted() {
    check_testssl("intermediate");
}

#[test]
fn sslyze_has_nothing_to_say_of_either_policy() {
    let nginx = Nginx::start();
    for policy in ["modern", "intermediate"] {
        let found = sslyze(policy, &Target::start(policy, &nginx));
        assert!(found.is_empty(), "sslyze complains about {policy}: {found:#?}");
    }
}

/// A listener to look at. Its certificate has everything that a public one has, but for the names of those who could be
/// asked about it.
struct Target {
    proxy: Proxy,
    folder: TempDir,
}

impl Target {
    fn start(policy: &'static str, nginx: &Nginx) -> Self {
        let folder = TempDir::new().unwrap();
        let authority = Authority::root("Servers");
        authority.write(folder.path(), "ca.pem");
        let profile = Profile::client("localhost").purpose(Purpose::Server).dns("localhost");
        let (chain, key) = authority.issue(&profile).write(folder.path(), "edge");
        let certificates = Some(format!("certificates = [ {{ chain = {chain:?}, key = {key:?} }} ]"));
        let proxy = Proxy::start(&Options { policy, certificates, ..Options::to([nginx.address()]) });
        Self { proxy, folder }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn place(&self) -> String {
        format!("localhost:{}", self.proxy.address().port())
    }
}

fn check_testssl(policy: &'static str) {
    let nginx = Nginx::start();
    let found = testssl(&Target::start(policy, &nginx));
    let mut unaccepted = found.clone();
    for Accepted { id, occurs, reason } in TESTSSL {
        let is_said = unaccepted.remove(*id).is_some();
        assert!(
            is_said || *occurs == Occurs::AtTimes,
            "{id} ({reason}) is accepted and not said of {policy}: {found:#?}"
        );
    }
    assert!(unaccepted.is_empty(), "testssl.sh complains about {policy}: {unaccepted:#?}");
}

/// What testssl.sh finds worse than in order, by its names, each with its severity and words.
fn testssl(target: &Target) -> BTreeMap<String, String> {
    let folder = TempDir::new().unwrap();
    let report = folder.path().join("report.json");
    let mut command = Command::new("testssl");
    command.args(["--quiet", "--color", "0", "--warnings", "off", "--ip", "127.0.0.1", "--add-ca"]).arg(target.ca());
    // Protocols, categories of suites, forward secrecy, the server's choice, its defaults, known holes. What is left out
    // takes minutes and says nothing more: each of 370 suites by itself, and how clients of ten years would fare.
    command.args(["-p", "-s", "-f", "-P", "-S", "-U", "--jsonfile"]).arg(&report);
    command.arg(target.place());
    let output = run(&mut command, folder.path());
    let report = fs::read(&report).unwrap_or_else(|error| panic!("no report: {error}\n{output}"));
    let findings: Vec<Value> = serde_json::from_slice(&report).unwrap();
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    // A scan that broke off has found nothing wrong, either.
    let last = findings.iter().any(|finding| finding["id"] == "scanTime");
    let saw_tls13 = findings.iter().any(|finding| finding["id"] == "TLS1_3" && finding["severity"] == "OK");
    assert!(last && saw_tls13 && findings.len() > 50, "the scan is not whole:\n{output}");
    let is_fine = |finding: &&Value| ["OK", "INFO", "DEBUG"].contains(&text(finding, "severity").as_str());
    let worse = findings.iter().filter(|finding| !is_fine(finding));
    let worse =
        worse.map(|finding| (text(finding, "id"), text(finding, "severity") + ": " + &text(finding, "finding")));
    worse.collect()
}

/// What sslyze finds wrong: where the listener differs from Mozilla's recommendation of the same name, and holes.
fn sslyze(policy: &str, target: &Target) -> Vec<String> {
    let folder = TempDir::new().unwrap();
    let report = folder.path().join("report.json");
    let python = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".cache/sslyze/bin/python");
    assert!(python.exists(), "sslyze is not installed: run `make test`, which installs it");
    let mut command = Command::new(python);
    command.args(["-m", "sslyze", "--mozilla_config", policy, "--certinfo_ca_file"]).arg(target.ca());
    command.arg("--json_out").arg(&report).arg(target.place());
    let output = run(&mut command, folder.path());
    let report: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    let scan = &report["server_scan_results"][0]["scan_result"];
    let mut found: Vec<String> = output
        .lines()
        .skip_while(|line| !line.contains("COMPLIANCE AGAINST"))
        .filter_map(|line| line.trim().strip_prefix("* "))
        .map(str::to_owned)
        .collect();
    if found.is_empty() && !output.contains("OK - Compliant") {
        found.push(format!("no verdict: {output}"));
    }
    for (check, field, good) in [
        ("heartbleed", "is_vulnerable_to_heartbleed", Value::Bool(false)),
        ("openssl_ccs_injection", "is_vulnerable_to_ccs_injection", Value::Bool(false)),
        ("robot", "robot_result", "NOT_VULNERABLE_RSA_NOT_SUPPORTED".into()),
        ("session_renegotiation", "supports_secure_renegotiation", Value::Bool(true)),
        ("session_renegotiation", "is_vulnerable_to_client_renegotiation_dos", Value::Bool(false)),
        ("tls_compression", "supports_compression", Value::Bool(false)),
        ("tls_fallback_scsv", "supports_fallback_scsv", Value::Bool(true)),
        ("tls_extended_master_secret", "supports_ems_extension", Value::Bool(true)),
    ] {
        let result = &scan[check]["result"][field];
        if *result != good {
            found.push(format!("{check}.{field} is {result}"));
        }
    }
    let deployment = &scan["certificate_info"]["result"]["certificate_deployments"][0];
    if deployment["received_chain_has_valid_order"] != Value::Bool(true) {
        found.push("the chain is out of order".to_owned());
    }
    found
}

/// Runs a scanner to its end and gives what it prints.
fn run(command: &mut Command, folder: &Path) -> String {
    let output = folder.join("output");
    let file = fs::File::create(&output).unwrap();
    command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).current_dir(folder);
    let mut child = support::process::spawn(command);
    let deadline = Instant::now() + SCAN_TIME_MAX;
    let text = || String::from_utf8_lossy(&fs::read(&output).unwrap_or_default()).into_owned();
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("the scan takes longer than {SCAN_TIME_MAX:?}:\n{}", text());
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    text()
}
