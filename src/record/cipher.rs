//! A cipher that is set to one key: by ring or by OpenSSL, whichever is the faster one on this CPU.
//!
//! For AES-GCM on x86-64 OpenSSL has code for AES-NI, and for VAES with AVX-512. CPUs that have VAES without AVX-512 would
//! run at half of what they can: ring has code for them, and does a short record in half the time
//! (docs/decisions/0015-ring.md).

use std::cell::OnceCell;

use openssl::cipher::{Cipher as EvpCipher, CipherRef};
use openssl::cipher_ctx::CipherCtx;
use openssl::error::ErrorStack;
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};

use super::open::OpenError;
use super::protect::{CryptoError, NONCE_LEN};
use super::suite::{Aead, TrafficKeys};
use crate::sys::wiped::Wiped;

/// What a cipher is set up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Seal,
    Open,
}

/// Who does the arithmetic of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// OpenSSL.
    OpenSsl,
    /// ring.
    Ring,
}

impl Library {
    /// The one that protects records with `aead` in this process.
    pub fn of(aead: Aead) -> Self {
        match aead {
            Aead::ChaCha20Poly1305 => Self::OpenSsl,
            Aead::Aes128Gcm | Aead::Aes256Gcm => Self::of_aes_gcm(),
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn of_aes_gcm() -> Self {
        // What aes-gcm-avx512.pl asks for; it came with OpenSSL 3.1.
        let has_wide = std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512vl")
            && std::arch::is_x86_feature_detected!("vaes")
            && std::arch::is_x86_feature_detected!("vpclmulqdq");
        if has_wide && openssl::version::number() >= 0x3010_0000 { Self::OpenSsl } else { Self::Ring }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn of_aes_gcm() -> Self {
        Self::OpenSsl
    }

    /// The name, as its authors write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenSsl => "OpenSSL",
            Self::Ring => "ring",
        }
    }
}

/// A cipher with its key, for one direction.
pub(super) enum Cipher {
    /// About 1 KiB.
    OpenSsl(CipherCtx),
    /// 544 bytes.
    Ring(Wiped<LessSafeKey>),
}

impl Cipher {
    /// One that is set to the key of `keys`.
    ///
    /// # Errors
    /// When the key has the wrong length, or the library refuses it.
    pub(super) fn new(purpose: Purpose, keys: &TrafficKeys) -> Result<Self, CryptoError> {
        Self::by(Library::of(keys.aead), purpose, keys)
    }

    fn by(library: Library, purpose: Purpose, keys: &TrafficKeys) -> Result<Self, CryptoError> {
        keys.check_key_len()?;
        match (library, keys.aead) {
            (Library::Ring, Aead::Aes128Gcm) => Self::ring(&AES_128_GCM, keys),
            (Library::Ring, Aead::Aes256Gcm) => Self::ring(&AES_256_GCM, keys),
            (Library::OpenSsl, _) | (Library::Ring, Aead::ChaCha20Poly1305) => Self::openssl(purpose, keys),
        }
    }

    fn ring(algorithm: &'static ring::aead::Algorithm, keys: &TrafficKeys) -> Result<Self, CryptoError> {
        let key = UnboundKey::new(algorithm, keys.key.expose());
        let key = key.map_err(CryptoError::ring("set the key of a cipher"))?;
        Ok(Self::Ring(Wiped::new(LessSafeKey::new(key))))
    }

    fn openssl(purpose: Purpose, keys: &TrafficKeys) -> Result<Self, CryptoError> {
        let mut context = CipherCtx::new().map_err(CryptoError::openssl("allocate a cipher context"))?;
        with_algorithm(keys.aead, |algorithm| {
            let key = Some(keys.key.expose());
            match purpose {
                Purpose::Seal => context.encrypt_init(Some(algorithm), key, None),
                Purpose::Open => context.decrypt_init(Some(algorithm), key, None),
            }
            .map_err(CryptoError::openssl("set the key of a cipher context"))
        })?;
        Ok(Self::OpenSsl(context))
    }

    /// Encrypts `text` where it is, and writes its tag. A nonce must not come twice under one key.
    ///
    /// # Errors
    /// When the library fails; `text` and `tag` then hold nothing that may be sent.
    pub(super) fn seal(
        &mut self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        text: &mut [u8],
        tag: &mut [u8],
    ) -> Result<(), CryptoError> {
        match self {
            Self::OpenSsl(context) => {
                encrypt(context, nonce, aad, text, tag).map_err(CryptoError::openssl("encrypt a record"))
            }
            Self::Ring(key) => {
                let nonce = Nonce::assume_unique_for_key(*nonce);
                let sealed = key.seal_in_place_separate_tag(nonce, Aad::from(aad), text);
                let sealed = sealed.map_err(CryptoError::ring("encrypt a record"))?;
                tag.copy_from_slice(sealed.as_ref());
                Ok(())
            }
        }
    }

    /// Decrypts `text` where it is, if `tag` is the one that belongs to it.
    ///
    /// # Errors
    /// [`OpenError::BadRecordMac`] when it is not, otherwise when the library fails; `text` then holds nothing that may be
    /// used.
    pub(super) fn open(
        &mut self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8],
    ) -> Result<(), OpenError> {
        match self {
            Self::OpenSsl(context) => {
                decrypt(context, nonce, aad, text, tag).map_err(CryptoError::openssl("decrypt a record"))?;
                // Only the last step looks at the tag, and it has no other reason to fail.
                context.cipher_final(&mut []).map_err(|_| OpenError::BadRecordMac)?;
            }
            Self::Ring(key) => {
                let nonce = Nonce::assume_unique_for_key(*nonce);
                // It has no other reason to fail either: a record is far shorter than what GCM can take.
                let tag = Tag::try_from(tag).map_err(|_| OpenError::BadRecordMac)?;
                key.open_in_place_separate_tag(nonce, Aad::from(aad), tag, text, 0..)
                    .map_err(|_| OpenError::BadRecordMac)?;
            }
        }
        Ok(())
    }
}

