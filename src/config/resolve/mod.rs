//! From the file to settings: every value within its bounds, every reference followed, every file looked at.

mod admin;
mod backend;
mod certificate;
mod client_auth;
mod compression;
mod door;
mod guard;
mod listener;
mod log;
mod ocsp;
mod protocol;
mod server;
mod server_name;
mod tickets;
mod worker;

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::server::{CoreDumps, Sandbox, Settings};
use crate::telemetry::Configuration;

use super::cpu::Machine;
use super::diagnostic::Diagnostic;
use super::limit;
use super::raw;
use super::report::Report;
use super::scalar::{Field, Written, quote};

/// What the outside world contributes.
pub(super) struct Environment {
    /// Where relative paths start.
    pub(super) directory: PathBuf,
    /// The time at which certificates must be valid.
    pub(super) now: SystemTime,
    /// The CPUs.
    pub(super) machine: Machine,
}

impl Environment {
    fn absolute(&self, path: &Path) -> PathBuf {
        self.directory.join(path)
    }
}

/// Gives the settings where no error is in the report afterwards.
pub(super) fn resolve(file: &raw::File, environment: &Environment, report: &mut Report) -> Option<Settings> {
    let workers = worker::resolve(&file.workers, &environment.machine, report);
    let backends = backend::resolve_all(&file.backend, environment, report);
    let listeners = listener::resolve_all(&file.listener, &backends, environment, report);
    backend::warn_unused(&backends, &file.listener, report);
    door::check_all(&listeners, &file.listener, &backends, report);
    let admin = admin::resolve(&file.admin, &listeners, environment, report);
    let tickets = tickets::resolve(&file.tickets, environment, report);
    let memory_max_bytes = report.within(&file.server.memory_max, &limit::MEMORY_MAX).map(|bytes| bytes.0);
    let tracked_clients_max = report.bounded(&file.server.tracked_clients_max, &limit::TRACKED_CLIENTS_MAX);
    let logs = log::resolve(file, environment, report);
    let user = server::user(&file.server, report);
    let sandbox = report.get_or(&file.server.sandbox, Sandbox::Auto);
    let core_dumps = report.get_or(&file.server.core_dumps, CoreDumps::Refuse);
    let drain_timeout = report.bounded(&file.server.drain_timeout, &limit::DRAIN_TIMEOUT);
    if report.has_errors() {
        return None;
    }
    Some(Settings {
        workers,
        admin,
        tickets,
        listeners: listeners.into_iter().filter_map(|listener| listener.settings).collect(),
        backends: backends.into_iter().filter_map(|backend| backend.settings).collect(),
        memory_max_bytes,
        tracked_clients_max: usize::try_from(tracked_clients_max).unwrap_or(usize::MAX),
        user,
        sandbox,
        core_dumps,
        drain_timeout,
        logs,
        shown: Arc::new(Configuration::none()),
    })
}

/// A name that is unique among those before it.
fn name(
    field: &Field<String>,
    kind: &str,
    table: &Range<usize>,
    before: &[Written<String>],
    report: &mut Report,
) -> Option<Written<String>> {
    let example = if kind == "backend" { "app" } else { "edge" };
    let help = format!("name the {kind}: name = \"{example}\"");
    let (name, span) = report.required(table, "name", field, &help)?;
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if name.is_empty() || name.len() > limit::NAME_CHARS_MAX || !is_plain {
        let finding = Diagnostic::error(format!("`{kind}.name` is not a usable name"))
            .allowed(format!("allowed: 1 to {} letters, digits, `.`, `_` and `-`", limit::NAME_CHARS_MAX));
        report.push_at(finding, &span, format!("found {}", quote(&name)));
    } else if let Some((_, first)) = before.iter().find(|(other, _)| *other == name) {
        let finding = Diagnostic::error(format!("two of the {kind}s are named {}", quote(&name)))
            .and_at(first.clone(), "first used here")
            .help(format!("give each {kind} a name of its own: metrics and logs tell them apart by it"));
        report.push_at(finding, &span, "used again");
    }
    Some((name, span))
}

fn check_port(address: SocketAddr, span: &Range<usize>, report: &mut Report) {
    if address.port() == 0 {
        let finding = Diagnostic::error(format!("`{}` has no usable port", report.path(span)));
        report.push_at(finding.allowed("allowed: a port from 1 to 65535"), span, "port 0");
    }
}

/// Whether a connection to one address could reach the other. Sockets on `[::]` take IPv6 only.
fn overlaps(left: SocketAddr, right: SocketAddr) -> bool {
    let same_family = left.is_ipv4() == right.is_ipv4();
    let same_ip = left.ip() == right.ip() || left.ip().is_unspecified() || right.ip().is_unspecified();
    left.port() == right.port() && same_family && same_ip
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use super::*;

    #[test]
    fn addresses_overlap_where_one_connection_could_reach_both() {
        let case = |left: &str, right: &str| overlaps(left.parse().unwrap(), right.parse().unwrap());
        assert!(case("127.0.0.1:1", "127.0.0.1:1"));
        assert!(case("0.0.0.0:1", "127.0.0.1:1"));
        assert!(case("[::1]:1", "[::]:1"));
        assert!(!case("0.0.0.0:1", "127.0.0.1:2"));
        assert!(!case("127.0.0.2:1", "127.0.0.1:1"));
        assert!(!case("0.0.0.0:1", "[::]:1"));
    }
}
