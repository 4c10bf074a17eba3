//! `GET /status`: the process at one look, as JSON.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;

use crate::telemetry::{CloseReason, FailureReason, Kind, Label, Process, Version, WorkerMetrics, WorkerView};

/// The document. Times are RFC 3339 in UTC; counts are since the start of the process, over all workers.
#[derive(Serialize)]
struct Status<'a> {
    version: &'a str,
    openssl: &'a str,
    kernel: &'a str,
    started: Option<String>,
    uptime_seconds: u64,
    phase: &'a str,
    ring: Ring<'a>,
    connections: Connections,
    handshakes: Handshakes,
    workers: Vec<Worker>,
    listeners: Vec<Listener<'a>>,
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
}

#[derive(Serialize)]
struct Worker {
    index: usize,
    cpu: usize,
    state: &'static str,
    connections_open: i64,
    connections_accepted: u64,
}

#[derive(Serialize)]
struct Listener<'a> {
    name: &'a str,
    address: String,
    backend: &'a str,
    certificate_not_after: Option<String>,
}

/// The document as text that ends with a line break.
pub(super) fn render(process: &Process) -> String {
    // Only a map with keys that are no strings could fail, and there is none.
    let mut text = serde_json::to_string_pretty(&read(process)).unwrap_or_else(|_| "{}".to_owned());
    text.push('\n');
    text
}

fn read(process: &Process) -> Status<'_> {
    Status {
        version: process.version,
        openssl: process.openssl,
        kernel: &process.kernel,
        started: rfc3339(process.started),
        uptime_seconds: process.started_at.elapsed().as_secs(),
        phase: process.phase.get().name(),
        ring: Ring { driver: process.driver, flags: process.ring_flags },
        connections: Connections {
            open: process.connections_open(),
            accepted: sum(process, |metrics| metrics.connections_accepted.value()),
            closed: by_label(|reason: CloseReason| {
                sum(process, |metrics| metrics.connections_closed.of(reason).value())
            }),
        },
        handshakes: Handshakes {
            completed: by_label(|version: Version| {
                by_label(|kind: Kind| sum(process, |metrics| metrics.handshakes.of(version).of(kind).value()))
            }),
            failed: by_label(|reason: FailureReason| {
                sum(process, |metrics| metrics.handshakes_failed.of(reason).value())
            }),
        },
        workers: process.workers.iter().enumerate().map(worker).collect(),
        listeners: process.listeners.iter().map(listener).collect(),
    }
}

fn worker((index, worker): (usize, &WorkerView)) -> Worker {
    Worker {
        index,
        cpu: worker.cpu,
        state: worker.state.get().name(),
        connections_open: worker.metrics.connections_open.value(),
        connections_accepted: worker.metrics.connections_accepted.value(),
    }
}

fn listener(view: &crate::telemetry::ListenerView) -> Listener<'_> {
    Listener {
        name: &view.name,
        address: view.address.to_string(),
        backend: &view.backend,
        certificate_not_after: rfc3339(view.certificate_not_after),
    }
}

fn sum(process: &Process, count: impl Fn(&WorkerMetrics) -> u64) -> u64 {
    process.workers.iter().map(|worker| count(&worker.metrics)).fold(0, u64::wrapping_add)
}

fn by_label<L: Label, T>(read: impl Fn(L) -> T) -> BTreeMap<&'static str, T> {
    L::ALL.iter().map(|label| (label.label(), read(*label))).collect()
}

/// None for what the format cannot say: before 1970, or after 9999.
fn rfc3339(time: SystemTime) -> Option<String> {
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
        assert_eq!(status["workers"][1]["connections_open"], 2);
        assert_eq!(status["workers"][1]["state"], "running");
        assert_eq!(status["listeners"][0]["address"], "127.0.0.1:8443");
        assert_eq!(status["listeners"][0]["certificate_not_after"], "2027-01-15T08:00:00Z");
        assert_eq!(status["ring"]["flags"][1], "DEFER_TASKRUN");
        assert_eq!(status["phase"], "serving");
        assert_eq!(status["started"], "2023-11-14T22:13:20Z");
    }

    #[test]
    fn expiry_beyond_the_calendar_is_left_out() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), None);
        assert_eq!(rfc3339(at(UNIX_SECONDS_MAX + 1)), None);
        assert_eq!(rfc3339(at(UNIX_SECONDS_MAX)).as_deref(), Some("9999-12-31T23:59:59Z"));
    }
}
