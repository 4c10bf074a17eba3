//! `[[listener]]`.

use std::net::SocketAddr;
use std::ops::Range;

use toml::Spanned;

use crate::ktls;
use crate::network::Networks;
use crate::tls::{self, Section, UnknownServerName};
use crate::worker::{ListenerSettings, RelayTimeouts, Timeouts};

use super::super::diagnostic::Diagnostic;
use super::super::limit;
use super::super::near::nearest;
use super::super::raw;
use super::super::report::Report;
use super::super::scalar::{Written, quote};
use super::{
    Environment, backend, certificate, check_port, client_auth, compression, guard, name, ocsp, overlaps, protocol,
    server_name,
};

/// A listener of the file, as far as it could be read.
pub(super) struct Resolved {
    /// Its name.
    name: Option<String>,
    /// Its address.
    pub(super) address: Option<Written<SocketAddr>>,
    /// Its settings.
    pub(super) settings: Option<ListenerSettings>,
}

impl Resolved {
    /// The name in messages.
    pub(super) fn label(&self) -> String {
        self.name.as_deref().map_or_else(|| "without a name".to_owned(), quote)
    }
}

pub(super) fn resolve_all(
    raw: &[Spanned<raw::Listener>],
    backends: &[backend::Resolved],
    environment: &Environment,
    report: &mut Report,
) -> Vec<Resolved> {
    if raw.is_empty() {
        report.missing_section("listener", "add a section [[listener]] with name, address, backend and [listener.tls]");
    }
    if let Some(beyond) = raw.get(limit::LISTENER_COUNT_MAX) {
        let finding = Diagnostic::error("too many listeners");
        let finding = finding.allowed(format!("allowed: up to {}", limit::LISTENER_COUNT_MAX));
        report.push_at(finding, &beyond.span(), format!("{} listeners", raw.len()));
    }
    let mut names = Vec::new();
    let mut resolved = Vec::new();
    for listener in raw.iter().take(limit::LISTENER_COUNT_MAX) {
        let table = listener.span();
        let name = name(&listener.get_ref().name, "listener", &table, &names, report);
        names.extend(name.clone());
        let address = address(listener.get_ref(), &table, &resolved, report);
        let name = name.map(|(name, _)| name);
        let settings = settings(listener.get_ref(), &table, backends, environment, report);
        let settings = match (settings, &name, &address) {
            (Some(settings), Some(name), Some((address, _))) => Some(settings(name.clone(), *address)),
            _ => None,
        };
        resolved.push(Resolved { name, address, settings });
    }
    resolved
}

/// Everything but name and address.
fn settings(
    raw: &raw::Listener,
    table: &Range<usize>,
    backends: &[backend::Resolved],
    environment: &Environment,
    report: &mut Report,
) -> Option<impl FnOnce(String, SocketAddr) -> ListenerSettings + use<>> {
    let backend = backend(raw, table, backends, report);
    let connections_max = report.within(&raw.connections_max, &limit::LISTENER_CONNECTIONS_MAX);
    let connections_max = connections_max.map(|count| usize::try_from(count).unwrap_or(usize::MAX));
    let client_limits = guard::client_limits(raw.client_limits.as_ref(), report);
    let kernel_tls = kernel_tls(raw, report);
    let timeouts = Timeouts {
        handshake: report.bounded(&raw.handshake_timeout, &limit::HANDSHAKE_TIMEOUT),
        relay: RelayTimeouts {
            idle: report.bounded(&raw.idle_timeout, &limit::IDLE_TIMEOUT),
            stall: report.bounded(&raw.stall_timeout, &limit::STALL_TIMEOUT),
            close: report.bounded(&raw.close_timeout, &limit::CLOSE_TIMEOUT),
        },
    };
    let records_per_key = report.bounded(&raw.records_per_key, &limit::RECORDS_PER_KEY);
    let proxy_protocol_from = proxy_protocol_from(raw, report);
    let tls = tls(raw, table, environment, report);
    let section_backends = section_backends(raw, backend, backends, report);
    let (backend, tls) = (backend?, tls?);
    Some(move |name, address| ListenerSettings {
        name,
        address,
        backend,
        connections_max,
        client_limits,
        section_backends,
        tls,
        kernel_tls,
        records_per_key,
        timeouts,
        proxy_protocol_from,
    })
}

