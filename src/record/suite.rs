//! Cipher suites, and the keys that a direction starts from on either engine.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::protect::CryptoError;
use crate::sys::kdf::Digest;

/// A protocol version that Sluice negotiates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProtocolVersion {
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

/// The AEAD algorithm of a cipher suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Aead {
    /// AES-128-GCM.
    Aes128Gcm,
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305,
}

impl Aead {
    /// Length of the key in bytes.
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }

    /// Length of the tag in bytes.
    pub const fn tag_len(self) -> usize {
        16
    }

    /// Bytes of nonce that each record carries: 8 with AES-GCM in TLS 1.2 (RFC 5288 section 3), otherwise none.
    pub const fn explicit_nonce_len(self, version: ProtocolVersion) -> usize {
        match (version, self) {
            (ProtocolVersion::Tls12, Self::Aes128Gcm | Self::Aes256Gcm) => 8,
            _ => 0,
        }
    }

    /// Bytes behind the payload of a record: the tag, and in TLS 1.3 the content type.
    pub const fn suffix_len(self, version: ProtocolVersion) -> usize {
        match version {
            ProtocolVersion::Tls13 => 1 + self.tag_len(),
            ProtocolVersion::Tls12 => self.tag_len(),
        }
    }

    /// Bytes by which a record without padding outgrows header and payload.
    pub const fn expansion_len(self, version: ProtocolVersion) -> usize {
        self.explicit_nonce_len(version) + self.suffix_len(version)
    }
}

/// A cipher suite that Sluice negotiates: the three of TLS 1.3, and ECDHE with an AEAD in TLS 1.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CipherSuite {
    /// The IANA code point.
    pub code: u16,
    /// The IANA name.
    pub name: &'static str,
    /// The version that the suite belongs to.
    pub version: ProtocolVersion,
    /// Record protection.
    pub aead: Aead,
    /// Whether the key schedule hashes with SHA-384 instead of SHA-256.
    pub sha384: bool,
}

impl CipherSuite {
    /// The suite with this IANA code point, if Sluice negotiates it.
    pub fn from_code(code: u16) -> Option<&'static Self> {
        SUITES.iter().find(|suite| suite.code == code)
    }

    /// Every suite that Sluice negotiates.
    pub const fn all() -> &'static [Self] {
        SUITES
    }

    /// The hash of the key schedule.
    pub(super) const fn digest(&self) -> Digest {
        if self.sha384 { Digest::Sha384 } else { Digest::Sha256 }
    }
}

/// A secret AEAD key; wiped on drop, never printed.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct KeyMaterial {
    bytes: [u8; 32],
    len: u8,
}

impl KeyMaterial {
    /// Copies a key of 16 or 32 bytes.
    ///
    /// # Panics
    /// When `key` is longer than 32 bytes: a bug in the caller, who takes the length from [`Aead::key_len`].
    pub fn new(key: &[u8]) -> Self {
        assert!(key.len() <= 32, "AEAD keys have at most 32 bytes");
        let mut bytes = [0; 32];
        bytes[..key.len()].copy_from_slice(key);
        Self { bytes, len: key.len() as u8 }
    }

    /// The key.
    pub fn expose(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyMaterial({} bytes)", self.len)
    }
}

/// What one direction of a connection is protected with, and where it stands: enough for either engine to go on.
#[derive(Debug)]
pub struct TrafficKeys {
    /// The protocol version.
    pub version: ProtocolVersion,
    /// The algorithm.
    pub aead: Aead,
    /// The AEAD key.
    pub key: KeyMaterial,
    /// The write IV. TLS 1.3 and ChaCha20-Poly1305: 12 bytes, combined with the sequence number (RFC 8446 section
    /// 5.3, RFC 7905). AES-GCM in TLS 1.2: a salt of 4 bytes, then the 8 bytes of the explicit nonce of the next
    /// record to be sealed (RFC 5288); the receiving side takes the explicit nonce from each record.
    pub iv: [u8; 12],
    /// Sequence number of the next record.
    pub sequence: u64,
}

impl TrafficKeys {
    /// Whether the key has the length that the algorithm asks for.
    pub(super) fn check_key_len(&self) -> Result<(), CryptoError> {
        let (got, expected) = (self.key.expose().len(), self.aead.key_len());
        if got == expected { Ok(()) } else { Err(CryptoError::KeyLength { what: "AEAD key", got, expected }) }
    }
}

impl TrafficKeys {
    /// AES-GCM in TLS 1.2: sets the explicit nonce of the next record to be sealed (RFC 5288 section 3).
    pub fn set_explicit_nonce(&mut self, nonce: u64) {
        self.iv[4..].copy_from_slice(&nonce.to_be_bytes());
    }
}

impl Drop for TrafficKeys {
    fn drop(&mut self) {
        self.iv.zeroize();
    }
}

const SUITES: &[CipherSuite] = {
    use Aead::{Aes128Gcm, Aes256Gcm, ChaCha20Poly1305};
    use ProtocolVersion::{Tls12, Tls13};
    const fn suite(code: u16, name: &'static str, version: ProtocolVersion, aead: Aead, sha384: bool) -> CipherSuite {
        CipherSuite { code, name, version, aead, sha384 }
    }
    &[
        suite(0x1301, "TLS_AES_128_GCM_SHA256", Tls13, Aes128Gcm, false),
        suite(0x1302, "TLS_AES_256_GCM_SHA384", Tls13, Aes256Gcm, true),
        suite(0x1303, "TLS_CHACHA20_POLY1305_SHA256", Tls13, ChaCha20Poly1305, false),
        suite(0xc02b, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", Tls12, Aes128Gcm, false),
        suite(0xc02c, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", Tls12, Aes256Gcm, true),
        suite(0xc02f, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", Tls12, Aes128Gcm, false),
        suite(0xc030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", Tls12, Aes256Gcm, true),
        suite(0xcca8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", Tls12, ChaCha20Poly1305, false),
        suite(0xcca9, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", Tls12, ChaCha20Poly1305, false),
    ]
};
