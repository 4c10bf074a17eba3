//! From the secrets of a handshake to the keys of its records (RFC 8446 section 7, RFC 5246 section 6.3).

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::protect::{CryptoError, NONCE_LEN};
use super::suite::{CipherSuite, KeyMaterial, ProtocolVersion, TrafficKeys};
use crate::sys::kdf::{self, Digest, Label};

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
    /// When `suite` is not the one that the secret was made for, or memory is short.
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
    /// When memory is short.
    pub fn next_generation(&self) -> Result<Self, CryptoError> {
        let mut next = Self { digest: self.digest, bytes: [0; SECRET_LEN_MAX] };
        self.expand(b"traffic upd", &mut next.bytes[..self.digest.output_len()])?;
        Ok(next)
    }

    fn expand(&self, label: &[u8], out: &mut [u8]) -> Result<(), CryptoError> {
        let label = Label { prefix: b"tls13 ", name: label, context: b"" };
        kdf::hkdf_expand_label(self.digest, &self.bytes[..self.digest.output_len()], label, out)
            .map_err(CryptoError::aws_lc("expand a traffic secret"))
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
    /// When `suite` is not of TLS 1.2, or memory is short.
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
        kdf::tls12_prf(suite.digest(), &self.0, &seed, block).map_err(CryptoError::aws_lc("expand a master secret"))?;

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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::*;
    use crate::record::testing::{hex, suite};

    /// RFC 8448 section 3: secret, key and IV of both directions.
    const RFC8448: [[&str; 3]; 2] = [
        [
            "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5",
            "17422dda596ed5d9acd890e3c63f5051",
            "5b78923dee08579033e523d9",
        ],
        [
            "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643",
            "9f02283b6c9c07efc26bb9f2ac92e356",
            "cf782b88dd83549aadf1e984",
        ],
    ];

    #[test]
    fn traffic_secrets_of_rfc_8448_give_its_keys() {
        let suite = suite(0x1301);
        for [secret, key, iv] in RFC8448 {
            let keys = TrafficSecret::new(suite, &hex(secret)).unwrap().keys(suite).unwrap();
            assert_eq!(keys.key.expose(), hex(key));
            assert_eq!(keys.iv.as_slice(), hex(iv));
            assert_eq!(keys.sequence, 0);
        }
    }

    #[test]
    fn traffic_secret_derives_what_another_implementation_derives() {
        for suite in CipherSuite::all().iter().filter(|suite| suite.version == ProtocolVersion::Tls13) {
            let mut secret: Vec<u8> = (0..suite.digest().output_len() as u8).map(|byte| byte ^ 0xa5).collect();
            let mut ours = TrafficSecret::new(suite, &secret).unwrap();
            for _generation in 0..3 {
                let keys = ours.keys(suite).unwrap();
                assert_eq!(keys.key.expose(), oracle(suite, &secret, "key", suite.aead.key_len()));
                assert_eq!(keys.iv.as_slice(), oracle(suite, &secret, "iv", 12));
                secret = oracle(suite, &secret, "traffic upd", secret.len());
                ours = ours.next_generation().unwrap();
            }
        }
    }

    /// HKDF-Expand-Label by the `hkdf` crate.
    fn oracle(suite: &CipherSuite, secret: &[u8], label: &str, len: usize) -> Vec<u8> {
        let mut info = (len as u16).to_be_bytes().to_vec();
        info.push((6 + label.len()) as u8);
        info.extend_from_slice(b"tls13 ");
        info.extend_from_slice(label.as_bytes());
        info.push(0);
        let mut out = vec![0; len];
        if suite.sha384 {
            hkdf::Hkdf::<sha2::Sha384>::from_prk(secret).unwrap().expand(&info, &mut out).unwrap();
        } else {
            hkdf::Hkdf::<sha2::Sha256>::from_prk(secret).unwrap().expand(&info, &mut out).unwrap();
        }
        out
    }

    #[test]
    fn traffic_secret_of_wrong_length_or_suite_is_refused() {
        for len in [0, 31, 33, 48] {
            let error = TrafficSecret::new(suite(0x1301), &vec![1; len]).unwrap_err();
            assert!(matches!(error, CryptoError::KeyLength { expected: 32, got, .. } if got == len));
        }
        assert!(matches!(TrafficSecret::new(suite(0xc02f), &[1; 32]), Err(CryptoError::WrongSuite { .. })));
        let secret = TrafficSecret::new(suite(0x1301), &[1; 32]).unwrap();
        assert!(matches!(secret.keys(suite(0x1302)), Err(CryptoError::WrongSuite { .. })));
    }

    /// The PRF of RFC 5246 section 5, written down a second time.
    macro_rules! prf {
        ($hash:ty, $secret:expr, $seed:expr, $len:expr) => {{
            let hmac = |data: &[u8]| {
                let (prk, _) = hkdf::Hkdf::<$hash>::extract(Some($secret), data);
                prk.to_vec()
            };
            let mut out = Vec::new();
            let mut a = hmac($seed);
            while out.len() < $len {
                out.extend(hmac(&[a.as_slice(), $seed].concat()));
                a = hmac(&a);
            }
            out.truncate($len);
            out
        }};
    }

    #[test]
    fn key_block_is_cut_in_the_order_of_rfc_5246() {
        let master: Vec<u8> = (0..48).collect();
        let (client_random, server_random) = ([0xcc; 32], [0x55; 32]);
        for suite in CipherSuite::all().iter().filter(|suite| suite.version == ProtocolVersion::Tls12) {
            let key = suite.aead.key_len();
            let iv = if suite.aead == crate::record::Aead::ChaCha20Poly1305 { 12 } else { 4 };
            let seed = [&b"key expansion"[..], &server_random, &client_random].concat();
            let block = if suite.sha384 {
                prf!(sha2::Sha384, &master, &seed, 2 * (key + iv))
            } else {
                prf!(sha2::Sha256, &master, &seed, 2 * (key + iv))
            };
            let (client, server) =
                MasterSecret::new(&master).unwrap().key_block(suite, &client_random, &server_random).unwrap();
            assert_eq!(client.key.expose(), &block[..key], "{}", suite.name);
            assert_eq!(server.key.expose(), &block[key..2 * key]);
            assert_eq!(client.iv[..iv], block[2 * key..2 * key + iv]);
            assert_eq!(server.iv[..iv], block[2 * key + iv..]);
            assert!(client.iv[iv..].iter().chain(&server.iv[iv..]).all(|&byte| byte == 0));
            assert_eq!((client.sequence, server.sequence), (0, 0));
        }
    }

    #[test]
    fn master_secret_of_wrong_length_or_suite_is_refused() {
        assert!(matches!(MasterSecret::new(&[0; 47]), Err(CryptoError::KeyLength { expected: 48, got: 47, .. })));
        let secret = MasterSecret::new(&[0; 48]).unwrap();
        assert!(matches!(secret.key_block(suite(0x1301), &[0; 32], &[0; 32]), Err(CryptoError::WrongSuite { .. })));
    }

    #[test]
    fn secrets_print_nothing_secret() {
        let secret = TrafficSecret::new(suite(0x1301), &[0xab; 32]).unwrap();
        let master = MasterSecret::new(&[0xab; 48]).unwrap();
        assert_eq!(format!("{secret:?} {master:?}"), "TrafficSecret(Sha256) MasterSecret");
    }
}
