//! The configuration file, and the certificates that it names.

use std::time::{Duration, SystemTime};

use super::finding::{Check, Finding, Level, Subject, counted};
use crate::config::{Diagnostic, Diagnostics, RENDERED_COUNT_MAX, Severity};
use crate::server::Settings;
use crate::tls::identity::Identity;

/// How long before its end a certificate is to be renewed.
const RENEWAL_DUE: Duration = Duration::from_secs(30 * DAY_SECONDS);
const DAY_SECONDS: u64 = 24 * 3600;

/// The certificate of a listener, of several the one that ends first.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    pub(super) listener: String,
    /// The last second of validity.
    pub(super) not_after: SystemTime,
}

impl Certificate {
    /// Those of the listeners: what is wrong with certificates that cannot be read is among the diagnostics.
    pub(super) fn read_all(settings: Option<&Settings>) -> Vec<Self> {
        let listeners = settings.map_or(&[][..], |settings| &settings.listeners);
        let read = |listener: &crate::worker::ListenerSettings| {
            let ends = listener.tls.identities.identities().iter().map(Identity::not_after);
            Some(Self { listener: listener.name.clone(), not_after: ends.min()? })
        };
        listeners.iter().filter_map(read).collect()
    }
}

/// What `sluice check` says about the file.
pub(super) fn judge_diagnostics(diagnostics: &Diagnostics) -> Vec<Finding> {
    let check = |found: String| Check::new(Subject::Configuration, "file", found, "a file without findings");
    if diagnostics.is_empty() {
        return vec![check("no findings".to_owned()).ok()];
    }
    let mut findings: Vec<_> =
        diagnostics.iter().take(RENDERED_COUNT_MAX).map(|item| judge_diagnostic(diagnostics, item)).collect();
    let rest: Vec<_> = diagnostics.iter().skip(RENDERED_COUNT_MAX).collect();
    if let Some(worst) = rest.iter().map(|item| level(item.severity)).max() {
        let found = format!("... and {}", counted(rest.len(), "more finding"));
        findings.push(check(found).at(worst, "mend those above, then run `sluice check`"));
    }
    findings
}

fn judge_diagnostic(diagnostics: &Diagnostics, item: &Diagnostic) -> Finding {
    // What is allowed and what helps have their own places here.
    let found = diagnostics.line(&Diagnostic { allowed: None, help: None, ..item.clone() });
    let wanted = item.allowed.as_deref().map_or("", |text| text.strip_prefix("allowed: ").unwrap_or(text));
    let remedy = item.help.as_deref().unwrap_or("mend this place of the file; docs/configuration.md has every key");
    Check::new(Subject::Configuration, "file", found, wanted).at(level(item.severity), remedy)
}

const fn level(severity: Severity) -> Level {
    match severity {
        Severity::Error => Level::Broken,
        Severity::Warning => Level::Warning,
        Severity::Note => Level::Note,
    }
}

/// Certificates that end soon. One that has ended is among the diagnostics already, and left out here.
pub(super) fn judge_certificates(certificates: &[Certificate], now: SystemTime) -> Vec<Finding> {
    certificates.iter().filter_map(|certificate| judge_certificate(certificate, now)).collect()
}

fn judge_certificate(certificate: &Certificate, now: SystemTime) -> Option<Finding> {
    let left = certificate.not_after.duration_since(now).ok()?;
    let end = humantime::format_rfc3339_seconds(certificate.not_after);
    let days = counted(usize::try_from(left.as_secs() / DAY_SECONDS).unwrap_or(usize::MAX), "day");
    let check = Check::new(
        Subject::Configuration,
        "certificate",
        format!("valid until {end}: {days} left"),
        "more than 30 days left",
    )
    .about(&certificate.listener);
    let level = if left > RENEWAL_DUE { Level::Ok } else { Level::Warning };
    Some(check.at(level, "renew it, replace the files, and restart the proxy"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    fn judge_text(text: &str) -> Vec<Finding> {
        judge_diagnostics(&config::check_bytes(Path::new("x.toml"), text.into()).diagnostics)
    }

    #[test]
    fn error_of_the_file_is_broken_with_its_place() {
        let findings = judge_text("[workers]\ncuont = 1\n");
        let finding = &findings[0];
        assert_eq!(
            (finding.level(), finding.found()),
            (Level::Broken, "x.toml:2:1: unknown key \"cuont\" in `workers`; unknown key")
        );
        assert_eq!(finding.remedy(), Some("did you mean `count`?"));
    }

    #[test]
    fn findings_of_a_file_of_garbage_are_limited() {
        let findings = judge_text(&"x\n".repeat(1000));
        assert_eq!(findings.len(), RENDERED_COUNT_MAX + 1);
        assert!(findings.iter().all(|finding| finding.level() == Level::Broken && finding.remedy().is_some()));
        assert!(findings[RENDERED_COUNT_MAX].found().starts_with("... and "), "{findings:?}");
    }

    #[test]
    fn certificate_is_due_thirty_days_before_its_end() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let level = |left: Duration| {
            let certificate = Certificate { listener: "edge".to_owned(), not_after: now + left };
            judge_certificates(&[certificate], now).first().map(Finding::level)
        };
        assert_eq!(level(RENEWAL_DUE + Duration::from_secs(1)), Some(Level::Ok));
        assert_eq!(level(RENEWAL_DUE), Some(Level::Warning));
        assert_eq!(level(Duration::ZERO), Some(Level::Warning));
        let ended = Certificate { listener: "edge".to_owned(), not_after: now - Duration::from_secs(1) };
        assert!(judge_certificates(&[ended], now).is_empty());
    }
}
