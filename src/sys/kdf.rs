//! Key derivation of TLS 1.2 and 1.3 with OpenSSL's `EVP_KDF`.
//!
//! `openssl::kdf` looks the algorithm up again for every call, behind a lock that all threads share. Here each thread
//! fetches an algorithm once, at its first use.

use std::cell::OnceCell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::{self, NonNull};

use openssl::error::ErrorStack;
use openssl_sys as ffi;

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

    fn name(self) -> &'static CStr {
        match self {
            Self::Sha256 => c"SHA2-256",
            Self::Sha384 => c"SHA2-384",
        }
    }
}

/// Fills `out` with HKDF-Expand-Label(`secret`, `label`, "", length of `out`) (RFC 8446 section 7.1).
///
/// # Errors
/// What OpenSSL reports: out of memory, or a length that the algorithm does not allow.
pub fn hkdf_expand_label(digest: Digest, secret: &[u8], label: &[u8], out: &mut [u8]) -> Result<(), ErrorStack> {
    let mut mode = HKDF_MODE_EXPAND_ONLY;
    let params = [
        utf8_param(c"digest", digest.name()),
        int_param(c"mode", &mut mode),
        octet_param(c"key", secret),
        octet_param(c"prefix", b"tls13 "),
        octet_param(c"label", label),
        end_param(),
    ];
    TLS13_KDF.with(|kdf| derive(kdf, c"TLS13-KDF", &params, out))
}

/// Fills `out` with PRF(`secret`, `seed`) of TLS 1.2 (RFC 5246 section 5); `seed` starts with the label.
///
/// # Errors
/// What OpenSSL reports: out of memory, or a length that the algorithm does not allow.
pub fn tls12_prf(digest: Digest, secret: &[u8], seed: &[u8], out: &mut [u8]) -> Result<(), ErrorStack> {
    let params =
        [utf8_param(c"digest", digest.name()), octet_param(c"secret", secret), octet_param(c"seed", seed), end_param()];
    TLS1_PRF.with(|kdf| derive(kdf, c"TLS1-PRF", &params, out))
}

thread_local! {
    static TLS13_KDF: OnceCell<Kdf> = const { OnceCell::new() };
    static TLS1_PRF: OnceCell<Kdf> = const { OnceCell::new() };
}

/// Runs one derivation in a context of its own: freeing the context wipes the secret that OpenSSL copied into it.
fn derive(cell: &OnceCell<Kdf>, name: &CStr, params: &[ffi::OSSL_PARAM], out: &mut [u8]) -> Result<(), ErrorStack> {
    let kdf = match cell.get() {
        Some(kdf) => kdf,
        None => {
            let fetched = Kdf::fetch(name)?;
            cell.get_or_init(|| fetched)
        }
    };
    let context = kdf.context()?;
    // SAFETY: `context` is live; `out` is writable for its length; `params` ends with the end marker and its keys and
    // values outlive the call, which only reads them.
    let status = unsafe { ffi::EVP_KDF_derive(context.0.as_ptr(), out.as_mut_ptr(), out.len(), params.as_ptr()) };
    if status == 1 { Ok(()) } else { Err(ErrorStack::get()) }
}

/// A fetched algorithm.
struct Kdf(NonNull<ffi::EVP_KDF>);

impl Kdf {
    fn fetch(name: &CStr) -> Result<Self, ErrorStack> {
        openssl::init();
        // SAFETY: `name` ends with NUL; null means the default library context and no property query.
        let kdf = unsafe { ffi::EVP_KDF_fetch(ptr::null_mut(), name.as_ptr(), ptr::null()) };
        NonNull::new(kdf).map(Self).ok_or_else(ErrorStack::get)
    }

    fn context(&self) -> Result<KdfContext, ErrorStack> {
        // SAFETY: `self` owns a live algorithm; the new context takes its own reference to it.
        let context = unsafe { ffi::EVP_KDF_CTX_new(self.0.as_ptr()) };
        NonNull::new(context).map(KdfContext).ok_or_else(ErrorStack::get)
    }
}

impl Drop for Kdf {
    fn drop(&mut self) {
        // SAFETY: `fetch` handed out this reference, and nothing else frees it.
        unsafe { ffi::EVP_KDF_free(self.0.as_ptr()) }
    }
}

/// One derivation.
struct KdfContext(NonNull<ffi::EVP_KDF_CTX>);

impl Drop for KdfContext {
    fn drop(&mut self) {
        // SAFETY: `Kdf::context` made this context, and nothing else frees it.
        unsafe { ffi::EVP_KDF_CTX_free(self.0.as_ptr()) }
    }
}

fn octet_param(key: &'static CStr, value: &[u8]) -> ffi::OSSL_PARAM {
    param(key, OSSL_PARAM_OCTET_STRING, value.as_ptr().cast_mut().cast(), value.len())
}

fn utf8_param(key: &'static CStr, value: &'static CStr) -> ffi::OSSL_PARAM {
    param(key, OSSL_PARAM_UTF8_STRING, value.as_ptr().cast_mut().cast(), value.count_bytes())
}

fn int_param(key: &'static CStr, value: &mut c_int) -> ffi::OSSL_PARAM {
    param(key, OSSL_PARAM_INTEGER, ptr::from_mut(value).cast(), size_of::<c_int>())
}

fn end_param() -> ffi::OSSL_PARAM {
    ffi::OSSL_PARAM { key: ptr::null(), data_type: 0, data: ptr::null_mut(), data_size: 0, return_size: 0 }
}

fn param(key: &'static CStr, data_type: c_uint, data: *mut c_void, data_size: usize) -> ffi::OSSL_PARAM {
    let key: *const c_char = key.as_ptr();
    ffi::OSSL_PARAM { key, data_type, data, data_size, return_size: OSSL_PARAM_UNMODIFIED }
}

// openssl/core.h, openssl/params.h and openssl/kdf.h.
const OSSL_PARAM_INTEGER: c_uint = 1;
const OSSL_PARAM_UTF8_STRING: c_uint = 4;
const OSSL_PARAM_OCTET_STRING: c_uint = 5;
const OSSL_PARAM_UNMODIFIED: usize = usize::MAX;
const HKDF_MODE_EXPAND_ONLY: c_int = ffi::EVP_KDF_HKDF_MODE_EXPAND_ONLY;

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

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
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
    fn derivation_of_nothing_is_an_error() {
        assert!(tls12_prf(Digest::Sha256, &[1; 48], b"seed", &mut []).is_err());
        assert!(hkdf_expand_label(Digest::Sha256, &[1; 32], b"key", &mut [0; 255 * 32 + 1]).is_err());
    }

    #[test]
    fn every_thread_can_derive() {
        let derive = || {
            let mut out = [0; 16];
            hkdf_expand_label(Digest::Sha384, &[7; 48], b"key", &mut out).unwrap();
            out
        };
        let here = derive();
        let there: Vec<_> = (0..4).map(|_| std::thread::spawn(derive)).collect();
        assert!(there.into_iter().all(|thread| thread.join().unwrap() == here));
    }
}
