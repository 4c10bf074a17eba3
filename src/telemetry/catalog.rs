//! Every metric in one place: name, help and labels, beside the cell that it is read from.
//!
//! [`read_worker`] takes [`WorkerMetrics`] apart field by field, so that a counter which is added there does not compile
//! until it is named here; `docs/metrics.md` is rendered from [`all`], and a test holds the two together.

use std::time::SystemTime;

use prometheus_client::registry::Unit;

use super::cell::{ByLabel, Counter, Gauge, Label};
use super::expiry::{EndingView, ExpiryKind, ExpiryView};
use super::kernel_tls::{self, Statistics};
use super::memory::MemoryMetrics;
use super::output::LogCounters;
use super::reload::ReloadView;
use super::stapling::StaplingMetrics;
use super::ticket::{RingFacts, RingStanding, RingStatus, RingTelemetry, TicketCounters};
use super::worker::WorkerMetrics;

/// One metric as it is exposed and documented.
#[derive(Clone, Debug)]
pub struct Metric {
    /// The name without unit and without the suffix that its kind adds.
    pub subject: &'static str,
    /// The base unit, which is a part of the name.
    pub unit: Option<Unit>,
    /// What kind of value it has.
    pub kind: MetricKind,
    /// One sentence for the operator.
    pub help: &'static str,
    /// Its labels in order.
    pub labels: Vec<LabelSet>,
}

/// What kind of value a metric has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Always 1: the labels are the value.
    Info,
}

/// A label and the values that it can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelSet {
    /// The label's name.
    pub name: &'static str,
    /// Its values.
    pub values: LabelValues,
}

