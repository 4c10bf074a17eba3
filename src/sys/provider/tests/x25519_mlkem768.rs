//! The hybrid against OpenSSL's, as client and as server.

use foreign_types_shared::{ForeignType, ForeignTypeRef};

use super::*;

const CLIENT_SHARE_LEN: usize = 1216;
const SERVER_SHARE_LEN: usize = 1120;

fn context(provider: &CStr) -> *mut ffi::EVP_PKEY_CTX {
    // SAFETY: the names end with NUL.
    let context = unsafe { EVP_PKEY_CTX_new_from_name(library(provider), c"X25519MLKEM768".as_ptr(), ptr::null()) };
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
        let context = EVP_PKEY_CTX_new_from_pkey(library(provider), key.as_ptr(), ptr::null());
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
fn finish(provider: &CStr, key: &PKeyRef<Private>, share: &[u8]) -> Option<Vec<u8>> {
    // SAFETY: as above.
    unsafe {
        let context = EVP_PKEY_CTX_new_from_pkey(library(provider), key.as_ptr(), ptr::null());
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
                assert_eq!(finish(client, &key, &server_share).unwrap(), secret, "{client:?} {server:?}");
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
    assert!(finish(OURS, &key, &server_share[1..]).is_none());
    // FIPS 203 section 6.3: a ciphertext that was changed gives another secret, and no error.
    let mut changed = server_share;
    changed[0] ^= 1;
    assert_ne!(finish(OURS, &key, &changed).unwrap()[..32], secret[..32]);
}
