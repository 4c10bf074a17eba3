//! Backends: choice of a server, dialling, the header in front of the first byte.

mod choose;
mod dial;
mod greet;
mod settings;

use std::io;
use std::path::PathBuf;

pub use choose::Servers;
pub use dial::{DialError, dial};
pub use greet::greet;
pub use settings::{ServerAddress, Settings};

/// A unix socket's path is no address.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}; a unix socket's path has at most 107 bytes", path = path.display())]
pub struct AddressError {
    /// The path.
    pub path: PathBuf,
    /// What the kernel's limit says.
    pub source: io::Error,
}
