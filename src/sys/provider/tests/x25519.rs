//! X25519 against OpenSSL's.

use foreign_types_shared::ForeignTypeRef;

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
    let mut params = [param::octets(name, bytes), param::END];
    let mut key = ptr::null_mut();
    // SAFETY: the names end with NUL, the list with its end; the context is freed, and the key owned by what is returned.
    unsafe {
        let context = EVP_PKEY_CTX_new_from_name(library(provider), c"X25519".as_ptr(), ptr::null());
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

/// What two keys agree on, computed by a provider.
fn agree<T: HasPublic>(provider: &CStr, own: &PKeyRef<Private>, peer: &PKeyRef<T>) -> Option<Vec<u8>> {
    let mut secret = vec![0; 32];
    let mut length = secret.len();
    // SAFETY: the keys are live; the context is freed, and the place has the room that is said.
    unsafe {
        let context = EVP_PKEY_CTX_new_from_pkey(library(provider), own.as_ptr(), ptr::null());
        assert_eq!(ffi::EVP_PKEY_derive_init(context), 1);
        assert_eq!(provider_name(EVP_PKEY_CTX_get0_provider(context)), name(provider));
        assert_eq!(ffi::EVP_PKEY_derive_set_peer(context, peer.as_ptr()), 1);
        let derived = ffi::EVP_PKEY_derive(context, secret.as_mut_ptr(), &raw mut length);
        ffi::EVP_PKEY_CTX_free(context);
        (derived == 1).then_some(secret)
    }
}

fn name(provider: &CStr) -> &str {
    if provider == OURS { "sluice" } else { "default" }
}

#[test]
fn the_published_example_comes_out() {
    let own = private(&hex(PRIVATE), OURS);
    assert_eq!(own.raw_public_key().unwrap(), hex(PUBLIC));
    assert_eq!(agree(OURS, &own, &public(&hex(PEER), OURS)).unwrap(), hex(SECRET));
}

#[test]
fn a_public_key_that_forces_a_secret_of_zeros_is_refused() {
    let own = private(&[7; 32], OURS);
    let mut points = vec![[0; 32], [0; 32]];
    points[1][0] = 1;
    // The two points of order 8 (RFC 7748 section 7 on contributory behaviour), and p, which is 0 again.
    for point in [
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ] {
        points.push(hex(point).try_into().unwrap());
    }
    for point in points {
        assert!(agree(OURS, &own, &public(&point, OURS)).is_none(), "{point:?}");
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
    assert_eq!(agree(OURS, &one, &other).unwrap(), agree(OURS, &other, &one).unwrap());
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
    assert_eq!(agree(OURS, &read, &peer).unwrap(), agree(OURS, &peer, &public).unwrap());
}

proptest! {
    #[test]
    fn both_libraries_agree(seed: [u8; 32], peer: [u8; 32]) {
        let (ours, theirs) = (private(&seed, OURS), private(&seed, THEIRS));
        prop_assert_eq!(ours.raw_public_key().unwrap(), theirs.raw_public_key().unwrap());
        prop_assert!(ours.public_eq(&theirs) && theirs.public_eq(&ours));
        let secret = agree(THEIRS, &theirs, &public(&peer, THEIRS)).unwrap();
        prop_assert_eq!(&agree(OURS, &ours, &public(&peer, OURS)).unwrap(), &secret);
        // Keys of either serve here: OpenSSL exports and imports them.
        prop_assert_eq!(&agree(OURS, &theirs, &public(&peer, OURS)).unwrap(), &secret);
        prop_assert_eq!(&agree(OURS, &ours, &public(&peer, THEIRS)).unwrap(), &secret);
    }
}

const SELECT_PUBLIC_KEY: c_int = 0x86;
const SELECT_KEY_PAIR: c_int = 0x87;
