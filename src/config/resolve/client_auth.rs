//! `client_auth`: its files are read now, and stay as they were read until the next reload.

use std::io::ErrorKind;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use toml::Spanned;

use crate::telemetry::ExpiryKind;
use crate::tls::client_auth::{
    AllowedIdentity, ClientAuth, ClientAuthError, ClientAuthMode, ClientAuthSettings, ExpiredCrl,
};
use crate::worker::ListenerSettings;

use super::super::diagnostic::Diagnostic;
use super::super::limit;
use super::super::raw;
use super::super::report::Report;
use super::super::scalar::{ClientAuthChoice, List, Written, quote};
use super::certificate::{expires_soon, time_left};
use super::{Environment, listener};

/// What is asked of clients, which may be nothing; none where that is a mistake.
pub(super) fn resolve(
    raw: &raw::Tls,
    environment: &Environment,
    report: &mut Report,
) -> Option<Option<Arc<ClientAuth>>> {
    let Some(section) = &raw.client_auth else { return Some(None) };
    let (table, raw) = (section.span(), section.get_ref());
    let choice = report.get_or(&raw.mode, ClientAuthChoice::Required);
    let help = "name the PEM file of the authorities: ca = \"clients.pem\"";
    let ca = report.required(&table, "ca", &raw.ca, help);
    let depth = report.bounded(&raw.depth, &limit::CLIENT_AUTH_DEPTH);
    let crl = bounded(&raw.crl, "crl", limit::CRL_COUNT_MAX, "files", report);
    let expired_crl = report.get_or(&raw.expired_crl, ExpiredCrl::Refuse);
    let allowed: Vec<Written<AllowedIdentity>> =
        bounded(&raw.allowed, "allowed", limit::ALLOWED_COUNT_MAX, "identities", report);
    if let (true, Some((span, Ok(_)))) = (crl.is_empty(), raw.expired_crl.written()) {
        let finding = Diagnostic::warning("`expired_crl` has no effect").help("remove it, or name lists in crl = [..]");
        report.push_at(finding, &span, "no revocation list is named");
    }
    let ca = ca?;
    let mode = match choice {
        ClientAuthChoice::Off => return Some(None),
        ClientAuthChoice::Optional => ClientAuthMode::Optional,
        ClientAuthChoice::Required => ClientAuthMode::Required,
    };
    let settings = ClientAuthSettings {
        mode,
        ca: environment.absolute(&ca.0),
        depth: u32::try_from(depth).unwrap_or(u32::MAX),
        crl: crl.iter().map(|(path, _)| environment.absolute(path)).collect(),
        expired_crl,
        allowed: allowed.into_iter().map(|(identity, _)| identity).collect(),
    };
    let places = Places { ca: ca.1, crl, environment };
    match ClientAuth::load(&settings) {
        Ok(client_auth) => {
            warn(&client_auth, &places, report);
            Some(Some(Arc::new(client_auth)))
        }
        Err(error) => {
            refuse(&error, &places, report);
            None
        }
    }
}

/// A backend that one listener guards is not guarded where another one lets anybody through to it.
pub(super) fn warn_open_doors(listeners: &[listener::Resolved], raw: &[Spanned<raw::Listener>], report: &mut Report) {
    let settings = || listeners.iter().filter_map(|listener| listener.settings.as_ref());
    for (open, raw) in listeners.iter().zip(raw) {
        let Some(open) = open.settings.as_ref().filter(|settings| !is_required(settings)) else { continue };
        let shares =
            |other: &&ListenerSettings| backends(other).any(|backend| backends(open).any(|own| own == backend));
        let guard = settings().filter(|other| is_required(other)).find(shares);
        let (Some(guard), Some((span, _))) = (guard, raw.get_ref().backend.written()) else { continue };
        let (open, guard) = (quote(&open.name), quote(&guard.name));
        let title =
            format!("listener {open} needs no client certificate for a backend for which listener {guard} does");
        let finding = Diagnostic::warning(title)
            .help("give one of them a backend of its own: servers cannot always tell the two apart");
        report.push_at(finding, &span, "reached with and without a certificate");
    }
}

/// Every backend that connections of a listener may go to.
fn backends(settings: &ListenerSettings) -> impl Iterator<Item = usize> + '_ {
    std::iter::once(settings.backend).chain(settings.section_backends.iter().copied())
}

