//! What OpenSSL makes of the provider: each algorithm against its own, and what is wrong with either.

#![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use openssl::derive::Deriver;
use openssl::error::ErrorStack;
use openssl::pkey::{HasPublic, Id, PKey, PKeyRef, Private, Public};
use openssl_sys as ffi;
use proptest::prelude::*;

use super::{OSSL_PARAM_INTEGER, OSSL_PARAM_OCTET_STRING, OSSL_PARAM_UTF8_STRING, install, param};

const OURS: &CStr = c"provider=sluice";
const THEIRS: &CStr = c"provider=default";

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
        let name = CStr::from_ptr(OSSL_PROVIDER_get0_name(EVP_KEYMGMT_get0_provider(management)));
        let name = name.to_str().unwrap().to_owned();
        EVP_KEYMGMT_free(management);
        name
    }
}

#[test]
fn openssl_prefers_the_provider_for_what_it_has() {
    assert_eq!(provider_of(c"X25519"), "sluice");
    for theirs in [c"EC", c"RSA", c"X448", c"ED25519"] {
        assert_eq!(provider_of(theirs), "default", "{theirs:?}");
    }
}

mod x25519 {
    use super::*;

    /// RFC 7748 section 6.1: Alice's private key, Bob's public key, and what they agree on.
    const PRIVATE: &str = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
    const PUBLIC: &str = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
    const PEER: &str = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f";
    const SECRET: &str = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742";

    /// A private key in a provider of the caller's choice.
    fn private(seed: &[u8], provider: &CStr) -> PKey<Private> {
        key(c"priv", seed, SELECT_KEY_PAIR, provider).unwrap()
    }

    fn public(bytes: &[u8], provider: &CStr) -> PKey<Public> {
        key(c"pub", bytes, SELECT_PUBLIC_KEY, provider).unwrap()
    }

    fn key<T>(name: &'static CStr, bytes: &[u8], selection: c_int, provider: &CStr) -> Result<PKey<T>, ErrorStack> {
        install().unwrap();
        let mut params = [param::octets(name, bytes), param::END];
        let mut key = ptr::null_mut();
        // SAFETY: the names end with NUL, the list with its end; the context is freed, and the key owned by what is returned.
        unsafe {
            let context = EVP_PKEY_CTX_new_from_name(ptr::null_mut(), c"X25519".as_ptr(), provider.as_ptr());
            assert!(!context.is_null());
            assert_eq!(EVP_PKEY_fromdata_init(context), 1);
            let made = EVP_PKEY_fromdata(context, &raw mut key, selection, params.as_mut_ptr());
            ffi::EVP_PKEY_CTX_free(context);
            if made != 1 {
                return Err(ErrorStack::get());
            }
            Ok(foreign_types_shared::ForeignType::from_ptr(key))
        }
    }

    fn agree<T: HasPublic>(own: &PKeyRef<Private>, peer: &PKeyRef<T>) -> Result<Vec<u8>, ErrorStack> {
        let mut deriver = Deriver::new(own)?;
        deriver.set_peer(peer)?;
        deriver.derive_to_vec()
    }

    #[test]
    fn the_published_example_comes_out() {
        let own = private(&hex(PRIVATE), OURS);
        assert_eq!(own.raw_public_key().unwrap(), hex(PUBLIC));
        assert_eq!(agree(&own, &public(&hex(PEER), OURS)).unwrap(), hex(SECRET));
    }

    #[test]
    fn a_public_key_that_forces_a_secret_of_zeros_is_refused() {
        let own = private(&[7; 32], OURS);
        let zero = [0; 32];
        let mut one = zero;
        one[0] = 1;
        for point in [zero, one] {
            assert!(agree(&own, &public(&point, OURS)).is_err());
        }
    }

    #[test]
    fn keys_of_a_wrong_length_are_refused() {
        for length in [0, 31, 33] {
            let bytes = vec![9; length];
            assert!(key::<Private>(c"priv", &bytes, SELECT_KEY_PAIR, OURS).is_err(), "{length}");
            assert!(key::<Public>(c"pub", &bytes, SELECT_PUBLIC_KEY, OURS).is_err(), "{length}");
        }
        assert!(key::<Private>(c"none", &[9; 32], SELECT_KEY_PAIR, OURS).is_err());
    }

    #[test]
    fn generated_keys_agree_with_each_other_and_differ() {
        install().unwrap();
        let (one, other) = (PKey::generate_x25519().unwrap(), PKey::generate_x25519().unwrap());
        assert_eq!(one.id(), Id::X25519);
        assert_eq!((one.bits(), one.security_bits(), one.size()), (253, 128, 32));
        assert!(!one.public_eq(&other));
        assert_eq!(agree(&one, &other).unwrap(), agree(&other, &one).unwrap());
    }

