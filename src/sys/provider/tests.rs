//! What OpenSSL makes of the provider: each algorithm against its own, and what is wrong with either.

#![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use openssl::derive::Deriver;
use openssl::error::ErrorStack;
use openssl::pkey::{HasPublic, Id, PKey, PKeyRef, Private, Public};
use openssl_sys as ffi;
use proptest::prelude::*;

use super::number::{OSSL_PARAM_INTEGER, OSSL_PARAM_OCTET_STRING, OSSL_PARAM_UTF8_STRING};
use super::{install, param};

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

mod x25519_mlkem768 {
    use foreign_types_shared::{ForeignType, ForeignTypeRef};

    use super::*;

    const CLIENT_SHARE_LEN: usize = 1216;
    const SERVER_SHARE_LEN: usize = 1120;

    fn context(provider: &CStr) -> *mut ffi::EVP_PKEY_CTX {
        install().unwrap();
        // SAFETY: the names end with NUL.
        let context =
            unsafe { EVP_PKEY_CTX_new_from_name(ptr::null_mut(), c"X25519MLKEM768".as_ptr(), provider.as_ptr()) };
        assert!(!context.is_null());
        context
    }

    /// What a client makes.
    fn generate(provider: &CStr) -> PKey<Private> {
        let context = context(provider);
        let mut key = ptr::null_mut();
        // SAFETY: the context is live, and freed; the key is owned by what is returned.
        unsafe {
            assert_eq!(ffi::EVP_PKEY_keygen_init(context), 1);
            assert_eq!(ffi::EVP_PKEY_keygen(context, &raw mut key), 1);
            ffi::EVP_PKEY_CTX_free(context);
            PKey::from_ptr(key)
        }
    }

    fn share(key: &PKeyRef<Private>) -> Vec<u8> {
        let mut share = ptr::null_mut();
        // SAFETY: the key is live; OpenSSL allocates the share, which is copied and freed.
        unsafe {
            let length = EVP_PKEY_get1_encoded_public_key(key.as_ptr(), &raw mut share);
            let copy = std::slice::from_raw_parts(share, length).to_vec();
            ffi::CRYPTO_free(share.cast(), c"".as_ptr(), 0);
            copy
        }
    }

    /// What a server does with a client's share: its own share, and the secret; none where OpenSSL refuses.
    fn answer(provider: &CStr, client: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let context = context(provider);
        let mut key = ptr::null_mut();
        // SAFETY: contexts and keys are live, and freed; the places have the room that is said.
        unsafe {
            assert_eq!(ffi::EVP_PKEY_paramgen_init(context), 1);
            assert_eq!(ffi::EVP_PKEY_paramgen(context, &raw mut key), 1);
            ffi::EVP_PKEY_CTX_free(context);
            let key = PKey::<Public>::from_ptr(key);
            if EVP_PKEY_set1_encoded_public_key(key.as_ptr(), client.as_ptr(), client.len()) != 1 {
                return None;
            }
            let context = ffi::EVP_PKEY_CTX_new(key.as_ptr(), ptr::null_mut());
            assert_eq!(EVP_PKEY_encapsulate_init(context, ptr::null()), 1);
            let (mut share_length, mut secret_length) = (0, 0);
            let told = EVP_PKEY_encapsulate(
                context,
                ptr::null_mut(),
                &raw mut share_length,
                ptr::null_mut(),
                &raw mut secret_length,
            );
            assert_eq!((told, share_length, secret_length), (1, SERVER_SHARE_LEN, 64));
            let (mut share, mut secret) = (vec![0; share_length], vec![0; secret_length]);
            let mut encapsulate = |mut share_length: usize, mut secret_length: usize| {
                EVP_PKEY_encapsulate(
                    context,
                    share.as_mut_ptr(),
                    &raw mut share_length,
                    secret.as_mut_ptr(),
                    &raw mut secret_length,
                )
            };
            assert_ne!(encapsulate(share_length - 1, secret_length), 1, "too little room");
            assert_ne!(encapsulate(share_length, secret_length - 1), 1, "too little room");
            let done = encapsulate(share_length, secret_length);
            ffi::EVP_PKEY_CTX_free(context);
            (done == 1).then_some((share, secret))
        }
    }