fn address(
    raw: &raw::Listener,
    table: &Range<usize>,
    before: &[Resolved],
    report: &mut Report,
) -> Option<Written<SocketAddr>> {
    let (address, span) =
        report.required(table, "address", &raw.address, "say where to listen: address = \"0.0.0.0:8443\"")?;
    check_port(address, &span, report);
    for other in before {
        let Some((first, first_span)) = other.address.as_ref().filter(|(other, _)| overlaps(address, *other)) else {
            continue;
        };
        let finding = Diagnostic::error("two listeners have the same address")
            .and_at(first_span.clone(), format!("listener {} has {first}", other.label()))
            .help("connections would be shared out between them at random: change the address or the port");
        report.push_at(finding, &span, format!("{address} again"));
    }
    Some((address, span))
}

fn backend(
    raw: &raw::Listener,
    table: &Range<usize>,
    backends: &[backend::Resolved],
    report: &mut Report,
) -> Option<usize> {
    let help = "name one of the [[backend]] sections: backend = \"app\"";
    let named = report.required(table, "backend", &raw.backend, help)?;
    find_backend(&named, backends, report)
}

/// The backend of each section `[[listener.server_name]]`.
fn section_backends(
    raw: &raw::Listener,
    default: Option<usize>,
    backends: &[backend::Resolved],
    report: &mut Report,
) -> Vec<usize> {
    let mut found = Vec::new();
    for section in &raw.server_name {
        let own = report.get(&section.get_ref().backend).map(|named| find_backend(&named, backends, report));
        // Where there is none an error was reported.
        found.push(own.unwrap_or(default).unwrap_or_default());
    }
    found
}

fn find_backend((name, span): &Written<String>, backends: &[backend::Resolved], report: &mut Report) -> Option<usize> {
    let position = backends.iter().position(|backend| backend.name.as_ref().is_some_and(|(other, _)| other == name));
    // Where a backend is missing or has no readable name, that was said already.
    let is_complete = !backends.is_empty() && backends.iter().all(|backend| backend.name.is_some());
    if position.is_none() && is_complete {
        no_such_backend(name, span, backends, report);
    }
    position
}

fn no_such_backend(name: &str, span: &Range<usize>, backends: &[backend::Resolved], report: &mut Report) {
    let names = backends.iter().filter_map(|backend| backend.name.as_ref()).map(|(name, _)| name.as_str());
    let known: Vec<String> = names.clone().take(SHOWN_COUNT_MAX).map(quote).collect();
    let finding = Diagnostic::error(format!("backend {} does not exist", quote(name)))
        .allowed(format!("backends of this file: {}", known.join(", ")))
        .help(match nearest(name, names) {
            Some(meant) => format!("did you mean {}?", quote(meant)),
            None => "add a section [[backend]] with this name".to_owned(),
        });
    report.push_at(finding, span, "no such backend");
}

fn kernel_tls(raw: &raw::Listener, report: &mut Report) -> ktls::Settings {
    let mode = report.get_or(&raw.kernel_tls, ktls::Mode::Auto);
    let promote_after_bytes = report.bounded(&raw.kernel_tls_after, &limit::KERNEL_TLS_AFTER).0;
    let has_effect = matches!(mode, ktls::Mode::Auto | ktls::Mode::Required);
    if let (false, Some((span, Ok(_)))) = (has_effect, raw.kernel_tls_after.written()) {
        let finding = Diagnostic::warning("`listener.kernel_tls_after` has no effect");
        let finding = finding.help("remove it, or set kernel_tls to \"auto\" or \"required\"");
        report.push_at(finding, &span, "only read with kernel_tls \"auto\" and \"required\"");
    }
    let bulk = report.get_or(&raw.kernel_tls_bulk, ktls::Bulk::Auto);
    let known_bugs = report.get_or(&raw.kernel_tls_known_bugs, ktls::KnownBugs::Refuse);
    ktls::Settings { mode, promote_after_bytes, bulk, known_bugs }
}