    #[test]
    fn keys_survive_files_and_copies() {
        install().unwrap();
        let key = PKey::generate_x25519().unwrap();
        let read = PKey::private_key_from_pem(&key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        assert_eq!(read.raw_private_key().unwrap(), key.raw_private_key().unwrap());
        assert!(read.public_eq(&key));
        let public = PKey::public_key_from_der(&key.public_key_to_der().unwrap()).unwrap();
        assert_eq!(public.raw_public_key().unwrap(), key.raw_public_key().unwrap());
        let peer = PKey::generate_x25519().unwrap();
        assert_eq!(agree(&read, &peer).unwrap(), agree(&peer, &public).unwrap());
    }

    proptest! {
        #[test]
        fn both_libraries_agree(seed: [u8; 32], peer: [u8; 32]) {
            let (ours, theirs) = (private(&seed, OURS), private(&seed, THEIRS));
            prop_assert_eq!(ours.raw_public_key().unwrap(), theirs.raw_public_key().unwrap());
            prop_assert!(ours.public_eq(&theirs) && theirs.public_eq(&ours));
            // Keys of one provider serve in the other: OpenSSL exports and imports them.
            let secret = agree(&theirs, &public(&peer, THEIRS)).unwrap();
            prop_assert_eq!(&agree(&ours, &public(&peer, OURS)).unwrap(), &secret);
            prop_assert_eq!(&agree(&ours, &public(&peer, THEIRS)).unwrap(), &secret);
            prop_assert_eq!(&agree(&theirs, &public(&peer, OURS)).unwrap(), &secret);
        }
    }

    const SELECT_PUBLIC_KEY: c_int = 0x86;
    const SELECT_KEY_PAIR: c_int = 0x87;
}

mod tls13_kdf {
    use super::*;

    /// What a derivation is asked for.
    #[derive(Clone, Debug)]
    struct Request {
        mode: c_int,
        digest: &'static CStr,
        key: Option<Vec<u8>>,
        salt: Option<Vec<u8>>,
        label: Vec<u8>,
        data: Option<Vec<u8>>,
        length: usize,
    }

    impl Request {
        /// Derives in one go, or with everything told beforehand; none where OpenSSL refuses.
        fn derive(&self, provider: &CStr, beforehand: bool) -> Option<Vec<u8>> {
            install().unwrap();
            let mut params = vec![
                ffi::OSSL_PARAM {
                    key: c"mode".as_ptr(),
                    data_type: OSSL_PARAM_INTEGER,
                    data: (&raw const self.mode).cast_mut().cast(),
                    data_size: size_of::<c_int>(),
                    return_size: 0,
                },
                ffi::OSSL_PARAM {
                    key: c"digest".as_ptr(),
                    data_type: OSSL_PARAM_UTF8_STRING,
                    data: self.digest.as_ptr().cast_mut().cast(),
                    data_size: self.digest.count_bytes(),
                    return_size: 0,
                },
                param::octets(c"prefix", b"tls13 "),
                param::octets(c"label", &self.label),
            ];
            params.extend(self.key.as_ref().map(|key| param::octets(c"key", key)));
            params.extend(self.salt.as_ref().map(|salt| param::octets(c"salt", salt)));
            params.extend(self.data.as_ref().map(|data| param::octets(c"data", data)));
            params.push(param::END);
            let mut out = vec![0; self.length];
            // SAFETY: the names end with NUL, the list with its end; what is fetched and made is freed.
            unsafe {
                let kdf = ffi::EVP_KDF_fetch(ptr::null_mut(), c"TLS13-KDF".as_ptr(), provider.as_ptr());
                assert!(!kdf.is_null());
                let mut context = ffi::EVP_KDF_CTX_new(kdf);
                ffi::EVP_KDF_free(kdf);
                let now = if beforehand {
                    let set = EVP_KDF_CTX_set_params(context, params.as_ptr());
                    let copy = EVP_KDF_CTX_dup(context);
                    ffi::EVP_KDF_CTX_free(context);
                    context = copy;
                    if set != 1 {
                        ffi::EVP_KDF_CTX_free(context);
                        return None;
                    }
                    ptr::null()
                } else {
                    params.as_ptr()
                };
                let derived = ffi::EVP_KDF_derive(context, out.as_mut_ptr(), out.len(), now);
                if derived == 1 {
                    EVP_KDF_CTX_reset(context);
                    let again = ffi::EVP_KDF_derive(context, out.clone().as_mut_ptr(), out.len(), ptr::null());
                    assert_ne!(again, 1, "a context that was reset knows nothing");
                }
                ffi::EVP_KDF_CTX_free(context);
                (derived == 1).then_some(out)
            }
        }
    }

