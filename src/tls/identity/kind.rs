//! Kinds of keys, and whether a client can verify what they sign.

use openssl::nid::Nid;
use openssl::pkey::{Id, PKeyRef, Private};

use super::super::client_hello::ClientHello;
use super::super::protocol::SignatureAlgorithm;
use crate::record::{CipherSuite, ProtocolVersion};

/// A kind of key that can serve, in the order in which they are preferred: the cheapest to sign with first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyKind {
    /// ECDSA on P-256.
    EcdsaP256,
    /// Ed25519.
    Ed25519,
    /// ECDSA on P-384.
    EcdsaP384,
    /// ECDSA on P-521.
    EcdsaP521,
    /// RSA from 2048 bits, under rsaEncryption.
    Rsa,
    /// RSA from 2048 bits, under RSASSA-PSS.
    RsaPss,
}

impl KeyKind {
    /// The kind of a key; none where it cannot serve. Strength is not looked at.
    pub(super) fn of(key: &PKeyRef<Private>) -> Option<Self> {
        match key.id() {
            Id::RSA => Some(Self::Rsa),
            Id::RSA_PSS => Some(Self::RsaPss),
            Id::ED25519 => Some(Self::Ed25519),
            // RFC 8446 section 4.2.3: the ecdsa schemes name their curves.
            Id::EC => match key.ec_key().ok()?.group().curve_name()? {
                Nid::X9_62_PRIME256V1 => Some(Self::EcdsaP256),
                Nid::SECP384R1 => Some(Self::EcdsaP384),
                Nid::SECP521R1 => Some(Self::EcdsaP521),
                _ => None,
            },
            _ => None,
        }
    }

    /// The name in messages, `/status` and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ECDSA P-256",
            Self::Ed25519 => "Ed25519",
            Self::EcdsaP384 => "ECDSA P-384",
            Self::EcdsaP521 => "ECDSA P-521",
            Self::Rsa => "RSA",
            Self::RsaPss => "RSA-PSS",
        }
    }

    /// Whether one of these is for such a key, in TLS 1.3.
    pub fn can_sign_with(self, algorithms: &[SignatureAlgorithm]) -> bool {
        algorithms.iter().any(|algorithm| self.schemes().contains(&algorithm.code))
    }

    /// Whether the client says that it can verify signatures of such a key, at `version`.
    pub(super) fn is_usable(self, hello: &ClientHello, version: ProtocolVersion) -> bool {
        match version {
            ProtocolVersion::Tls13 => {
                // RFC 8446 section 4.2.3: the extension must be there; where it is not, OpenSSL has the alert.
                hello
                    .signature_algorithms()
                    .is_none_or(|mut offered| offered.any(|code| self.schemes().contains(&code)))
            }
            ProtocolVersion::Tls12 => self.is_usable_in_tls12(hello),
        }
    }

    fn is_usable_in_tls12(self, hello: &ClientHello) -> bool {
        let authentication = match self {
            Self::Rsa | Self::RsaPss => "_RSA_",
            _ => "_ECDSA_",
        };
        let fits = |code| {
            let suite = CipherSuite::from_code(code).filter(|suite| suite.version == ProtocolVersion::Tls12);
            suite.is_some_and(|suite| suite.name.contains(authentication))
        };
        // RFC 5246 section 7.4.1.4.1: without the extension SHA-1, which OpenSSL refuses with the right alert.
        let can_verify = hello.signature_algorithms().is_none_or(|mut offered| {
            offered.any(|code| self.schemes().contains(&code) || self.schemes_of_tls12().contains(&code))
        });
        // RFC 8422 section 5.1: the list of groups bounds the curve of the certificate, too.
        let knows_curve = match (self.curve(), hello.groups()) {
            (Some(curve), Some(mut offered)) => offered.any(|code| code == curve),
            _ => true,
        };
        can_verify && knows_curve && hello.suites().any(fits)
    }

    /// Code points of the signature schemes that such a key can sign with in both versions (RFC 8446 section 4.2.3).
    fn schemes(self) -> &'static [u16] {
        match self {
            Self::EcdsaP256 => &[0x0403],
            Self::Ed25519 => &[0x0807],
            Self::EcdsaP384 => &[0x0503],
            Self::EcdsaP521 => &[0x0603],
            Self::Rsa => &[0x0804, 0x0805, 0x0806],
            Self::RsaPss => &[0x0809, 0x080a, 0x080b],
        }
    }

    /// Those of TLS 1.2 alone, where a hash goes with any curve, and RSA with PKCS #1 v1.5.
    fn schemes_of_tls12(self) -> &'static [u16] {
        match self {
            Self::EcdsaP256 | Self::EcdsaP384 | Self::EcdsaP521 => &[0x0403, 0x0503, 0x0603],
            Self::Rsa => &[0x0401, 0x0501, 0x0601],
            Self::Ed25519 | Self::RsaPss => &[],
        }
    }

    /// The code point of the curve, where the key is ECDSA.
    fn curve(self) -> Option<u16> {
        match self {
            Self::EcdsaP256 => Some(23),
            Self::EcdsaP384 => Some(24),
            Self::EcdsaP521 => Some(25),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use super::super::super::client_hello::tests::{body, list};
    use super::*;
    use ProtocolVersion::{Tls12, Tls13};

    fn hello(suites: &[u16], signatures: Option<&[u16]>, groups: Option<&[u16]>) -> ClientHello {
        let (signatures, groups) = (signatures.map(list), groups.map(list));
        let mut extensions: Vec<(u16, &[u8])> = Vec::new();
        extensions.extend(signatures.as_deref().map(|body| (13, body)));
        extensions.extend(groups.as_deref().map(|body| (10, body)));
        ClientHello::parse(&body(suites, &extensions)).unwrap()
    }

    #[test]
    fn key_is_usable_in_tls13_where_its_scheme_is_offered() {
        let offer = hello(&[0x1301], Some(&[0x0403, 0x0805]), None);
        let usable = |kind: KeyKind| kind.is_usable(&offer, Tls13);
        assert!(usable(KeyKind::EcdsaP256) && usable(KeyKind::Rsa));
        assert!(!usable(KeyKind::EcdsaP384) && !usable(KeyKind::Ed25519) && !usable(KeyKind::RsaPss));
        // PKCS #1 v1.5 is for certificates only (RFC 8446 section 4.2.3).
        assert!(!KeyKind::Rsa.is_usable(&hello(&[0x1301], Some(&[0x0401]), None), Tls13));
    }

    #[test]
    fn key_is_usable_in_tls12_where_suite_scheme_and_curve_fit() {
        let all = [0x0403, 0x0503, 0x0401];
        let both = hello(&[0xc02b, 0xc02f], Some(&all), Some(&[23, 29]));
        assert!(KeyKind::EcdsaP256.is_usable(&both, Tls12) && KeyKind::Rsa.is_usable(&both, Tls12));
        assert!(!KeyKind::EcdsaP384.is_usable(&both, Tls12), "curve not offered");
        assert!(!KeyKind::Ed25519.is_usable(&both, Tls12), "scheme not offered");
        let rsa_only = hello(&[0xc02f, 0x1301], Some(&all), None);
        assert!(!KeyKind::EcdsaP256.is_usable(&rsa_only, Tls12) && KeyKind::Rsa.is_usable(&rsa_only, Tls12));
        let silent = hello(&[0xc02b], None, None);
        assert!(KeyKind::EcdsaP256.is_usable(&silent, Tls12) && !KeyKind::Rsa.is_usable(&silent, Tls12));
    }
}
