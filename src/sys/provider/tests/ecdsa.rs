//! ECDSA against OpenSSL's.

use foreign_types_shared::{ForeignType, ForeignTypeRef};
use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::md::Md;
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
            let told = ffi::EVP_DigestSign(context.as_ptr(), ptr::null_mut(), &raw mut length, message, message_length);
            assert_eq!(told, 1);
            let mut signature = vec![0; length];
            let signed =
                ffi::EVP_DigestSign(context.as_ptr(), signature.as_mut_ptr(), &raw mut length, message, message_length);
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
fn message_behind_pieces_belongs_to_them() {
    let key = generate(Nid::X9_62_PRIME256V1);
    let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
    signer.update(b"pieces, ").unwrap();
    let signature = signer.sign_oneshot_to_vec(b"and the rest").unwrap();
    let whole = Operation { hash: c"SHA256", message: b"pieces, and the rest", query: THEIRS.as_ptr() };
    assert!(whole.verify(&key, &signature).0);
    let rest = Operation { hash: c"SHA256", message: b"and the rest", query: THEIRS.as_ptr() }.sign(&key).unwrap().0;
    for (signature, expected) in [(&signature, true), (&rest, false)] {
        let mut verifier = Verifier::new(MessageDigest::sha256(), &key).unwrap();
        verifier.update(b"pieces, ").unwrap();
        assert_eq!(verifier.verify_oneshot(signature, b"and the rest").unwrap_or(false), expected);
    }
}

#[test]
fn signatures_with_something_behind_them_are_refused() {
    let key = generate(Nid::X9_62_PRIME256V1);
    let operation = Operation { hash: c"SHA256", message: b"message", query: ptr::null() };
    let signature = operation.sign(&key).unwrap().0;
    assert!(!operation.verify(&key, &[&signature[..], &[0]].concat()).0);
    // r and s of 0, and an r that is negative.
    assert!(!operation.verify(&key, &hex("3006020100020100")).0);
    assert!(!operation.verify(&key, &hex("30060201ff020101")).0);
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
            for query in [ptr::null(), THEIRS.as_ptr()] {
                assert!(verifies_hash(&key, query, &hash, &signature), "{length}");
                assert!(!verifies_hash(&key, query, &vec![0xa6; length], &signature), "{length}");
            }
        }
    }
}

/// Whether it is the signature of a hash, in the eyes of what is preferred or of a provider that is asked for.
fn verifies_hash(key: &PKeyRef<Private>, query: *const c_char, hash: &[u8], signature: &[u8]) -> bool {
    // SAFETY: the key is live; the context is freed; hash and signature are valid for their lengths.
    let verified = unsafe {
        let context = EVP_PKEY_CTX_new_from_pkey(ptr::null_mut(), key.as_ptr(), query);
        assert_eq!(ffi::EVP_PKEY_verify_init(context), 1);
        let verified = ffi::EVP_PKEY_verify(context, signature.as_ptr(), signature.len(), hash.as_ptr(), hash.len());
        ffi::EVP_PKEY_CTX_free(context);
        verified
    };
    let _ = ErrorStack::get();
    verified == 1
}

#[test]
fn hash_that_is_named_has_its_length() {
    let key = generate(Nid::X9_62_PRIME256V1);
    for (length, fits) in [(48, true), (32, false), (0, false)] {
        let mut context = PkeyCtx::new(&key).unwrap();
        context.sign_init().unwrap();
        context.set_signature_md(Md::sha384()).unwrap();
        assert_eq!(context.sign_to_vec(&vec![1; length], &mut Vec::new()).is_ok(), fits, "{length}");
    }
}

#[test]
fn identifiers_are_those_of_openssl() {
    let key = generate(Nid::SECP384R1);
    for hash in HASHES {
        let identifier = |query| {
            let context = MdCtx::new().unwrap();
            let (mut pkey_context, mut place) = (ptr::null_mut(), [0_u8; 64]);
            let mut params = [param::octets(c"algorithm-id", &place), param::END];
            params[0].data = place.as_mut_ptr().cast();
            // SAFETY: all objects are live, and the names end with NUL, the list with its end.
            unsafe {
                let begun = EVP_DigestSignInit_ex(
                    context.as_ptr(),
                    &raw mut pkey_context,
                    hash.as_ptr(),
                    ptr::null_mut(),
                    query,
                    key.as_ptr(),
                    ptr::null(),
                );
                assert_eq!(begun, 1);
                assert_eq!(EVP_PKEY_CTX_get_params(pkey_context, params.as_mut_ptr()), 1);
            }
            place[..params[0].return_size].to_vec()
        };
        let ours = identifier(ptr::null());
        assert!(!ours.is_empty());
        assert_eq!(ours, identifier(THEIRS.as_ptr()), "{hash:?}");
    }
}

#[test]
fn one_key_signs_on_many_threads() {
    let key = generate(Nid::X9_62_PRIME256V1);
    let sign = || Operation { hash: c"SHA256", message: b"message", query: ptr::null() }.sign(&key).unwrap();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..50).map(|_| sign()).collect::<Vec<_>>())).collect();
        for (signature, signer) in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
            assert_eq!(signer, "sluice");
            let operation = Operation { hash: c"SHA256", message: b"message", query: THEIRS.as_ptr() };
            assert!(operation.verify(&key, &signature).0);
        }
    });
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
