//! `ocsp`: where the responses come from that are sent along with certificates, and what can be said of them now.

use std::ops::Range;

use crate::tls::identity::{Identity, Table};
use crate::tls::stapling::{self, OcspMode};

use super::super::diagnostic::Diagnostic;
use super::super::raw;
use super::super::report::Report;
use super::super::scalar::quote;
use super::Environment;

/// Gives the mode, and puts the responses that lie beside the certificates to them.
pub(super) fn resolve(
    raw: &raw::Tls,
    table: &Range<usize>,
    identities: &Table,
    environment: &Environment,
    report: &mut Report,
) -> OcspMode {
    let mode = report.get_or(&raw.ocsp, OcspMode::Off);
    let place = raw.ocsp.written().map_or(table.clone(), |(span, _)| span);
    let mut has_problem = false;
    for (path, error) in stapling::read_files(identities, mode, environment.now) {
        has_problem = true;
        let title = format!("the OCSP response {} {error}", quote(&path.to_string_lossy()));
        let help =
            "it is not sent: fetch another one, with: openssl ocsp -issuer ISSUER -cert CERTIFICATE -url .. -respout";
        report.push_at(Diagnostic::warning(title).help(help), &place, "cannot be used");
    }
    for identity in identities.identities() {
        if let Some(finding) = judge(identity, mode, environment, has_problem) {
            report.push_at(finding, &place, if mode == OcspMode::Off { "none is sent" } else { "none so far" });
        }
    }
    mode
}

/// A word about a certificate that is sent without a response, where there should be one.
fn judge(identity: &Identity, mode: OcspMode, environment: &Environment, has_problem: bool) -> Option<Diagnostic> {
    if identity.staple().current_at(environment.now).is_some() {
        return None;
    }
    let certificate = quote(&identity.path().to_string_lossy());
    let has_issuer = !identity.issuers().is_empty();
    let is_fetched = mode == OcspMode::Fetch && identity.has_responder() && has_issuer;
    if identity.must_staple() && !is_fetched {
        let title = format!("the certificate {certificate} demands an OCSP response, and has none");
        let help = match (mode, has_issuer) {
            (_, false) => "clients will refuse it: put its issuer into the chain, and set ocsp = \"fetch\"",
            (OcspMode::Off, true) => "clients will refuse it: set ocsp = \"fetch\", or \"file\"",
            (_, true) => "clients will refuse it: put a response beside it, in a file of its name and .ocsp",
        };
        return Some(Diagnostic::warning(title).help(help));
    }
    if mode == OcspMode::Off || is_fetched || has_problem || stapling::is_self_signed(identity.leaf()) {
        return None;
    }
    let title = format!("no OCSP response is sent with the certificate {certificate}");
    let help = match (mode, has_issuer) {
        (_, false) => "a response is checked first: put the certificate's issuer into its chain",
        (OcspMode::File, true) => "put the response beside it, in a file of its name and .ocsp",
        (_, true) => "it names no responder: its authority has none, or the response goes into a file beside it",
    };
    Some(Diagnostic::note(title).help(help))
}
