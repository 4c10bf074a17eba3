//! The form of `compare.json`: every run with its full result, and what was concluded from them.
//!
//! `loadtest/SCHEMA.md` documents it for readers in other languages. A field that changes its meaning or goes away
//! raises [`SCHEMA_VERSION`]; a new optional field does not.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::result::{Doubt, RunResult};

/// Version of the form that this build writes.
pub const SCHEMA_VERSION: u32 = 1;

/// One comparison, from what was asked to what may be concluded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// Version of `sluice-load`.
    pub tool_version: String,
    /// Start, RFC 3339 in UTC.
    pub started: String,
    /// Wall time from the first start of a process to the last end.
    pub elapsed_seconds: f64,
    /// Ctrl-C ended it early: what follows is what was measured until then.
    pub interrupted: bool,
    /// What to type to repeat it.
    pub command_line: Vec<String>,
    /// The machine.
    pub environment: Environment,
    /// Settings that hold for all runs.
    pub settings: Settings,
    /// Who took part, in the order of every round.
    pub proxies: Vec<Proxy>,
    /// Who was found or asked for and could not take part, and why.
    pub absent: Vec<Absent>,
    /// Each scenario, in the order in which they ran.
    pub scenarios: Vec<ScenarioComparison>,
}

/// The machine that a comparison ran on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// `uname -sr`.
    pub kernel: String,
    /// Machine architecture.
    pub architecture: String,
    /// CPU model as the kernel names it.
    pub cpu_model: String,
    /// CPUs this process may use.
    pub cpus: Vec<usize>,
    /// Instruction sets that decide about AEAD speed, those of `aes`, `avx2`, `avx512f`, `vaes`, `vpclmulqdq`, `sha_ni`
    /// that are there.
    pub cpu_features: Vec<String>,
    /// Memory.
    pub memory_bytes: u64,
    /// Name and version of the distribution.
    pub distribution: String,
    /// The virtual machine's maker, where there is one.
    pub hypervisor: Option<String>,
    /// Default congestion control of TCP sockets.
    pub congestion_control: String,
    /// Upper layer protocols of TCP that the kernel offers; `tls` among them means kernel TLS.
    pub tcp_upper_layers: Vec<String>,
    /// Load average over one minute when the comparison began.
    pub load_average: f64,
    /// Frequency governor, where the kernel shows one.
    pub governor: Option<String>,
    /// TLS library of the client.
    pub client_tls_library: String,
    /// What the user wants readers to know (`--note`).
    pub note: Option<String>,
}

/// Settings that hold for all runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Rounds asked for.
    pub rounds: usize,
    /// Measured seconds of each run.
    pub seconds: f64,
    /// Seconds before the measurement in each run, whose work is not counted.
    pub warmup_seconds: f64,
    /// CPU of the proxy under test.
    pub proxy_cpu: usize,
    /// CPUs of the client and the backend.
    pub load_cpus: Vec<usize>,
    /// TLS 1.3 suites of every proxy, in order.
    pub tls13_suites: String,
    /// TLS 1.2 suites of every proxy, in order, OpenSSL names.
    pub tls12_suites: String,
    /// Groups of every proxy.
    pub groups: String,
}

/// One proxy in one mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proxy {
    /// Unique name: `nginx-stream`, or with `--peer-binary haproxy-3.4=PATH` `haproxy-3.4-tcp`.
    pub name: String,
    /// It is what the others are compared with.
    pub subject: bool,
    /// `tcp` relays bytes, `http` parses requests.
    pub mode: String,
    /// `userspace`; `kernel` where the proxy was told to use kernel TLS; `chosen` where it decides by its own policy.
    pub records: String,
    /// Path of the program.
    pub binary: String,
    /// Version as the program tells it.
    pub version: String,
    /// TLS library that it runs with, `unknown` where that could not be found out.
    pub tls_library: String,
}

/// A proxy that could not take part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absent {
    /// Its name.
    pub name: String,
    /// Why, in words.
    pub reason: String,
}

/// One scenario: all runs, and what they say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScenarioComparison {
    /// Name on the command line.
    pub name: String,
    /// What is done, in words.
    pub title: String,
    /// What is compared.
    pub figure: Figure,
    /// Key of the certificate: `ecdsa-p256` or `rsa-2048`.
    pub certificate: String,
    /// Whether the proxies hand out tickets.
    pub tickets: Tickets,
    /// Arrivals per second for every proxy, in open loop.
    pub rate: Option<f64>,
    /// Every run, in the order in which they ran.
    pub runs: Vec<Run>,
    /// The figure of each proxy that has one.
    pub standings: Vec<Standing>,
    /// Name of the best peer (never a build of the subject's own product); absent when no peer can be believed.
    pub best_peer: Option<String>,
    /// The subject against each peer.
    pub ratios: Vec<Ratio>,
}

/// What a scenario compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Payload bytes per CPU-second of the proxy; more is better.
    BytesPerCpuSecond,
    /// Requests per CPU-second of the proxy; more is better.
    RequestsPerCpuSecond,
    /// Handshakes per CPU-second of the proxy; more is better.
    HandshakesPerCpuSecond,
    /// Growth of the proxy's proportional set size per connection, bytes; less is better.
    PssPerConnection,
    /// 99th percentile of the latency from the intended start, seconds; less is better.
    LatencyP99,
}

/// Whether more or less of a figure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// More is better.
    More,
    /// Less is better.
    Less,
}

