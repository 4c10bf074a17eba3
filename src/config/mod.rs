//! Configuration: TOML text to resolved settings, with errors that point at the line.
//!
//! A file goes through `shape` (unknown keys, wrong shapes), `raw` (values), `resolve` (bounds, references, files). No
//! stage stops at its first mistake: the operator sees all of them at once.

mod cpu;
mod diagnostic;
mod limit;
mod near;
mod raw;
mod report;
mod resolve;
mod scalar;
mod shape;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::SystemTime;

use schemars::generate::SchemaSettings;
use serde::Deserialize;
use toml::Deserializer;
use toml::de::DeTable;

use crate::server;

pub use diagnostic::{Diagnostic, Diagnostics, RENDERED_COUNT_MAX, Severity, Style};

use cpu::Machine;
use report::Report;
use resolve::Environment;

/// What came of reading a file.
#[derive(Debug)]
pub struct Checked {
    /// The settings; none where an error was found.
    pub settings: Option<server::Settings>,
    /// Errors and warnings.
    pub diagnostics: Diagnostics,
}

/// Reads, checks and resolves a file, and the files that it names. Warnings go to the log.
///
/// # Errors
/// All errors of the file, and its warnings; see [`Diagnostics::render`].
pub fn load(path: &Path) -> Result<server::Settings, Diagnostics> {
    let Checked { settings, diagnostics } = check(path);
    let Some(settings) = settings else { return Err(diagnostics) };
    for warning in diagnostics.iter() {
        tracing::warn!("{}", diagnostics.line(warning));
    }
    Ok(settings)
}

/// Like [`load`], but gives the warnings too.
pub fn check(path: &Path) -> Checked {
    match read(path) {
        Ok(bytes) => check_bytes(path, bytes),
        Err(finding) => refused(path, finding),
    }
}

/// Checks and resolves `bytes` as if they were the content of `path`.
pub fn check_bytes(path: &Path, bytes: Vec<u8>) -> Checked {
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return refused(path, not_utf8(&error)),
    };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    let environment = Environment { directory, now: SystemTime::now(), machine: Machine::read() };
    let (settings, findings) = check_in(&text, &environment);
    Checked { settings, diagnostics: Diagnostics::new(path, text, findings) }
}

/// The JSON schema of the file (JSON Schema 2020-12), with a newline at the end. `x-unit`, `x-minimum` and `x-maximum`
/// describe durations and sizes, whose bounds JSON Schema cannot express.
pub fn schema() -> String {
    let mut text = serde_json::to_string_pretty(&schema_value()).unwrap_or_default();
    text.push('\n');
    text
}

fn check_in(text: &str, environment: &Environment) -> (Option<server::Settings>, Vec<Diagnostic>) {
    let (mut root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return (None, errors.iter().map(syntax).collect());
    }
    let (index, findings) = shape::prune(&mut root, &schema_value());
    let mut report = Report::new(index, findings);
    let settings = match raw::File::deserialize(Deserializer::from(root)) {
        Ok(file) => resolve::resolve(&file, environment, &mut report),
        // Out of reach, since `shape` has removed what could fail; still the operator's to see.
        Err(error) => {
            report.push(syntax(&error));
            None
        }
    };
    (settings, report.into_findings())
}

/// The file could not even be read as text.
fn refused(path: &Path, finding: Diagnostic) -> Checked {
    Checked { settings: None, diagnostics: Diagnostics::new(path, String::new(), vec![finding]) }
}

fn not_utf8(error: &std::string::FromUtf8Error) -> Diagnostic {
    let valid = error.utf8_error().valid_up_to();
    let line = error.as_bytes().iter().take(valid).filter(|&&byte| byte == b'\n').count() + 1;
    let finding = Diagnostic::error(format!("the file is not UTF-8 from byte {valid} on, in line {line}"));
    finding.allowed("allowed: TOML, which is UTF-8 text")
}

fn syntax(error: &toml::de::Error) -> Diagnostic {
    let mut lines = error.message().lines();
    let title = lines.next().unwrap_or("syntax error");
    let finding = match error.span() {
        Some(span) => Diagnostic::error(title).at(span, ""),
        None => Diagnostic::error(title),
    };
    let details = lines.collect::<Vec<_>>().join("; ");
    if details.is_empty() { finding } else { finding.allowed(details) }
}

fn read(path: &Path) -> Result<Vec<u8>, Diagnostic> {
    let failed = |error: std::io::Error| {
        Diagnostic::error(format!("cannot read the configuration: {error}"))
            .help("name another file with --config, or see docs/configuration.md for one to start from")
    };
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "a directory" } else { "not a regular file" };
        return Err(Diagnostic::error(format!("cannot read the configuration: this is {found}")));
    }
    if metadata.len() > limit::FILE_BYTES_MAX {
        let finding = Diagnostic::error(format!("the configuration is too large: {} bytes", metadata.len()));
        return Err(finding.allowed(format!("allowed: up to {} bytes", limit::FILE_BYTES_MAX)));
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    file.take(limit::FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Without references, so that `shape` can walk it.
fn schema_value() -> serde_json::Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<raw::File>().to_value()
}
