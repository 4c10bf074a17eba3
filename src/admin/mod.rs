//! Administration over HTTP, on a loopback address or a unix socket, or on any address with client certificates:
//!
//! - `GET /`: the status page, for a browser
//! - `GET /metrics`: OpenMetrics text (`docs/metrics.md`)
//! - `GET /livez`: 200 while every worker lives and goes on, else 503
//! - `GET /readyz`: 200 while every worker accepts connections, else 503
//! - `GET /status`: JSON, what the status page shows
//! - `GET /config`: JSON, the running configuration
//! - `POST /reload`: 200 when the configuration was read anew and is in service, 422 with its errors, 503 with what
//!   stood in the way
//! - `POST /drain`: 202; the process stops accepting, lets open connections end, and exits
//!
//! Anything else is answered with 404 or 405. Everything here runs on the control thread: no admin client, however slow,
//! costs a worker anything, and each is bounded in bytes, time and number so that it cannot keep out the next one.

mod configuration;
mod endpoint;
mod listen;
mod page;
mod route;
mod settings;
mod status;

pub use endpoint::Endpoint;
pub use listen::{BindError, TEMPORARY_SUFFIX_BYTES_MAX, TlsError, Twin};
pub use route::{Reloaded, Request};
pub use settings::{Address, Settings, SocketMode, TlsSettings};
