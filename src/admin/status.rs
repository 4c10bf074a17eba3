//! `GET /status`: the process at one look, as JSON.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::telemetry::diagnostics;
use crate::telemetry::{
    CloseReason, Counter, DialResult, Direction, DrainView, EndingView, ExpiryView, FailureReason, KeepReason,
    KeySource, Kind, Label, ListenerView, LogName, LogResult, OcspFetch, Process, RelayPath, ReloadResult, RingEvent,
    RingFacts, RingStatus, SnapshotView, StapleResult, StapleState, TicketIssue, TicketOpening, Version, WorkerMetrics,
    WorkerState, WorkerView,
};

/// The version of the document's shape: it grows when a field changes its meaning or goes, not when one is added.
const STATUS_VERSION: u32 = 1;

/// The document. Times are RFC 3339 in UTC; counts are since the start of the process, over all workers.
#[derive(Serialize)]
struct Status<'a> {
    status_version: u32,
    version: &'a str,
    openssl: &'a str,
    kernel: &'a str,
    pid: u32,
    /// When this was read.
    now: Option<String>,
    started: Option<String>,
    uptime_seconds: u64,
    phase: &'a str,
    configuration: Configuration,
    /// None while no drain is under way.
    drain: Option<Drain>,
    ring: Ring<'a>,
    connections: Connections,
    handshakes: Handshakes,
    backends: Backends,
    /// Payload bytes by direction, then by how they were moved.
    relay_bytes: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    kernel_tls: KernelTls<'a>,
    tickets: Tickets,
    workers: Vec<Worker>,
    listeners: Vec<Listener>,
    expiry: Expiry,
    stapling: Stapling,
    log_lines_dropped: u64,
    logs: Logs,
}

#[derive(Serialize)]
struct Logs {
    /// Lines by log, then by what became of them.
    lines: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    /// Records of the access log that found their ring full.
    access_dropped: u64,
    /// The last record of the audit log, as `sluice audit verify --head` takes it.
    audit_head: Option<String>,
}

/// Which configuration is in service.
#[derive(Serialize)]
struct Configuration {
    file: String,
    sha256: String,
    loaded: Option<String>,
    generation: u64,
    published: Option<String>,
    /// By how they ended.
    reloads: BTreeMap<&'static str, u64>,
    last_reload: Option<LastReload>,
}

/// How far a drain is.
#[derive(Serialize)]
struct Drain {
    cause: &'static str,
    since: Option<String>,
    /// Until what is still open is cut.
    seconds_left: u64,
    connections_open: i64,
    connections_cut: u64,
    workers_left: usize,
}

#[derive(Serialize)]
struct LastReload {
    at: Option<String>,
    cause: &'static str,
    result: &'static str,
    /// Warnings, or what stood in the way.
    details: Vec<String>,
}

#[derive(Serialize)]
struct Ring<'a> {
    driver: &'a str,
    flags: &'a [&'a str],
}

