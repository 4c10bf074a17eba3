//! The handshake and what it is configured with.

mod settings;

pub use settings::{CertificateFiles, Policy, Settings};
