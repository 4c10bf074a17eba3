//! `sluice doctor` run, and its JSON taken apart.

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

use std::process::{Command, Output};

use serde_json::Value;

/// What came of `sluice doctor --json`.
pub(crate) struct Report {
    pub(crate) json: Value,
    pub(crate) code: i32,
}

/// Runs `sluice doctor` with these arguments.
pub(crate) fn doctor(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluice")).arg("doctor").args(arguments).output().unwrap()
}

/// Runs `sluice doctor --json` with these arguments.
pub(crate) fn doctor_json(arguments: &[&str]) -> Report {
    Report::of(&doctor(&[&["--json"], arguments].concat()))
}

impl Report {
    pub(crate) fn of(output: &Output) -> Self {
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        let json = serde_json::from_slice(&output.stdout).expect("standard output is one JSON document");
        Self { json, code: output.status.code().expect("an exit status") }
    }

    pub(crate) fn findings(&self) -> &[Value] {
        self.json["findings"].as_array().expect("an array of findings")
    }

    pub(crate) fn of_subject(&self, subject: &str) -> Vec<&Value> {
        self.findings().iter().filter(|finding| finding["subject"] == subject).collect()
    }

    /// The one finding of this check about this thing.
    pub(crate) fn find(&self, check: &str, about: Option<&str>) -> &Value {
        let about = about.map_or(Value::Null, Value::from);
        let is_wanted = |finding: &&Value| finding["check"] == check && finding["about"] == about;
        let found: Vec<_> = self.findings().iter().filter(is_wanted).collect();
        assert_eq!(found.len(), 1, "{check} {about}: {}", self.json);
        found[0]
    }
}
