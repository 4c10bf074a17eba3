//! From the secrets of a handshake to the keys of its records (RFC 8446 section 7, RFC 5246 section 6.3).

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::protect::{CryptoError, NONCE_LEN};
use super::suite::{CipherSuite, KeyMaterial, ProtocolVersion, TrafficKeys};
use crate::sys::kdf::{self, Digest};

/// An application traffic secret of TLS 1.3; wiped on drop, never printed.
#[derive(ZeroizeOnDrop)]
pub struct TrafficSecret {
    #[zeroize(skip)]
    digest: Digest,
    bytes: [u8; SECRET_LEN_MAX],
}

impl TrafficSecret {
    /// Copies a secret of the hash length of `suite`, as the key log has it.
    ///
    /// # Errors
    /// When the suite is not of TLS 1.3, or the length is not that of its hash.
    pub fn new(suite: &CipherSuite, secret: &[u8]) -> Result<Self, CryptoError> {
        if suite.version != ProtocolVersion::Tls13 {
            return Err(CryptoError::WrongSuite { operation: "a traffic secret" });
        }
        let digest = suite.digest();
        if secret.len() != digest.output_len() {
            return Err(CryptoError::KeyLength {
                what: "traffic secret",
                got: secret.len(),
                expected: digest.output_len(),
            });
        }
        let mut bytes = [0; SECRET_LEN_MAX];
        bytes[..secret.len()].copy_from_slice(secret);
        Ok(Self { digest, bytes })
    }

    /// Key and IV of this generation, for records from sequence number 0 (RFC 8446 section 7.3).
    ///
    /// # Errors
    /// When `suite` is not the one that the secret was made for, or OpenSSL fails.
    pub fn keys(&self, suite: &CipherSuite) -> Result<TrafficKeys, CryptoError> {
        if suite.version != ProtocolVersion::Tls13 || suite.digest() != self.digest {
            return Err(CryptoError::WrongSuite { operation: "deriving keys from a traffic secret" });
        }
        let mut key = Zeroizing::new([0; KEY_LEN_MAX]);
        let key = &mut key[..suite.aead.key_len()];
        self.expand(b"key", key)?;
        let mut keys = TrafficKeys {
            version: suite.version,
            aead: suite.aead,
            key: KeyMaterial::new(key),
            iv: [0; NONCE_LEN],
            sequence: 0,
        };
        self.expand(b"iv", &mut keys.iv)?;
        Ok(keys)
    }

    /// The secret that follows this one after a KeyUpdate (RFC 8446 section 7.2).
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn next_generation(&self) -> Result<Self, CryptoError> {
        let mut next = Self { digest: self.digest, bytes: [0; SECRET_LEN_MAX] };
        self.expand(b"traffic upd", &mut next.bytes[..self.digest.output_len()])?;
        Ok(next)
    }

    fn expand(&self, label: &[u8], out: &mut [u8]) -> Result<(), CryptoError> {
        kdf::hkdf_expand_label(self.digest, &self.bytes[..self.digest.output_len()], label, out)
            .map_err(CryptoError::openssl("expand a traffic secret"))
    }
}

impl fmt::Debug for TrafficSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrafficSecret({:?})", self.digest)
    }
}

/// The master secret of a TLS 1.2 session; wiped on drop, never printed.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct MasterSecret([u8; MASTER_SECRET_LEN]);

impl MasterSecret {
    /// Copies a master secret, as the key log has it.
    ///
    /// # Errors
    /// When it does not have 48 bytes.
    pub fn new(secret: &[u8]) -> Result<Self, CryptoError> {
        let mut bytes = [0; MASTER_SECRET_LEN];
        if secret.len() != bytes.len() {
            return Err(CryptoError::KeyLength {
                what: "master secret",
                got: secret.len(),
                expected: MASTER_SECRET_LEN,
            });
        }
        bytes.copy_from_slice(secret);
        Ok(Self(bytes))
    }

    /// The keys of both directions, client first, from sequence number 0 (RFC 5246 section 6.3).
    ///
    /// The explicit nonce of AES-GCM starts at 0; a caller who goes on behind a Finished that somebody else sealed sets
    /// sequence number and explicit nonce to those of the next record.
    ///
    /// # Errors
    /// When `suite` is not of TLS 1.2, or OpenSSL fails.
    pub fn key_block(
        &self,
        suite: &CipherSuite,
        client_random: &[u8; RANDOM_LEN],
        server_random: &[u8; RANDOM_LEN],
    ) -> Result<(TrafficKeys, TrafficKeys), CryptoError> {
        if suite.version != ProtocolVersion::Tls12 {
            return Err(CryptoError::WrongSuite { operation: "a key block" });
        }
        let mut seed = [0; KEY_EXPANSION.len() + 2 * RANDOM_LEN];
        seed[..KEY_EXPANSION.len()].copy_from_slice(KEY_EXPANSION);
        // RFC 5246 section 6.3: the server's random comes first here, unlike in the master secret.
        seed[KEY_EXPANSION.len()..][..RANDOM_LEN].copy_from_slice(server_random);
        seed[KEY_EXPANSION.len() + RANDOM_LEN..].copy_from_slice(client_random);

        let key_len = suite.aead.key_len();
        let iv_len = NONCE_LEN - suite.aead.explicit_nonce_len(ProtocolVersion::Tls12);
        let mut block = Zeroizing::new([0; 2 * (KEY_LEN_MAX + NONCE_LEN)]);
        let block = &mut block[..2 * (key_len + iv_len)];
        kdf::tls12_prf(suite.digest(), &self.0, &seed, block)
            .map_err(CryptoError::openssl("expand a master secret"))?;

        let (keys, ivs) = block.split_at(2 * key_len);
        let (client_key, server_key) = keys.split_at(key_len);
        let (client_iv, server_iv) = ivs.split_at(iv_len);
        let direction = |key: &[u8], iv: &[u8]| {
            let mut direction = TrafficKeys {
                version: suite.version,
                aead: suite.aead,
                key: KeyMaterial::new(key),
                iv: [0; NONCE_LEN],
                sequence: 0,
            };
            direction.iv[..iv.len()].copy_from_slice(iv);
            direction
        };
        Ok((direction(client_key, client_iv), direction(server_key, server_iv)))
    }
}

impl fmt::Debug for MasterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterSecret")
    }
}

/// Length of the randoms of a TLS 1.2 handshake in bytes.
const RANDOM_LEN: usize = 32;
/// Length of a master secret in bytes (RFC 5246 section 8.1).
const MASTER_SECRET_LEN: usize = 48;
/// The longest secret is that of SHA-384.
const SECRET_LEN_MAX: usize = 48;
const KEY_LEN_MAX: usize = 32;
const KEY_EXPANSION: &[u8] = b"key expansion";