/// The values that a label can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelValues {
    /// One of these.
    Closed(Vec<&'static str>),
    /// Fixed when the process starts; the text says what it is.
    PerProcess(&'static str),
    /// Fixed with each configuration or certificate that goes in service, and bounded in number; the text says what it is.
    PerSnapshot(&'static str),
}

/// One value of a metric, with its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Name and value of each label, in the order of the metric's labels.
    pub labels: Vec<(&'static str, String)>,
    /// The value; wide enough for the sum of any number of workers.
    pub value: i128,
}

impl Metric {
    /// The name of its samples, as a query names them.
    pub fn sample_name(&self) -> String {
        let suffix = match self.kind {
            MetricKind::Counter => "_total",
            MetricKind::Gauge => "",
            MetricKind::Info => "_info",
        };
        match &self.unit {
            Some(unit) => format!("{}_{}{suffix}", self.subject, unit.as_str()),
            None => format!("{}{suffix}", self.subject),
        }
    }
}

/// Every metric: those of the process, then those of the workers, each in the order of the exposition.
pub fn all() -> Vec<Metric> {
    let memory = MemoryMetrics::default();
    let ((memory_ceiling, _), (memory_steps, _)) = (memory_ceiling(&memory), memory_steps(&memory));
    let ticket_ring = ticket_ring(&RingTelemetry::default()).into_iter().map(|(metric, _)| metric);
    let (log_lines, _) = log_lines(&LogCounters::default());
    let kernel_tls = Statistics::default();
    let view = ReloadView::default();
    let ((reloads, _), (swaps, _)) = (reloads(&view), certificate_swaps(&view));
    let (upgrades_failed, _) = upgrades_failed(&view);
    let [(expiry, _), (expiry_left_out, _)] = expiry(&ExpiryView::default());
    let stapling = stapling(&StaplingMetrics::default()).map(|(metric, _)| metric);
    let ((kernel_events, _), (kernel_open, _)) = (kernel_tls_events(&kernel_tls), kernel_tls_open(&kernel_tls));
    let process = [
        build(),
        start_time(),
        log_lines_dropped(),
        log_lines,
        draining(),
        config_generation(),
        config_published(),
        reloads,
        swaps,
        upgrades_failed,
        certificate_not_after(),
        expiry,
        expiry_left_out,
        workers(),
        worker_connections_open(),
        resident_memory(),
        memory_ceiling,
        memory_pressure(),
        memory_steps,
    ];
    let counted = read_worker(&WorkerMetrics::default()).into_iter().map(|(metric, _)| metric);
    process.into_iter().chain(stapling).chain(ticket_ring).chain([kernel_events, kernel_open]).chain(counted).collect()
}

/// Version and OpenSSL.
pub(super) fn build() -> Metric {
    Metric {
        subject: "sluice_build",
        unit: None,
        kind: MetricKind::Info,
        help: "Version of the proxy and of the OpenSSL library that it runs with",
        labels: vec![
            per_process("version", "the version of Sluice"),
            per_process("openssl", "the version of OpenSSL, as the library tells it"),
        ],
    }
}

/// When the process started.
pub(super) fn start_time() -> Metric {
    Metric {
        subject: "sluice_process_start_time",
        unit: Some(Unit::Seconds),
        kind: MetricKind::Gauge,
        help: "When the process started, in seconds since 1970-01-01 UTC",
        labels: Vec::new(),
    }
}

/// Log lines that nobody got to see.
pub(super) fn log_lines_dropped() -> Metric {
    Metric {
        subject: "sluice_log_lines_dropped",
        unit: None,
        kind: MetricKind::Counter,
        help: "Lines of the log of the process dropped because its output did not take them fast enough",
        labels: Vec::new(),
    }
}

/// What became of the lines that were to be written.
pub(super) fn log_lines(counters: &LogCounters) -> (Metric, Vec<Sample>) {
    let help = "Lines of the log of the process, the access log and the audit log, by what became of them";
    read("sluice_log_lines", help, &counters.lines)
}

/// Whether the process drains.
pub(super) fn draining() -> Metric {
    Metric {
        subject: "sluice_draining",
        unit: None,
        kind: MetricKind::Gauge,
        help: "1 from the begin of a drain to the end of the process, else 0",
        labels: Vec::new(),
    }
}

/// Which configuration is served.
pub(super) fn config_generation() -> Metric {
    Metric {
        subject: "sluice_config_generation",
        unit: None,
        kind: MetricKind::Gauge,
        help: "Number of the configuration in service: 1 at the start, one more with each one put in service since",
        labels: Vec::new(),
    }
}

/// Since when it is served.
pub(super) fn config_published() -> Metric {
    Metric {
        subject: "sluice_config_published_time",
        unit: Some(Unit::Seconds),
        kind: MetricKind::Gauge,
        help: "When the configuration in service was put in service, in seconds since 1970-01-01 UTC",
        labels: Vec::new(),
    }
}

/// What became of the reloads.
pub(super) fn reloads(view: &ReloadView) -> (Metric, Vec<Sample>) {
    let help = "Reloads by how they ended: with any but applied, the former configuration stays in service";
    read("sluice_reloads", help, &view.results)
}

/// What came of changed certificate files.
pub(super) fn certificate_swaps(view: &ReloadView) -> (Metric, Vec<Sample>) {
    let help = "Listeners whose certificate files changed, by what came of it: with kept, the new files cannot be used";
    read("sluice_certificate_swaps", help, &view.swaps)
}

/// Upgrades that came to nothing.
pub(super) fn upgrades_failed(view: &ReloadView) -> (Metric, Vec<Sample>) {
    read("sluice_upgrades_failed", "Upgrades whose new process did not come to serve", &view.upgrades_failed)
}

/// The kernel's own counters of its TLS.
pub(super) fn kernel_tls_events(statistics: &Statistics) -> (Metric, Vec<Sample>) {
    let metric = Metric {
        subject: "sluice_kernel_tls_events",
        unit: None,
        kind: MetricKind::Counter,
        help: "The kernel's counters of its TLS (/proc/net/tls_stat): of every process in this network namespace, \
               since it was made",
        labels: vec![LabelSet { name: "counter", values: LabelValues::Closed(kernel_tls::EVENTS.to_vec()) }],
    };
    (metric, kernel_samples(&kernel_tls::EVENTS, statistics))
}

/// The kernel's own count of the directions that it protects.
pub(super) fn kernel_tls_open(statistics: &Statistics) -> (Metric, Vec<Sample>) {
    let metric = Metric {
        subject: "sluice_kernel_tls_open",
        unit: None,
        kind: MetricKind::Gauge,
        help: "Directions that the kernel protects now (/proc/net/tls_stat), of every process in this network namespace",
        labels: vec![LabelSet { name: "counter", values: LabelValues::Closed(kernel_tls::OPEN.to_vec()) }],
    };
    (metric, kernel_samples(&kernel_tls::OPEN, statistics))
}

fn kernel_samples(names: &[&'static str], statistics: &Statistics) -> Vec<Sample> {
    let sample = |name: &&'static str| Sample {
        labels: vec![("counter", (*name).to_owned())],
        value: statistics.of(name).into(),
    };
    names.iter().map(sample).collect()
}

/// Memory in RAM.
pub(super) fn resident_memory() -> Metric {
    Metric {
        subject: "sluice_process_resident_memory",
        unit: Some(Unit::Bytes),
        kind: MetricKind::Gauge,
        help: "Memory that the process has in RAM, without what the kernel holds for its sockets",
        labels: Vec::new(),
    }
}

/// The ceiling in force.
pub(super) fn memory_ceiling(metrics: &MemoryMetrics) -> (Metric, Vec<Sample>) {
    let help = "Memory that the process may have in RAM: server.memory_max, or what the limits of the process leave; 0 \
                for no bound";
    in_unit(Unit::Bytes, read("sluice_memory_ceiling", help, &metrics.ceiling))
}

/// How short memory is.
pub(super) fn memory_pressure() -> Metric {
    Metric {
        subject: "sluice_memory_pressure",
        unit: None,
        kind: MetricKind::Gauge,
        help: "Steps that are in force because memory is near its ceiling: 1 no large buffers, 2 nor new connections, 3 \
               idle connections are closed, too",
        labels: Vec::new(),
    }
}

/// What was given up.
pub(super) fn memory_steps(metrics: &MemoryMetrics) -> (Metric, Vec<Sample>) {
    let help = "Times that memory came so near to its ceiling that this was given up";
    read("sluice_memory_steps", help, &metrics.steps)
}

/// The ticket ring. Where there is none, what is only known of one has no samples.
pub(super) fn ticket_ring(ring: &RingTelemetry) -> Vec<(Metric, Vec<Sample>)> {
    let status = ring.status();
    let of_ring = |subject, unit, help, read: fn(&RingStatus, &RingFacts) -> u64| {
        let metric = Metric { subject, unit, kind: MetricKind::Gauge, help, labels: Vec::new() };
        let sample = |facts: &RingFacts| Sample { labels: Vec::new(), value: read(&status, facts).into() };
        (metric, status.ring.as_ref().map(sample).into_iter().collect())
    };
    vec![
        read("sluice_ticket_ring_events", "What happened to the ticket ring and its file", &ring.events),
        ticket_ring_standing(status.ring.as_ref()),
        of_ring("sluice_ticket_ring_epoch", None, "Epoch of the ticket ring by this node's clock", |_, facts| {
            facts.current_epoch
        }),
        of_ring("sluice_ticket_ring_generation", None, "Revocations that the ticket ring has seen", |_, facts| {
            facts.generation.into()
        }),
        of_ring("sluice_ticket_ring_keys", None, "Ticket keys in use, over all scopes", |status, _| {
            status.key_count as u64
        }),
        of_ring(
            "sluice_ticket_ring_change_time",
            Some(Unit::Seconds),
            "When the ticket ring was loaded, ratcheted or replaced here, in seconds since 1970-01-01 UTC",
            |status, _| status.changed_unix_seconds,
        ),
        of_ring(
            "sluice_ticket_ring_next_key_time",
            Some(Unit::Seconds),
            "When the next ticket key begins to seal, in seconds since 1970-01-01 UTC",
            |_, facts| facts.next_key_unix_seconds,
        ),
        of_ring(
            "sluice_ticket_ring_next_ratchet_time",
            Some(Unit::Seconds),
            "When the oldest ticket key is wiped, in seconds since 1970-01-01 UTC",
            |_, facts| facts.next_ratchet_unix_seconds,
        ),
    ]
}

fn ticket_ring_standing(facts: Option<&RingFacts>) -> (Metric, Vec<Sample>) {
    let names = RingStanding::ALL.iter().map(|standing| standing.label());
    let metric = Metric {
        subject: "sluice_ticket_ring_standing",
        unit: None,
        kind: MetricKind::Gauge,
        help: "Where the ticket ring stands compared with the clock: 1 for its standing, else 0; only current is good for long",
        labels: vec![LabelSet { name: RingStanding::NAME, values: LabelValues::Closed(names.clone().collect()) }],
    };
    let sample = |facts: &RingFacts, name: &'static str| Sample {
        labels: vec![(RingStanding::NAME, name.to_owned())],
        value: (facts.standing.label() == name).into(),
    };
    let samples = facts.map(|facts| names.map(|name| sample(facts, name)).collect());
    (metric, samples.unwrap_or_default())
}

/// When certificates end.
pub(super) fn certificate_not_after() -> Metric {
    Metric {
        subject: "sluice_certificate_not_after_time",
        unit: Some(Unit::Seconds),
        kind: MetricKind::Gauge,
        help: "When the certificate of a listener ends, in seconds since 1970-01-01 UTC",
        labels: vec![per_process("listener", "the name of the listener")],
    }
}

/// What ends by itself, the soonest of it, and how much more there is.
pub(super) fn expiry(view: &ExpiryView) -> [(Metric, Vec<Sample>); 2] {
    let kinds = ExpiryKind::ALL.iter().map(|kind| kind.label()).collect();
    let ends = Metric {
        subject: "sluice_expiry_time",
        unit: Some(Unit::Seconds),
        kind: MetricKind::Gauge,
        help: "When a certificate, an authority for clients or a revocation list ends, in seconds since 1970-01-01 UTC: \
               the 100 that end soonest, and the first of each kind of each listener",
        labels: vec![
            per_process("listener", "the name of the listener"),
            LabelSet { name: ExpiryKind::NAME, values: LabelValues::Closed(kinds) },
            per_snapshot("subject", "the subject of the certificate, the issuer of the revocation list"),
            per_snapshot("serial", "the serial number of the certificate, hexadecimal; empty for a revocation list"),
        ],
    };
    let left_out = Metric {
        subject: "sluice_expiry_left_out",
        unit: None,
        kind: MetricKind::Gauge,
        help: "Certificates, authorities and revocation lists without a sluice_expiry_time_seconds, since more than 100 \
               others end before them",
        labels: Vec::new(),
    };
    let sample = |ending: &EndingView| Sample {
        labels: vec![
            ("listener", ending.listener.clone()),
            (ExpiryKind::NAME, ending.kind.label().to_owned()),
            ("subject", ending.subject.clone()),
            ("serial", ending.serial.clone()),
        ],
        value: unix_seconds(ending.not_after),
    };
    let number = Sample { labels: Vec::new(), value: view.left_out as i128 };
    [(ends, view.shown.iter().map(sample).collect()), (left_out, vec![number])]
}

/// OCSP stapling.
pub(super) fn stapling(metrics: &StaplingMetrics) -> [(Metric, Vec<Sample>); 3] {
    [
        read("sluice_ocsp_fetches", "Questions to OCSP responders, by what came of them", &metrics.fetches),
        read(
            "sluice_ocsp_certificates",
            "Certificates of listeners that staple OCSP responses, by how it stands with their response",
            &metrics.certificates,
        ),
        read(
            "sluice_ocsp_must_staple_missing",
            "Certificates that demand an OCSP response (must-staple) and have none: clients refuse them",
            &metrics.must_staple_missing,
        ),
    ]
}

/// Seconds since 1970; 0 for what was before.
pub(super) fn unix_seconds(time: SystemTime) -> i128 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| i128::from(since.as_secs()))
}

