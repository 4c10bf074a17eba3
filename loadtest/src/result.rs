//! The result of one run: what `--json` prints and what `compare` reads.
//!
//! The JSON form is a contract. A field that changes its meaning or goes away raises [`SCHEMA_VERSION`];
//! a new optional field does not. All times are seconds, all sizes are bytes.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Version of the JSON form written by this build.
pub const SCHEMA_VERSION: u32 = 1;

/// Everything that one run measured, with what is doubtful about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// Version of `sluice-load`.
    pub tool_version: String,
    /// Start of the measurement, RFC 3339 in UTC.
    pub started: String,
    /// Which scenario ran.
    pub scenario: Scenario,
    /// `host:port` that was loaded.
    pub target: String,
    /// What was negotiated; absent for a target without TLS and when no handshake finished.
    pub tls: Option<Negotiated>,
    /// What was asked for.
    pub settings: Settings,
    /// Measured time, without warm-up.
    pub duration_seconds: f64,
    /// Ctrl-C ended the run before its time.
    pub interrupted: bool,
    /// The figure of the scenario.
    pub work: Work,
    /// Payload bytes (HTTP bodies), both directions.
    pub bytes: Bytes,
    /// Time of one unit of work; absent when nothing finished. In open loop it counts from the intended start.
    pub latency: Option<Latency>,
    /// Failures by class; empty when nothing failed.
    pub errors: BTreeMap<ErrorClass, u64>,
    /// Resumptions among the handshakes; present in `resume` and in every scenario that tried any.
    pub resumption: Option<Resumption>,
    /// What the target spent; present with `--pid`.
    pub target_cost: Option<Cost>,
    /// What this process spent.
    pub client_cost: Cost,
    /// Share of its CPUs that the client used, 0 to 1.
    pub client_cpu_share: f64,
    /// Per scenario figures of `mixed`; empty otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// Why the figures may not mean what they seem to.
    pub doubts: Vec<Doubt>,
}

/// The scenarios of the harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scenario {
    /// Full handshakes, one per connection.
    Handshake,
    /// Handshakes that offer a ticket.
    Resume,
    /// HTTP/1.1 requests on kept-alive connections.
    Request,
    /// Bulk bodies, down, up or both.
    Transfer,
    /// Open connections that do nothing.
    Idle,
    /// A weighted mix of the others.
    Mixed,
}

impl Scenario {
    /// The name on the command line and in the JSON form.
    pub fn label(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Resume => "resume",
            Self::Request => "request",
            Self::Transfer => "transfer",
            Self::Idle => "idle",
            Self::Mixed => "mixed",
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What the first finished handshake negotiated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Negotiated {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: String,
    /// Suite, IANA name (`TLS_AES_128_GCM_SHA256`).
    pub suite: String,
    /// Key exchange group as OpenSSL names it (`X25519`); absent when the library did not tell.
    pub group: Option<String>,
    /// Public key of the certificate: `ecdsa`, `rsa` or `other`; absent in a resumption.
    pub certificate: Option<String>,
    /// Full or resumed.
    pub kind: HandshakeKind,
}

/// Kind of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HandshakeKind {
    /// With certificate.
    Full,
    /// With a ticket.
    Resumed,
}

/// What was asked for, so that a result can be repeated from its JSON alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Concurrent connections.
    pub connections: usize,
    /// Client threads.
    pub threads: usize,
    /// CPUs the threads were pinned to; empty without pinning.
    pub cpus: Vec<usize>,
    /// Asked duration of the measurement.
    pub duration_seconds: f64,
    /// Time before the measurement whose work is not counted.
    pub warmup_seconds: f64,
    /// Bound on the units of work, if one was given.
    pub requests: Option<u64>,
    /// Arrivals per second in open loop; absent in closed loop.
    pub rate: Option<f64>,
    /// Request path.
    pub path: String,
    /// Body size of uploads (and of built-in download paths).
    pub body_bytes: u64,
    /// Direction of `transfer`: `down`, `up` or `both`.
    pub direction: Option<String>,
    /// Requests on each connection of `handshake` and `resume`.
    pub requests_per_connection: u64,
    /// Asked TLS settings; absent for a target without TLS.
    pub tls: Option<TlsSettings>,
    /// Weights of `mixed`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<Scenario, u32>,
    /// How the client waits for its sockets: `io_uring` with its flags, or `epoll`.
    pub engine: String,
}

/// Asked TLS settings; an absent field leaves the choice to the library.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsSettings {
    /// `1.2` or `1.3`.
    pub version: Option<String>,
    /// Suite.
    pub suite: Option<String>,
    /// Groups list.
    pub group: Option<String>,
    /// Signature algorithms list.
    pub sigalgs: Option<String>,
    /// Server name sent and checked.
    pub server_name: Option<String>,
    /// ALPN protocols, in order.
    pub alpn: Vec<String>,
    /// The certificate was checked.
    pub verified: bool,
    /// Who protected the client's records behind the handshake: `userspace` or `kernel`.
    #[serde(default)]
    pub records: String,
}