/// Runs `f` with this thread's object for an algorithm of OpenSSL.
///
/// An algorithm that is fetched once spares every later initialisation a look-up behind a lock that all threads share.
fn with_algorithm<T>(aead: Aead, f: impl FnOnce(&CipherRef) -> Result<T, CryptoError>) -> Result<T, CryptoError> {
    thread_local! {
        static ALGORITHMS: [OnceCell<EvpCipher>; 3] = const { [const { OnceCell::new() }; 3] };
    }
    let (slot, name) = match aead {
        Aead::Aes128Gcm => (0, "AES-128-GCM"),
        Aead::Aes256Gcm => (1, "AES-256-GCM"),
        Aead::ChaCha20Poly1305 => (2, "ChaCha20-Poly1305"),
    };
    ALGORITHMS.with(|algorithms| {
        let cell = &algorithms[slot];
        match cell.get() {
            Some(algorithm) => f(algorithm),
            None => {
                let fetched = EvpCipher::fetch(None, name, None).map_err(CryptoError::openssl("fetch the cipher"))?;
                f(cell.get_or_init(|| fetched))
            }
        }
    })
}

fn encrypt(
    context: &mut CipherCtx,
    nonce: &[u8; NONCE_LEN],
    aad: &[u8],
    text: &mut [u8],
    tag: &mut [u8],
) -> Result<(), ErrorStack> {
    context.encrypt_init(None, None, Some(nonce))?;
    context.cipher_update(aad, None)?;
    if !text.is_empty() {
        context.cipher_update_inplace(text, text.len())?;
    }
    context.cipher_final(&mut [])?;
    context.tag(tag)
}

/// All but the check of the tag.
fn decrypt(
    context: &mut CipherCtx,
    nonce: &[u8; NONCE_LEN],
    aad: &[u8],
    text: &mut [u8],
    tag: &[u8],
) -> Result<(), ErrorStack> {
    context.decrypt_init(None, None, Some(nonce))?;
    context.set_tag(tag)?;
    context.cipher_update(aad, None)?;
    if !text.is_empty() {
        context.cipher_update_inplace(text, text.len())?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{keys, suite};
    use super::*;

    /// A suite for each algorithm that both libraries have.
    const BOTH_HAVE: [u16; 2] = [0x1301, 0x1302];

    fn by(library: Library, purpose: Purpose, code: u16) -> Cipher {
        Cipher::by(library, purpose, &keys(suite(code))).unwrap()
    }

    proptest! {
        #[test]
        fn libraries_seal_alike_and_open_what_the_other_sealed(
            code in prop::sample::select(&BOTH_HAVE[..]),
            nonce in any::<[u8; NONCE_LEN]>(),
            aad in prop::collection::vec(any::<u8>(), 0..20),
            text in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            let sealed = [Library::OpenSsl, Library::Ring].map(|library| {
                let (mut text, mut tag) = (text.clone(), [0; 16]);
                by(library, Purpose::Seal, code).seal(&nonce, &aad, &mut text, &mut tag).unwrap();
                (text, tag)
            });
            prop_assert_eq!(&sealed[0], &sealed[1]);
            for library in [Library::OpenSsl, Library::Ring] {
                let (mut opened, tag) = sealed[0].clone();
                by(library, Purpose::Open, code).open(&nonce, &aad, &mut opened, &tag).unwrap();
                prop_assert_eq!(&opened, &text);
            }
        }

        #[test]
        fn both_refuse_what_was_changed(
            code in prop::sample::select(&BOTH_HAVE[..]),
            at in any::<prop::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let (nonce, aad) = ([3; NONCE_LEN], [23, 3, 3, 0, 80]);
            let (mut text, mut tag) = (vec![0x5a; 64], vec![0; 16]);
            by(Library::OpenSsl, Purpose::Seal, code).seal(&nonce, &aad, &mut text, &mut tag).unwrap();
            let at = at.index(text.len() + tag.len());
            let place = if at < text.len() { &mut text[at] } else { &mut tag[at - 64] };
            *place ^= 1 << bit;
            for library in [Library::OpenSsl, Library::Ring] {
                let result = by(library, Purpose::Open, code).open(&nonce, &aad, &mut text.clone(), &tag);
                prop_assert!(matches!(result, Err(OpenError::BadRecordMac)), "{:?}: {:?}", library, result);
            }
        }
    }

    #[test]
    fn both_seal_and_open_records_of_full_length() {
        for code in BOTH_HAVE {
            let sealed = [Library::OpenSsl, Library::Ring].map(|library| {
                let (mut text, mut tag) = (vec![7; 16385], [0; 16]);
                by(library, Purpose::Seal, code).seal(&[9; NONCE_LEN], b"header", &mut text, &mut tag).unwrap();
                (text, tag)
            });
            assert!(sealed[0] == sealed[1]);
            let (mut text, tag) = sealed[0].clone();
            by(Library::Ring, Purpose::Open, code).open(&[9; NONCE_LEN], b"header", &mut text, &tag).unwrap();
            assert!(text == vec![7; 16385]);
        }
    }

    #[test]
    fn chacha20_is_always_done_by_openssl() {
        assert_eq!(Library::of(Aead::ChaCha20Poly1305), Library::OpenSsl);
        assert!(matches!(by(Library::Ring, Purpose::Seal, 0x1303), Cipher::OpenSsl(_)));
    }
}
