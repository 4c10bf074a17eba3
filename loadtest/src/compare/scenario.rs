//! The scenarios of a comparison, each as a plan for the load engine.

use std::path::Path;
use std::time::Duration;

use super::certificate::{KeyType, SERVER_NAME};
use super::config::GROUPS;
use super::schema::{Figure, Tickets};
use crate::plan::{Direction, Plan, TlsPlan, TlsVersion, Trust};
use crate::result::Scenario;

/// One scenario of a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name on the command line.
    pub name: &'static str,
    /// What is done, in words.
    pub title: &'static str,
    /// What is compared.
    pub figure: Figure,
    /// Key of the certificate.
    pub key_type: KeyType,
    /// Whether proxies hand out tickets.
    pub tickets: Tickets,
    /// The only version offered.
    pub version: TlsVersion,
    /// Part of the standard set; the others run when they are named.
    pub is_standard: bool,
    /// Closed loop, or open loop at a share of what the slowest proxy can do.
    pub arrivals: Arrivals,
    scenario: Scenario,
    connections: usize,
    body_bytes: u64,
    direction: Direction,
}

/// How work arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// The next begins when the last ends.
    Closed,
    /// At [`OPEN_LOOP_SHARE`] of the request rate that the slowest proxy reached in closed loop.
    Open,
}

/// Settings of the client that do not depend on the scenario.
#[derive(Clone, Debug)]
pub struct Load<'a> {
    /// Root of the certificate.
    pub root: &'a Path,
    /// CPUs of the client, one thread on each.
    pub cpus: &'a [usize],
    /// Measured time.
    pub duration: Duration,
    /// Time before it.
    pub warmup: Duration,
}

/// Every scenario, in the order in which they run.
pub const ALL: [Case; 12] = [
    Case { name: "transfer-down", title: "1 MiB downloads, 8 connections", ..TRANSFER },
    Case { name: "transfer-up", title: "1 MiB uploads, 8 connections", direction: Direction::Up, ..TRANSFER },
    Case {
        name: "transfer-both",
        title: "1 MiB down and up, 8 connections",
        direction: Direction::Both,
        is_standard: false,
        ..TRANSFER
    },
    REQUEST,
    Case {
        name: "request-16k",
        title: "Keep-alive requests, 16 KiB bodies, 64 connections",
        body_bytes: 16 * 1024,
        is_standard: false,
        ..REQUEST
    },
    HANDSHAKE,
    Case {
        name: "handshake-tls13-rsa",
        title: "Full TLS 1.3 handshakes, RSA-2048",
        key_type: KeyType::Rsa2048,
        is_standard: false,
        ..HANDSHAKE
    },
    Case {
        name: "resume-tls13",
        title: "TLS 1.3 resumptions by ticket, one request each",
        scenario: Scenario::Resume,
        tickets: Tickets::On,
        ..HANDSHAKE
    },
    Case {
        name: "handshake-tls12",
        title: "Full TLS 1.2 handshakes, ECDSA P-256, one request each",
        version: TlsVersion::Tls12,
        ..HANDSHAKE
    },
    Case {
        name: "resume-tls12",
        title: "TLS 1.2 resumptions by ticket, one request each",
        scenario: Scenario::Resume,
        tickets: Tickets::On,
        version: TlsVersion::Tls12,
        is_standard: false,
        ..HANDSHAKE
    },
    Case {
        name: "idle",
        title: "1000 idle connections",
        figure: Figure::PssPerConnection,
        scenario: Scenario::Idle,
        connections: 1000,
        ..REQUEST
    },
    Case {
        name: "tail",
        title: "Keep-alive requests in open loop, 64 connections",
        figure: Figure::LatencyP99,
        arrivals: Arrivals::Open,
        ..REQUEST
    },
];

impl Case {
    /// Finds a scenario by name.
    pub fn named(name: &str) -> Option<Self> {
        ALL.into_iter().find(|case| case.name == name)
    }

