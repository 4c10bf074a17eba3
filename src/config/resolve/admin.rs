//! `[admin]`.

use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use toml::Spanned;

use crate::admin::{Address, Settings, SocketMode, TEMPORARY_SUFFIX_BYTES_MAX, TlsSettings};

use super::super::diagnostic::Diagnostic;
use super::super::limit;
use super::super::raw;
use super::super::report::Report;
use super::{Environment, check_port, listener, overlaps};

pub(super) fn resolve(
    raw: &raw::Admin,
    listeners: &[listener::Resolved],
    environment: &Environment,
    report: &mut Report,
) -> Settings {
    let tls = raw.tls.as_ref().and_then(|section| tls(section, environment, report));
    let address = report.get(&raw.address).map(|(address, span)| match address {
        Address::Tcp(address) => {
            check_tcp(address, raw, &span, listeners, report);
            Address::Tcp(address)
        }
        Address::Unix(path) => {
            let path = environment.absolute(&path);
            check_unix(&path, &span, report);
            Address::Unix(path)
        }
    });
    Settings { address, socket_mode: report.get_or(&raw.socket_mode, SocketMode::User), tls }
}

fn check_tcp(
    address: SocketAddr,
    raw: &raw::Admin,
    span: &Range<usize>,
    listeners: &[listener::Resolved],
    report: &mut Report,
) {
    if !address.ip().is_loopback() && raw.tls.is_none() {
        let finding = Diagnostic::error("`admin.address` is not a loopback address")
            .allowed("allowed: an address in 127.0.0.0/8 or [::1], and a port; a unix socket; or any with [admin.tls]")
            .help(format!(
                "anyone could reach it: write \"127.0.0.1:{}\", or demand client certificates with [admin.tls]",
                address.port()
            ));
        report.push_at(finding, span, format!("found {address}"));
    }
    check_port(address, span, report);
    for listener in listeners {
        let Some((other, other_span)) = &listener.address else { continue };
        if overlaps(address, *other) {
            let finding = Diagnostic::error(format!("`admin.address` is taken by listener {}", listener.label()))
                .and_at(other_span.clone(), "first used here")
                .help("give the admin endpoint a port of its own");
            report.push_at(finding, span, format!("{address} again"));
        }
    }
}

fn check_unix(path: &Path, span: &Range<usize>, report: &mut Report) {
    let length = path.as_os_str().as_bytes().len();
    let length_max = limit::UNIX_PATH_BYTES_MAX - TEMPORARY_SUFFIX_BYTES_MAX;
    if length > length_max {
        let finding = Diagnostic::error("the path of a unix socket is too long")
            .allowed(format!("allowed: up to {length_max} bytes (unix(7), and room for a temporary name)"));
        report.push_at(finding, span, format!("{length} bytes with its folder"));
    }
    let folder = path.parent().unwrap_or(path);
    if !folder.is_dir() {
        let finding = Diagnostic::error("the folder of `admin.address` does not exist").help(format!(
            "create it for the user that runs the proxy (RuntimeDirectory= in a unit): install -d -m 0750 {}",
            folder.display()
        ));
        report.push_at(finding, span, format!("{} is not a folder", folder.display()));
    }
}

fn tls(section: &Spanned<raw::AdminTls>, environment: &Environment, report: &mut Report) -> Option<TlsSettings> {
    let (table, raw) = (section.span(), section.get_ref());
    let chain = report.required(&table, "chain", &raw.chain, "name the PEM file of the certificate");
    let key = report.required(&table, "key", &raw.key, "name the PEM file of the private key");
    let client_ca = report.required(&table, "client_ca", &raw.client_ca, "name the PEM file of the authorities");
    let (chain, key, client_ca) = (chain?, key?, client_ca?);
    let absolute = |path: &PathBuf| environment.absolute(path);
    let settings = TlsSettings { chain: absolute(&chain.0), key: absolute(&key.0), client_ca: absolute(&client_ca.0) };
    if let Err(error) = settings.load() {
        let (_, span) = match error.key {
            "key" => key,
            "client_ca" => client_ca,
            _ => chain,
        };
        let finding = Diagnostic::error(format!("`admin.tls.{}` cannot be used", error.key));
        report.push_at(finding, &span, format!("{}: {}", error.path.display(), error.problem));
    }
    Some(settings)
}
