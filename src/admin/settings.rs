//! What the admin endpoint is configured with.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The admin endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where it listens; none: no endpoint.
    pub address: Option<Address>,
    /// Who may connect to its unix socket.
    pub socket_mode: SocketMode,
    /// TLS with client certificates, without which only loopback and unix sockets may be listened on.
    pub tls: Option<TlsSettings>,
}

/// Where the admin endpoint listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An address and a port.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

/// The permissions of the unix socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SocketMode {
    /// 0600: the user of the process, and root.
    #[default]
    User,
    /// 0660: the group of the process too.
    Group,
}

/// TLS of the admin endpoint; every client must show a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// PEM: the certificate, then its intermediates.
    pub chain: PathBuf,
    /// PEM: the private key.
    pub key: PathBuf,
    /// PEM: the authorities whose client certificates are let in.
    pub client_ca: PathBuf,
}

impl SocketMode {
    /// As chmod(2) takes it.
    pub fn bits(self) -> u32 {
        match self {
            Self::User => 0o600,
            Self::Group => 0o660,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}