/// Workers by state.
pub(super) fn workers() -> Metric {
    Metric {
        subject: "sluice_workers",
        unit: None,
        kind: MetricKind::Gauge,
        help: "Workers by state; a stalled worker stands still, a failed one has ended although nobody asked it to",
        labels: vec![LabelSet { name: "state", values: LabelValues::Closed(WORKER_STATES.to_vec()) }],
    }
}

/// The states of a worker, as labels: sets itself up, runs, stands still, has drained, has ended unexpectedly.
pub(super) const WORKER_STATES: [&str; 5] = ["starting", "running", "stalled", "drained", "failed"];

/// The balance of the workers.
pub(super) fn worker_connections_open() -> Metric {
    Metric {
        subject: "sluice_worker_connections_open",
        unit: None,
        kind: MetricKind::Gauge,
        help: "Client connections open now, by worker",
        labels: vec![per_process("worker", "the number of the worker, from 0")],
    }
}

/// Every metric that a worker counts, with the present values of one worker. The order and number of metrics and
/// samples is the same for every worker, so that samples can be added by position.
pub(super) fn read_worker(worker: &WorkerMetrics) -> Vec<(Metric, Vec<Sample>)> {
    // No `..` here, on purpose: what is counted is exposed.
    let WorkerMetrics {
        connections_accepted,
        connections_open,
        connections_closed,
        accept_errors,
        connection_limit_reached,
        connections_refused,
        clients_untracked,
        proxy_headers,
        handshakes_open,
        handshakes_waiting,
        handshake_backlogs,
        handshakes,
        handshakes_failed,
        client_certificates,
        staples,
        certificates_compressed,
        certificate_compression_saved,
        dials,
        relay_bytes,
        key_updates_received,
        key_updates_sent,
        renegotiations_refused,
        kernel_tls_promoted,
        kernel_tls_kept,
        kernel_tls_rekeyed,
        tickets,
        access_log_dropped,
        panics,
    } = worker;
    let TicketCounters { issued, opened, panics: ticket_panics } = &**tickets;
    vec![
        read("sluice_connections_accepted", "Client connections accepted", connections_accepted),
        read("sluice_connections_open", "Client connections open now", connections_open),
        read("sluice_connections_closed", "Client connections that ended, by why", connections_closed),
        read("sluice_accept_errors", "Connections that could not be accepted, by why", accept_errors),
        read(
            "sluice_connection_limit_reached",
            "Times that a worker stopped accepting because it had workers.connections_max connections, or \
             listener.connections_max of one listener",
            connection_limit_reached,
        ),
        read(
            "sluice_connections_refused",
            "Connections reset as soon as they were accepted, by why; they are in no other count",
            connections_refused,
        ),
        read(
            "sluice_clients_untracked",
            "Connections let in without the limits of their client, for want of a place among server.tracked_clients_max",
            clients_untracked,
        ),
        read(
            "sluice_proxy_headers",
            "PROXY protocol headers that connections had to begin with, by what became of them",
            proxy_headers,
        ),
        read("sluice_handshakes_open", "TLS handshakes under way, as of the last tenth of a second", handshakes_open),
        read(
            "sluice_handshakes_waiting",
            "TLS handshakes that wait for the CPU, as of the last tenth of a second",
            handshakes_waiting,
        ),
        read(
            "sluice_handshake_backlogs",
            "Times that a worker stopped accepting because too many handshakes waited for the CPU",
            handshake_backlogs,
        ),
        read("sluice_handshakes", "TLS handshakes completed", handshakes),
        read("sluice_handshakes_failed", "TLS handshakes that did not complete, by why", handshakes_failed),
        read(
            "sluice_client_certificates",
            "Certificates of clients that were asked for one, by what became of them",
            client_certificates,
        ),
        read(
            "sluice_ocsp_staples",
            "Full handshakes whose client asked for an OCSP response, by whether it got one, where stapling is on",
            staples,
        ),
        read(
            "sluice_certificates_compressed",
            "Certificates sent to TLS 1.3 clients that take them compressed, by the algorithm with which they went out",
            certificates_compressed,
        ),
        in_unit(
            Unit::Bytes,
            read(
                "sluice_certificate_compression_saved",
                "Bytes that compression has made certificates shorter on their way",
                certificate_compression_saved,
            ),
        ),
        read("sluice_backend_dials", "Attempts to connect to a server of a backend", dials),
        in_unit(Unit::Bytes, read("sluice_relay", "Payload relayed, without what TLS adds to it", relay_bytes)),
        read("sluice_key_updates_received", "TLS 1.3 KeyUpdates received", key_updates_received),
        read(
            "sluice_key_updates_sent",
            "TLS 1.3 KeyUpdates sent, because the client asked or a key had protected as much as it may",
            key_updates_sent,
        ),
        read("sluice_renegotiations_refused", "TLS 1.2 renegotiations refused", renegotiations_refused),
        read("sluice_kernel_tls_promoted", "Directions handed over to kernel TLS", kernel_tls_promoted),
        read("sluice_kernel_tls_kept", "Directions that stayed in userspace to their end, by why", kernel_tls_kept),
        read("sluice_kernel_tls_rekeyed", "Keys of promoted directions that were replaced", kernel_tls_rekeyed),
        read("sluice_tickets_issued", "Session tickets that were to be sent, by what became of them", issued),
        read("sluice_tickets_opened", "Session tickets received, by what became of them", opened),
        read(
            "sluice_ticket_panics",
            "Panics contained in a ticket callback: the handshake went on without a ticket; each one is a bug to report",
            ticket_panics,
        ),
        read(
            "sluice_access_log_dropped",
            "Records of the access log dropped because the thread that writes them was behind",
            access_log_dropped,
        ),
        read("sluice_panics", "Panics contained in their connection; each one is a bug to report", panics),
    ]
}

