//! What the admin endpoint is configured with.

use std::net::SocketAddr;

/// The admin endpoint.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A loopback address; none: no endpoint.
    pub address: Option<SocketAddr>,
}
