//! X25519MLKEM768 (draft-ietf-tls-ecdhe-mlkem): a key encapsulation of ML-KEM-768 (FIPS 203) and X25519 (RFC 7748).
//!
//! For key shares of TLS: such keys are not read, written or copied. ML-KEM comes first in shares and secrets.

use std::ffi::{CStr, c_int, c_void};
use std::{ptr, slice};

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
use openssl_sys::OSSL_PARAM;
use zeroize::Zeroize;

use super::generation::{self, Generated, Generation};
use super::number::*;
use super::param::{self, Descriptions, Params, Places};
use super::{Algorithm, Dispatch, object};

const NAME: &CStr = c"X25519MLKEM768";
const DESCRIPTION: &CStr = c"X25519MLKEM768 by AWS-LC";

pub(super) const KEY_MANAGEMENT: Algorithm = Algorithm::new(NAME, &MANAGEMENT, DESCRIPTION);
pub(super) const KEY_ENCAPSULATION: Algorithm = Algorithm::new(NAME, &ENCAPSULATION, DESCRIPTION);

static MANAGEMENT: [Dispatch; 13] = [
    Dispatch::new(OSSL_FUNC_KEYMGMT_NEW, object::new::<Key> as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_FREE, object::free::<Key> as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_GEN_INIT, generation::begin::<Key> as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_GEN_SET_PARAMS, generation::set_params::<Key> as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_GEN_SETTABLE_PARAMS, generation::settable as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_GEN, generation::generate::<Key> as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_GEN_CLEANUP, object::free::<Generation> as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_HAS, has as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_GET_PARAMS, params as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_GETTABLE_PARAMS, gettable_params as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_SET_PARAMS, set_params as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_SETTABLE_PARAMS, settable_params as *const ()),
    Dispatch::END,
];

static ENCAPSULATION: [Dispatch; 7] = [
    Dispatch::new(OSSL_FUNC_KEM_NEWCTX, object::new::<Context> as *const ()),
    Dispatch::new(OSSL_FUNC_KEM_FREECTX, object::free::<Context> as *const ()),
    Dispatch::new(OSSL_FUNC_KEM_ENCAPSULATE_INIT, begin_encapsulation as *const ()),
    Dispatch::new(OSSL_FUNC_KEM_ENCAPSULATE, encapsulate as *const ()),
    Dispatch::new(OSSL_FUNC_KEM_DECAPSULATE_INIT, begin_decapsulation as *const ()),
    Dispatch::new(OSSL_FUNC_KEM_DECAPSULATE, decapsulate as *const ()),
    Dispatch::END,
];

/// A key of either kind, or the place for one.
#[derive(Default)]
enum Key {
    #[default]
    None,
    /// A client's share, as it came.
    Public(Box<[u8; PUBLIC_LEN]>),
    Pair(Box<Pair>),
}

struct Pair {
    mlkem: DecapsulationKey,
    x25519: PrivateKey,
    public: [u8; PUBLIC_LEN],
}

impl Pair {
    fn generate() -> Result<Self, Unspecified> {
        let mlkem = DecapsulationKey::generate(&ML_KEM_768)?;
        let x25519 = PrivateKey::generate(&agreement::X25519)?;
        let mut public = [0; PUBLIC_LEN];
        let (first, second) = public.split_at_mut(MLKEM_PUBLIC_LEN);
        copy(first, mlkem.encapsulation_key()?.key_bytes()?.as_ref())?;
        copy(second, x25519.compute_public_key()?.as_ref())?;
        Ok(Self { mlkem, x25519, public })
    }

    fn decapsulate(&self, share: &[u8; SHARE_LEN], secret: &mut [u8]) -> Result<(), Unspecified> {
        let (ciphertext, peer) = share.split_at(CIPHERTEXT_LEN);
        let (first, second) = secret.split_at_mut(HALF_SECRET_LEN);
        copy(first, self.mlkem.decapsulate(Ciphertext::from(ciphertext))?.as_ref())?;
        agree(&self.x25519, peer, second)
    }
}

impl Key {
    fn public(&self) -> Option<&[u8; PUBLIC_LEN]> {
        match self {
            Self::None => None,
            Self::Public(public) => Some(public),
            Self::Pair(pair) => Some(&pair.public),
        }
    }
}

impl Generated for Key {
    fn is_asked_for(params: Params<'_>) -> bool {
        // OpenSSL's TLS names the group as its own list does: not at all.
        let is_ours = |group: &[u8]| group.is_empty() || group.eq_ignore_ascii_case(NAME.to_bytes());
        params.text(GROUP).is_ok_and(|group| group.is_none_or(is_ours))
    }

