//! The comparison from outside: configurations that the peers accept, a short real run, and the report.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sluice_loadtest::compare::certificate::{self, KeyType};
use sluice_loadtest::compare::instance::{self, Ground, Instance};
use sluice_loadtest::compare::probe::probe_until_it_answers;
use sluice_loadtest::compare::proxy::{self, Candidate, Product, Search};
use sluice_loadtest::compare::ratio;
use sluice_loadtest::compare::schema::{Comparison, Figure, Tickets};
use sluice_loadtest::plan::TlsVersion;
use sluice_loadtest::report;

fn peers() -> Vec<Candidate> {
    let (found, _) = proxy::discover(&Search::default());
    let found: Vec<Candidate> = found.into_iter().filter(|one| one.product != Product::Sluice).collect();
    if found.is_empty() {
        eprintln!("skipped: no peer is installed");
    }
    found
}

fn sluice_load(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice-load"));
    command.args(arguments);
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Processes whose command line or environment names `needle`.
fn processes_naming(needle: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let text = [read("cmdline"), read("environ")].concat();
        if String::from_utf8_lossy(&text).contains(needle) {
            found.push(format!("{}: {}", entry.path().display(), String::from_utf8_lossy(&read("cmdline"))));
        }
    }
    found
}

#[test]
fn configuration_of_every_found_peer_passes_its_own_check() {
    let directory = tempfile::tempdir().unwrap();
    for key_type in [KeyType::EcdsaP256, KeyType::Rsa2048] {
        let identity = certificate::create(directory.path(), key_type).unwrap();
        for candidate in peers() {
            for tickets in [Tickets::On, Tickets::Off] {
                let backend = SocketAddr::from(([127, 0, 0, 1], 9));
                let ground = Ground { directory: directory.path(), backend, proxy_cpu: 0 };
                instance::check(&candidate, &ground, &identity, tickets)
                    .unwrap_or_else(|error| panic!("{} {key_type:?} {tickets:?}: {error:#}", candidate.name));
            }
        }
    }
}

#[test]
fn every_found_peer_serves_with_the_asked_ticket_setting_and_is_gone_afterwards() {
    let directory = tempfile::tempdir().unwrap();
    let identity = certificate::create(directory.path(), KeyType::EcdsaP256).unwrap();
    let backend = answering_backend();
    let cpu = *sluice_loadtest::compare::process::allowed_cpus().unwrap().first().unwrap();
    let ground = Ground { directory: directory.path(), backend, proxy_cpu: cpu };
    for candidate in peers() {
        for (tickets, expected) in [(Tickets::On, Some(2)), (Tickets::Off, Some(0))] {
            let instance = Instance::start(&candidate, &ground, &identity, tickets).unwrap();
            let tls13 = probe_until_it_answers(instance.address, &identity.chain, TlsVersion::Tls13).unwrap();
            assert_eq!((tls13.tickets, tls13.resumes), (expected, tickets == Tickets::On), "{}", candidate.name);
            let tls12 = probe_until_it_answers(instance.address, &identity.chain, TlsVersion::Tls12).unwrap();
            assert_eq!(tls12.tickets, None);
            assert!(tls12.resumes || tickets == Tickets::Off, "{} must resume TLS 1.2", candidate.name);
        }
    }
    // OPENSSL_CONF of every started process names the directory.
    let needle = directory.path().display().to_string();
    assert_eq!(processes_naming(&needle), Vec::<String>::new());
}