    /// What a client does with a server's share.
    fn finish(key: &PKeyRef<Private>, share: &[u8]) -> Option<Vec<u8>> {
        // SAFETY: as above.
        unsafe {
            let context = ffi::EVP_PKEY_CTX_new(key.as_ptr(), ptr::null_mut());
            assert_eq!(EVP_PKEY_decapsulate_init(context, ptr::null()), 1);
            let mut secret = vec![0; 64];
            let mut length = secret.len();
            let done = EVP_PKEY_decapsulate(context, secret.as_mut_ptr(), &raw mut length, share.as_ptr(), share.len());
            ffi::EVP_PKEY_CTX_free(context);
            (done == 1).then_some(secret)
        }
    }

    #[test]
    fn both_libraries_agree_as_client_and_as_server() {
        for client in [OURS, THEIRS] {
            for server in [OURS, THEIRS] {
                for _ in 0..8 {
                    let key = generate(client);
                    let client_share = share(&key);
                    assert_eq!(client_share.len(), CLIENT_SHARE_LEN);
                    let (server_share, secret) = answer(server, &client_share).unwrap();
                    assert_eq!(finish(&key, &server_share).unwrap(), secret, "{client:?} {server:?}");
                    let (other_share, other_secret) = answer(server, &client_share).unwrap();
                    assert!(other_share != server_share && other_secret != secret, "each answer is new");
                }
            }
        }
    }

    #[test]
    fn strength_is_that_of_openssl() {
        let figures = |key: &PKeyRef<Private>| (key.bits(), key.security_bits(), key.size());
        assert_eq!(figures(&generate(OURS)), figures(&generate(THEIRS)));
    }

    #[test]
    fn shares_that_make_no_sense_are_refused() {
        let good = share(&generate(OURS));
        assert!(answer(OURS, &good).is_some());
        assert!(answer(OURS, &good[1..]).is_none());
        assert!(answer(OURS, &[]).is_none());
        assert!(answer(OURS, &[&good[..], &[0]].concat()).is_none());
        // FIPS 203 section 7.2: 3329 and more is no coefficient.
        let mut unreduced = good.clone();
        unreduced[..3].copy_from_slice(&[0xff; 3]);
        assert!(answer(OURS, &unreduced).is_none());
        let mut zero_point = good;
        zero_point[CLIENT_SHARE_LEN - 32..].fill(0);
        assert!(answer(OURS, &zero_point).is_none());

        let key = generate(OURS);
        let (server_share, secret) = answer(THEIRS, &share(&key)).unwrap();
        assert!(finish(&key, &server_share[1..]).is_none());
        // FIPS 203 section 6.3: a ciphertext that was changed gives another secret, and no error.
        let mut changed = server_share;
        changed[0] ^= 1;
        assert_ne!(finish(&key, &changed).unwrap()[..32], secret[..32]);
    }
}

mod ecdsa {
    use foreign_types_shared::{ForeignType, ForeignTypeRef};
    use openssl::asn1::Asn1Time;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::md_ctx::MdCtx;
    use openssl::nid::Nid;
    use openssl::pkey_ctx::PkeyCtx;
    use openssl::sign::{Signer, Verifier};
    use openssl::x509::X509;

    use super::*;

    /// The curves that AWS-LC signs on here, and one that stays with OpenSSL.
    const CURVES: [(Nid, &str); 3] =
        [(Nid::X9_62_PRIME256V1, "sluice"), (Nid::SECP384R1, "sluice"), (Nid::SECP521R1, "default")];
    const HASHES: [&CStr; 8] =
        [c"SHA2-256", c"SHA384", c"SHA2-512", c"SHA224", c"SHA1", c"SHA3-256", c"SHA3-384", c"SHA3-512"];

