//! Versions, suites, groups and signatures of a listener.

use std::fmt::Debug;
use std::ops::Range;

use crate::record::{CipherSuite, ProtocolVersion};
use crate::tls::identity::Table;
use crate::tls::{Policy, Protocol, openssl_name};

use super::super::diagnostic::Diagnostic;
use super::super::near::nearest;
use super::super::raw;
use super::super::report::Report;
use super::super::scalar::{List, Scalar, Written, quote};

/// What is written beside the policy goes before it.
pub(super) fn resolve(raw: &raw::Tls, report: &mut Report) -> Protocol {
    let policy = Protocol::of(report.get_or(&raw.policy, Policy::Intermediate));
    let versions = versions(raw, &policy, report);
    let signature_algorithms = chosen(&raw.signature_algorithms, "signature_algorithms", report);
    let groups = chosen(&raw.groups, "groups", report);
    let protocol = Protocol {
        suites: suites(&raw.suites, &versions, report).unwrap_or(policy.suites),
        groups: groups.unwrap_or(policy.groups),
        signature_algorithms: signature_algorithms.unwrap_or(policy.signature_algorithms),
        versions,
    };
    check_groups(&protocol, raw, report);
    protocol
}

fn versions(raw: &raw::Tls, policy: &Protocol, report: &mut Report) -> std::ops::RangeInclusive<ProtocolVersion> {
    let (min, max) = (report.get(&raw.min_version), report.get(&raw.max_version));
    let lowest = min.as_ref().map_or(*policy.versions.start(), |(version, _)| *version);
    let highest = max.as_ref().map_or(*policy.versions.end(), |(version, _)| *version);
    if lowest <= highest {
        return lowest..=highest;
    }
    let (span, key) = if let Some((_, span)) = max { (span, "max_version") } else { (0..0, "policy") };
    let finding = Diagnostic::error(format!("`listener.tls.{key}` leaves no version"))
        .allowed("allowed: a highest version that is not below the lowest one")
        .help("set `min_version` too, or take policy = \"intermediate\", whose lowest version is 1.2");
    report.push_at(finding, &span, "below the lowest version");
    policy.versions.clone()
}

/// The entries of a list, each once; none where the list is absent or a mistake.
fn chosen<T: Scalar + Copy + PartialEq + Debug>(list: &List<T>, key: &str, report: &mut Report) -> Option<Vec<T>> {
    let (entries, span) = report.list(list)?;
    let count = list.written().map_or(0, |(_, fields)| fields.len());
    if count == 0 {
        let finding = Diagnostic::error(format!("`listener.tls.{key}` is empty"));
        report.push_at(finding.help("leave it out for those of the policy"), &span, "nothing left to negotiate");
    }
    warn_repeated(&entries, key, report);
    (!entries.is_empty()).then(|| entries.into_iter().map(|(entry, _)| entry).collect())
}

fn warn_repeated<T: PartialEq>(entries: &[Written<T>], key: &str, report: &mut Report) {
    for (position, (entry, span)) in entries.iter().enumerate() {
        if let Some((_, first)) = entries.iter().take(position).find(|(other, _)| other == entry) {
            let finding = Diagnostic::warning(format!("`listener.tls.{key}` names one entry twice"));
            report.push_at(finding.and_at(first.clone(), "first here").help("remove one"), span, "again");
        }
    }
}

fn suites(
    list: &List<String>,
    versions: &std::ops::RangeInclusive<ProtocolVersion>,
    report: &mut Report,
) -> Option<Vec<&'static CipherSuite>> {
    let (names, span) = report.list(list)?;
    let mut found: Vec<Written<&'static CipherSuite>> = Vec::new();
    let mut has_error = false;
    for (name, span) in names {
        match suite(&name) {
            Ok(suite) => found.push((suite, span)),
            Err(finding) => {
                has_error = true;
                report.push_at(*finding, &span, "refused");
            }
        }
    }
    warn_repeated(&found, "suites", report);
    for version in [ProtocolVersion::Tls12, ProtocolVersion::Tls13] {
        let is_served = found.iter().any(|(suite, _)| suite.version == version);
        if versions.contains(&version) && !is_served && !has_error {
            let (number, other) = match version {
                ProtocolVersion::Tls12 => ("1.2", "set min_version = \"1.3\""),
                ProtocolVersion::Tls13 => ("1.3", "set max_version = \"1.2\""),
            };
            let finding = Diagnostic::error(format!("`listener.tls.suites` has no suite for TLS {number}"))
                .allowed(format!("allowed: {}", known(Some(version))))
                .help(format!("name one of them, or {other}"));
            report.push_at(finding, &span, "none here");
        }
    }
    (!found.is_empty()).then(|| found.into_iter().map(|(suite, _)| suite).collect())
}