    fn generate() -> Option<Self> {
        Pair::generate().ok().map(|pair| Self::Pair(Box::new(pair)))
    }
}

/// The answer to a client's share, and what both then know.
///
/// # Errors
/// When the share makes no sense: an encapsulation key that is not reduced (FIPS 203 section 7.2), or a point that
/// forces a secret of zeros (RFC 7748 section 6.1).
fn answer(public: &[u8; PUBLIC_LEN], share: &mut [u8], secret: &mut [u8]) -> Result<(), Unspecified> {
    let (encapsulation_key, peer) = public.split_at(MLKEM_PUBLIC_LEN);
    let encapsulation_key = EncapsulationKey::new(&ML_KEM_768, encapsulation_key).map_err(|_| Unspecified)?;
    let own = PrivateKey::generate(&agreement::X25519)?;
    let (ciphertext, kem_secret) = encapsulation_key.encapsulate()?;
    let (first, second) = share.split_at_mut(CIPHERTEXT_LEN);
    copy(first, ciphertext.as_ref())?;
    copy(second, own.compute_public_key()?.as_ref())?;
    let (first, second) = secret.split_at_mut(HALF_SECRET_LEN);
    copy(first, kem_secret.as_ref())?;
    agree(&own, peer, second)
}

/// Whether `fill` has made a secret; half of one is not left behind.
fn wiped_on_error(secret: &mut [u8], fill: impl FnOnce(&mut [u8]) -> Result<(), Unspecified>) -> bool {
    let is_made = fill(secret).is_ok();
    if !is_made {
        secret.zeroize();
    }
    is_made
}

fn agree(own: &PrivateKey, peer: &[u8], secret: &mut [u8]) -> Result<(), Unspecified> {
    agreement::agree(own, UnparsedPublicKey::new(&agreement::X25519, peer), Unspecified, |shared| copy(secret, shared))
}

fn copy(to: &mut [u8], from: &[u8]) -> Result<(), Unspecified> {
    if to.len() != from.len() {
        return Err(Unspecified);
    }
    to.copy_from_slice(from);
    Ok(())
}

/// One encapsulation or decapsulation. OpenSSL keeps the key for as long.
struct Context {
    key: *const Key,
}

impl Default for Context {
    fn default() -> Self {
        Self { key: ptr::null() }
    }
}

// For what follows: OpenSSL calls these functions with what the table's own functions made (see the module above), and with
// bytes, places and lists that are valid for the call.

unsafe extern "C" fn has(key: *const Key, selection: c_int) -> c_int {
    // SAFETY: null or a key of ours.
    let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
    let has_public = selection & SELECT_PUBLIC_KEY == 0 || key.public().is_some();
    let has_private = selection & SELECT_PRIVATE_KEY == 0 || matches!(key, Key::Pair(_));
    c_int::from(has_public && has_private)
}

unsafe extern "C" fn params(key: *const Key, params: *mut OSSL_PARAM) -> c_int {
    // SAFETY: a key of ours, and such a list.
    let (key, mut places) = unsafe { (&*key, Places::new(params)) };
    // Bits and strength are those of ML-KEM-768 (FIPS 203 sections 3.2 and 8), as OpenSSL has them for its own.
    let mut is_done = places.set_int(BITS, 768)
        && places.set_int(SECURITY_BITS, 192)
        && places.set_int(SECURITY_CATEGORY, 3)
        && places.set_int(MAX_SIZE, SHARE_LEN as c_int);
    if let Some(public) = key.public() {
        is_done = is_done && places.set_octets(PUBLIC, public) && places.set_octets(ENCODED_PUBLIC, public);
    }
    c_int::from(is_done)
}

unsafe extern "C" fn gettable_params(_provider: *mut c_void) -> *const OSSL_PARAM {
    static GETTABLE: Descriptions<7> = Descriptions::new([
        param::describe(BITS, OSSL_PARAM_INTEGER),
        param::describe(SECURITY_BITS, OSSL_PARAM_INTEGER),
        param::describe(SECURITY_CATEGORY, OSSL_PARAM_INTEGER),
        param::describe(MAX_SIZE, OSSL_PARAM_INTEGER),
        param::describe(PUBLIC, OSSL_PARAM_OCTET_STRING),
        param::describe(ENCODED_PUBLIC, OSSL_PARAM_OCTET_STRING),
        param::END,
    ]);
    GETTABLE.as_ptr()
}

