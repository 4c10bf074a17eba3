//! What to run: the checked form of the command line, and what `compare` builds for each of its runs.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::engine::runtime::Engine;
use crate::result::{Scenario, Settings, TlsSettings};

/// One run. [`Plan::new`] gives closed loop, 16 connections, 5 seconds, one thread; set the rest as needed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which scenario.
    pub scenario: Scenario,
    /// Where the target listens.
    pub address: SocketAddr,
    /// The target as the user wrote it; also the Host header.
    pub target: String,
    /// TLS settings; `None` for a target without TLS.
    pub tls: Option<TlsPlan>,
    /// Local addresses to connect from, in turn: each has its own ports. Empty leaves it to the kernel.
    pub sources: Vec<IpAddr>,
    /// Concurrent connections, at least 1, shared among the threads.
    pub connections: usize,
    /// Measured time.
    pub duration: Duration,
    /// Time before the measurement whose work is not counted.
    pub warmup: Duration,
    /// Ends the run early after so many units of work.
    pub requests: Option<u64>,
    /// Arrivals per second (open loop); `None` is a closed loop.
    pub rate: Option<f64>,
    /// Client threads, at least 1.
    pub threads: usize,
    /// CPUs for the threads, in turn; empty leaves them to the scheduler.
    pub cpus: Vec<usize>,
    /// Processes of the target, whose children are counted too.
    pub pids: Vec<i32>,
    /// Request path; `None` is the built-in backend's `/bytes/<body_bytes>`.
    pub path: Option<String>,
    /// Body size of downloads from the built-in path and of uploads.
    pub body_bytes: u64,
    /// Direction of `transfer`.
    pub direction: Direction,
    /// Requests on each connection of `handshake` and `resume`; 0 closes right after the handshake.
    pub requests_per_connection: u64,
    /// Weights of `mixed`.
    pub weights: BTreeMap<Scenario, u32>,
    /// Longest wait for connect, for a handshake, and for progress of a request.
    pub timeout: Duration,
    /// How the threads wait; `None` takes the best that this kernel has.
    pub engine: Option<Engine>,
}

/// Direction of bulk bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Direction {
    /// From the target.
    #[default]
    Down,
    /// To the target.
    Up,
    /// Half of the connections each way.
    Both,
}

impl Direction {
    /// The name on the command line.
    pub fn label(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Up => "up",
            Self::Both => "both",
        }
    }
}

/// TLS settings of the client.
#[derive(Clone, Debug, Default)]
pub struct TlsPlan {
    /// The only version offered; `None` offers both.
    pub version: Option<TlsVersion>,
    /// The only suite offered (TLS 1.3 and TLS 1.2 names in IANA or OpenSSL form).
    pub suite: Option<String>,
    /// Groups list in OpenSSL form (`X25519:P-256`).
    pub group: Option<String>,
    /// Signature algorithms list in OpenSSL form; chooses between an ECDSA and an RSA certificate.
    pub sigalgs: Option<String>,
    /// How the certificate is checked.
    pub trust: Trust,
    /// Server name sent and checked; `None` takes the host of the target when it is a name.
    pub server_name: Option<String>,
    /// ALPN protocols in order of preference.
    pub alpn: Vec<String>,
    /// Who protects the client's records.
    pub records: Records,
}

/// Who protects the client's records behind the handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Records {
    /// OpenSSL.
    #[default]
    Userspace,
    /// The kernel.
    Kernel,
}

impl Records {
    /// The name in results.
    pub fn label(self) -> &'static str {
        match self {
            Self::Userspace => "userspace",
            Self::Kernel => "kernel",
        }
    }
}

/// How the certificate of the target is checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Against the roots in this PEM file.
    Ca(PathBuf),
    /// Against the system's roots.
    #[default]
    System,
    /// Not at all.
    Insecure,
}

/// A protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[value(name = "1.2")]
    Tls12,
    /// TLS 1.3.
    #[value(name = "1.3")]
    Tls13,
}

impl TlsVersion {
    /// `1.2` or `1.3`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }
}

impl Plan {
    /// A closed-loop run against `address` without TLS, with 16 connections, one thread, 5 s and 1 KiB bodies.
    pub fn new(scenario: Scenario, address: SocketAddr) -> Self {
        Self {
            scenario,
            address,
            target: address.to_string(),
            tls: None,
            sources: Vec::new(),
            connections: 16,
            duration: Duration::from_secs(5),
            warmup: Duration::ZERO,
            requests: None,
            rate: None,
            threads: 1,
            cpus: Vec::new(),
            pids: Vec::new(),
            path: None,
            body_bytes: 1024,
            direction: Direction::Down,
            requests_per_connection: 0,
            weights: BTreeMap::new(),
            timeout: Duration::from_secs(10),
            engine: None,
        }
    }

