//! The handshake and what it is configured with.

pub mod identity;
mod settings;

pub use settings::{CertificateFiles, Policy, Settings};
