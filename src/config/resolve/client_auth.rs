//! `client_auth` of a listener and of its sections: its files are read now, and stay as they were read until the next reload.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use toml::Spanned;

use crate::telemetry::ExpiryKind;
use crate::tls::client_auth::{
    AllowedIdentity, ClientAuth, ClientAuthError, ClientAuthMode, ClientAuthSettings, ExpiredCrl,
};

use super::super::diagnostic::Diagnostic;
use super::super::limit;
use super::super::raw;
use super::super::report::Report;
use super::super::scalar::{ClientAuthChoice, List, Written};
use super::Environment;
use super::certificate::{expires_soon, time_left};

/// Reads what one listener and its sections ask of clients; files that are named in the same way are read once.
pub(super) struct Reader<'a> {
    environment: &'a Environment,
    known: Vec<Arc<ClientAuth>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(environment: &'a Environment) -> Self {
        Self { environment, known: Vec::new() }
    }

    /// What the listener asks of clients, which may be nothing; none where that is a mistake.
    pub(super) fn of_listener(&mut self, raw: &raw::Tls, report: &mut Report) -> Option<Option<Arc<ClientAuth>>> {
        raw.client_auth.as_ref().map_or(Some(None), |section| self.read(section, report))
    }

    /// What each section asks of clients: that of the listener, where it has no say in it. None where one is a mistake.
    pub(super) fn of_sections(
        &mut self,
        raw: &[Spanned<raw::ServerName>],
        of_listener: Option<&Arc<ClientAuth>>,
        report: &mut Report,
    ) -> Option<Vec<Option<Arc<ClientAuth>>>> {
        let mut resolved = Vec::new();
        let mut kinds = HashSet::from([of_listener.map(|client_auth| *client_auth.digest())]);
        for section in raw {
            let Some(own) = &section.get_ref().client_auth else {
                resolved.push(Some(of_listener.cloned()));
                continue;
            };
            let client_auth = self.read(own, report);
            if let Some(client_auth) = &client_auth {
                kinds.insert(client_auth.as_ref().map(|client_auth| *client_auth.digest()));
                if kinds.len() == limit::CLIENT_AUTH_COUNT_MAX + 1 {
                    let finding = Diagnostic::error("too many kinds of `client_auth` on one listener");
                    let finding = finding
                        .allowed(format!("allowed: up to {}", limit::CLIENT_AUTH_COUNT_MAX))
                        .help("each costs memory in every worker: let names share one, or take another listener");
                    report.push_at(finding, &own.span(), "one too many");
                    return None;
                }
            }
            resolved.push(client_auth);
        }
        resolved.into_iter().collect()
    }

    fn read(&mut self, section: &Spanned<raw::ClientAuth>, report: &mut Report) -> Option<Option<Arc<ClientAuth>>> {
        let (table, raw) = (section.span(), section.get_ref());
        let choice = report.get_or(&raw.mode, ClientAuthChoice::Required);
        let help = "name the PEM file of the authorities: ca = \"clients.pem\"";
        let ca = match choice {
            // Nobody is asked, so nothing has to be there.
            ClientAuthChoice::Off => report.get(&raw.ca),
            _ => report.required(&table, "ca", &raw.ca, help),
        };
        let depth = report.bounded(&raw.depth, &limit::CLIENT_AUTH_DEPTH);
        let crl = bounded(&raw.crl, "crl", limit::CRL_COUNT_MAX, "files", report);
        let expired_crl = report.get_or(&raw.expired_crl, ExpiredCrl::Refuse);
        let allowed: Vec<Written<AllowedIdentity>> =
            bounded(&raw.allowed, "allowed", limit::ALLOWED_COUNT_MAX, "identities", report);
        if let (true, Some((span, Ok(_)))) = (crl.is_empty(), raw.expired_crl.written()) {
            let finding = Diagnostic::warning("`expired_crl` has no effect");
            let finding = finding.help("remove it, or name lists in crl = [..]");
            report.push_at(finding, &span, "no revocation list is named");
        }
        let mode = match choice {
            ClientAuthChoice::Off => return Some(None),
            ClientAuthChoice::Optional => ClientAuthMode::Optional,
            ClientAuthChoice::Required => ClientAuthMode::Required,
        };
        let ca = ca?;
        let settings = ClientAuthSettings {
            mode,
            ca: self.environment.absolute(&ca.0),
            depth: u32::try_from(depth).unwrap_or(u32::MAX),
            crl: crl.iter().map(|(path, _)| self.environment.absolute(path)).collect(),
            expired_crl,
            allowed: allowed.into_iter().map(|(identity, _)| identity).collect(),
        };
        if let Some(known) = self.known.iter().find(|known| *known.settings() == settings) {
            return Some(Some(Arc::clone(known)));
        }
        let places = Places { ca: ca.1, crl, environment: self.environment };
        match ClientAuth::load(&settings) {
            Ok(client_auth) => {
                warn(&client_auth, &places, report);
                let client_auth = Arc::new(client_auth);
                self.known.push(Arc::clone(&client_auth));
                Some(Some(client_auth))
            }
            Err(error) => {
                refuse(&error, &places, report);
                None
            }
        }
    }
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