    /// Finds contradictions; the message names the setting, its value and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        let wrong = |condition: bool, message: &str| if condition { Err(message.to_owned()) } else { Ok(()) };
        wrong(self.connections == 0 || self.threads == 0, "connections and threads: at least 1 each")?;
        wrong(self.threads > self.connections, "threads: at most as many as connections")?;
        wrong(self.duration.is_zero(), "duration: more than nothing")?;
        wrong(self.timeout.is_zero(), "timeout: more than nothing")?;
        wrong(self.requests == Some(0), "requests: at least 1")?;
        if let Some(rate) = self.rate {
            wrong(
                !(rate.is_finite() && rate > 0.0 && rate <= RATE_MAX),
                "rate: above 0 and at most 10000000 per second",
            )?;
            wrong(self.scenario == Scenario::Idle, "rate: idle has no arrivals")?;
        }
        let is_foreign = |source: &IpAddr| source.is_ipv4() != self.address.is_ipv4();
        wrong(self.sources.iter().any(is_foreign), "source: of the same family as the target's address")?;
        if let Some(path) = &self.path {
            let is_clean = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
            wrong(!is_clean, "path: begins with / and has only printable ASCII without blanks")?;
        }
        let needs_tls = |scenario| matches!(scenario, Scenario::Handshake | Scenario::Resume);
        let asks_handshakes = needs_tls(self.scenario) || self.weights.keys().any(|scenario| needs_tls(*scenario));
        wrong(asks_handshakes && self.tls.is_none(), "handshakes need a target with TLS")?;
        let has_kernel_tls = self.tls.as_ref().is_some_and(|tls| tls.records == Records::Kernel);
        wrong(
            asks_handshakes && has_kernel_tls,
            "kernel-tls: tickets come inside of TLS, where the kernel keeps them; only request, transfer and idle have it",
        )?;
        let is_mixed = self.scenario == Scenario::Mixed;
        wrong(is_mixed && self.weights.values().all(|weight| *weight == 0), "mixed: at least one weight")?;
        wrong(
            self.scenario == Scenario::Transfer && self.direction == Direction::Both && self.connections < 2,
            "direction both: at least 2 connections",
        )
    }

    /// Name or address of the target, without the port.
    pub fn host(&self) -> &str {
        let host = self.target.rsplit_once(':').map_or(self.target.as_str(), |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Some of the work offers tickets.
    pub fn resumes(&self) -> bool {
        self.scenario == Scenario::Resume || self.weights.contains_key(&Scenario::Resume)
    }

    /// The path that GET requests ask for.
    pub fn download_path(&self) -> String {
        self.path.clone().unwrap_or_else(|| format!("/bytes/{}", self.body_bytes))
    }

    /// The path that uploads go to.
    pub fn upload_path(&self) -> String {
        self.path.clone().unwrap_or_else(|| "/upload".to_owned())
    }

    /// The form that goes into the result.
    pub fn settings(&self, engine: &str) -> Settings {
        Settings {
            connections: self.connections,
            threads: self.threads,
            cpus: self.cpus.clone(),
            duration_seconds: self.duration.as_secs_f64(),
            warmup_seconds: self.warmup.as_secs_f64(),
            requests: self.requests,
            rate: self.rate,
            path: self.download_path(),
            body_bytes: self.body_bytes,
            direction: (self.scenario == Scenario::Transfer).then(|| self.direction.label().to_owned()),
            requests_per_connection: self.requests_per_connection,
            tls: self.tls.as_ref().map(TlsPlan::settings),
            weights: self.weights.clone(),
            engine: engine.to_owned(),
        }
    }
}

impl TlsPlan {
    fn settings(&self) -> TlsSettings {
        TlsSettings {
            version: self.version.map(|version| version.label().to_owned()),
            suite: self.suite.clone(),
            group: self.group.clone(),
            sigalgs: self.sigalgs.clone(),
            server_name: self.server_name.clone(),
            alpn: self.alpn.clone(),
            verified: self.trust != Trust::Insecure,
            records: self.records.label().to_owned(),
        }
    }
}

/// Largest rate that can be asked, per second.
const RATE_MAX: f64 = 1e7;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

    use super::*;

    fn plan() -> Plan {
        Plan::new(Scenario::Request, "127.0.0.1:443".parse().unwrap())
    }

    #[test]
    fn default_plan_has_no_contradiction() {
        assert_eq!(plan().check(), Ok(()));
    }

    #[test]
    fn rate_that_is_not_a_positive_number_is_refused() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let message = Plan { rate: Some(rate), ..plan() }.check().unwrap_err();
            assert!(message.starts_with("rate"), "{message}");
        }
    }

    #[test]
    fn path_that_could_smuggle_a_header_is_refused() {
        let message = Plan { path: Some("/a HTTP/1.1\r\nX: y".to_owned()), ..plan() }.check().unwrap_err();
        assert!(message.starts_with("path"), "{message}");
    }

    #[test]
    fn handshakes_without_tls_are_refused() {
        let plan = Plan { scenario: Scenario::Handshake, ..plan() };
        assert!(plan.check().unwrap_err().contains("TLS"));
    }

    #[test]
    fn kernel_tls_is_refused_where_tickets_or_handshakes_are_the_work() {
        let tls = Some(TlsPlan { records: Records::Kernel, ..TlsPlan::default() });
        for scenario in [Scenario::Handshake, Scenario::Resume] {
            let message = Plan { scenario, tls: tls.clone(), ..plan() }.check().unwrap_err();
            assert!(message.starts_with("kernel-tls"), "{message}");
        }
        assert_eq!(Plan { tls, ..plan() }.check(), Ok(()));
    }

    #[test]
    fn host_of_an_address_has_no_brackets_and_no_port() {
        let plan = Plan { target: "[::1]:443".to_owned(), ..plan() };
        assert_eq!(plan.host(), "::1");
    }
}