#[test]
fn short_comparison_of_two_peers_writes_valid_files_and_leaves_no_process() {
    let Some(only) = two_peers() else { return };
    let out = tempfile::tempdir().unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let output = sluice_load(&["compare", "--rounds", "2", "--seconds", "0.3", "--warmup", "0.1"])
        .args(["--scenarios", "request,handshake-tls13", "--only", &only, "--subject", only.split(',').next().unwrap()])
        .arg("--out")
        .arg(out.path())
        .env("TMPDIR", temporary.path())
        .output()
        .unwrap();
    // 1 is a doubt about a ratio, which a busy machine may well cause in runs this short.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", text(&output));

    let comparison = report::read(&out.path().join("compare.json")).unwrap();
    assert_eq!(comparison.scenarios.len(), 2, "{}", text(&output));
    assert_eq!(comparison.proxies.len(), 2);
    for scenario in &comparison.scenarios {
        let order: Vec<(usize, &str)> = scenario.runs.iter().map(|run| (run.round, run.proxy.as_str())).collect();
        let names: Vec<&str> = comparison.proxies.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(order, [(1, names[0]), (1, names[1]), (2, names[0]), (2, names[1])], "in alternation");
        for run in &scenario.runs {
            assert_eq!(run.failure, None);
            let result = run.result.as_ref().unwrap();
            assert!(result.work.count > 0 && result.work.per_target_cpu_second.is_some(), "{result:?}");
            assert_eq!(result.tls.as_ref().unwrap().suite, "TLS_AES_128_GCM_SHA256");
        }
    }
    let page = fs::read_to_string(out.path().join("index.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    assert!(fs::read_to_string(out.path().join("table.md")).unwrap().contains("## handshake-tls13"));
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "the temporary directory is removed");
    assert_eq!(processes_naming(&temporary.path().display().to_string()), Vec::<String>::new());
}

#[test]
fn interrupted_comparison_writes_what_it_has_and_leaves_no_process() {
    let Some(only) = two_peers() else { return };
    let out = tempfile::tempdir().unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let needle = temporary.path().display().to_string();
    let mut child = sluice_load(&["compare", "--rounds", "500", "--seconds", "0.2", "--scenarios", "request"])
        .args(["--only", &only, "--out"])
        .arg(out.path())
        .env("TMPDIR", temporary.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let first_run = lines.find(|line| line.as_ref().unwrap().starts_with("[1/1000] request"));
    assert!(first_run.is_some(), "a line for each finished run");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let _remaining_lines = lines.by_ref().count();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let comparison = report::read(&out.path().join("compare.json")).unwrap();
    assert!(comparison.interrupted);
    assert!(!comparison.scenarios.first().unwrap().runs.is_empty());
    assert_eq!(processes_naming(&needle), Vec::<String>::new());
}

#[test]
fn proxy_that_cannot_start_is_left_out_with_its_reason() {
    let Some(only) = two_peers() else { return };
    let out = tempfile::tempdir().unwrap();
    let working = only.split(',').next().unwrap();
    let output =
        sluice_load(&["compare", "--rounds", "1", "--seconds", "0.1", "--warmup", "0", "--scenarios", "request"])
            .args(["--peer-binary", "hitch-broken=/bin/false", "--only", &format!("{working},hitch-broken"), "--out"])
            .arg(out.path())
            .output()
            .unwrap();
    let comparison =
        report::read(&out.path().join("compare.json")).unwrap_or_else(|error| panic!("{error:#}: {}", text(&output)));
    let absent = comparison.absent.iter().find(|absent| absent.name == "hitch-broken").unwrap();
    assert!(absent.reason.contains("refuses its configuration"), "{}", absent.reason);
    assert_eq!(comparison.proxies.len(), 1);
}

#[test]
fn plan_names_proxies_scenarios_and_time_and_starts_nothing() {
    if peers().is_empty() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let output = sluice_load(&["plan", "--rounds", "2"]).env("TMPDIR", temporary.path()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let text = text(&output);
    for expected in ["transfer-down", "tail", "2 rounds", "About "] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    assert!(peers().iter().all(|peer| text.contains(&peer.name)), "{text}");
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn unknown_proxy_or_scenario_is_refused_with_the_known_ones() {
    for (arguments, expected) in [
        (["plan", "--scenarios", "nonsense"], "handshake-tls13"),
        (["plan", "--only", "nonsense"], "nonsense"),
        (["plan", "--rounds", "0"], "1..=1000"),
        (["plan", "--seconds", "nan"], "between"),
        (["plan", "--peer-binary", "envoy=/x"], "haproxy"),
    ] {
        let output = sluice_load(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output).contains(expected), "{}", text(&output));
    }
}

#[test]
fn golden_comparison_concludes_the_same_again() {
    // Nine digits: the JSON parser may be off in the last bit of a number.
    let digits = |comparison: &Comparison| format!("{comparison:.9?}");
    let mut comparison = golden();
    for scenario in &mut comparison.scenarios {
        ratio::conclude(scenario, &comparison.proxies, comparison.settings.rounds);
    }
    if std::env::var_os("SLUICE_UPDATE_GOLDEN").is_some() {
        fs::write(golden_path(), serde_json::to_string(&comparison).unwrap() + "\n").unwrap();
    }
    assert!(digits(&comparison) == digits(&golden()), "SLUICE_UPDATE_GOLDEN=1 writes the file anew");
}

#[test]
fn report_of_the_golden_comparison_shows_losing_and_refused_rows() {
    let comparison = golden();
    let table = report::table::markdown(&comparison);
    for row in [
        "| transfer-down | MB per CPU-second | 2,000 | 800 nginx-stream | 2.49 (2.44 to 2.53) | ahead |",
        "| request | requests per CPU-second | 55,000 | 60,500 nginx-stream | 0.92 (0.89 to 0.93) | **behind** |",
        "| resume-tls13 | handshakes per CPU-second | 4,100 | 4,300 nginx-stream | - | not believed |",
        "| idle | KiB per idle connection | 4.30 | 19.0 haproxy-tcp | 4.43 (4.42 to 4.44) | ahead |",
        "| tail | p99 latency, ms | 2.10 | 2.10 nginx-stream | 1.05 (0.95 to 1.05) | level |",
    ] {
        assert!(table.contains(row), "{row}\nnot in\n{table}");
    }
    assert!(table.contains("- handshake-tls13: sluice against haproxy-tcp: 0 believable rounds, 2 are needed"));
    assert!(table.contains("- stunnel: no program stunnel on PATH"));
    assert!(table.contains("| Kernel | Linux 6.18.44 x86_64, Debian GNU/Linux 12 (bookworm) |"));

    let page = report::page::page(&comparison).unwrap();
    assert!(page.contains("class=\"name behind\">behind"));
    assert!(page.contains("&lt;bad&gt; &amp; broken"), "text of others is escaped");
    assert!(!page.contains("<bad>") && !page.contains("<script") && !page.contains("http-equiv"));
    let external: BTreeSet<&str> =
        page.match_indices("http").map(|(at, _)| &page[at..(at + 26).min(page.len())]).collect();
    assert!(external.iter().all(|link| link.starts_with("http://www.w3.org/2000/svg")), "self-contained: {external:?}");
    assert_eq!(page.matches("<svg role=\"img\"").count(), 1 + comparison.scenarios.len() + 1);
}

#[test]
fn report_command_draws_an_old_comparison_anew_and_refuses_another_schema() {
    let out = tempfile::tempdir().unwrap();
    let from = golden_path();
    let output = sluice_load(&["report", "--from"]).arg(&from).arg("--out").arg(out.path()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(out.path().join("index.html").is_file());
    let written = report::read(&out.path().join("compare.json")).unwrap();
    assert!(format!("{written:.9?}") == format!("{:.9?}", golden()));

    let other = out.path().join("other.json");
    fs::write(&other, "{\"schema_version\": 99}").unwrap();
    let output = sluice_load(&["report", "--from"]).arg(&other).arg("--out").arg(out.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output).contains("schema version Some(99)") || text(&output).contains("schema version 99"),
        "{}",
        text(&output)
    );
}

#[test]
fn figures_of_the_golden_runs_are_what_their_scenarios_compare() {
    for scenario in golden().scenarios {
        let result = scenario.runs.iter().find_map(|run| run.result.clone()).unwrap();
        let expected = match scenario.figure {
            Figure::PssPerConnection => result.target_cost.unwrap().pss_per_connection_bytes,
            Figure::LatencyP99 => result.latency.map(|latency| latency.p99),
            _ => result.work.per_target_cpu_second,
        };
        assert_eq!(scenario.figure.of(&result), expected);
    }
}

fn golden_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/compare.json")
}

fn golden() -> Comparison {
    report::read(&golden_path()).unwrap()
}

/// Names of two installed proxies, joined by a comma.
fn two_peers() -> Option<String> {
    let peers = peers();
    let names: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).filter(|name| *name != "stunnel").collect();
    Some([*names.first()?, *names.get(1)?].join(","))
}

/// A plain HTTP server that answers every request of a probe and ends with the test process.
fn answering_backend() -> SocketAddr {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            std::thread::spawn(move || {
                let mut request = Vec::new();
                let mut bytes = [0; 1024];
                while !request.ends_with(b"\r\n\r\n") {
                    match socket.read(&mut bytes) {
                        Ok(count) if count > 0 => request.extend_from_slice(&bytes[..count]),
                        _ => return,
                    }
                }
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx");
            });
        }
    });
    address
}

#[test]
fn every_field_of_the_stored_comparison_is_documented() {
    fn keys(value: &serde_json::Value, found: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Object(map) => {
                for (key, value) in map {
                    found.insert(key.clone());
                    keys(value, found);
                }
            }
            serde_json::Value::Array(list) => list.iter().for_each(|value| keys(value, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    keys(&serde_json::to_value(golden()).unwrap(), &mut found);
    let schema = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("SCHEMA.md")).unwrap();
    // Numbers of a doubt depend on its kind; result.rs lists them.
    let undocumented: Vec<_> =
        found.iter().filter(|key| !schema.contains(&format!("`{key}`")) && *key != "cpu_share").collect();
    assert!(undocumented.is_empty(), "not in SCHEMA.md: {undocumented:?}");
}