#[derive(Serialize)]
struct Connections {
    open: i64,
    accepted: u64,
    closed: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct Handshakes {
    /// By version, then by kind.
    completed: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    failed: BTreeMap<&'static str, u64>,
    /// Resumptions among the completed ones, 0 to 1; none before the first.
    resumed_ratio: Option<f64>,
}

#[derive(Serialize)]
struct Backends {
    dials: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct KernelTls<'a> {
    /// Whether a listener asks for it.
    wanted: bool,
    /// Why there is none, with what to do about it.
    absent: Option<&'a str>,
    known_bugs: &'a [String],
    /// Directions handed over.
    promoted: BTreeMap<&'static str, u64>,
    /// Directions that stayed in userspace to their end, by direction, then by why.
    kept: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
}

#[derive(Serialize)]
struct Tickets {
    issued: BTreeMap<&'static str, u64>,
    opened: BTreeMap<&'static str, u64>,
    ring_events: BTreeMap<&'static str, u64>,
    keys: Keys,
}

/// The ticket keys as they were when they were last looked after, which is in each epoch and after each change.
#[derive(Serialize)]
struct Keys {
    source: KeySource,
    ring: Option<RingFacts>,
    /// When the keys were loaded, ratcheted or replaced here.
    changed: Option<String>,
    next_key: Option<String>,
    next_ratchet: Option<String>,
    key_count: usize,
    key_names: Vec<String>,
}

#[derive(Serialize)]
struct Worker {
    index: usize,
    cpu: usize,
    state: &'static str,
    /// Of the configuration that it serves; 0 until it serves.
    generation: u64,
    connections_open: i64,
    connections_accepted: u64,
    handshakes: u64,
    relay_bytes: u64,
}

#[derive(Serialize)]
struct Listener {
    name: String,
    address: String,
    backend: String,
    certificate_not_after: Option<String>,
}

/// What ends by itself: certificates, authorities for clients, revocation lists.
#[derive(Serialize)]
struct Expiry {
    /// The soonest first: the 100 soonest, and the first of each kind of each listener.
    soonest: Vec<Ending>,
    /// How many more there are.
    left_out: usize,
}

/// OCSP responses that are sent along with certificates.
#[derive(Serialize)]
struct Stapling {
    /// Certificates of listeners that staple, by how it stands with their response.
    certificates: BTreeMap<&'static str, i64>,
    /// Certificates that demand a response and have none.
    must_staple_missing: i64,
    /// Questions to responders, by what came of them.
    fetches: BTreeMap<&'static str, u64>,
    /// Full handshakes whose client asked for a response, by whether it got one.
    staples: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct Ending {
    listener: String,
    kind: &'static str,
    subject: String,
    serial: String,
    not_after: Option<String>,
    /// Whole days; negative where it has ended.
    days_left: i64,
}

/// The document as text that ends with a line break.
pub(super) fn render(process: &Process) -> String {
    // Only a map with keys that are no strings could fail, and there is none.
    let mut text = serde_json::to_string_pretty(&read(process)).unwrap_or_else(|_| "{}".to_owned());
    text.push('\n');
    text
}

fn read(process: &Process) -> Status<'_> {
    let snapshot = process.snapshot.load();
    Status {
        status_version: STATUS_VERSION,
        version: process.version,
        openssl: process.openssl,
        kernel: &process.kernel,
        pid: std::process::id(),
        now: rfc3339(SystemTime::now()),
        started: rfc3339(process.started),
        uptime_seconds: process.started_at.elapsed().as_secs(),
        phase: process.phase.get().name(),
        configuration: configuration(process, &snapshot),
        drain: process.drain.load().as_ref().map(|view| drain(process, view)),
        ring: Ring { driver: process.driver, flags: process.ring_flags },
        connections: Connections {
            open: process.connections_open(),
            accepted: sum(process, |metrics| metrics.connections_accepted.value()),
            closed: sums(process, |metrics, reason: CloseReason| metrics.connections_closed.of(reason)),
        },
        handshakes: handshakes(process),
        backends: Backends { dials: sums(process, |metrics, result: DialResult| metrics.dials.of(result)) },
        relay_bytes: by_label(|direction: Direction| {
            sums(process, |metrics, path: RelayPath| metrics.relay_bytes.of(direction).of(path))
        }),
        kernel_tls: KernelTls {
            wanted: process.kernel_tls.is_wanted,
            absent: process.kernel_tls.absent.as_deref(),
            known_bugs: &process.kernel_tls.known_bugs,
            promoted: sums(process, |metrics, direction: Direction| metrics.kernel_tls_promoted.of(direction)),
            kept: by_label(|direction: Direction| {
                sums(process, |metrics, reason: KeepReason| metrics.kernel_tls_kept.of(direction).of(reason))
            }),
        },
        tickets: Tickets {
            issued: sums(process, |metrics, result: TicketIssue| metrics.tickets.issued.of(result)),
            opened: sums(process, |metrics, result: TicketOpening| metrics.tickets.opened.of(result)),
            ring_events: by_label(|event: RingEvent| process.ticket_ring.events.of(event).value()),
            keys: keys(&process.ticket_ring.status()),
        },
        workers: process.workers.iter().enumerate().map(worker).collect(),
        listeners: snapshot.listeners.iter().map(listener).collect(),
        expiry: expiry(&snapshot.expiry, SystemTime::now()),
        stapling: stapling(process),
        log_lines_dropped: diagnostics::dropped_line_count(),
        logs: logs(process),
    }
}

fn logs(process: &Process) -> Logs {
    let head = process.audit_head.lock().unwrap_or_else(PoisonError::into_inner);
    Logs {
        lines: by_label(|log: LogName| by_label(|result: LogResult| process.logs.lines.of(log).of(result).value())),
        access_dropped: sum(process, |metrics| metrics.access_log_dropped.value()),
        audit_head: head.as_ref().map(ToString::to_string),
    }
}

fn handshakes(process: &Process) -> Handshakes {
    let of_kind = |kind| sum(process, |metrics| completed(metrics, kind));
    let (full, resumed) = (of_kind(Kind::Full), of_kind(Kind::Resumed));
    Handshakes {
        completed: by_label(|version: Version| {
            sums(process, |metrics, kind: Kind| metrics.handshakes.of(version).of(kind))
        }),
        failed: sums(process, |metrics, reason: FailureReason| metrics.handshakes_failed.of(reason)),
        resumed_ratio: (full + resumed > 0).then(|| resumed as f64 / (full + resumed) as f64),
    }
}

fn completed(metrics: &WorkerMetrics, kind: Kind) -> u64 {
    Version::ALL.iter().map(|version| metrics.handshakes.of(*version).of(kind).value()).sum()
}

fn keys(status: &RingStatus) -> Keys {
    let at = |seconds: u64| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).and_then(rfc3339);
    let ring = status.ring.as_ref();
    Keys {
        source: status.source,
        ring: status.ring.clone(),
        changed: (status.source != KeySource::None).then(|| at(status.changed_unix_seconds)).flatten(),
        next_key: ring.and_then(|ring| at(ring.next_key_unix_seconds)),
        next_ratchet: ring.and_then(|ring| at(ring.next_ratchet_unix_seconds)),
        key_count: status.key_count,
        key_names: status.key_names.clone(),
    }
}