impl Figure {
    /// The figure of `result`, when the run has one that is above zero.
    pub fn of(self, result: &RunResult) -> Option<f64> {
        let value = match self {
            Self::BytesPerCpuSecond | Self::RequestsPerCpuSecond | Self::HandshakesPerCpuSecond => {
                result.work.per_target_cpu_second
            }
            Self::PssPerConnection => result.target_cost.and_then(|cost| cost.pss_per_connection_bytes),
            Self::LatencyP99 => result.latency.map(|latency| latency.p99),
        };
        value.filter(|value| value.is_finite() && *value > 0.0)
    }

    /// Which way is better.
    pub fn better(self) -> Better {
        match self {
            Self::BytesPerCpuSecond | Self::RequestsPerCpuSecond | Self::HandshakesPerCpuSecond => Better::More,
            Self::PssPerConnection | Self::LatencyP99 => Better::Less,
        }
    }

    /// Unit of [`Figure::scaled`] values, for people.
    pub fn unit(self) -> &'static str {
        match self {
            Self::BytesPerCpuSecond => "MB per CPU-second",
            Self::RequestsPerCpuSecond => "requests per CPU-second",
            Self::HandshakesPerCpuSecond => "handshakes per CPU-second",
            Self::PssPerConnection => "KiB per idle connection",
            Self::LatencyP99 => "p99 latency, ms",
        }
    }

    /// `value` in [`Figure::unit`].
    pub fn scaled(self, value: f64) -> f64 {
        match self {
            Self::BytesPerCpuSecond => value / 1e6,
            Self::RequestsPerCpuSecond | Self::HandshakesPerCpuSecond => value,
            Self::PssPerConnection => value / 1024.0,
            Self::LatencyP99 => value * 1e3,
        }
    }
}

/// Whether the proxies hand out tickets in a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tickets {
    /// As many as their library sends by default, stateless.
    On,
    /// None.
    Off,
}

/// One run of one proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Round, from 1.
    pub round: usize,
    /// [`Proxy::name`].
    pub proxy: String,
    /// What a single connection showed before the run.
    pub probe: Option<Probe>,
    /// The result, with its own doubts.
    pub result: Option<RunResult>,
    /// Why there is no result, in words.
    pub failure: Option<String>,
}

/// What a single connection showed before a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// TLS 1.3 tickets received on a full handshake; absent in TLS 1.2.
    pub tickets: Option<usize>,
    /// A second connection that offered the session resumed.
    pub resumes: bool,
}

/// The figure of one proxy over the rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// [`Proxy::name`].
    pub proxy: String,
    /// Over the believed rounds; absent when none is.
    pub figure: Option<Spread>,
    /// Figure of each round, believed or not; absent where a run gave none.
    pub rounds: Vec<Option<f64>>,
    /// Which rounds (from 1) do not count.
    pub disbelieved_rounds: Vec<usize>,
    /// Every kind of doubt that was seen, once, in words.
    pub doubts: Vec<String>,
}

/// Median and extremes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Median.
    pub median: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// How many values.
    pub count: usize,
}

/// The subject against one peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// [`Proxy::name`] of the subject.
    pub subject: String,
    /// [`Proxy::name`] of the peer.
    pub peer: String,
    /// One value per round in which both are believed. Above 1 the subject is ahead, whichever way the figure is
    /// better: subject / peer where more is better, peer / subject where less is.
    pub pairs: Vec<f64>,
    /// The verdict; absent when it is refused.
    pub spread: Option<Spread>,
    /// Why the ratio is refused; empty when it is not.
    pub refused: Vec<Refusal>,
}

/// Why a ratio is not believed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Refusal {
    /// Too few rounds in which both can be believed.
    TooFewPairs {
        /// Such rounds.
        pairs: usize,
        /// Fewest that are believed.
        needed: usize,
    },
    /// The pairs disagree.
    PairsDisagree {
        /// (largest - smallest) / median.
        spread: f64,
        /// Largest spread that is believed.
        limit: f64,
    },
    /// The two negotiated different versions, suites, groups or certificate types.
    DifferentTls {
        /// The subject's.
        subject: String,
        /// The peer's.
        peer: String,
    },
    /// The two handed out different numbers of tickets on a full handshake, which costs and helps unequally.
    DifferentTickets {
        /// The subject's.
        subject: usize,
        /// The peer's.
        peer: usize,
    },
    /// A run carries a doubt that forbids ratios; listed when that leaves too few pairs.
    RunDoubt {
        /// Whose run.
        proxy: String,
        /// The doubt.
        doubt: Doubt,
    },
    /// A run failed; listed when that leaves too few pairs.
    RunFailed {
        /// Whose run.
        proxy: String,
        /// Why, in words.
        reason: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFewPairs { pairs, needed } => {
                write!(f, "{pairs} believable rounds, {needed} are needed")
            }
            Self::PairsDisagree { spread, limit } => write!(
                f,
                "the rounds disagree: {:.0} % of the median between smallest and largest ratio, {:.0} % is believed",
                spread * 100.0,
                limit * 100.0
            ),
            Self::DifferentTls { subject, peer } => write!(f, "different TLS: {subject} against {peer}"),
            Self::DifferentTickets { subject, peer } => {
                write!(f, "different ticket settings: {subject} tickets against {peer}")
            }
            Self::RunDoubt { proxy, doubt } => write!(f, "{proxy}: {doubt}"),
            Self::RunFailed { proxy, reason } => write!(f, "{proxy} failed: {reason}"),
        }
    }
}
