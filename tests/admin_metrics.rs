//! The metrics as a public surface: catalogue, exposition and reference page say the same.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

#[path = "run_support/openmetrics.rs"]
mod openmetrics;

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use sluice::telemetry::catalog::{self, LabelValues, MetricKind};
use sluice::telemetry::exposition::Exposition;
use sluice::telemetry::{
    Configuration, ExpiryKind, ExpiryView, GenerationCell, KernelTlsView, ListenerView, PhaseCell, Process, ReloadView,
    SnapshotView, WorkerStateCell, WorkerView,
};
use sluice::ticket::{Keeper, RingShape, Source};

const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");

#[test]
fn reference_page_lists_the_catalogue() {
    let rendered = render();
    if std::env::var_os("SLUICE_WRITE_DOCS").is_some() {
        std::fs::write(REFERENCE, &rendered).unwrap();
    }
    let page = std::fs::read_to_string(REFERENCE).unwrap_or_default();
    assert!(page == rendered, "docs/metrics.md is stale: run SLUICE_WRITE_DOCS=1 cargo test --test admin_metrics");
}

#[test]
fn exposition_is_valid_and_holds_every_metric_of_the_catalogue() {
    let text = Exposition::new(Arc::new(process())).encode().unwrap();
    let families = openmetrics::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(openmetrics::value(&text, "sluice_workers{state=\"starting\"}"), Some(3.0));
    let metrics = catalog::all();
    assert_eq!(families.len(), metrics.len());
    for metric in metrics {
        let name = metric.sample_name();
        let family = families
            .values()
            .find(|family| family.samples.iter().any(|(sample, _)| sample.split('{').next() == Some(name.as_str())));
        let family = family.unwrap_or_else(|| panic!("{name} is not exposed"));
        assert_eq!(family.help, metric.help);
        assert_eq!(family.unit.as_deref(), metric.unit.as_ref().map(|unit| unit.as_str()));
    }
}

#[test]
fn checker_refuses_what_the_format_forbids() {
    let good = "# HELP a_b Help\n# TYPE a_b counter\na_b_total{x=\"1\"} 2\n# EOF\n";
    assert!(openmetrics::parse(good).is_ok());
    for (from, to) in [
        ("# EOF\n", ""),
        ("counter", "meter"),
        ("a_b_total", "a_b"),
        ("} 2", "} -2"),
        ("} 2", "} two"),
        ("{x=\"1\"}", "{}"),
        ("{x=\"1\"}", "{x=\"1\",x=\"2\"}"),
        ("\"1\"", "\"1\\q\""),
        ("\"1\"", "\"1"),
        ("# HELP a_b Help\n", ""),
        ("a_b_total{x=\"1\"} 2\n", "a_b_total{x=\"1\"} 2\na_b_total{x=\"1\"} 3\n"),
        ("a_b_total{x=\"1\"} 2\n", "a_b_total{x=\"1\"} 2\n# HELP a_b Help\n"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert!(openmetrics::parse(&bad).is_err(), "accepted: {bad}");
    }
}

fn process() -> Process {
    let (shape, now) = (RingShape::default(), SystemTime::now().into());
    let mut keeper = Keeper::open_at(Source::Memory(shape), &[], now).unwrap();
    keeper.maintain_at(now).unwrap();
    let worker = |cpu| WorkerView {
        cpu,
        metrics: Arc::default(),
        state: WorkerStateCell::new(),
        pulse: Arc::default(),
        generation: GenerationCell::default(),
    };
    let listener = ListenerView {
        name: "edge".to_owned(),
        address: SocketAddr::from(([127, 0, 0, 1], 8443)),
        backend: "app".to_owned(),
        certificate_not_after: SystemTime::now(),
    };
    Process {
        version: "1.2.3",
        openssl: "OpenSSL \"4\"\\",
        kernel: "6.1.0".to_owned(),
        driver: "epoll",
        ring_flags: &[],
        started: SystemTime::now(),
        started_at: Instant::now(),
        workers: (0..3).map(worker).collect(),
        snapshot: arc_swap::ArcSwap::from_pointee(SnapshotView {
            generation: 1,
            published: SystemTime::now(),
            listeners: vec![listener],
            expiry: ExpiryView::choose(vec![("edge", ExpiryKind::Certificate, SystemTime::now(), ())], |()| {
                ("CN=\"quoted\"".to_owned(), "0a".to_owned())
            }),
        }),
        reloads: ReloadView::default(),
        memory: Arc::default(),
        stapling: Arc::default(),
        ticket_ring: keeper.telemetry(),
        kernel_tls: KernelTlsView::default(),
        logs: Arc::default(),
        audit_head: Arc::default(),
        configuration: Arc::new(Configuration::none()).into(),
        phase: PhaseCell::new(),
        drain: arc_swap::ArcSwapOption::empty(),
    }
}

fn render() -> String {
    let mut page = String::from(PREFACE);
    for metric in catalog::all() {
        let kind = match metric.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Info => "info",
        };
        writeln!(page, "\n## `{}`\n\n{} ({kind}).", metric.sample_name(), metric.help).unwrap();
        let mut lead = "\n";
        for label in &metric.labels {
            let values = match &label.values {
                LabelValues::Closed(values) => format!("`{}`", values.join("`, `")),
                LabelValues::PerProcess(what) | LabelValues::PerSnapshot(what) => (*what).to_owned(),
            };
            writeln!(page, "{lead}- `{}`: {values}", label.name).unwrap();
            lead = "";
        }
    }
    page
}

const PREFACE: &str = "\
# Metrics

`GET /metrics` on the admin address answers with these, as OpenMetrics text. What workers count is summed over them when
it is asked for. Labels have closed sets of values, all of them exposed from the start, or a bounded number of values from
the configuration in service: no address, server name or other word of a client ever becomes a label.

This page is rendered from `src/telemetry/catalog.rs`:
`SLUICE_WRITE_DOCS=1 cargo test --test admin_metrics` writes it anew, and without the variable the same test fails when
the page is stale.
";