fn worker((index, worker): (usize, &WorkerView)) -> Worker {
    let metrics = &worker.metrics;
    let bytes = |direction: &Direction| -> u64 {
        RelayPath::ALL.iter().map(|path| metrics.relay_bytes.of(*direction).of(*path).value()).sum()
    };
    Worker {
        index,
        cpu: worker.cpu,
        state: worker.state.get().name(),
        generation: worker.generation.get(),
        connections_open: metrics.connections_open.value(),
        connections_accepted: metrics.connections_accepted.value(),
        handshakes: Kind::ALL.iter().map(|kind| completed(metrics, *kind)).sum(),
        relay_bytes: Direction::ALL.iter().map(bytes).sum(),
    }
}

fn configuration(process: &Process, snapshot: &SnapshotView) -> Configuration {
    let running = process.configuration.load();
    let last = process.reloads.last().map(|last| LastReload {
        at: rfc3339(last.at),
        cause: last.cause,
        result: last.result.label(),
        details: last.details.clone(),
    });
    Configuration {
        file: running.path.display().to_string(),
        sha256: running.sha256.clone(),
        loaded: rfc3339(running.loaded),
        generation: snapshot.generation,
        published: rfc3339(snapshot.published),
        reloads: by_label(|result: ReloadResult| process.reloads.results.of(result).value()),
        last_reload: last,
    }
}

fn drain(process: &Process, view: &DrainView) -> Drain {
    Drain {
        cause: view.cause,
        since: rfc3339(view.since),
        seconds_left: view.timeout.saturating_sub(view.since_at.elapsed()).as_secs(),
        connections_open: process.connections_open(),
        connections_cut: process.connections_cut(),
        workers_left: process.worker_count(WorkerState::Running) + process.worker_count(WorkerState::Stalled),
    }
}

fn listener(view: &ListenerView) -> Listener {
    Listener {
        name: view.name.clone(),
        address: view.address.to_string(),
        backend: view.backend.clone(),
        certificate_not_after: rfc3339(view.certificate_not_after),
    }
}

fn expiry(view: &ExpiryView, now: SystemTime) -> Expiry {
    let ending = |ending: &EndingView| Ending {
        listener: ending.listener.clone(),
        kind: ending.kind.label(),
        subject: ending.subject.clone(),
        serial: ending.serial.clone(),
        not_after: rfc3339(ending.not_after),
        days_left: days_between(now, ending.not_after),
    };
    Expiry { soonest: view.shown.iter().map(ending).collect(), left_out: view.left_out }
}

fn stapling(process: &Process) -> Stapling {
    let metrics = &process.stapling;
    Stapling {
        certificates: by_label(|state: StapleState| metrics.certificates.of(state).value()),
        must_staple_missing: metrics.must_staple_missing.value(),
        fetches: by_label(|result: OcspFetch| metrics.fetches.of(result).value()),
        staples: sums(process, |metrics, result: StapleResult| metrics.staples.of(result)),
    }
}

/// Whole days, rounded down: what ended an hour ago has -1.
fn days_between(now: SystemTime, then: SystemTime) -> i64 {
    const DAY_SECONDS: i64 = 86_400;
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let left = match then.duration_since(now) {
        Ok(left) => seconds(left),
        Err(past) => seconds(past.duration()).saturating_add(1).saturating_neg(),
    };
    left.div_euclid(DAY_SECONDS)
}

/// The counter of each value of a label, summed over the workers.
fn sums<L: Label>(process: &Process, cell: impl Fn(&WorkerMetrics, L) -> &Counter) -> BTreeMap<&'static str, u64> {
    by_label(|label: L| sum(process, |metrics| cell(metrics, label).value()))
}

