//! `GET /config`: the configuration that runs, as JSON.

use serde::Serialize;
use serde_json::Value;

use super::status::rfc3339;
use crate::telemetry::Process;

/// The document.
#[derive(Serialize)]
struct Shown<'a> {
    file: String,
    /// Of the file as it was read, in hexadecimal: what `sha256sum` says of it.
    sha256: &'a str,
    loaded: Option<String>,
    /// The keys of the file, with the defaults of those that are not in it, and absolute paths.
    configuration: &'a Value,
}

/// The document as text that ends with a line break.
pub(super) fn render(process: &Process) -> String {
    let running = process.configuration.load();
    let shown = Shown {
        file: running.path.display().to_string(),
        sha256: &running.sha256,
        loaded: rfc3339(running.loaded),
        configuration: &running.effective,
    };
    // Only a map with keys that are no strings could fail, and there is none.
    let mut text = serde_json::to_string_pretty(&shown).unwrap_or_else(|_| "{}".to_owned());
    text.push('\n');
    text
}
