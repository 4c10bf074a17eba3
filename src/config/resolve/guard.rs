//! `[listener.client_limits]`.

use toml::Spanned;

use crate::guard::{ClientLimits, Rate};

use super::super::diagnostic::Diagnostic;
use super::super::limit;
use super::super::raw;
use super::super::report::Report;

/// The limits; none where the section is absent or limits nothing.
pub(super) fn client_limits(raw: Option<&Spanned<raw::ClientLimits>>, report: &mut Report) -> Option<ClientLimits> {
    let raw = raw?;
    let (table, raw) = (raw.span(), raw.get_ref());
    let connections_max = report.within(&raw.connections_max, &limit::CLIENT_CONNECTIONS_MAX);
    let per_second = report.within(&raw.connection_rate, &limit::CLIENT_CONNECTION_RATE);
    let burst = report.within(&raw.connection_burst, &limit::CLIENT_CONNECTION_BURST);
    let limits = ClientLimits {
        connections_max: connections_max.map(narrow),
        rate: per_second
            .map(|per_second| Rate { per_second: narrow(per_second), burst: narrow(burst.unwrap_or(per_second)) }),
        ipv4_prefix: bits(report.bounded(&raw.ipv4_prefix, &limit::IPV4_PREFIX)),
        ipv6_prefix: bits(report.bounded(&raw.ipv6_prefix, &limit::IPV6_PREFIX)),
        exempt: exempt(raw, report).into_iter().collect(),
    };
    if raw.connections_max.is_absent() && raw.connection_rate.is_absent() {
        let finding = Diagnostic::warning("`listener.client_limits` limits nothing");
        let help = "set connections_max or connection_rate, or remove the section";
        report.push_at(finding.help(help), &table, "neither of both limits is set");
        return None;
    }
    if let (true, Some((span, Ok(_)))) = (raw.connection_rate.is_absent(), raw.connection_burst.written()) {
        let finding = Diagnostic::warning("`listener.client_limits.connection_burst` has no effect");
        report.push_at(finding.help("set connection_rate, or remove it"), &span, "only read with connection_rate");
    }
    Some(limits)
}

fn exempt(raw: &raw::ClientLimits, report: &mut Report) -> Vec<ipnet::IpNet> {
    let Some((networks, span)) = report.list(&raw.exempt) else { return Vec::new() };
    if networks.len() > limit::NETWORK_COUNT_MAX {
        let finding = Diagnostic::error("`listener.client_limits.exempt` has too many entries");
        let finding = finding.allowed(format!("allowed: up to {} networks", limit::NETWORK_COUNT_MAX));
        report.push_at(finding, &span, format!("{} networks", networks.len()));
    }
    networks.into_iter().map(|(network, _)| network).collect()
}

/// Within the bounds checked above every value fits.
fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn bits(value: u64) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}
