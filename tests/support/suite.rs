//! Every version and suite that Sluice offers, under the names of each TLS stack.

use openssl::ssl::SslVersion;
use sluice::record::CipherSuite;

use super::certificate::KeyKind;

/// A cipher suite together with its version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suite {
    pub(crate) version: Version,
    /// The name in the standards (TLS 1.3: OpenSSL's too).
    pub(crate) iana: &'static str,
    pub(crate) openssl: &'static str,
    /// GnuTLS's cipher and MAC of it.
    pub(crate) gnutls: &'static str,
    pub(crate) key: KeyKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Tls12,
    Tls13,
}

impl Version {
    pub(crate) const ALL: [Self; 2] = [Self::Tls12, Self::Tls13];

    pub(crate) fn openssl(self) -> SslVersion {
        match self {
            Self::Tls12 => SslVersion::TLS1_2,
            Self::Tls13 => SslVersion::TLS1_3,
        }
    }

    /// `1.2` or `1.3`.
    pub(crate) fn number(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }

    /// The suite that is negotiated when the client has no wishes.
    pub(crate) fn usual_suite(self) -> Suite {
        *SUITES.iter().find(|suite| suite.version == self).expect("each version has suites")
    }
}

impl Suite {
    /// Sluice's own description of it.
    pub(crate) fn description(&self) -> &'static CipherSuite {
        CipherSuite::all().iter().find(|suite| suite.name == self.iana).expect("Sluice offers the suite")
    }

    /// Those that a server with a key of this kind can use.
    pub(crate) fn with_key(key: KeyKind) -> impl Iterator<Item = Self> {
        SUITES.into_iter().filter(move |suite| suite.version == Version::Tls13 || suite.key == key)
    }
}

const fn tls13(name: &'static str, gnutls: &'static str) -> Suite {
    Suite { version: Version::Tls13, iana: name, openssl: name, gnutls, key: KeyKind::EcdsaP256 }
}

const fn tls12(key: KeyKind, iana: &'static str, openssl: &'static str, gnutls: &'static str) -> Suite {
    Suite { version: Version::Tls12, iana, openssl, gnutls, key }
}

const AES_128: &str = "AES-128-GCM";
const AES_256: &str = "AES-256-GCM";
const CHACHA20: &str = "CHACHA20-POLY1305";

pub(crate) const SUITES: [Suite; 9] = [
    tls13("TLS_AES_128_GCM_SHA256", AES_128),
    tls13("TLS_AES_256_GCM_SHA384", AES_256),
    tls13("TLS_CHACHA20_POLY1305_SHA256", CHACHA20),
    tls12(KeyKind::EcdsaP256, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256", AES_128),
    tls12(KeyKind::EcdsaP256, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384", AES_256),
    tls12(
        KeyKind::EcdsaP256,
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        CHACHA20,
    ),
    tls12(KeyKind::Rsa2048, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256", AES_128),
    tls12(KeyKind::Rsa2048, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "ECDHE-RSA-AES256-GCM-SHA384", AES_256),
    tls12(KeyKind::Rsa2048, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-RSA-CHACHA20-POLY1305", CHACHA20),
];