fn sum(process: &Process, count: impl Fn(&WorkerMetrics) -> u64) -> u64 {
    process.workers.iter().map(|worker| count(&worker.metrics)).fold(0, u64::wrapping_add)
}

fn by_label<L: Label, T>(read: impl Fn(L) -> T) -> BTreeMap<&'static str, T> {
    L::ALL.iter().map(|label| (label.label(), read(*label))).collect()
}

/// None for what the format cannot say: before 1970, or after 9999.
pub(super) fn rfc3339(time: SystemTime) -> Option<String> {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    (seconds <= UNIX_SECONDS_MAX).then(|| humantime::format_rfc3339_seconds(time).to_string())
}

/// 9999-12-31T23:59:59Z, where RFC 3339 and X.509 end.
const UNIX_SECONDS_MAX: u64 = 253_402_300_799;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn status_sums_workers_and_names_every_listener() {
        let process = Process::sample(2);
        for worker in &process.workers {
            worker.metrics.connections_open.add(2);
            worker.metrics.handshakes.of(Version::Tls12).of(Kind::Resumed).add(5);
            worker.metrics.connections_closed.of(CloseReason::IdleTimeout).increment();
        }
        let status: serde_json::Value = serde_json::from_str(&render(&process)).unwrap();
        assert_eq!(status["connections"]["open"], 4);
        assert_eq!(status["connections"]["closed"]["idle_timeout"], 2);
        assert_eq!(status["handshakes"]["completed"]["1.2"]["resumed"], 10);
        assert_eq!(status["handshakes"]["resumed_ratio"], 1.0);
        assert_eq!(status["workers"][1]["connections_open"], 2);
        assert_eq!(status["workers"][1]["handshakes"], 5);
        assert_eq!(status["workers"][1]["state"], "running");
        assert_eq!(status["listeners"][0]["address"], "127.0.0.1:8443");
        assert_eq!(status["listeners"][0]["certificate_not_after"], "2027-01-15T08:00:00Z");
        let ending = &status["expiry"]["soonest"][0];
        assert_eq!((&ending["listener"], &ending["kind"]), (&"edge".into(), &"certificate".into()));
        assert_eq!((&ending["subject"], &ending["serial"]), (&"CN=edge.example".into(), &"0a1b".into()));
        assert_eq!((&ending["not_after"], &status["expiry"]["left_out"]), (&"2027-01-15T08:00:00Z".into(), &0.into()));
        assert_eq!(status["ring"]["flags"][1], "DEFER_TASKRUN");
        assert_eq!(status["phase"], "serving");
        assert_eq!(status["configuration"]["generation"], 1);
        assert_eq!(status["configuration"]["last_reload"], serde_json::Value::Null);
        assert_eq!(status["started"], "2023-11-14T22:13:20Z");
    }

    #[test]
    fn ticket_keys_show_the_ring_and_their_names() {
        let process = Process::sample(1);
        let keys = || {
            let status: serde_json::Value = serde_json::from_str(&render(&process)).unwrap();
            status["tickets"]["keys"].clone()
        };
        let before = keys();
        assert_eq!(before["source"], "none");
        assert!(before["ring"].is_null() && before["changed"].is_null());

        process.ticket_ring.publish(RingStatus::sample());
        let after = keys();
        assert_eq!((&after["source"], &after["ring"]["standing"]), (&"file".into(), &"current".into()));
        assert_eq!((&after["ring"]["generation"], &after["ring"]["current_epoch"]), (&3.into(), &500_000.into()));
        assert_eq!((&after["changed"], &after["key_count"]), (&"2027-01-15T08:00:00Z".into(), &1.into()));
        assert_eq!(after["next_ratchet"], "2027-01-15T08:02:00Z");
        assert_eq!(after["key_names"][0], "1a".repeat(16));
    }

    #[test]
    fn days_are_whole_and_negative_behind_the_end() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let days = |then| days_between(at(1_000_000), at(then));
        assert_eq!((days(1_000_000), days(1_000_000 + 86_399), days(1_000_000 + 86_400)), (0, 0, 1));
        assert_eq!((days(999_999), days(1_000_000 - 86_401)), (-1, -2));
    }

    #[test]
    fn expiry_beyond_the_calendar_is_left_out() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), None);
        assert_eq!(rfc3339(at(UNIX_SECONDS_MAX + 1)), None);
        assert_eq!(rfc3339(at(UNIX_SECONDS_MAX)).as_deref(), Some("9999-12-31T23:59:59Z"));
    }
}