    fn generate(curve: Nid) -> PKey<Private> {
        install().unwrap();
        PKey::from_ec_key(EcKey::generate(&EcGroup::from_curve_name(curve).unwrap()).unwrap()).unwrap()
    }

    fn public(key: &PKeyRef<Private>) -> PKey<Public> {
        PKey::public_key_from_der(&key.public_key_to_der().unwrap()).unwrap()
    }

    /// What OpenSSL is asked to do.
    struct Operation<'a> {
        hash: &'a CStr,
        message: &'a [u8],
        /// Null for whatever is preferred.
        query: *const c_char,
    }

    impl Operation<'_> {
        /// A signature, and the provider that made it.
        fn sign(&self, key: &PKeyRef<Private>) -> Option<(Vec<u8>, String)> {
            let context = MdCtx::new().unwrap();
            let mut pkey_context = ptr::null_mut();
            // SAFETY: all objects are live, the names end with NUL, and the places have the room that is said.
            unsafe {
                let begun = EVP_DigestSignInit_ex(
                    context.as_ptr(),
                    &raw mut pkey_context,
                    self.hash.as_ptr(),
                    ptr::null_mut(),
                    self.query,
                    key.as_ptr(),
                    ptr::null(),
                );
                if begun != 1 {
                    return None;
                }
                let provider = provider_name(EVP_PKEY_CTX_get0_provider(pkey_context));
                let (message, message_length) = (self.message.as_ptr(), self.message.len());
                let mut length = 0;
                let told =
                    ffi::EVP_DigestSign(context.as_ptr(), ptr::null_mut(), &raw mut length, message, message_length);
                assert_eq!(told, 1);
                let mut signature = vec![0; length];
                let signed = ffi::EVP_DigestSign(
                    context.as_ptr(),
                    signature.as_mut_ptr(),
                    &raw mut length,
                    message,
                    message_length,
                );
                signature.truncate(length);
                (signed == 1).then_some((signature, provider))
            }
        }

        /// Whether it is the signature, and the provider that says so.
        fn verify<T>(&self, key: &PKeyRef<T>, signature: &[u8]) -> (bool, String) {
            let context = MdCtx::new().unwrap();
            let mut pkey_context = ptr::null_mut();
            // SAFETY: as above.
            unsafe {
                let begun = EVP_DigestVerifyInit_ex(
                    context.as_ptr(),
                    &raw mut pkey_context,
                    self.hash.as_ptr(),
                    ptr::null_mut(),
                    self.query,
                    key.as_ptr(),
                    ptr::null(),
                );
                assert_eq!(begun, 1);
                let provider = provider_name(EVP_PKEY_CTX_get0_provider(pkey_context));
                let verified = ffi::EVP_DigestVerify(
                    context.as_ptr(),
                    signature.as_ptr(),
                    signature.len(),
                    self.message.as_ptr(),
                    self.message.len(),
                );
                // Not that the caller finds the errors of this one.
                let _ = ErrorStack::get();
                (verified == 1, provider)
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn each_library_takes_the_signatures_of_the_other(
            (curve, provider) in proptest::sample::select(&CURVES[..]),
            hash in proptest::sample::select(&HASHES[..]),
            message in proptest::collection::vec(any::<u8>(), 0..200),
            flipped in any::<proptest::sample::Index>(),
        ) {
            let key = generate(curve);
            let public = public(&key);
            let preferred = Operation { hash, message: &message, query: ptr::null() };
            let theirs = Operation { query: THEIRS.as_ptr(), ..preferred };
            let (signature, signer) = preferred.sign(&key).unwrap();
            prop_assert_eq!(&signer, provider);
            prop_assert_eq!(theirs.verify(&public, &signature), (true, "default".to_owned()));
            let (other, signer) = theirs.sign(&key).unwrap();
            prop_assert_eq!(signer, "default");
            prop_assert_eq!(preferred.verify(&public, &other), (true, provider.to_owned()));
            // A private key is a public one too.
            prop_assert_eq!(preferred.verify(&key, &other), (true, provider.to_owned()));

            let changed = [&message[..], b"."].concat();
            let changed = Operation { message: &changed, ..preferred };
            prop_assert!(!changed.verify(&public, &signature).0);
            prop_assert!(!preferred.verify(&generate(curve), &signature).0);
            let mut broken = signature.clone();
            broken[flipped.index(signature.len())] ^= 1;
            prop_assert!(!preferred.verify(&public, &broken).0);
            prop_assert!(!preferred.verify(&public, &signature[1..]).0);
            prop_assert!(!preferred.verify(&public, &[]).0);
        }
    }

    #[test]
    fn messages_in_pieces_are_signed_as_a_whole() {
        let key = generate(Nid::X9_62_PRIME256V1);
        let mut signer = Signer::new(MessageDigest::sha384(), &key).unwrap();
        let mut verifier = Verifier::new(MessageDigest::sha384(), &key).unwrap();
        for piece in ["never", " ", "lose", " a byte", ""] {
            signer.update(piece.as_bytes()).unwrap();
            verifier.update(piece.as_bytes()).unwrap();
        }
        let signature = signer.sign_to_vec().unwrap();
        assert!(verifier.verify(&signature).unwrap());
        let whole = Operation { hash: c"SHA384", message: b"never lose a byte", query: THEIRS.as_ptr() };
        assert!(whole.verify(&key, &signature).0);
    }

    #[test]
    fn hashes_are_signed_as_they_are() {
        for (curve, _) in CURVES {
            let key = generate(curve);
            // A hash longer than the curve's order is cut (FIPS 186-5 section 6.4.1).
            for length in [20, 32, 48, 64] {
                let hash = vec![0xa5; length];
                let mut signature = Vec::new();
                let mut context = PkeyCtx::new(&key).unwrap();
                context.sign_init().unwrap();
                context.sign_to_vec(&hash, &mut signature).unwrap();
                let mut context = PkeyCtx::new(&public(&key)).unwrap();
                context.verify_init().unwrap();
                assert!(context.verify(&hash, &signature).unwrap());
                assert!(!context.verify(&vec![0xa6; length], &signature).unwrap_or(false));
            }
        }
    }

    #[test]
    fn public_keys_and_unknown_hashes_sign_nothing() {
        let key = generate(Nid::X9_62_PRIME256V1);
        let known = Operation { hash: c"SHA2-256", message: b"message", query: ptr::null() };
        assert!(known.sign(&key).is_some());
        assert!(Operation { hash: c"SM3", ..known }.sign(&key).is_none());
        // SAFETY: no more than a change of what the type says about the key, which the functions find out for themselves.
        let public = unsafe {
            let public = public(&key);
            let raw = public.as_ptr();
            std::mem::forget(public);
            PKey::<Private>::from_ptr(raw)
        };
        let operation = Operation { hash: c"SHA2-256", message: b"message", query: ptr::null() };
        assert!(operation.sign(&public).is_none());
    }

    #[test]
    fn certificates_say_how_they_were_signed() {
        for (digest, expected) in [
            (MessageDigest::sha256(), Nid::ECDSA_WITH_SHA256),
            (MessageDigest::sha384(), Nid::ECDSA_WITH_SHA384),
            (MessageDigest::sha512(), Nid::ECDSA_WITH_SHA512),
        ] {
            let key = generate(Nid::X9_62_PRIME256V1);
            let mut builder = X509::builder().unwrap();
            builder.set_pubkey(&key).unwrap();
            builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
            builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
            builder.sign(&key, digest).unwrap();
            let certificate = X509::from_der(&builder.build().to_der().unwrap()).unwrap();
            assert_eq!(certificate.signature_algorithm().object().nid(), expected);
            assert!(certificate.verify(&key).unwrap());
            assert!(certificate.verify(&certificate.public_key().unwrap()).unwrap());
            assert!(!certificate.verify(&generate(Nid::X9_62_PRIME256V1)).unwrap());
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
