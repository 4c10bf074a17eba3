//! Sysctls of TCP, and what an idle connection's memory may be padded with.

use super::finding::{Check, Finding, Level, Subject};
use super::plan::{Backend, Plan};
use super::source;
use crate::server::LISTEN_BACKLOG;

/// Local ports that Linux has by default: with fewer, somebody has narrowed the range.
const PORTS_DEFAULT: u64 = 28_232;

#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// net.core.somaxconn.
    pub(super) somaxconn: Option<u64>,
    /// net.ipv4.tcp_max_syn_backlog.
    pub(super) syn_backlog: Option<u64>,
    /// net.ipv4.tcp_syncookies: 0 is off; none where the kernel was built without.
    pub(super) syncookies: Option<u64>,
    /// net.ipv4.ip_local_port_range, both ends included.
    pub(super) ports: Option<(u64, u64)>,
    /// net.ipv4.tcp_congestion_control.
    pub(super) congestion_control: Option<String>,
    /// The choice in /sys/kernel/mm/transparent_hugepage/enabled; none where the kernel has none.
    pub(super) huge_pages: Option<String>,
}

impl Facts {
    pub(super) fn read() -> Self {
        Self {
            somaxconn: source::sysctl_number("net.core.somaxconn"),
            syn_backlog: source::sysctl_number("net.ipv4.tcp_max_syn_backlog"),
            syncookies: source::sysctl_number("net.ipv4.tcp_syncookies"),
            ports: source::sysctl("net.ipv4.ip_local_port_range").and_then(|text| parse_range(&text)),
            congestion_control: source::sysctl("net.ipv4.tcp_congestion_control"),
            huge_pages: source::text("/sys/kernel/mm/transparent_hugepage/enabled").and_then(|text| chosen(&text)),
        }
    }
}

fn parse_range(text: &str) -> Option<(u64, u64)> {
    let mut words = text.split_whitespace();
    let range = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    (range.0 <= range.1).then_some(range)
}

/// The word in brackets: `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(word, _)| word.to_owned())
}

pub(super) fn judge(facts: &Facts, plan: Option<&Plan>) -> Vec<Finding> {
    let mut findings = vec![judge_backlog(facts), judge_syncookies(facts)];
    findings.extend(judge_ports(facts, plan));
    findings.push(judge_congestion_control(facts));
    findings.push(judge_huge_pages(facts));
    findings
}

fn backlog() -> u64 {
    u64::try_from(LISTEN_BACKLOG).unwrap_or(0)
}

fn judge_backlog(facts: &Facts) -> Finding {
    let wanted = format!("{}: connections that each listener of a worker lets wait", backlog());
    let check = |found: String| Check::new(Subject::Network, "listen_backlog", found, wanted);
    match facts.somaxconn {
        None => check(String::new()).unread("/proc/sys/net/core/somaxconn"),
        Some(limit) if limit >= backlog() => check(format!("net.core.somaxconn = {limit}")).ok(),
        Some(limit) => check(format!("net.core.somaxconn = {limit}: a burst of connections beyond it is dropped"))
            .warning(format!("run `sysctl -w net.core.somaxconn={}`, and keep it in /etc/sysctl.d", backlog())),
    }
}

/// With SYN cookies the queue of half-open connections may run full: only without them does its length count.
fn judge_syncookies(facts: &Facts) -> Finding {
    let wanted = format!("net.ipv4.tcp_syncookies = 1, or net.ipv4.tcp_max_syn_backlog from {} on", backlog());
    let check = |found: String| Check::new(Subject::Network, "syn_backlog", found, wanted);
    let length = facts.syn_backlog.map_or_else(|| "unknown".to_owned(), |length| length.to_string());
    match facts.syncookies {
        Some(1..) => check(format!("SYN cookies on, net.ipv4.tcp_max_syn_backlog = {length}")).ok(),
        Some(0) | None => {
            let found = format!("no SYN cookies, net.ipv4.tcp_max_syn_backlog = {length}");
            let is_enough = facts.syn_backlog.is_some_and(|length| length >= backlog());
            let remedy = "run `sysctl -w net.ipv4.tcp_syncookies=1`, and keep it in /etc/sysctl.d: a flood of SYNs \
                          shuts clients out otherwise";
            check(found).at(if is_enough { Level::Note } else { Level::Warning }, remedy)
        }
    }
}

/// Each connection to a TCP server takes a local port, which is free again for another server only. One finding for
/// each backend that can run out; one for all where none can.
fn judge_ports(facts: &Facts, plan: Option<&Plan>) -> Vec<Finding> {
    let check = |found: String, wanted: String| Check::new(Subject::Network, "local_ports", found, wanted);
    let Some((first, last)) = facts.ports else {
        return vec![check(String::new(), String::new()).unread("/proc/sys/net/ipv4/ip_local_port_range")];
    };
    let port_count = last - first + 1;
    let found = format!("net.ipv4.ip_local_port_range = {first} {last}: {port_count} ports for each TCP server");
    let Some(plan) = plan else {
        let level = if port_count < PORTS_DEFAULT { Level::Note } else { Level::Ok };
        return vec![check(found, format!("{PORTS_DEFAULT} or more")).at(level, WIDEN)];
    };
    let connections = plan.connections_total() as u64;
    // A unix socket takes what the TCP servers have no port for.
    let is_short = |backend: &&Backend| {
        backend.unix_count == 0 && port_count.saturating_mul(backend.tcp_count as u64) < connections
    };
    let short: Vec<_> = plan.backends.iter().filter(is_short).collect();
    if short.is_empty() {
        return vec![check(found, format!("enough for {connections} connections")).ok()];
    }
    let judge = |backend: &Backend| {
        let room = port_count.saturating_mul(backend.tcp_count as u64);
        let found = format!("room for {room} connections at a time ({first}-{last}), fewer where closed ones linger");
        let wanted = format!("{connections}: what workers.connections_max allows");
        check(found, wanted).about(&backend.name).warning(WIDEN)
    };
    short.into_iter().map(judge).collect()
}

