//! The arguments that all scenarios share.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use crate::engine::runtime::Engine;
use crate::plan::{Plan, Records, TlsPlan, TlsVersion, Trust};
use crate::result::Scenario;
use crate::run::RunError;

/// Target, shape and bounds of the load.
#[derive(Debug, Args)]
pub(super) struct LoadArgs {
    /// Where the target listens
    #[arg(long, value_name = "HOST:PORT")]
    target: String,
    /// Local addresses to connect from, in turn; each has some 28 000 ports per target
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    source: Vec<IpAddr>,
    /// Concurrent connections
    #[arg(long, short, value_name = "N", default_value_t = 16)]
    connections: usize,
    /// Measured time, e.g. 10s or 500ms
    #[arg(long, short, default_value = "5s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Time before the measurement whose work is not counted
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    warmup: Duration,
    /// End after so many units of work, if the time is not over before
    #[arg(long, value_name = "N")]
    requests: Option<u64>,
    /// Open loop: so many arrivals per second, whatever the target does
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Client threads; without it one per CPU in --cpus, or one
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// CPUs for the client threads
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    cpus: Vec<usize>,
    /// Process of the target, whose cost (children included) is reported; repeatable
    #[arg(long, value_name = "PID")]
    pid: Vec<i32>,
    /// Longest wait for a connect, a handshake, or progress of an answer
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// How the client waits for its sockets; without it the best that this kernel has
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    /// Print the result as JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    tls: TlsArgs,
}

/// How the client speaks TLS.
#[derive(Debug, Args)]
#[command(next_help_heading = "TLS")]
struct TlsArgs {
    /// The target has no TLS
    #[arg(long, conflicts_with_all = ["tls", "suite", "group", "sigalgs", "ca", "insecure", "server_name", "alpn"])]
    plain: bool,
    /// The only version offered
    #[arg(long, value_enum, value_name = "VERSION")]
    tls: Option<TlsVersion>,
    /// The only suite offered, IANA or OpenSSL name
    #[arg(long)]
    suite: Option<String>,
    /// Groups offered, OpenSSL list (X25519:P-256); in TLS 1.2 the curve of an ECDSA certificate must be among them
    #[arg(long, value_name = "LIST")]
    group: Option<String>,
    /// Signature algorithms offered, OpenSSL list; ECDSA+SHA256 or RSA-PSS+SHA256 chooses the certificate
    #[arg(long, value_name = "LIST")]
    sigalgs: Option<String>,
    /// PEM file with the roots to check the certificate against; without it the system's
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    ca: Option<PathBuf>,
    /// Do not check the certificate
    #[arg(long)]
    insecure: bool,
    /// Server name to send and to check; without it the host of the target
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// ALPN protocols to offer, in order
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    alpn: Vec<String>,
    /// Let this machine's kernel protect the client's records behind the handshake (request, transfer, idle)
    #[arg(long, conflicts_with = "plain")]
    kernel_tls: bool,
}

/// One share of `mixed`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weight {
    pub(super) scenario: Scenario,
    pub(super) value: u32,
}

impl FromStr for Weight {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("OPERATION=WEIGHT is expected")?;
        let operations = [Scenario::Handshake, Scenario::Resume, Scenario::Request, Scenario::Transfer];
        let scenario = operations
            .into_iter()
            .find(|scenario| scenario.label() == name)
            .ok_or_else(|| format!("{name:?}: handshake, resume, request or transfer is expected"))?;
        match value.parse() {
            Ok(value @ 1..=1000) => Ok(Self { scenario, value }),
            _ => Err(format!("{value:?}: a weight from 1 to 1000 is expected")),
        }
    }
}

impl LoadArgs {
    /// The plan, without what belongs to one scenario only.
    pub(super) fn plan(&self, scenario: Scenario) -> anyhow::Result<Plan> {
        let mut plan = Plan::new(scenario, self.address()?);
        plan.target.clone_from(&self.target);
        plan.sources.clone_from(&self.source);
        plan.tls = self.tls.plan();
        plan.connections = self.connections;
        plan.duration = self.duration;
        plan.warmup = self.warmup;
        plan.requests = self.requests;
        plan.rate = self.rate;
        plan.threads = self.threads.unwrap_or(self.cpus.len().max(1));
        plan.cpus.clone_from(&self.cpus);
        plan.pids.clone_from(&self.pid);
        plan.timeout = self.timeout;
        plan.engine = self.engine;
        Ok(plan)
    }

    /// The first address of the target. A name that does not resolve is an unreachable target, a target without a
    /// port is wrong usage.
    fn address(&self) -> anyhow::Result<SocketAddr> {
        let (_, port) = self.target.rsplit_once(':').with_context(|| format!("{:?} has no port", self.target))?;
        port.parse::<u16>().with_context(|| format!("port of {:?}", self.target))?;
        let unreachable = |reason: String| RunError::Unreachable { target: self.target.clone(), reason };
        let mut addresses = self.target.to_socket_addrs().map_err(|error| unreachable(error.to_string()))?;
        Ok(addresses.next().ok_or_else(|| unreachable("the name has no address".to_owned()))?)
    }
}

impl TlsArgs {
    fn plan(&self) -> Option<TlsPlan> {
        if self.plain {
            return None;
        }
        Some(TlsPlan {
            version: self.tls,
            suite: self.suite.clone(),
            group: self.group.clone(),
            sigalgs: self.sigalgs.clone(),
            trust: match (&self.ca, self.insecure) {
                (_, true) => Trust::Insecure,
                (Some(path), false) => Trust::Ca(path.clone()),
                (None, false) => Trust::System,
            },
            server_name: self.server_name.clone(),
            alpn: self.alpn.clone(),
            records: if self.kernel_tls { Records::Kernel } else { Records::Userspace },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_of_an_unknown_operation_is_refused_with_the_known_ones() {
        assert!("sleep=1".parse::<Weight>().is_err_and(|message| message.contains("handshake, resume")));
    }

    #[test]
    fn weight_of_nothing_is_refused() {
        assert!("request=0".parse::<Weight>().is_err_and(|message| message.contains("1 to 1000")));
    }
}