/// Work done, and what it cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// What is counted.
    pub unit: WorkUnit,
    /// Finished units in the measured time.
    pub count: u64,
    /// Units per second of wall time.
    pub per_second: f64,
    /// Units per CPU-second of the target: the figure that holds on a shared machine. Present with `--pid` when
    /// the target used CPU time.
    pub per_target_cpu_second: Option<f64>,
}

/// Unit of [`Work::count`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkUnit {
    /// Finished handshakes.
    Handshakes,
    /// Finished requests.
    Requests,
    /// Payload bytes.
    Bytes,
    /// Held connections.
    Connections,
    /// Operations of several kinds (`mixed`).
    Operations,
}

impl WorkUnit {
    /// The unit in words.
    pub fn label(self) -> &'static str {
        match self {
            Self::Handshakes => "handshakes",
            Self::Requests => "requests",
            Self::Bytes => "bytes",
            Self::Connections => "connections",
            Self::Operations => "operations",
        }
    }
}

/// Payload bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// Request bodies.
    pub sent: u64,
    /// Response bodies.
    pub received: u64,
}

/// Latency of one unit of work, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Largest.
    pub max: f64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Samples.
    pub count: u64,
}

/// Class of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// TCP connect was refused.
    ConnectRefused,
    /// TCP connect failed otherwise.
    Connect,
    /// The certificate did not pass the check.
    Certificate,
    /// The handshake failed otherwise.
    Handshake,
    /// Reading or writing failed, a reset included.
    Io,
    /// The target closed before the answer was complete.
    Closed,
    /// The answer was not HTTP/1.1 as this client understands it.
    Protocol,
    /// The answer's status was not 2xx.
    Status,
    /// Nothing came within the time-out.
    Timeout,
    /// This process ran out of a resource (descriptors, ports, memory).
    Local,
}

impl ErrorClass {
    /// The class in words.
    pub fn label(self) -> &'static str {
        match self {
            Self::ConnectRefused => "connection refused",
            Self::Connect => "connect failed",
            Self::Certificate => "certificate refused",
            Self::Handshake => "handshake failed",
            Self::Io => "read or write failed",
            Self::Closed => "closed early",
            Self::Protocol => "not understood as HTTP/1.1",
            Self::Status => "status not 2xx",
            Self::Timeout => "timed out",
            Self::Local => "out of a local resource",
        }
    }
}

/// Resumptions among the handshakes that offered a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resumption {
    /// Measured handshakes, whether they had a ticket to offer or not.
    pub handshakes: u64,
    /// Those that offered a ticket.
    pub offered: u64,
    /// Those that resumed.
    pub resumed: u64,
    /// `resumed / handshakes`, 0 to 1.
    pub rate: f64,
}

/// What a process tree spent in the measured time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// CPU time in user space.
    pub user_seconds: f64,
    /// CPU time in the kernel on behalf of the process.
    pub system_seconds: f64,
    /// `user + system`, from the scheduler's nanosecond clock where the kernel keeps one.
    pub cpu_seconds: f64,
    /// Voluntary and involuntary context switches.
    pub context_switches: u64,
    /// Proportional set size at the end; 0 when it could not be read.
    pub pss_bytes: u64,
    /// Growth of the proportional set size per held connection; `idle` only.
    pub pss_per_connection_bytes: Option<f64>,
    /// Processes that were counted.
    pub processes: usize,
}

/// One scenario's share of a `mixed` run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Which scenario.
    pub scenario: Scenario,
    /// Operations of this kind.
    pub count: u64,
    /// Operations per second.
    pub per_second: f64,
    /// Latency of this kind.
    pub latency: Option<Latency>,
}