const WIDEN: &str = "run `sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"` with the ports of listeners in \
                     net.ipv4.ip_local_reserved_ports; or name more servers, use a unix socket, or lower \
                     workers.connections_max";

fn judge_congestion_control(facts: &Facts) -> Finding {
    let check = |found: String| {
        Check::new(Subject::Network, "congestion_control", found, "a choice made for the paths to the clients")
    };
    match facts.congestion_control.as_deref() {
        None => check(String::new()).unread("/proc/sys/net/ipv4/tcp_congestion_control"),
        Some("bbr") => {
            let found =
                "net.ipv4.tcp_congestion_control = bbr: paced, which can cost CPU on local networks, servers' included";
            let remedy = "keep it where paths are long or lossy; for servers and clients nearby measure against `ip route \
                          change NETWORK ... congctl cubic`, which chooses for one network";
            check(found.to_owned()).note(remedy)
        }
        Some(name) => check(format!("net.ipv4.tcp_congestion_control = {name}")).ok(),
    }
}

fn judge_huge_pages(facts: &Facts) -> Finding {
    let check = |found: &str| Check::new(Subject::Network, "transparent_huge_pages", found, "madvise or never");
    match facts.huge_pages.as_deref() {
        None => check("this kernel has none").ok(),
        Some("always") => check("always: idle connections may take more memory than they use")
            .note("run `echo madvise > /sys/kernel/mm/transparent_hugepage/enabled` if memory is short"),
        Some(choice) => check(choice).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::testing::plan;
    use super::*;
    use crate::ktls::Mode;

    fn good() -> Facts {
        Facts {
            somaxconn: Some(4096),
            syn_backlog: Some(256),
            syncookies: Some(1),
            ports: Some((32_768, 60_999)),
            congestion_control: Some("cubic".to_owned()),
            huge_pages: Some("madvise".to_owned()),
        }
    }

    fn level(facts: &Facts, plan: Option<&Plan>, title: &str) -> Option<Level> {
        judge(facts, plan).iter().find(|finding| finding.title() == title).map(Finding::level)
    }

    #[test]
    fn sysctls_that_suffice_are_ok() {
        for plan in [None, Some(&plan(Mode::Auto))] {
            let findings = judge(&good(), plan);
            assert_eq!(findings.len(), 5);
            assert!(findings.iter().all(|finding| finding.level() == Level::Ok), "{findings:?}");
        }
    }

    #[test]
    fn somaxconn_below_the_backlog_is_a_warning() {
        let facts = Facts { somaxconn: Some(128), ..good() };
        assert_eq!(level(&facts, None, "listen_backlog"), Some(Level::Warning));
    }

    #[test]
    fn syn_backlog_counts_only_without_syn_cookies() {
        let facts = |cookies, length| Facts { syncookies: cookies, syn_backlog: Some(length), ..good() };
        assert_eq!(level(&facts(Some(2), 1), None, "syn_backlog"), Some(Level::Ok));
        assert_eq!(level(&facts(Some(0), 2048), None, "syn_backlog"), Some(Level::Warning));
        assert_eq!(level(&facts(None, 4096), None, "syn_backlog"), Some(Level::Note));
    }

    #[test]
    fn ports_are_judged_for_each_backend_against_all_connections() {
        let mut plan = plan(Mode::Auto);
        let facts = Facts { ports: Some((40_000, 49_999)), ..good() };
        assert_eq!(level(&facts, Some(&plan), "local_ports app"), Some(Level::Warning));
        plan.backends[0].tcp_count = 2;
        assert_eq!(level(&facts, Some(&plan), "local_ports"), Some(Level::Ok));
        plan.backends[0] = Backend { name: "app".to_owned(), tcp_count: 0, unix_count: 1 };
        assert_eq!(level(&facts, Some(&plan), "local_ports"), Some(Level::Ok));
        assert_eq!(level(&facts, None, "local_ports"), Some(Level::Note));
    }

    #[test]
    fn bbr_and_huge_pages_are_notes() {
        let facts =
            Facts { congestion_control: Some("bbr".to_owned()), huge_pages: Some("always".to_owned()), ..good() };
        assert_eq!(level(&facts, None, "congestion_control"), Some(Level::Note));
        assert_eq!(level(&facts, None, "transparent_huge_pages"), Some(Level::Note));
    }

    #[test]
    fn ranges_and_choices_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_range("32768\t60999"), Some((32_768, 60_999)));
        assert_eq!(parse_range("5 4"), None);
        assert_eq!(parse_range("5"), None);
        assert_eq!(chosen("always [madvise] never").as_deref(), Some("madvise"));
        assert_eq!(chosen("always"), None);
    }
}
