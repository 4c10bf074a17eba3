//! What a backend is configured with.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::proxy_protocol;

/// A group of equal servers.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name that listeners refer to.
    pub name: String,
    /// At least one server; tried in round robin.
    pub servers: Vec<ServerAddress>,
    /// How long one connection attempt may take before the next server is tried.
    pub connect_timeout: Duration,
    /// The PROXY protocol header that a server gets; none: its connections begin with the client's first byte.
    pub proxy_protocol: Option<proxy_protocol::Send>,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServerAddress {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a unix stream socket.
    Unix(PathBuf),
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
