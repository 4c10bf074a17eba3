//! Collects findings while the file is resolved, and reads fields under their bounds.

use std::ops::Range;

use super::diagnostic::{Diagnostic, Severity};
use super::limit::{Bounds, Limit, Quantity};
use super::scalar::{Field, List, Written};
use super::shape::Index;

/// The findings so far.
pub(super) struct Report {
    index: Index,
    findings: Vec<Diagnostic>,
}

impl Report {
    pub(super) fn new(index: Index, findings: Vec<Diagnostic>) -> Self {
        Self { index, findings }
    }

    /// Everything that was pushed.
    pub(super) fn into_findings(self) -> Vec<Diagnostic> {
        self.findings
    }

    /// Whether the file cannot be used.
    pub(super) fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }

    pub(super) fn push(&mut self, finding: Diagnostic) {
        self.findings.push(finding);
    }

    /// A section of which at least one must be there is not.
    pub(super) fn missing_section(&mut self, section: &str, help: &str) {
        if !self.index.is_section_excused(section) {
            self.push(Diagnostic::error(format!("no {section} is configured")).help(help));
        }
    }

    /// Adds a finding about a value; its key is underlined too.
    pub(super) fn push_at(&mut self, finding: Diagnostic, value: &Range<usize>, found: impl Into<String>) {
        let mut finding = finding.at(value.clone(), found);
        if let (Some(key), None) = (self.index.key(value), &finding.context) {
            finding = finding.and_at(key.span.clone(), "");
        }
        self.findings.push(finding);
    }

    /// The name of the key with this value, from the top of the file.
    pub(super) fn path(&self, value: &Range<usize>) -> String {
        self.index.key(value).map_or_else(|| "value".to_owned(), |key| key.path.clone())
    }

    /// The value of a field; none where it is absent, or is a mistake, which is reported.
    pub(super) fn get<T: Clone>(&mut self, field: &Field<T>) -> Option<Written<T>> {
        match field.written()? {
            (span, Ok(value)) => Some((value.clone(), span)),
            (span, Err(mismatch)) => {
                let mut finding = Diagnostic::error(format!("invalid value for `{}`", self.path(&span)));
                finding = finding.allowed(format!("allowed: {}", mismatch.allowed));
                if let Some(help) = &mismatch.help {
                    finding = finding.help(help);
                }
                self.push_at(finding, &span, mismatch.found.clone());
                None
            }
        }
    }

    /// The value of a field, or the default where it is absent or a mistake.
    pub(super) fn get_or<T: Clone>(&mut self, field: &Field<T>, default: T) -> T {
        self.get(field).map_or(default, |(value, _)| value)
    }

    /// The value of a field within its bounds, or the default where it is absent or a mistake.
    pub(super) fn bounded<T: Quantity>(&mut self, field: &Field<T>, limit: &Limit<T>) -> T {
        let bounds = Bounds { min: limit.min, max: limit.max };
        let hint = format!(" (default {})", limit.default.show());
        self.check(field, &bounds, &hint).unwrap_or(limit.default)
    }

    /// The value of a field within its bounds; none where it is absent or a mistake.
    pub(super) fn within<T: Quantity>(&mut self, field: &Field<T>, bounds: &Bounds<T>) -> Option<T> {
        self.check(field, bounds, "")
    }

    fn check<T: Quantity>(&mut self, field: &Field<T>, bounds: &Bounds<T>, hint: &str) -> Option<T> {
        let (value, span) = self.get(field)?;
        let fault = if value < bounds.min {
            "below its lower bound"
        } else if value > bounds.max {
            "above its upper bound"
        } else {
            return Some(value);
        };
        let (min, max) = (bounds.min.show(), bounds.max.show());
        let finding = Diagnostic::error(format!("`{}` is {fault}", self.path(&span)))
            .allowed(format!("allowed: {min} to {max}{hint}"));
        self.push_at(finding, &span, format!("found {}", value.show()));
        None
    }

    /// The value of a field that must be there.
    pub(super) fn required<T: Clone>(
        &mut self,
        table: &Range<usize>,
        key: &str,
        field: &Field<T>,
        help: &str,
    ) -> Option<Written<T>> {
        if field.is_absent() {
            self.missing(table, key, help);
        }
        self.get(field)
    }

    /// A key that must be there is not.
    pub(super) fn missing(&mut self, table: &Range<usize>, key: &str, help: &str) {
        if self.index.is_excused(table, key) {
            return;
        }
        let path = self.path(table);
        let finding = Diagnostic::error(format!("`{path}.{key}` is missing"));
        self.findings.push(finding.at(table.clone(), format!("no key `{key}` here")).help(help));
    }

    /// The readable entries of an array; none where it is absent.
    pub(super) fn list<T: Clone>(&mut self, list: &List<T>) -> Option<Written<Vec<Written<T>>>> {
        let (span, fields) = list.written()?;
        Some((fields.iter().filter_map(|field| self.get(field)).collect(), span))
    }
}