fn read(subject: &'static str, help: &'static str, cells: &impl Cells) -> (Metric, Vec<Sample>) {
    let (kind, labels) = cells.describe();
    let mut samples = Vec::new();
    cells.sample(&mut Vec::new(), &mut samples);
    (Metric { subject, unit: None, kind, help, labels }, samples)
}

fn in_unit(unit: Unit, (metric, samples): (Metric, Vec<Sample>)) -> (Metric, Vec<Sample>) {
    (Metric { unit: Some(unit), ..metric }, samples)
}

fn per_process(name: &'static str, what: &'static str) -> LabelSet {
    LabelSet { name, values: LabelValues::PerProcess(what) }
}

fn per_snapshot(name: &'static str, what: &'static str) -> LabelSet {
    LabelSet { name, values: LabelValues::PerSnapshot(what) }
}

/// A cell, or a cell for each value of a label.
trait Cells {
    /// The kind of the cells and the labels from here inwards.
    fn describe(&self) -> (MetricKind, Vec<LabelSet>);
    /// Appends the values from here inwards; `labels` are those of the cells around.
    fn sample(&self, labels: &mut Vec<(&'static str, String)>, samples: &mut Vec<Sample>);
}

impl Cells for Counter {
    fn describe(&self) -> (MetricKind, Vec<LabelSet>) {
        (MetricKind::Counter, Vec::new())
    }

    fn sample(&self, labels: &mut Vec<(&'static str, String)>, samples: &mut Vec<Sample>) {
        samples.push(Sample { labels: labels.clone(), value: self.value().into() });
    }
}

impl Cells for Gauge {
    fn describe(&self) -> (MetricKind, Vec<LabelSet>) {
        (MetricKind::Gauge, Vec::new())
    }

    fn sample(&self, labels: &mut Vec<(&'static str, String)>, samples: &mut Vec<Sample>) {
        samples.push(Sample { labels: labels.clone(), value: self.value().into() });
    }
}

impl<L: Label, T: Cells + Default> Cells for ByLabel<L, T> {
    fn describe(&self) -> (MetricKind, Vec<LabelSet>) {
        let values = L::ALL.iter().map(|value| value.label()).collect();
        let (kind, inner) = T::default().describe();
        let own = LabelSet { name: L::NAME, values: LabelValues::Closed(values) };
        (kind, std::iter::once(own).chain(inner).collect())
    }

    fn sample(&self, labels: &mut Vec<(&'static str, String)>, samples: &mut Vec<Sample>) {
        for value in L::ALL {
            labels.push((L::NAME, value.label().to_owned()));
            self.of(*value).sample(labels, samples);
            labels.pop();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::*;
    use crate::telemetry::{Direction, RelayPath};

    #[test]
    fn catalogue_names_are_unique_and_follow_the_scheme() {
        let mut names: Vec<_> = all().iter().map(Metric::sample_name).collect();
        assert!(names.iter().all(|name| name.starts_with("sluice_")), "{names:?}");
        let letters = |name: &String| name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_');
        assert!(names.iter().all(letters), "{names:?}");
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn catalogue_help_is_one_sentence_without_line_break_or_full_stop() {
        for metric in all() {
            assert!(!metric.help.is_empty() && !metric.help.contains('\n') && !metric.help.ends_with('.'));
        }
    }

    #[test]
    fn nested_labels_are_read_from_the_cell_that_they_name() {
        let worker = WorkerMetrics::default();
        worker.relay_bytes.of(Direction::BackendToClient).of(RelayPath::KernelSplice).add(42);
        let metrics = read_worker(&worker);
        let (metric, samples) = metrics.iter().find(|(metric, _)| metric.subject == "sluice_relay").unwrap();
        assert_eq!(metric.sample_name(), "sluice_relay_bytes_total");
        assert_eq!(samples.len(), Direction::ALL.len() * RelayPath::ALL.len());
        let set: Vec<_> = samples.iter().filter(|sample| sample.value != 0).collect();
        let labels = vec![("direction", "backend_to_client".to_owned()), ("path", "kernel_splice".to_owned())];
        assert_eq!(set, [&Sample { labels, value: 42 }]);
    }
}