    fn bytes(length: usize) -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), length)
    }

    fn requests() -> impl Strategy<Value = Request> {
        let digest = prop_oneof![Just((c"SHA2-256", 32)), Just((c"SHA384", 48)), Just((c"sha-256", 32))];
        digest.prop_flat_map(|(digest, length)| {
            let input = proptest::option::of(prop_oneof![bytes(length), bytes(66)]);
            let extract = (input, proptest::option::of(bytes(length))).prop_map(move |(key, salt)| Request {
                mode: ffi::EVP_KDF_HKDF_MODE_EXTRACT_ONLY,
                digest,
                key,
                salt,
                label: b"derived".to_vec(),
                data: None,
                length,
            });
            let data = proptest::option::of(bytes(length));
            let label = proptest::collection::vec(any::<u8>(), 0..30);
            let expand =
                (bytes(length), label, data, 1_usize..200).prop_map(move |(key, label, data, length)| Request {
                    mode: ffi::EVP_KDF_HKDF_MODE_EXPAND_ONLY,
                    digest,
                    key: Some(key),
                    salt: None,
                    label,
                    data,
                    length,
                });
            prop_oneof![extract, expand]
        })
    }

    proptest! {
        #[test]
        fn both_libraries_derive_the_same(request in requests()) {
            let theirs = request.derive(THEIRS, false);
            prop_assert!(theirs.is_some());
            prop_assert_eq!(&request.derive(OURS, false), &theirs);
            prop_assert_eq!(&request.derive(OURS, true), &theirs);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let good = Request {
            mode: ffi::EVP_KDF_HKDF_MODE_EXPAND_ONLY,
            digest: c"SHA2-256",
            key: Some(vec![1; 32]),
            salt: None,
            label: b"key".to_vec(),
            data: None,
            length: 16,
        };
        assert!(good.derive(OURS, false).is_some());
        let bad = [
            Request { mode: ffi::EVP_KDF_HKDF_MODE_EXTRACT_AND_EXPAND, ..good.clone() },
            Request { mode: 77, ..good.clone() },
            Request { digest: c"MD5", ..good.clone() },
            Request { key: None, ..good.clone() },
            Request { key: Some(vec![1; 31]), ..good.clone() },
            Request { label: vec![b'a'; 250], ..good.clone() },
            Request { data: Some(vec![0; 256]), ..good.clone() },
            Request { length: 0, ..good.clone() },
            Request { length: 255 * 32 + 1, ..good.clone() },
            Request { mode: ffi::EVP_KDF_HKDF_MODE_EXTRACT_ONLY, length: 31, ..good },
        ];
        for request in bad {
            assert_eq!(request.derive(OURS, false), None, "{request:?}");
            assert_eq!(request.derive(OURS, true), None, "{request:?}");
        }
    }

    #[test]
    fn parameters_of_a_wrong_type_are_refused() {
        install().unwrap();
        for name in [c"mode", c"digest", c"key", c"salt", c"prefix", c"label", c"data"] {
            let wrong = if name == c"digest" { OSSL_PARAM_OCTET_STRING } else { OSSL_PARAM_UTF8_STRING };
            let mut value = *b"SHA2-256\0";
            let params = [
                ffi::OSSL_PARAM {
                    key: name.as_ptr(),
                    data_type: wrong,
                    data: value.as_mut_ptr().cast(),
                    data_size: 8,
                    return_size: 0,
                },
                param::END,
            ];
            // SAFETY: as above.
            unsafe {
                let kdf = ffi::EVP_KDF_fetch(ptr::null_mut(), c"TLS13-KDF".as_ptr(), OURS.as_ptr());
                let context = ffi::EVP_KDF_CTX_new(kdf);
                ffi::EVP_KDF_free(kdf);
                assert_ne!(EVP_KDF_CTX_set_params(context, params.as_ptr()), 1, "{name:?}");
                ffi::EVP_KDF_CTX_free(context);
            }
        }
    }
}

unsafe extern "C" {
    fn EVP_KEYMGMT_fetch(context: *mut ffi::OSSL_LIB_CTX, name: *const c_char, query: *const c_char) -> *mut c_void;
    fn EVP_KEYMGMT_get0_provider(management: *const c_void) -> *const c_void;
    fn EVP_KEYMGMT_free(management: *mut c_void);
    fn OSSL_PROVIDER_get0_name(provider: *const c_void) -> *const c_char;
    fn EVP_PKEY_CTX_new_from_name(
        context: *mut ffi::OSSL_LIB_CTX,
        name: *const c_char,
        query: *const c_char,
    ) -> *mut ffi::EVP_PKEY_CTX;
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
