//! Key derivation of TLS 1.2 and 1.3 with AWS-LC.
//!
//! Without unsafe code; here because the provider next door has OpenSSL derive with it too.

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::{digest, hkdf, hmac, tls_prf};
use zeroize::Zeroizing;

/// The hash of a key schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Digest {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
}

impl Digest {
    /// Length of a hash value in bytes, which is also the length of a TLS 1.3 secret.
    pub const fn output_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
        }
    }

    fn hash(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
        }
    }

    fn hkdf(self) -> hkdf::Algorithm {
        match self {
            Self::Sha256 => hkdf::HKDF_SHA256,
            Self::Sha384 => hkdf::HKDF_SHA384,
        }
    }

    fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha384 => hmac::HMAC_SHA384,
        }
    }

    fn prf(self) -> &'static tls_prf::Algorithm {
        match self {
            Self::Sha256 => &tls_prf::P_SHA256,
            Self::Sha384 => &tls_prf::P_SHA384,
        }
    }
}

/// The label and the context of an expansion (`HkdfLabel` in RFC 8446 section 7.1).
#[derive(Clone, Copy, Debug)]
pub struct Label<'a> {
    /// `"tls13 "`.
    pub prefix: &'a [u8],
    /// What the protocol calls the output.
    pub name: &'a [u8],
    /// A hash of the transcript, or nothing.
    pub context: &'a [u8],
}

/// Fills `out` with HKDF-Expand-Label(`secret`, `label`, length of `out`) (RFC 8446 section 7.1).
///
/// # Errors
/// When the secret has not the length of the hash, prefix and name or the context take more than 255 bytes, or the output
/// more than the 255 hash values that HKDF gives (RFC 5869 section 2.3).
pub fn hkdf_expand_label(digest: Digest, secret: &[u8], label: Label<'_>, out: &mut [u8]) -> Result<(), Unspecified> {
    if secret.len() != digest.output_len() {
        return Err(Unspecified);
    }
    let length = u16::try_from(out.len()).map_err(|_| Unspecified)?.to_be_bytes();
    let name = u8::try_from(label.prefix.len() + label.name.len()).map_err(|_| Unspecified)?;
    let context = u8::try_from(label.context.len()).map_err(|_| Unspecified)?;
    let info: [&[u8]; 6] = [&length, &[name], label.prefix, label.name, &[context], label.context];
    let length = OutputLength(out.len());
    hkdf::Prk::new_less_safe(digest.hkdf(), secret).expand(&info, length)?.fill(out)
}

/// The next secret of the key schedule of TLS 1.3 (RFC 8446 section 7.1): HKDF-Extract of `input` with what is derived from
/// `previous`. Either is none where the schedule has nothing, which counts as zeros.
///
/// # Errors
/// When `previous` has not the length of the hash, or `out`, or the label does not fit.
pub fn tls13_next_secret(
    digest: Digest,
    previous: Option<&[u8]>,
    input: Option<&[u8]>,
    derived: Label<'_>,
    out: &mut [u8],
) -> Result<(), Unspecified> {
    if out.len() != digest.output_len() {
        return Err(Unspecified);
    }
    let zeros = &[0; DIGEST_LEN_MAX][..digest.output_len()];
    let mut salt = Zeroizing::new([0; DIGEST_LEN_MAX]);
    let salt = &mut salt[..digest.output_len()];
    if let Some(previous) = previous {
        let nothing = digest::digest(digest.hash(), &[]);
        hkdf_expand_label(digest, previous, Label { context: nothing.as_ref(), ..derived }, salt)?;
    }
    // RFC 5869 section 2.2: an extraction is one HMAC, keyed by the salt.
    hmac::sign_to_buffer(&hmac::Key::new(digest.hmac(), salt), input.unwrap_or(zeros), out).map(drop)
}

/// Fills `out` with PRF(`secret`, `seed`) of TLS 1.2 (RFC 5246 section 5); `seed` starts with the label.
///
/// # Errors
/// When `secret` or `out` is empty.
pub fn tls12_prf(digest: Digest, secret: &[u8], seed: &[u8], out: &mut [u8]) -> Result<(), Unspecified> {
    if out.is_empty() {
        return Err(Unspecified);
    }
    let derived = tls_prf::Secret::new(digest.prf(), secret)?.derive(seed, &[], out.len())?;
    out.copy_from_slice(derived.as_ref());
    Ok(())
}

/// The longest is that of SHA-384.
const DIGEST_LEN_MAX: usize = 48;

struct OutputLength(usize);

impl hkdf::KeyType for OutputLength {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::*;

