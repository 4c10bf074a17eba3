//! What a listener's TLS is configured with.

use std::path::PathBuf;

/// TLS of one listener.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Versions and suites.
    pub policy: Policy,
    /// The certificate and its key.
    pub certificate: CertificateFiles,
    /// ALPN protocols in order of preference; empty: the extension is not answered.
    pub alpn: Vec<String>,
}

impl Settings {
    /// Every file that the context of the listener is built from.
    pub fn files(&self) -> Vec<PathBuf> {
        vec![self.certificate.chain.clone(), self.certificate.key.clone()]
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
