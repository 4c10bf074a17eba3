//! What OpenSSL makes of the provider: each algorithm against its own, and what is wrong with either.

#![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

mod ecdsa;
mod kdf;
mod random;
mod tls13_kdf;
mod tls1_prf;
mod x25519;
mod x25519_mlkem768;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::LazyLock;

use openssl::error::ErrorStack;
use openssl::pkey::{HasPublic, Id, PKey, PKeyRef, Private, Public};
use openssl_sys as ffi;
use proptest::prelude::*;

use super::{install, param};

const OURS: &CStr = c"provider=sluice";
const THEIRS: &CStr = c"provider=default";

/// A library in which nobody has installed anything: there, OpenSSL's algorithms use none of ours either.
fn pristine() -> *mut ffi::OSSL_LIB_CTX {
    static LIBRARY: LazyLock<usize> = LazyLock::new(|| {
        // SAFETY: a new library, which is never freed.
        let library = unsafe { OSSL_LIB_CTX_new() };
        assert!(!library.is_null());
        library.addr()
    });
    ptr::with_exposed_provenance_mut(*LIBRARY)
}

/// Where a test finds our algorithms, or OpenSSL's without ours.
fn library(provider: &CStr) -> *mut ffi::OSSL_LIB_CTX {
    install().unwrap();
    if provider == OURS { ptr::null_mut() } else { pristine() }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// The provider whose key management is taken when nobody says which.
fn provider_of(algorithm: &CStr) -> String {
    install().unwrap();
    // SAFETY: the names end with NUL; what is fetched is freed below, and the name is copied before.
    unsafe {
        let management = EVP_KEYMGMT_fetch(ptr::null_mut(), algorithm.as_ptr(), ptr::null());
        assert!(!management.is_null());
        let name = provider_name(EVP_KEYMGMT_get0_provider(management));
        EVP_KEYMGMT_free(management);
        name
    }
}

/// # Safety
/// A live provider.
unsafe fn provider_name(provider: *const c_void) -> String {
    // SAFETY: as the caller says; the name ends with NUL, and is copied.
    unsafe { CStr::from_ptr(OSSL_PROVIDER_get0_name(provider)) }.to_str().unwrap().to_owned()
}

#[test]
fn openssl_prefers_the_provider_for_what_it_has() {
    for ours in [c"X25519", c"X25519MLKEM768"] {
        assert_eq!(provider_of(ours), "sluice", "{ours:?}");
    }
    for theirs in [c"EC", c"RSA", c"X448", c"ED25519"] {
        assert_eq!(provider_of(theirs), "default", "{theirs:?}");
    }
    // SAFETY: the names end with NUL; what is fetched is freed, and the provider's name is copied before.
    unsafe {
        let exchange = EVP_KEYEXCH_fetch(ptr::null_mut(), c"X25519".as_ptr(), ptr::null());
        assert_eq!(provider_name(EVP_KEYEXCH_get0_provider(exchange)), "sluice");
        EVP_KEYEXCH_free(exchange);
        let kem = EVP_KEM_fetch(ptr::null_mut(), c"X25519MLKEM768".as_ptr(), ptr::null());
        assert_eq!(provider_name(EVP_KEM_get0_provider(kem)), "sluice");
        EVP_KEM_free(kem);
        for (name, expected) in [(c"TLS13-KDF", "sluice"), (c"TLS1-PRF", "sluice"), (c"HKDF", "default")] {
            let kdf = ffi::EVP_KDF_fetch(ptr::null_mut(), name.as_ptr(), ptr::null());
            assert_eq!(provider_name(EVP_KDF_get0_provider(kdf)), expected);
            ffi::EVP_KDF_free(kdf);
        }
        for (name, expected) in [(c"ECDSA", "sluice"), (c"RSA", "default")] {
            let signature = EVP_SIGNATURE_fetch(ptr::null_mut(), name.as_ptr(), ptr::null());
            assert_eq!(provider_name(EVP_SIGNATURE_get0_provider(signature)), expected);
            EVP_SIGNATURE_free(signature);
        }
    }
}

unsafe extern "C" {
    fn OSSL_LIB_CTX_new() -> *mut ffi::OSSL_LIB_CTX;
    fn EVP_KEYEXCH_fetch(context: *mut ffi::OSSL_LIB_CTX, name: *const c_char, query: *const c_char) -> *mut c_void;
    fn EVP_KEYEXCH_get0_provider(exchange: *const c_void) -> *const c_void;
    fn EVP_KEYEXCH_free(exchange: *mut c_void);
    fn EVP_KEM_fetch(context: *mut ffi::OSSL_LIB_CTX, name: *const c_char, query: *const c_char) -> *mut c_void;
    fn EVP_KEM_get0_provider(kem: *const c_void) -> *const c_void;
    fn EVP_KEM_free(kem: *mut c_void);
    fn EVP_SIGNATURE_fetch(context: *mut ffi::OSSL_LIB_CTX, name: *const c_char, query: *const c_char) -> *mut c_void;
    fn EVP_SIGNATURE_get0_provider(signature: *const c_void) -> *const c_void;
    fn EVP_SIGNATURE_free(signature: *mut c_void);
    fn EVP_KDF_get0_provider(kdf: *const ffi::EVP_KDF) -> *const c_void;
    fn EVP_PKEY_CTX_new_from_pkey(
        context: *mut ffi::OSSL_LIB_CTX,
        key: *mut ffi::EVP_PKEY,
        query: *const c_char,
    ) -> *mut ffi::EVP_PKEY_CTX;
    fn EVP_PKEY_CTX_get_params(context: *mut ffi::EVP_PKEY_CTX, params: *mut ffi::OSSL_PARAM) -> c_int;
    fn EVP_KEYMGMT_fetch(context: *mut ffi::OSSL_LIB_CTX, name: *const c_char, query: *const c_char) -> *mut c_void;
    fn EVP_KEYMGMT_get0_provider(management: *const c_void) -> *const c_void;
    fn EVP_KEYMGMT_free(management: *mut c_void);
    fn OSSL_PROVIDER_get0_name(provider: *const c_void) -> *const c_char;
    fn EVP_PKEY_CTX_new_from_name(
        context: *mut ffi::OSSL_LIB_CTX,
        name: *const c_char,
        query: *const c_char,
    ) -> *mut ffi::EVP_PKEY_CTX;
    fn EVP_DigestSignInit_ex(
        context: *mut ffi::EVP_MD_CTX,
        pkey_context: *mut *mut ffi::EVP_PKEY_CTX,
        hash: *const c_char,
        library: *mut ffi::OSSL_LIB_CTX,
        query: *const c_char,
        key: *mut ffi::EVP_PKEY,
        params: *const ffi::OSSL_PARAM,
    ) -> c_int;
    fn EVP_DigestVerifyInit_ex(
        context: *mut ffi::EVP_MD_CTX,
        pkey_context: *mut *mut ffi::EVP_PKEY_CTX,
        hash: *const c_char,
        library: *mut ffi::OSSL_LIB_CTX,
        query: *const c_char,
        key: *mut ffi::EVP_PKEY,
        params: *const ffi::OSSL_PARAM,
    ) -> c_int;
    fn EVP_PKEY_get1_encoded_public_key(key: *mut ffi::EVP_PKEY, share: *mut *mut u8) -> usize;
    fn EVP_PKEY_set1_encoded_public_key(key: *mut ffi::EVP_PKEY, share: *const u8, length: usize) -> c_int;
    fn EVP_PKEY_encapsulate_init(context: *mut ffi::EVP_PKEY_CTX, params: *const ffi::OSSL_PARAM) -> c_int;
    fn EVP_PKEY_encapsulate(
        context: *mut ffi::EVP_PKEY_CTX,
        share: *mut u8,
        share_length: *mut usize,
        secret: *mut u8,
        secret_length: *mut usize,
    ) -> c_int;
    fn EVP_PKEY_decapsulate_init(context: *mut ffi::EVP_PKEY_CTX, params: *const ffi::OSSL_PARAM) -> c_int;
    fn EVP_PKEY_decapsulate(
        context: *mut ffi::EVP_PKEY_CTX,
        secret: *mut u8,
        secret_length: *mut usize,
        share: *const u8,
        share_length: usize,
    ) -> c_int;
    fn EVP_PKEY_CTX_get0_provider(context: *const ffi::EVP_PKEY_CTX) -> *const c_void;
    fn EVP_PKEY_fromdata_init(context: *mut ffi::EVP_PKEY_CTX) -> c_int;
    fn EVP_PKEY_fromdata(
        context: *mut ffi::EVP_PKEY_CTX,
        key: *mut *mut ffi::EVP_PKEY,
        selection: c_int,
        params: *mut ffi::OSSL_PARAM,
    ) -> c_int;
    fn EVP_KDF_CTX_set_params(context: *mut ffi::EVP_KDF_CTX, params: *const ffi::OSSL_PARAM) -> c_int;
    fn EVP_KDF_CTX_dup(context: *const ffi::EVP_KDF_CTX) -> *mut ffi::EVP_KDF_CTX;
    fn EVP_KDF_CTX_reset(context: *mut ffi::EVP_KDF_CTX);
}