/// A reason to read a figure with care.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Doubt {
    /// The client's CPUs were (nearly) full: the target may do more than what was measured.
    ClientBound {
        /// Share of its CPUs that the client used, 0 to 1.
        cpu_share: f64,
    },
    /// The hypervisor took CPU time from this machine.
    CpuStolen {
        /// Stolen share of all CPU time, 0 to 1.
        share: f64,
    },
    /// The CPU clock changed during the run.
    FrequencyDrift {
        /// MHz at the start, mean over the CPUs.
        from_mhz: f64,
        /// MHz at the end.
        to_mhz: f64,
    },
    /// The rate within the run (or between runs) moved too much for one number to stand for it.
    SpreadTooWide {
        /// Interquartile range over the median.
        spread: f64,
        /// Largest spread that is believed.
        limit: f64,
    },
    /// Some work failed.
    ErrorsSeen {
        /// Failures.
        count: u64,
    },
    /// Fewer handshakes resumed than the scenario wants.
    ResumptionBelowRequest {
        /// Wanted rate, 0 to 1.
        asked: f64,
        /// Achieved rate.
        achieved: f64,
    },
    /// A handshake negotiated something else than what was asked, or the handshakes differed from each other.
    SuiteMismatch {
        /// What was asked (or negotiated first).
        asked: String,
        /// What was negotiated.
        negotiated: String,
    },
    /// Full handshakes were measured, and some of them resumed.
    UnwantedResumption {
        /// Resumed handshakes.
        count: u64,
    },
    /// The open loop could not start its work on time: the arrival rate was not what was asked.
    RateNotReached {
        /// Arrivals per second asked.
        asked: f64,
        /// Arrivals per second finished.
        achieved: f64,
    },
    /// Too little was measured.
    TooFewSamples {
        /// Samples.
        count: u64,
        /// Fewest samples that are believed.
        limit: u64,
    },
    /// Not all asked connections were open.
    ConnectionsMissing {
        /// Asked.
        asked: u64,
        /// Open.
        open: u64,
    },
    /// Processes of the target started or ended during the run, so that its cost is not complete.
    TargetChanged {
        /// Processes that came or went.
        processes: u64,
    },
    /// Ctrl-C ended the run early.
    Interrupted,
}

impl Doubt {
    /// A figure with this doubt must not go into a ratio.
    pub fn forbids_ratio(&self) -> bool {
        match self {
            Self::ClientBound { .. } | Self::FrequencyDrift { .. } | Self::CpuStolen { .. } => false,
            Self::SpreadTooWide { .. }
            | Self::ErrorsSeen { .. }
            | Self::ResumptionBelowRequest { .. }
            | Self::SuiteMismatch { .. }
            | Self::UnwantedResumption { .. }
            | Self::RateNotReached { .. }
            | Self::TooFewSamples { .. }
            | Self::ConnectionsMissing { .. }
            | Self::TargetChanged { .. }
            | Self::Interrupted => true,
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientBound { cpu_share } => write!(
                f,
                "client-bound: this process used {:.0} % of its CPUs; the target may do more (give the client more CPUs)",
                cpu_share * 100.0
            ),
            Self::CpuStolen { share } => {
                write!(f, "CPU stolen: the hypervisor took {:.1} % of this machine's CPU time", share * 100.0)
            }
            Self::FrequencyDrift { from_mhz, to_mhz } => {
                write!(f, "frequency drift: the CPUs went from {from_mhz:.0} to {to_mhz:.0} MHz")
            }
            Self::SpreadTooWide { spread, limit } => write!(
                f,
                "spread too wide: {:.0} % between quartiles, {:.0} % is believed (run longer, or on a quiet machine)",
                spread * 100.0,
                limit * 100.0
            ),
            Self::ErrorsSeen { count } => write!(f, "errors seen: {count}"),
            Self::ResumptionBelowRequest { asked, achieved } => write!(
                f,
                "resumption below request: {:.1} % of the handshakes resumed, {:.0} % were asked",
                achieved * 100.0,
                asked * 100.0
            ),
            Self::SuiteMismatch { asked, negotiated } => {
                write!(f, "suite mismatch: asked {asked}, negotiated {negotiated}")
            }
            Self::UnwantedResumption { count } => write!(f, "{count} handshakes resumed in a run of full handshakes"),
            Self::RateNotReached { asked, achieved } => {
                write!(f, "rate not reached: {achieved:.0} per second of {asked:.0} asked")
            }
            Self::TooFewSamples { count, limit } => write!(f, "too few samples: {count}, {limit} are believed"),
            Self::ConnectionsMissing { asked, open } => write!(f, "connections missing: {open} open of {asked}"),
            Self::TargetChanged { processes } => {
                write!(f, "{processes} processes of the target started or ended during the run")
            }
            Self::Interrupted => f.write_str("interrupted before its time"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

    use super::*;

    #[test]
    fn doubt_in_json_carries_its_kind_and_numbers() {
        let doubt = Doubt::ClientBound { cpu_share: 0.5 };
        let text = serde_json::to_string(&doubt).unwrap();
        assert_eq!(text, r#"{"kind":"client_bound","cpu_share":0.5}"#);
        assert_eq!(serde_json::from_str::<Doubt>(&text).unwrap(), doubt);
    }

    #[test]
    fn error_class_is_usable_as_a_json_key() {
        let errors = BTreeMap::from([(ErrorClass::ConnectRefused, 3u64)]);
        assert_eq!(serde_json::to_string(&errors).unwrap(), r#"{"connect_refused":3}"#);
    }

    #[test]
    fn scenario_label_and_json_name_are_the_same() {
        for scenario in [Scenario::Handshake, Scenario::Resume, Scenario::Idle, Scenario::Mixed] {
            assert_eq!(serde_json::to_string(&scenario).unwrap(), format!("\"{}\"", scenario.label()));
        }
    }
}
