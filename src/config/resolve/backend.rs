//! `[[backend]]`.

use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

use toml::Spanned;

use crate::backend::{ServerAddress, Settings};
use crate::proxy_protocol::{Send, Tlv, Tlvs, Version};

use super::super::diagnostic::Diagnostic;
use super::super::limit;
use super::super::raw;
use super::super::report::Report;
use super::super::scalar::{MixedClientAuth, ProxyProtocol, Written, quote};
use super::{Environment, check_port, name};

/// A backend of the file, as far as it could be read.
pub(super) struct Resolved {
    /// Its name.
    pub(super) name: Option<Written<String>>,
    /// Its settings.
    pub(super) settings: Option<Settings>,
    /// Whether it may be reached with and without client certificates.
    pub(super) mixed: MixedClientAuth,
}

pub(super) fn resolve_all(
    raw: &[Spanned<raw::Backend>],
    environment: &Environment,
    report: &mut Report,
) -> Vec<Resolved> {
    if raw.is_empty() {
        let help = "add a section [[backend]] with a name and servers = [\"127.0.0.1:8080\"]";
        report.missing_section("backend", help);
    }
    if let Some(beyond) = raw.get(limit::BACKEND_COUNT_MAX) {
        let finding = Diagnostic::error("too many backends");
        let finding = finding.allowed(format!("allowed: up to {}", limit::BACKEND_COUNT_MAX));
        report.push_at(finding, &beyond.span(), format!("{} backends", raw.len()));
    }
    let mut names = Vec::new();
    let mut resolved = Vec::new();
    for backend in raw.iter().take(limit::BACKEND_COUNT_MAX) {
        let name = name(&backend.get_ref().name, "backend", &backend.span(), &names, report);
        names.extend(name.clone());
        resolved.push(resolve(backend, name, environment, report));
    }
    resolved
}

fn resolve(
    raw: &Spanned<raw::Backend>,
    name: Option<Written<String>>,
    environment: &Environment,
    report: &mut Report,
) -> Resolved {
    let table = raw.span();
    let raw = raw.get_ref();
    let servers = servers(raw, &table, environment, report);
    let connect_timeout = report.bounded(&raw.connect_timeout, &limit::CONNECT_TIMEOUT);
    let proxy_protocol = proxy_protocol(raw, report);
    let mixed = mixed_client_auth(raw, proxy_protocol.as_ref(), report);
    let settings = name.clone().map(|(name, _)| Settings { name, servers, connect_timeout, proxy_protocol });
    Resolved { name, settings, mixed }
}

/// Servers that are not told the name and the certificate cannot tell who may ask for what.
fn mixed_client_auth(raw: &raw::Backend, proxy_protocol: Option<&Send>, report: &mut Report) -> MixedClientAuth {
    let Some((mixed, span)) = report.get(&raw.mixed_client_auth) else { return MixedClientAuth::Refuse };
    let tells = |send: &Send| {
        send.version == Version::V2 && [Tlv::Authority, Tlv::Ssl].into_iter().all(|tlv| send.tlvs.contains(tlv))
    };
    if mixed == MixedClientAuth::Accept && !proxy_protocol.is_some_and(tells) {
        let finding = Diagnostic::warning(
            "the servers of a backend with `mixed_client_auth` cannot tell clients apart",
        )
        .help("send them the name and the certificate: proxy_protocol = \"v2\" with the TLVs authority and ssl");
        report.push_at(finding, &span, "accepted, and the servers are not told");
    }
    mixed
}

fn proxy_protocol(raw: &raw::Backend, report: &mut Report) -> Option<Send> {
    let protocol = report.get_or(&raw.proxy_protocol, ProxyProtocol::Off);
    let tlvs = match report.list(&raw.proxy_protocol_tlvs) {
        None => Tlvs::usual(),
        Some((tlvs, span)) => {
            if protocol != ProxyProtocol::V2 {
                let finding = Diagnostic::warning("`backend.proxy_protocol_tlvs` has no effect");
                let finding = finding.help("remove it, or set proxy_protocol to \"v2\"");
                report.push_at(finding, &span, "only a version 2 header has room for it");
            }
            tlvs.into_iter().map(|(tlv, _)| tlv).collect()
        }
    };
    let version = match protocol {
        ProxyProtocol::Off => return None,
        ProxyProtocol::V1 => Version::V1,
        ProxyProtocol::V2 => Version::V2,
    };
    Some(Send { version, tlvs })
}

fn servers(
    raw: &raw::Backend,
    table: &Range<usize>,
    environment: &Environment,
    report: &mut Report,
) -> Vec<ServerAddress> {
    let Some((servers, span)) = report.list(&raw.servers) else {
        report.missing(table, "servers", "name where the backend listens: servers = [\"127.0.0.1:8080\"]");
        return Vec::new();
    };
    let written = raw.servers.written().map_or(0, |(_, fields)| fields.len());
    if written == 0 || written > limit::SERVER_COUNT_MAX {
        let title = if written == 0 { "`backend.servers` is empty" } else { "`backend.servers` has too many entries" };
        let finding = Diagnostic::error(title).allowed(format!("allowed: 1 to {} servers", limit::SERVER_COUNT_MAX));
        report.push_at(finding, &span, format!("{written} servers"));
    }
    servers.into_iter().map(|(server, span)| check_server(server, &span, environment, report)).collect()
}

fn check_server(
    server: ServerAddress,
    span: &Range<usize>,
    environment: &Environment,
    report: &mut Report,
) -> ServerAddress {
    match server {
        ServerAddress::Tcp(address) => {
            check_port(address, span, report);
            if address.ip().is_unspecified() || address.ip().is_multicast() {
                let finding = Diagnostic::error("`backend.servers` names an address that cannot be connected to");
                report.push_at(
                    finding.allowed("allowed: the address of one machine"),
                    span,
                    format!("found {address}"),
                );
            }
            server
        }
        ServerAddress::Unix(path) => {
            let path = environment.absolute(&path);
            let length = path.as_os_str().as_bytes().len();
            if length > limit::UNIX_PATH_BYTES_MAX {
                let finding = Diagnostic::error("the path of a unix socket is too long")
                    .allowed(format!("allowed: up to {} bytes (unix(7))", limit::UNIX_PATH_BYTES_MAX));
                report.push_at(finding, span, format!("{length} bytes with its folder"));
            }
            ServerAddress::Unix(path)
        }
    }
}

/// A backend that no listener names is probably a slip. Not said where a listener names one that does not exist: that
/// is the slip then.
pub(super) fn warn_unused(backends: &[Resolved], listeners: &[Spanned<raw::Listener>], report: &mut Report) {
    let listeners = listeners.iter().map(Spanned::get_ref);
    let sections = listeners.clone().flat_map(|listener| listener.server_name.iter().map(Spanned::get_ref));
    let fields = listeners.map(|listener| &listener.backend).chain(sections.map(|section| &section.backend));
    let used: Vec<&String> = fields.filter_map(|backend| backend.written()?.1.ok()).collect();
    let named = || backends.iter().filter_map(|backend| backend.name.as_ref());
    if used.iter().any(|name| !named().any(|(other, _)| other == *name)) {
        return;
    }
    for (name, span) in named().filter(|(name, _)| !used.contains(&name)) {
        let finding = Diagnostic::warning(format!("no listener uses backend {}", quote(name)));
        report.push_at(finding.help("name it in a listener, or remove it"), span, "never used");
    }
}
