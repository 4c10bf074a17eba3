//! `[[listener.server_name]]`.

use std::collections::HashMap;
use std::ops::Range;

use toml::Spanned;

use crate::tls::identity::Table;
use crate::tls::{Section, ServerName};

use super::super::diagnostic::Diagnostic;
use super::super::limit;
use super::super::raw;
use super::super::report::Report;
use super::super::scalar::{Written, quote};

/// A section, and where its names stand. What it asks of clients is read later.
pub(super) struct Resolved {
    pub(super) settings: Section,
    places: Vec<Range<usize>>,
}

/// One section for each of the file, in its order.
pub(super) fn resolve(raw: &[Spanned<raw::ServerName>], report: &mut Report) -> Vec<Resolved> {
    if let Some(beyond) = raw.get(limit::SECTION_COUNT_MAX) {
        let finding = Diagnostic::error("too many sections `listener.server_name`");
        let finding = finding.allowed(format!("allowed: up to {}", limit::SECTION_COUNT_MAX));
        report.push_at(finding, &beyond.span(), format!("{} sections", raw.len()));
    }
    let mut first_places = HashMap::new();
    let resolve = |section: &Spanned<raw::ServerName>| {
        let help = "say which names it is for: names = [\"www.example.org\", \"*.example.org\"]";
        let Some((names, span)) = report.list(&section.get_ref().names) else {
            report.missing(&section.span(), "names", help);
            return Resolved { settings: Section { names: Vec::new(), client_auth: None }, places: Vec::new() };
        };
        let count = section.get_ref().names.written().map_or(0, |(_, fields)| fields.len());
        if count == 0 || count > limit::SECTION_NAME_COUNT_MAX {
            let fault = if count == 0 { "is empty" } else { "has too many entries" };
            let finding = Diagnostic::error(format!("`listener.server_name.names` {fault}"));
            let finding = finding.allowed(format!("allowed: 1 to {} names", limit::SECTION_NAME_COUNT_MAX));
            report.push_at(finding.help(help), &span, format!("{count} names"));
        }
        let names = names.into_iter().filter_map(|written| name(written, &mut first_places, report));
        let (names, places) = names.unzip();
        Resolved { settings: Section { names, client_auth: None }, places }
    };
    raw.iter().map(resolve).collect()
}

fn name(
    (text, span): Written<String>,
    first_places: &mut HashMap<ServerName, Range<usize>>,
    report: &mut Report,
) -> Option<(ServerName, Range<usize>)> {
    let Some(name) = ServerName::parse(&text) else {
        let help = match text.parse::<std::net::IpAddr>() {
            Ok(_) => "clients that connect to an address ask for no name: they get the settings of the listener",
            Err(_) if !text.is_ascii() => "write international names in their ASCII form, as in xn--bcher-kva.example",
            Err(_) => "a `*` stands alone as the first label, for exactly one label",
        };
        let finding = Diagnostic::error(format!("{} is not a server_name", quote(&text)))
            .allowed("allowed: a host name, or a pattern such as \"*.example.org\"");
        report.push_at(finding.help(help), &span, "no host name");
        return None;
    };
    if let Some(first) = first_places.get(&name) {
        let finding =
            Diagnostic::error(format!("server_name {} is named twice on this listener", quote(name.as_str())));
        report.push_at(finding.and_at(first.clone(), "first here").help("remove one"), &span, "again");
        return None;
    }
    first_places.insert(name.clone(), span.clone());
    Some((name, span))
}

/// A name without a certificate is probably a slip: clients that ask for it get a certificate that they refuse.
pub(super) fn warn_uncovered(sections: &[Resolved], identities: &Table, report: &mut Report) {
    for section in sections {
        for (name, place) in section.settings.names.iter().zip(&section.places) {
            if !identities.has_name(name) {
                let finding =
                    Diagnostic::warning(format!("no certificate has the server_name {}", quote(name.as_str())));
                let help = "clients check the DNS names of subjectAltName; the common name does not count";
                report.push_at(finding.help(help), place, "no certificate for it");
            }
        }
    }
}
