//! What a listener's TLS is configured with.

use std::path::PathBuf;
use std::sync::Arc;

use super::client_auth::ClientAuth;

/// TLS of one listener.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Versions and suites.
    pub policy: Policy,
    /// The certificate and its key.
    pub certificate: CertificateFiles,
    /// ALPN protocols in order of preference; empty: the extension is not answered.
    pub alpn: Vec<String>,
    /// What is asked of clients; none: nothing. Read from its files already, since they are as much a part of the
    /// settings as the keys are.
    pub client_auth: Option<Arc<ClientAuth>>,
}

impl Settings {
    /// Every file that the context of the listener is built from.
    pub fn files(&self) -> Vec<PathBuf> {
        let client_auth = self.client_auth.iter().flat_map(|client_auth| client_auth.settings().files());
        [&self.certificate.chain, &self.certificate.key].into_iter().chain(client_auth).cloned().collect()
    }
}

/// Versions and suites, after Mozilla's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// TLS 1.3 only.
    Modern,
    /// TLS 1.2 and 1.3.
    Intermediate,
}

/// Where a certificate and its key lie.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    /// PEM: the certificate, then its intermediates.
    pub chain: PathBuf,
    /// PEM: the private key.
    pub key: PathBuf,
}