fn is_required(settings: &ListenerSettings) -> bool {
    let client_auth = settings.tls.client_auth.as_ref();
    client_auth.is_some_and(|client_auth| client_auth.settings().mode == ClientAuthMode::Required)
}

/// Where the files are named.
struct Places<'a> {
    ca: Range<usize>,
    crl: Vec<Written<PathBuf>>,
    environment: &'a Environment,
}

/// The entries of a list that is not longer than it may be, and not empty: an empty one would look like a wish.
fn bounded<T: Clone>(list: &List<T>, key: &str, max: usize, what: &str, report: &mut Report) -> Vec<Written<T>> {
    let Some((entries, span)) = report.list(list) else { return Vec::new() };
    let written = list.written().map_or(0, |(_, fields)| fields.len());
    if written == 0 || written > max {
        let fault = if written == 0 { "is empty" } else { "has too many entries" };
        let finding = Diagnostic::error(format!("`client_auth.{key}` {fault}"));
        let finding = finding.allowed(format!("allowed: 1 to {max} {what}")).help("leave the key out for none");
        report.push_at(finding, &span, format!("{written} {what}"));
    }
    entries
}

fn refuse(error: &ClientAuthError, places: &Places<'_>, report: &mut Report) {
    let of_list = places.crl.iter().find(|(path, _)| places.environment.absolute(path) == error.path());
    let span = of_list.map_or(&places.ca, |(_, span)| span);
    let mut finding = Diagnostic::error(error.to_string());
    finding = match error {
        ClientAuthError::Read { source, .. } if source.kind() == ErrorKind::NotFound => {
            finding.help("relative paths start at the folder of the configuration file")
        }
        ClientAuthError::Read { path, .. } => {
            finding.help(format!("let the user that runs the proxy read it: ls -l {}", path.display()))
        }
        ClientAuthError::NoCertificate { .. } => finding
            .allowed("allowed: PEM, one or more certificates of authorities")
            .help("if it is DER, convert it: openssl x509 -inform der -in FILE -out FILE.pem"),
        ClientAuthError::NoList { .. } => {
            finding.allowed("allowed: PEM, one or more revocation lists, or DER with one")
        }
        _ => finding,
    };
    report.push_at(finding, span, "cannot be used");
}

fn warn(client_auth: &ClientAuth, places: &Places<'_>, report: &mut Report) {
    let date = humantime::format_rfc3339_seconds;
    let now = places.environment.now;
    for (subject, not_after) in client_auth.authorities().filter(|(_, not_after)| *not_after < now) {
        let finding = Diagnostic::warning(format!("the authority {subject} has expired"));
        let finding = finding.help("its clients are refused: remove or replace it");
        report.push_at(finding, &places.ca, format!("valid until {}", date(not_after)));
    }
    let lists = places.crl.first().map(|(_, first)| first.clone());
    for ending in client_auth.endings() {
        let (span, what, help) = match ending.kind {
            ExpiryKind::Crl => (lists.as_ref().unwrap_or(&places.ca), "revocation list of", "fetch the next one"),
            _ => (&places.ca, "authority", "replace it, or add the next one beside it"),
        };
        if let Some(finding) =
            expires_soon(&ending.valid, now, |words| format!("the {what} {} {words}", ending.subject()))
        {
            report.push_at(finding.help(help), span, time_left(ending.valid.end, now));
        }
    }
    let Some(lists) = lists else { return };
    for (issuer, next_update) in client_auth.lists() {
        let Some(next_update) = next_update.filter(|next_update| *next_update < now) else { continue };
        let help = match client_auth.settings().expired_crl {
            ExpiredCrl::Refuse => "clients that it is about are refused: fetch the next one",
            ExpiredCrl::Warn => "clients are let in by it (expired_crl): fetch the next one",
        };
        let finding = Diagnostic::warning(format!("the revocation list of {issuer} has expired"));
        report.push_at(finding.help(help), &lists, format!("its next update was due {}", date(next_update)));
    }
    for subject in client_auth.authorities_without_list() {
        let finding = Diagnostic::warning(format!("there is no revocation list of the authority {subject}"));
        let finding = finding.help("with lists, each authority of a chain needs one: its clients are refused");
        report.push_at(finding, &lists, "none of these is its");
    }
}
