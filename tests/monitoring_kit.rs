//! Rules and dashboard of `tuning/monitoring`: they name what exists, each alert is tested and explained, and a real
//! Prometheus that scrapes a real proxy evaluates all of it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod run_support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use run_support::{Backend, Options, Proxy, wait_until};
use serde_json::Value;
use sluice::telemetry::catalog::{self, LabelValues};
use tempfile::TempDir;

#[test]
fn rules_are_good_and_their_tests_pass() {
    for arguments in [&["check", "rules", "rules.yml"][..], &["test", "rules", "rules.test.yml"]] {
        let output = Command::new("promtool").args(arguments).current_dir(folder()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    }
    let output = Command::new("promtool").args(["check", "config", "prometheus.yml"]).current_dir(folder()).output();
    assert!(output.as_ref().unwrap().status.success(), "{}", text(&output.unwrap()));
}

#[test]
fn every_alert_has_a_test_that_fires_one_that_does_not_and_a_page() {
    let tests = read("rules.test.yml");
    let page = root_file("docs/operating/troubleshooting.md");
    for alert in alerts() {
        assert!(tests.contains(&format!("name: {alert} fires\n")), "no test sets off {alert}");
        assert!(tests.contains(&format!("name: {alert} stays quiet\n")), "no test leaves {alert} quiet");
        assert!(page.contains(&format!("### {alert}\n")), "docs/operating/troubleshooting.md has no entry {alert}");
    }
    let known = alerts();
    let explained = page.lines().filter_map(|line| line.strip_prefix("### Sluice"));
    let gone: Vec<_> = explained.filter(|rest| !known.contains(&format!("Sluice{rest}"))).collect();
    assert!(gone.is_empty(), "docs/operating/troubleshooting.md explains alerts that do not exist: {gone:?}");
}

#[test]
fn every_metric_and_label_in_rules_and_dashboard_exists() {
    let metrics: BTreeMap<_, _> = catalog::all().into_iter().map(|metric| (metric.sample_name(), metric)).collect();
    let recorded: BTreeSet<_> = values_of("record").into_iter().collect();
    for expression in expressions() {
        for Selector { name, labels } in selectors(&expression) {
            if recorded.contains(&name) || name == "up" {
                continue;
            }
            let metric = metrics.get(&name).unwrap_or_else(|| panic!("{name} does not exist: {expression}"));
            for (label, values) in labels {
                if ["instance", "job"].contains(&label.as_str()) {
                    continue;
                }
                let set = metric.labels.iter().find(|set| set.name == label);
                let set = set.unwrap_or_else(|| panic!("{name} has no label {label}: {expression}"));
                let LabelValues::Closed(known) = &set.values else { continue };
                for value in values.split('|').filter(|value| !value.contains(['*', '$'])) {
                    assert!(known.contains(&value), "{name} has no {label}=\"{value}\": {expression}");
                }
            }
        }
    }
}

#[test]
fn selectors_are_found_in_an_expression() {
    let found = selectors("sum by (reason) (rate(sluice_a_total{x!~\"b|c\",y=\"d\"}[5m])) / a:sluice_b:ratio > up{}");
    let names: Vec<_> = found.iter().map(|selector| selector.name.as_str()).collect();
    assert_eq!(names, ["sluice_a_total", "a:sluice_b:ratio", "up"]);
    assert_eq!(found[0].labels, [("x".to_owned(), "b|c".to_owned()), ("y".to_owned(), "d".to_owned())]);
}

#[test]
fn prometheus_scrapes_every_metric_and_evaluates_every_rule_and_panel() {
    let proxy = Proxy::start(&Options::to(Backend::start().address));
    let prometheus = Prometheus::scraping(proxy.admin());
    prometheus
        .wait_for("the proxy is scraped", "/query", "up{job=\"sluice\"}", |data| data["result"][0]["value"][1] == "1");
    for metric in catalog::all() {
        let name = metric.sample_name();
        // What workers and listeners make is there once they are; what has labels of the process may have no series.
        let is_fixed = metric.labels.iter().all(|label| matches!(label.values, LabelValues::Closed(_)));
        let data = prometheus.get("/query", &name);
        let count = data["result"].as_array().unwrap().len();
        assert!(count > 0 || !is_fixed, "Prometheus has no {name}");
    }
    for expression in expressions() {
        let expression = expression.replace("$instance", ".*").replace("$__rate_interval", "5m");
        // Fails where Prometheus does not understand it.
        prometheus.get("/query", &expression);
    }
    let is_evaluated = |data: &Value| {
        let groups = data["groups"].as_array().unwrap();
        let mut rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
        !groups.is_empty() && rules.all(|rule| rule["health"] == "ok")
    };
    let rules = prometheus.wait_for("every rule is evaluated", "/rules", "", is_evaluated);
    let firing = rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    let firing: Vec<_> = firing.filter(|rule| rule["state"] == "firing").map(|rule| &rule["name"]).collect();
    assert!(firing.is_empty(), "alerts on a proxy that is well: {firing:?}");
}

/// A Prometheus of the test's own; dropped, it is killed.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Prometheus {
    /// Takes the rules and the scrape of `tuning/monitoring`, with the address and a shorter interval.
    fn scraping(target: SocketAddr) -> Self {
        let own = TempDir::new().unwrap();
        let config = read("prometheus.yml")
            .replace("127.0.0.1:9180", &target.to_string())
            .replace("scrape_interval: 15s", "scrape_interval: 1s\n  evaluation_interval: 1s");
        fs::write(own.path().join("prometheus.yml"), config).unwrap();
        fs::copy(folder().join("rules.yml"), own.path().join("rules.yml")).unwrap();
        let mut child = Command::new("prometheus")
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.listen-address=127.0.0.1:0"])
            .current_dir(own.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains("Listening on")).expect("Prometheus says where it listens");
        // Its log must be read, or it stops when the pipe is full.
        thread::spawn(move || lines.for_each(drop));
        let (_, rest) = line.split_once("address=").unwrap();
        let address = rest.split_whitespace().next().unwrap().parse().unwrap();
        Self { child, address, _folder: own }
    }

    /// The data of an answer that is no error.
    fn get(&self, path: &str, query: &str) -> Value {
        let answer = self.try_get(path, query);
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"].clone()
    }

    fn try_get(&self, path: &str, query: &str) -> Value {
        let output = Command::new("curl")
            .args(["--silent", "--get", "--max-time", "20", "--data-urlencode", &format!("query={query}")])
            .arg(format!("http://{}/api/v1{path}", self.address))
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// The data of the first answer that is as wanted.
    fn wait_for(&self, what: &str, path: &str, query: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let look = || {
            let answer = self.try_get(path, query);
            (answer["status"] == "success" && is_wanted(&answer["data"])).then(|| answer["data"].clone())
        };
        wait_until(what, look, || self.try_get(path, query).to_string())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A metric as an expression names it.
struct Selector {
    name: String,
    /// Names with the value or the alternatives that they are compared with.
    labels: Vec<(String, String)>,
}

/// Every expression of the rules and of the dashboard's panels.
fn expressions() -> Vec<String> {
    let mut found = values_of("expr");
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            found.push(target["expr"].as_str().unwrap().to_owned());
        }
    }
    assert!(found.len() > 50, "{}", found.len());
    found
}

fn alerts() -> Vec<String> {
    values_of("alert")
}

/// The values of a key in the rules. A folded text (`>-`) goes on while its lines are indented further.
fn values_of(key: &str) -> Vec<String> {
    let rules = read("rules.yml");
    let mut lines = rules.lines().peekable();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let indent = |line: &str| line.len() - line.trim_start().len();
        let Some(value) = line.trim_start().trim_start_matches("- ").strip_prefix(&format!("{key}: ")) else {
            continue;
        };
        let mut value = value.to_owned();
        if value == ">-" {
            value.clear();
            while let Some(next) = lines.next_if(|next| indent(next) > indent(line)) {
                value = value + " " + next.trim();
            }
        }
        found.push(value.trim().to_owned());
    }
    found
}

/// What an expression reads: names that start with `sluice_`, hold a colon, or are `up`.
fn selectors(expression: &str) -> Vec<Selector> {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find(is_letter) {
        let tail = &rest[start..];
        let end = tail.find(|c| !is_letter(c)).unwrap_or(tail.len());
        let (name, behind) = tail.split_at(end);
        rest = behind;
        let body = behind.strip_prefix('{').and_then(|body| body.split_once('}'));
        if name.starts_with("sluice_") || name.contains(':') || name == "up" {
            let labels = body.map(|(labels, _)| labels_of(labels)).unwrap_or_default();
            found.push(Selector { name: name.to_owned(), labels });
        }
        if let Some((_, behind)) = body {
            rest = behind;
        }
    }
    found
}

fn labels_of(text: &str) -> Vec<(String, String)> {
    let parts = text.split("\",").filter(|part| !part.is_empty());
    let label = |part: &str| {
        let end = part.find(['=', '!']).unwrap();
        let value = part[end..].trim_start_matches(['=', '!', '~', '"']).trim_end_matches('"');
        (part[..end].trim().to_owned(), value.to_owned())
    };
    parts.map(label).collect()
}

fn read(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap()
}

fn root_file(path: &str) -> String {
    fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tuning/monitoring")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
