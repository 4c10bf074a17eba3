//! Versions, suites, groups and signatures: what a listener negotiates.

use std::ops::RangeInclusive;

use crate::record::{CipherSuite, ProtocolVersion};

/// Named sets of versions, after Mozilla's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// TLS 1.3 only.
    Modern,
    /// TLS 1.2 and 1.3.
    Intermediate,
}

/// What a listener negotiates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// Versions.
    pub versions: RangeInclusive<ProtocolVersion>,
    /// Suites in order of preference; at least one for each version.
    pub suites: Vec<&'static CipherSuite>,
    /// Key-exchange groups in order of preference; at least one.
    pub groups: Vec<Group>,
    /// Signatures that the proxy makes and accepts, in order of preference; at least one.
    pub signature_algorithms: Vec<SignatureAlgorithm>,
}

impl Protocol {
    /// That of a policy.
    pub fn of(policy: Policy) -> Self {
        let min = match policy {
            Policy::Modern => ProtocolVersion::Tls13,
            Policy::Intermediate => ProtocolVersion::Tls12,
        };
        Self {
            versions: min..=ProtocolVersion::Tls13,
            suites: SUITES.iter().filter_map(|code| CipherSuite::from_code(*code)).collect(),
            groups: vec![Group::X25519MlKem768, Group::X25519, Group::P256],
            signature_algorithms: SignatureAlgorithm::ALL.to_vec(),
        }
    }

    /// The lowest and the highest version, as in `1.2-1.3`. Ticket scopes depend on the form.
    pub fn versions_text(&self) -> String {
        let number = |version: &ProtocolVersion| match version {
            ProtocolVersion::Tls12 => "1.2",
            ProtocolVersion::Tls13 => "1.3",
        };
        [self.versions.start(), self.versions.end()].map(number).join("-")
    }

    /// The code points of the suites in their order, as in `1301,1302`. Ticket scopes depend on the form.
    pub fn suites_text(&self) -> String {
        self.suites.iter().map(|suite| format!("{:04x}", suite.code)).collect::<Vec<_>>().join(",")
    }

    /// The version that a client with this offer gets, unless it is refused.
    pub(super) fn version(&self, mut offered: impl Iterator<Item = u16>) -> ProtocolVersion {
        const TLS13: u16 = 0x0304;
        let has_tls13 = *self.versions.end() == ProtocolVersion::Tls13 && offered.any(|code| code == TLS13);
        if has_tls13 { ProtocolVersion::Tls13 } else { ProtocolVersion::Tls12 }
    }
}

/// AES-128-GCM first: SHA-384 suites cost about 8 % more per handshake.
const SUITES: [u16; 9] = [0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8];

/// OpenSSL's name of a suite: the IANA name in TLS 1.3, one of its own in TLS 1.2.
pub fn openssl_name(suite: &CipherSuite) -> &'static str {
    match suite.code {
        0xc02b => "ECDHE-ECDSA-AES128-GCM-SHA256",
        0xc02c => "ECDHE-ECDSA-AES256-GCM-SHA384",
        0xc02f => "ECDHE-RSA-AES128-GCM-SHA256",
        0xc030 => "ECDHE-RSA-AES256-GCM-SHA384",
        0xcca8 => "ECDHE-RSA-CHACHA20-POLY1305",
        0xcca9 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        _ => suite.name,
    }
}

/// A key-exchange group (RFC 8446 section 4.2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// X25519 with ML-KEM-768: no quantum computer opens what was recorded today.
    X25519MlKem768,
    /// P-256 with ML-KEM-768, for those who must have a NIST curve.
    SecP256r1MlKem768,
    /// P-384 with ML-KEM-1024.
    SecP384r1MlKem1024,
    /// X25519.
    X25519,
    /// P-256.
    P256,
    /// P-384.
    P384,
    /// P-521.
    P521,
}

impl Group {
    /// Every group.
    pub const ALL: [Self; 7] = [
        Self::X25519MlKem768,
        Self::SecP256r1MlKem768,
        Self::SecP384r1MlKem1024,
        Self::X25519,
        Self::P256,
        Self::P384,
        Self::P521,
    ];

    /// The name in the configuration and in OpenSSL.
    pub fn name(self) -> &'static str {
        match self {
            Self::X25519MlKem768 => "X25519MLKEM768",
            Self::SecP256r1MlKem768 => "SecP256r1MLKEM768",
            Self::SecP384r1MlKem1024 => "SecP384r1MLKEM1024",
            Self::X25519 => "X25519",
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// Whether OpenSSL has it only from 3.5 on, and only TLS 1.3 uses it.
    pub fn is_post_quantum(self) -> bool {
        matches!(self, Self::X25519MlKem768 | Self::SecP256r1MlKem768 | Self::SecP384r1MlKem1024)
    }
}

/// A signature scheme (RFC 8446 section 4.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignatureAlgorithm {
    /// The IANA code point.
    pub code: u16,
    /// The IANA name, which is OpenSSL's too.
    pub name: &'static str,
}

impl SignatureAlgorithm {
    /// Every scheme, in the order of preference. No SHA-1 and no SHA-224: nobody who is served needs them.
    pub const ALL: [Self; 13] = [
        Self::new(0x0403, "ecdsa_secp256r1_sha256"),
        Self::new(0x0807, "ed25519"),
        Self::new(0x0503, "ecdsa_secp384r1_sha384"),
        Self::new(0x0603, "ecdsa_secp521r1_sha512"),
        Self::new(0x0804, "rsa_pss_rsae_sha256"),
        Self::new(0x0805, "rsa_pss_rsae_sha384"),
        Self::new(0x0806, "rsa_pss_rsae_sha512"),
        Self::new(0x0809, "rsa_pss_pss_sha256"),
        Self::new(0x080a, "rsa_pss_pss_sha384"),
        Self::new(0x080b, "rsa_pss_pss_sha512"),
        Self::new(0x0401, "rsa_pkcs1_sha256"),
        Self::new(0x0501, "rsa_pkcs1_sha384"),
        Self::new(0x0601, "rsa_pkcs1_sha512"),
    ];

    const fn new(code: u16, name: &'static str) -> Self {
        Self { code, name }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_has_every_suite_of_the_record_layer() {
        for policy in [Policy::Modern, Policy::Intermediate] {
            let protocol = Protocol::of(policy);
            assert_eq!(protocol.suites.len(), CipherSuite::all().len());
        }
        assert_eq!(*Protocol::of(Policy::Modern).versions.start(), ProtocolVersion::Tls13);
    }

    #[test]
    fn version_is_the_highest_in_common() {
        let protocol = Protocol::of(Policy::Intermediate);
        assert_eq!(protocol.version([0x0303, 0x0304].into_iter()), ProtocolVersion::Tls13);
        assert_eq!(protocol.version([0x0303].into_iter()), ProtocolVersion::Tls12);
        let old = Protocol { versions: ProtocolVersion::Tls12..=ProtocolVersion::Tls12, ..protocol };
        assert_eq!(old.version([0x0304].into_iter()), ProtocolVersion::Tls12);
    }
}