/// A public key as it came from a peer.
unsafe extern "C" fn set_params(key: *mut Key, params: *const OSSL_PARAM) -> c_int {
    // SAFETY: a key of ours that no other call uses, and such a list.
    let (key, params) = unsafe { (&mut *key, Params::new(params)) };
    match params.octets(ENCODED_PUBLIC).map(|public| public.map(<[u8; PUBLIC_LEN]>::try_from)) {
        Ok(None) => 1,
        Ok(Some(Ok(public))) => {
            *key = Key::Public(Box::new(public));
            1
        }
        _ => 0,
    }
}

unsafe extern "C" fn settable_params(_provider: *mut c_void) -> *const OSSL_PARAM {
    static SETTABLE: Descriptions<2> =
        Descriptions::new([param::describe(ENCODED_PUBLIC, OSSL_PARAM_OCTET_STRING), param::END]);
    SETTABLE.as_ptr()
}

unsafe extern "C" fn begin_encapsulation(context: *mut Context, key: *const Key, _params: *const OSSL_PARAM) -> c_int {
    // SAFETY: ours, and no other call uses the context.
    unsafe {
        (*context).key = key;
        has(key, SELECT_PUBLIC_KEY)
    }
}

/// Without a place for the share, only the lengths are asked for.
unsafe extern "C" fn encapsulate(
    context: *mut Context,
    share: *mut u8,
    share_length: *mut usize,
    secret: *mut u8,
    secret_length: *mut usize,
) -> c_int {
    // SAFETY: one of ours, with the key that OpenSSL keeps; the places are valid or null.
    unsafe {
        let has_room = take_length(share_length, SHARE_LEN) & take_length(secret_length, SECRET_LEN);
        if share.is_null() {
            return c_int::from(!share_length.is_null() || !secret_length.is_null());
        }
        let public = (*context).key.as_ref().and_then(Key::public);
        let (Some(public), true, false) = (public, has_room, secret.is_null()) else { return 0 };
        let (share, secret) = (object::place(share, SHARE_LEN), object::place(secret, SECRET_LEN));
        c_int::from(wiped_on_error(secret, |secret| answer(public, share, secret)))
    }
}

unsafe extern "C" fn begin_decapsulation(context: *mut Context, key: *const Key, _params: *const OSSL_PARAM) -> c_int {
    // SAFETY: ours, and no other call uses the context.
    unsafe {
        (*context).key = key;
        has(key, SELECT_PRIVATE_KEY)
    }
}

/// Without a place for the secret, only its length is asked for.
unsafe extern "C" fn decapsulate(
    context: *mut Context,
    secret: *mut u8,
    secret_length: *mut usize,
    share: *const u8,
    share_length: usize,
) -> c_int {
    // SAFETY: one of ours, with the key that OpenSSL keeps; the places are valid or null.
    unsafe {
        let has_room = take_length(secret_length, SECRET_LEN);
        if secret.is_null() {
            return c_int::from(!secret_length.is_null());
        }
        let Some(Key::Pair(pair)) = (*context).key.as_ref() else { return 0 };
        let Ok(share) = slice::from_raw_parts(share, share_length).try_into() else { return 0 };
        if !has_room {
            return 0;
        }
        let secret = object::place(secret, SECRET_LEN);
        c_int::from(wiped_on_error(secret, |secret| pair.decapsulate(share, secret)))
    }
}

/// Says how long something is, and whether there was room for it.
///
/// # Safety
/// Null or valid.
unsafe fn take_length(place: *mut usize, length: usize) -> bool {
    // SAFETY: as the caller says.
    let Some(place) = (unsafe { place.as_mut() }) else { return false };
    std::mem::replace(place, length) >= length
}

/// Bytes of an encapsulation key of ML-KEM-768.
const MLKEM_PUBLIC_LEN: usize = 1184;
/// Bytes of its ciphertext.
const CIPHERTEXT_LEN: usize = 1088;
/// Bytes of the secret of either algorithm.
const HALF_SECRET_LEN: usize = 32;
/// Bytes of a public key of X25519.
const X25519_PUBLIC_LEN: usize = 32;
/// Bytes of a client's share.
const PUBLIC_LEN: usize = MLKEM_PUBLIC_LEN + X25519_PUBLIC_LEN;
/// Bytes of a server's share.
const SHARE_LEN: usize = CIPHERTEXT_LEN + X25519_PUBLIC_LEN;
const SECRET_LEN: usize = 2 * HALF_SECRET_LEN;