    /// The PRF vectors that were published on the mailing list of the TLS working group: hash, secret, seed, output.
    const PRF_VECTORS: [(Digest, &str, &str, &str); 2] = [
        (
            Digest::Sha256,
            "9bbe436ba940f017b17652849a71db35",
            "a0ba9f936cda311827a6f796ffd5198c",
            "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a6b301791e90d35c9c9a46b4e14baf9af0fa022f7077def\
             17abfd3797c0564bab4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a5110fff70187347b66",
        ),
        (
            Digest::Sha384,
            "b80b733d6ceefcdc71566ea48e5567df",
            "cd665cf6a8447dd6ff8b27555edb7465",
            "7b0c18e9ced410ed1804f2cfa34a336a1c14dffb4900bb5fd7942107e81c83cde9ca0faa60be9fe34f82b1233c9146a0e534cb400fed27\
             00884f9dc236f80edd8bfa961144c9e8d792eca722a7b32fc3d416d473ebc2c5fd4abfdad05d9184259b5bf8cd4d90fa0d31e2dec479e4\
             f1a26066f2eea9a69236a3e52655c9e9aee691c8f3a26854308d5eaa3be85e0990703d73e56f",
        ),
    ];

    /// RFC 8448 section 3: the schedule of a handshake with SHA-256, from nothing to the master secret.
    const EARLY_SECRET: &str = "33ad0a1c607ec03b09e6cd9893680ce210adf300aa1f2660e1b22e10f170f92a";
    const SHARED_SECRET: &str = "8bd4054fb55b9d63fdfbacf9f04b9f0d35e6d63f537563efd46272900f89492d";
    const HANDSHAKE_SECRET: &str = "1dc826e93606aa6fdc0aadc12f741b01046aa6b99f691ed221a9f0ca043fbeac";
    const MASTER_SECRET: &str = "18df06843d13a08bf2a449844c5f8a478001bc4d4c627984d5a41da8d0402919";
    const DERIVED: Label<'_> = Label { prefix: b"tls13 ", name: b"derived", context: b"" };

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    fn key<'a>() -> Label<'a> {
        Label { prefix: b"tls13 ", name: b"key", context: b"" }
    }

    #[test]
    fn tls12_prf_gives_the_published_vectors() {
        for (digest, secret, seed, expected) in PRF_VECTORS {
            let seed = [b"test label".to_vec(), hex(seed)].concat();
            let expected = hex(expected);
            let mut out = vec![0; expected.len()];
            tls12_prf(digest, &hex(secret), &seed, &mut out).unwrap();
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn the_schedule_of_tls13_gives_the_published_secrets() {
        let next = |previous: Option<&[u8]>, input: Option<&[u8]>| {
            let mut out = [0; 32];
            tls13_next_secret(Digest::Sha256, previous, input, DERIVED, &mut out).unwrap();
            out
        };
        let early = next(None, None);
        assert_eq!(early[..], hex(EARLY_SECRET));
        let handshake = next(Some(&early), Some(&hex(SHARED_SECRET)));
        assert_eq!(handshake[..], hex(HANDSHAKE_SECRET));
        assert_eq!(next(Some(&handshake), None)[..], hex(MASTER_SECRET));
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        assert!(tls12_prf(Digest::Sha256, &[1; 48], b"seed", &mut []).is_err());
        assert!(tls12_prf(Digest::Sha256, &[], b"seed", &mut [0; 48]).is_err());
        let expand = |secret: &[u8], label, out: &mut [u8]| hkdf_expand_label(Digest::Sha256, secret, label, out);
        assert!(expand(&[1; 32], key(), &mut [0; 255 * 32]).is_ok());
        assert!(expand(&[1; 32], key(), &mut [0; 255 * 32 + 1]).is_err());
        assert!(expand(&[1; 32], key(), &mut vec![0; 1 << 16]).is_err());
        assert!(expand(&[1; 31], key(), &mut [0; 16]).is_err());
        assert!(expand(&[1; 32], Label { name: &[b'a'; 249], ..key() }, &mut [0; 16]).is_ok());
        assert!(expand(&[1; 32], Label { name: &[b'a'; 250], ..key() }, &mut [0; 16]).is_err());
        assert!(expand(&[1; 32], Label { context: &[0; 255], ..key() }, &mut [0; 16]).is_ok());
        assert!(expand(&[1; 32], Label { context: &[0; 256], ..key() }, &mut [0; 16]).is_err());
        let next =
            |previous: &[u8], out: &mut [u8]| tls13_next_secret(Digest::Sha384, Some(previous), None, DERIVED, out);
        assert!(next(&[1; 48], &mut [0; 48]).is_ok());
        assert!(next(&[1; 32], &mut [0; 48]).is_err());
        assert!(next(&[1; 48], &mut [0; 32]).is_err());
    }
}