/// An empty list would refuse everybody.
fn proxy_protocol_from(raw: &raw::Listener, report: &mut Report) -> Option<Networks> {
    let (networks, span) = report.list(&raw.proxy_protocol_from)?;
    let written = raw.proxy_protocol_from.written().map_or(0, |(_, fields)| fields.len());
    if written == 0 || written > limit::NETWORK_COUNT_MAX {
        let fault = if written == 0 { "is empty" } else { "has too many entries" };
        let finding = Diagnostic::error(format!("`listener.proxy_protocol_from` {fault}"))
            .allowed(format!("allowed: 1 to {} networks", limit::NETWORK_COUNT_MAX))
            .help("name the load balancers in front, or leave the key out: then no header is expected");
        report.push_at(finding, &span, format!("{written} networks"));
    }
    Some(networks.into_iter().map(|(network, _)| network).collect())
}

fn tls(
    raw: &raw::Listener,
    table: &Range<usize>,
    environment: &Environment,
    report: &mut Report,
) -> Option<tls::Settings> {
    let sections = server_name::resolve(&raw.server_name, report);
    let raw_sections = &raw.server_name;
    let Some(section) = &raw.tls else {
        report.missing(table, "tls", "add a section [listener.tls] with certificates = [ { chain = .., key = .. } ]");
        return None;
    };
    let raw = section.get_ref();
    let protocol = protocol::resolve(raw, report);
    let alpn = alpn(raw, report);
    let unknown_server_name = report.get_or(&raw.unknown_server_name, UnknownServerName::Default);
    let certificates = certificate::resolve(raw, &section.span(), environment, report);
    // Behind the certificates, whose reading begins the time from which on changes count.
    let mut reader = client_auth::Reader::new(environment);
    let client_auth = reader.of_listener(raw, report);
    let of_listener = client_auth.as_ref().and_then(Option::as_ref);
    let section_client_auths = reader.of_sections(raw_sections, of_listener, report);
    let ((certificates, identities), client_auth) = (certificates?, client_auth?);
    server_name::warn_uncovered(&sections, &identities, report);
    let compression = compression::resolve(raw, report);
    let ocsp = ocsp::resolve(raw, &section.span(), &identities, environment, report);
    protocol::warn_unusable(&protocol, &identities, &section.span(), report);
    let sections = sections.into_iter().zip(section_client_auths?);
    let sections = sections.map(|(section, client_auth)| Section { client_auth, ..section.settings }).collect();
    Some(tls::Settings {
        protocol,
        certificates,
        identities,
        compression,
        ocsp,
        unknown_server_name,
        alpn,
        client_auth,
        sections,
    })
}

/// RFC 7301 section 3.1: names of 1 to 255 bytes.
fn alpn(raw: &raw::Tls, report: &mut Report) -> Vec<String> {
    let Some((names, span)) = report.list(&raw.alpn) else { return Vec::new() };
    if names.len() > limit::ALPN_COUNT_MAX {
        let finding = Diagnostic::error("`listener.tls.alpn` has too many entries");
        let finding = finding.allowed(format!("allowed: up to {} protocols", limit::ALPN_COUNT_MAX));
        report.push_at(finding, &span, format!("{} protocols", names.len()));
    }
    for (position, (name, span)) in names.iter().enumerate() {
        if name.is_empty() || name.len() > limit::ALPN_BYTES_MAX {
            let fault = if name.is_empty() { "is empty" } else { "is too long" };
            let finding = Diagnostic::error(format!("an ALPN protocol name {fault}"))
                .allowed(format!("allowed: 1 to {} bytes (RFC 7301 section 3.1)", limit::ALPN_BYTES_MAX));
            report.push_at(finding, span, format!("{} bytes", name.len()));
        }
        let first = names.iter().take(position).find(|(other, _)| other == name);
        if let Some((_, first)) = first {
            let finding = Diagnostic::error(format!("ALPN protocol {} is named twice", quote(name)));
            report.push_at(finding.and_at(first.clone(), "first here").help("remove one"), span, "again");
        }
    }
    names.into_iter().map(|(name, _)| name).collect()
}

/// Names that a message lists.
const SHOWN_COUNT_MAX: usize = 20;
