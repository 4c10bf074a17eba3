//! Sluice: a TLS termination proxy for bare-metal Linux edge nodes.
//!
//! `worker/connection.rs` orders the phases of a connection; `docs/architecture.md` tells the whole story.

pub mod admin;
pub mod backend;
pub mod command;
pub mod config;
pub mod guard;
pub mod ktls;
pub mod network;
pub mod proxy_protocol;
pub mod record;
pub mod relay;
pub mod server;
#[allow(
    unsafe_code,
    reason = "the one place for unsafe code: system calls and OpenSSL functions without a safe wrapper"
)]
pub mod sys;
pub mod telemetry;
pub mod ticket;
pub mod timer;
pub mod tls;
pub mod worker;
