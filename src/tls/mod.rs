//! The handshake and what it is configured with.

mod accept;
mod context;
mod failure;
mod handshake;
mod secrets;
mod settings;

pub use accept::accept;
pub use context::Context;
pub use failure::{Failure, FailureReason};
pub use handshake::{Established, HANDSHAKE_BYTES_MAX, Handshake, HandshakeKind, Progress, TrafficSecrets};
pub use settings::{CertificateFiles, Policy, Settings};