    /// The plan of one run, without target. `rate` is for open loop.
    pub fn plan(&self, address: std::net::SocketAddr, pid: i32, load: &Load<'_>, rate: Option<f64>) -> Plan {
        let mut plan = Plan::new(self.scenario, address);
        plan.target = format!("{SERVER_NAME}:{}", address.port());
        plan.tls = Some(TlsPlan {
            version: Some(self.version),
            suite: Some(self.suite().to_owned()),
            group: Some(self.groups().to_owned()),
            trust: Trust::Ca(load.root.to_owned()),
            server_name: Some(SERVER_NAME.to_owned()),
            ..TlsPlan::default()
        });
        plan.connections = self.connections;
        plan.duration = load.duration;
        plan.warmup = load.warmup;
        plan.rate = rate;
        plan.threads = load.cpus.len().clamp(1, CLIENT_THREADS_MAX);
        plan.cpus = load.cpus.to_vec();
        plan.pids = vec![pid];
        plan.body_bytes = self.body_bytes;
        plan.direction = self.direction;
        // A handshake with no request behind it would let http modes skip the backend connection that tcp modes make.
        plan.requests_per_connection = 1;
        plan
    }

    /// The proxies offer [`GROUPS`] alone, so that is what the key exchange uses. RFC 8422 section 5.1.1: in TLS 1.2 the
    /// client's list must also have the curve of the server's ECDSA key.
    fn groups(&self) -> &'static str {
        match (self.version, self.key_type) {
            (TlsVersion::Tls12, KeyType::EcdsaP256) => "X25519:P-256",
            _ => GROUPS,
        }
    }

    fn suite(&self) -> &'static str {
        match (self.version, self.key_type) {
            (TlsVersion::Tls13, _) => "TLS_AES_128_GCM_SHA256",
            (TlsVersion::Tls12, KeyType::EcdsaP256) => "ECDHE-ECDSA-AES128-GCM-SHA256",
            (TlsVersion::Tls12, KeyType::Rsa2048) => "ECDHE-RSA-AES128-GCM-SHA256",
        }
    }
}

/// Share of the slowest proxy's capacity at which tail latency is measured: high enough for queues to form, low enough
/// that no proxy falls behind.
pub const OPEN_LOOP_SHARE: f64 = 0.7;

/// More client threads than this would only wait for each other on loopback.
const CLIENT_THREADS_MAX: usize = 16;

const REQUEST: Case = Case {
    name: "request",
    title: "Keep-alive requests, 128-byte bodies, 64 connections",
    figure: Figure::RequestsPerCpuSecond,
    key_type: KeyType::EcdsaP256,
    tickets: Tickets::On,
    version: TlsVersion::Tls13,
    is_standard: true,
    arrivals: Arrivals::Closed,
    scenario: Scenario::Request,
    connections: 64,
    body_bytes: 128,
    direction: Direction::Down,
};

const TRANSFER: Case = Case {
    figure: Figure::BytesPerCpuSecond,
    scenario: Scenario::Transfer,
    connections: 8,
    body_bytes: 1024 * 1024,
    ..REQUEST
};

const HANDSHAKE: Case = Case {
    name: "handshake-tls13",
    title: "Full TLS 1.3 handshakes, ECDSA P-256, no tickets, one request each",
    figure: Figure::HandshakesPerCpuSecond,
    scenario: Scenario::Handshake,
    tickets: Tickets::Off,
    connections: 16,
    ..REQUEST
};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for case in ALL {
            assert_eq!(Case::named(case.name).unwrap().title, case.title);
        }
        assert!(Case::named("nonsense").is_none());
    }

    #[test]
    fn open_loop_comes_after_the_closed_loop_that_sets_its_rate() {
        let position = |name: &str| ALL.iter().position(|case| case.name == name).unwrap();
        assert!(position("request") < position("tail"));
    }
}
