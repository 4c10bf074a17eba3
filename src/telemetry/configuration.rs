//! What is shown of the configuration that runs.

use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::Value;

/// A configuration as it was read. Files that it names are named here too, and never shown.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The file; empty where there is none.
    pub path: PathBuf,
    /// SHA-256 of the bytes of the file, in hexadecimal.
    pub sha256: String,
    /// When it was read.
    pub loaded: SystemTime,
    /// Every key with its value or default.
    pub effective: Value,
}

impl Configuration {
    /// Of a process that has no file.
    pub fn none() -> Self {
        Self { path: PathBuf::new(), sha256: String::new(), loaded: SystemTime::now(), effective: Value::Null }
    }
}
