//! All findings, and their JSON form.

use serde::Serialize;

use crate::ktls::Capabilities;

use super::finding::{Finding, Level};

/// Changes when a field of the JSON is renamed, removed or gets another meaning; not when one is added.
const SCHEMA_VERSION: u32 = 1;

/// What the doctor has to say.
#[derive(Clone, Debug)]
pub(super) struct Report {
    /// In the order of the subjects.
    pub(super) findings: Vec<Finding>,
    /// What the kernel can do for TLS, as probed.
    pub(super) capabilities: Capabilities,
}

impl Report {
    pub(super) fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level() == level).count()
    }

    pub(super) fn is_broken(&self) -> bool {
        self.count(Level::Broken) > 0
    }

    /// As one JSON object, with a newline at the end; docs/doctor.md describes it.
    pub(super) fn json(&self) -> String {
        let document = Document {
            schema_version: SCHEMA_VERSION,
            sluice_version: env!("CARGO_PKG_VERSION"),
            verdict: self.findings.iter().map(Finding::level).max().unwrap_or(Level::Ok),
            counts: Counts {
                ok: self.count(Level::Ok),
                note: self.count(Level::Note),
                warning: self.count(Level::Warning),
                broken: self.count(Level::Broken),
            },
            findings: &self.findings,
            kernel_tls: &self.capabilities,
        };
        // Strings and numbers only: there is nothing in it that JSON cannot hold.
        let mut text = serde_json::to_string_pretty(&document).unwrap_or_default();
        text.push('\n');
        text
    }
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    sluice_version: &'static str,
    verdict: Level,
    counts: Counts,
    findings: &'a [Finding],
    kernel_tls: &'a Capabilities,
}

#[derive(Serialize)]
struct Counts {
    ok: usize,
    note: usize,
    warning: usize,
    broken: usize,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use super::super::finding::{Check, Subject};
    use super::*;

    #[test]
    fn json_has_every_finding_with_its_remedy_and_the_worst_level() {
        let check = |name| Check::new(Subject::IoUring, name, "a", "b");
        let findings = vec![check("ring").ok(), check("limit").about("x").warning("do \"c\"")];
        let report = Report { findings, capabilities: Capabilities::unasked() };
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!((&json["schema_version"], &json["verdict"]), (&1.into(), &"warning".into()));
        assert_eq!((&json["counts"]["ok"], &json["counts"]["warning"]), (&1.into(), &1.into()));
        let expected = serde_json::json!({ "subject": "io_uring", "check": "limit", "about": "x", "level": "warning",
            "found": "a", "wanted": "b", "remedy": "do \"c\"" });
        assert_eq!(json["findings"][1], expected);
        assert_eq!(json["findings"][0]["remedy"], serde_json::Value::Null);
        assert_eq!(json["kernel_tls"]["absent"]["reason"], "unasked");
        assert!(!report.is_broken());
    }
}