fn suite(name: &str) -> Result<&'static CipherSuite, Box<Diagnostic>> {
    let is_named = |suite: &&CipherSuite| suite.name == name || openssl_name(suite) == name;
    if let Some(suite) = CipherSuite::all().iter().find(is_named) {
        return Ok(suite);
    }
    let finding =
        Diagnostic::error(format!("suite {} is not served", quote(name))).allowed(format!("allowed: {}", known(None)));
    let names = CipherSuite::all().iter().flat_map(|suite| [suite.name, openssl_name(suite)]);
    let help = match (reason(name), nearest(name, names)) {
        (Some(Reason::Certain(reason)), _) | (Some(Reason::Likely(reason)), None) => reason.to_owned(),
        (_, Some(meant)) => format!("did you mean {}?", quote(meant)),
        (None, None) => "take the IANA or OpenSSL name of a suite; lists such as HIGH:!aNULL are not read".to_owned(),
    };
    Err(Box::new(finding.help(help)))
}

/// Why a suite that exists is not served.
enum Reason {
    /// Whatever it is, this is true of it.
    Certain(&'static str),
    /// Unless it is a slip.
    Likely(&'static str),
}

fn reason(name: &str) -> Option<Reason> {
    let name = name.to_ascii_uppercase().replace('-', "_");
    let has = |part: &str| name.contains(part);
    if has(":") || has("!") || has("+") {
        return None;
    }
    if has("CCM") {
        return Some(Reason::Certain("CCM: neither the record layer nor kernel TLS here protects records with it"));
    }
    let is_aead = has("GCM") || has("POLY1305");
    if !is_aead && (has("_SHA") || has("AES") || has("DES") || has("RC4") || has("NULL")) {
        return Some(Reason::Certain(
            "no AEAD: the other suites have padding oracles and worse (docs/decisions/0007-suites.md)",
        ));
    }
    if is_aead && !has("ECDHE") {
        return Some(Reason::Likely(
            "no elliptic-curve key exchange: without one there is no forward secrecy, or a slow one",
        ));
    }
    is_aead.then_some(Reason::Likely("neither the record layer nor kernel TLS here protects records with it"))
}

fn known(version: Option<ProtocolVersion>) -> String {
    let suites = CipherSuite::all().iter().filter(|suite| version.is_none_or(|version| suite.version == version));
    suites.map(|suite| suite.name).collect::<Vec<_>>().join(", ")
}

/// TLS 1.2 cannot use the post-quantum groups.
fn check_groups(protocol: &Protocol, raw: &raw::Tls, report: &mut Report) {
    let has_tls12 = protocol.versions.contains(&ProtocolVersion::Tls12);
    if let Some((span, _)) = raw.groups.written()
        && has_tls12
        && protocol.groups.iter().all(|group| group.is_post_quantum())
    {
        let finding = Diagnostic::error("`listener.tls.groups` has no group for TLS 1.2")
            .allowed("allowed: X25519, P-256, P-384 or P-521 among them")
            .help("add \"X25519\", or set min_version = \"1.3\"");
        report.push_at(finding, &span, "for TLS 1.3 only");
    }
}

/// A certificate whose key may sign with none of the algorithms would fail every handshake.
pub(super) fn warn_unusable(protocol: &Protocol, identities: &Table, table: &Range<usize>, report: &mut Report) {
    for identity in identities.identities() {
        if !identity.kind().can_sign_with(&protocol.signature_algorithms) {
            let finding = Diagnostic::error(format!(
                "certificate {} cannot be used: its key is {}, for which `signature_algorithms` has no entry",
                identity.path().display(),
                identity.kind().name()
            ));
            report.push_at(finding.help("add one, or leave the key out"), table, "in this section");
        }
    }
}
