//! The handshake and what it is configured with.

mod accept;
pub mod client_auth;
mod client_hello;
pub mod compression;
mod context;
mod expiry;
mod facts;
mod failure;
mod handshake;
pub mod identity;
mod ja4;
mod protocol;
mod secrets;
mod server_name;
mod settings;
pub mod stapling;

pub use accept::accept;
pub use client_hello::ClientHello;
pub use context::{Context, TicketKeys};
pub use expiry::{Ending, Nearness, THRESHOLD_DAYS, days_left};
pub use facts::Facts;
pub use failure::Failure;
pub use handshake::{Established, HANDSHAKE_BYTES_MAX, Handshake, HandshakeKind, Progress};
pub use protocol::{Group, Policy, Protocol, SignatureAlgorithm, openssl_name};
pub use server_name::{Found, NameMap, ServerName};
pub use settings::{CertificateFiles, CertificateForm, CertificateSources, Section, Settings, UnknownServerName};
