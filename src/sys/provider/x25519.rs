//! X25519 (RFC 7748): keys and key exchange.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::encoding::{AsBigEndian, Curve25519SeedBin};
use aws_lc_rs::error::Unspecified;
use openssl_sys::OSSL_PARAM;

use super::generation::{self, Generated, Generation};
use super::number::*;
use super::param::{self, Descriptions, Params, Places, WrongType};
use super::{Algorithm, Dispatch, object};

const NAMES: &CStr = c"X25519:1.3.101.110";
const DESCRIPTION: &CStr = c"X25519 by AWS-LC";

pub(super) const KEY_MANAGEMENT: Algorithm = Algorithm::new(NAMES, &MANAGEMENT, DESCRIPTION);
pub(super) const KEY_EXCHANGE: Algorithm = Algorithm::new(NAMES, &EXCHANGE, DESCRIPTION);

static MANAGEMENT: [Dispatch; 20] = [
    Dispatch::new(OSSL_FUNC_KEYMGMT_NEW, object::new::<Key> as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_FREE, object::free::<Key> as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_DUP, duplicate as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_GEN_INIT, generation::begin::<Key> as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_GEN_SET_PARAMS, generation::set_params::<Key> as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_GEN_SETTABLE_PARAMS, generation::settable as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_GEN, generation::generate::<Key> as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_GEN_CLEANUP, object::free::<Generation> as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_HAS, has as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_VALIDATE, validate as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_MATCH, matches as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_GET_PARAMS, params as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_GETTABLE_PARAMS, gettable_params as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_SET_PARAMS, set_params as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_SETTABLE_PARAMS, settable_params as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_IMPORT, import as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_IMPORT_TYPES, portable_params as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_EXPORT, export as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_EXPORT_TYPES, portable_params as *const ()),
    Dispatch::END,
];

static EXCHANGE: [Dispatch; 7] = [
    Dispatch::new(OSSL_FUNC_KEYEXCH_NEWCTX, object::new::<Exchange> as *const ()),
    Dispatch::new(OSSL_FUNC_KEYEXCH_FREECTX, object::free::<Exchange> as *const ()),
    Dispatch::new(OSSL_FUNC_KEYEXCH_DUPCTX, object::duplicate::<Exchange> as *const ()),
    Dispatch::new(OSSL_FUNC_KEYEXCH_INIT, set_own as *const ()),
    Dispatch::new(OSSL_FUNC_KEYEXCH_SET_PEER, set_peer as *const ()),
    Dispatch::new(OSSL_FUNC_KEYEXCH_DERIVE, derive as *const ()),
    Dispatch::END,
];

/// A key of either kind, or the place for one.
#[derive(Clone, Default)]
struct Key {
    /// Never without its public key.
    private: Option<Arc<PrivateKey>>,
    public: Option<[u8; KEY_LEN]>,
}

impl Key {
    fn from_private(seed: &[u8]) -> Option<Self> {
        Self::of(PrivateKey::from_private_key(&agreement::X25519, seed).ok()?)
    }

    fn of(private: PrivateKey) -> Option<Self> {
        let public = private.compute_public_key().ok()?.as_ref().try_into().ok()?;
        Some(Self { private: Some(Arc::new(private)), public: Some(public) })
    }

    fn seed(&self) -> Option<Curve25519SeedBin<'static>> {
        self.private.as_ref()?.as_be_bytes().ok()
    }

    /// A key of what OpenSSL keeps of one: none where lengths or types are wrong, or nothing is there.
    fn from_params(params: Params<'_>, selection: c_int) -> Result<Option<Self>, WrongType> {
        let private = params.octets(PRIVATE)?.filter(|_| selection & SELECT_PRIVATE_KEY != 0);
        if let Some(seed) = private {
            return Ok(Self::from_private(seed));
        }
        let public = params.octets(PUBLIC)?.and_then(|public| public.try_into().ok());
        Ok(public.map(|public| Self { private: None, public: Some(public) }))
    }

    fn has(&self, selection: c_int) -> bool {
        (selection & SELECT_PUBLIC_KEY == 0 || self.public.is_some())
            && (selection & SELECT_PRIVATE_KEY == 0 || self.private.is_some())
    }
}

impl Generated for Key {
    fn is_asked_for(params: Params<'_>) -> bool {
        let is_ours = params.text(GROUP).map(|group| group.is_none_or(|group| group.eq_ignore_ascii_case(b"x25519")));
        // A key from given material is for encapsulation (RFC 9180), which is not ours.
        let is_random = params.octets(KEYING_MATERIAL).map(|material| material.is_none_or(<[u8]>::is_empty));
        matches!((is_ours, is_random), (Ok(true), Ok(true)))
    }

    fn generate() -> Option<Self> {
        Self::of(PrivateKey::generate(&agreement::X25519).ok()?)
    }
}

/// One agreement.
#[derive(Clone, Default)]
struct Exchange {
    own: Option<Arc<PrivateKey>>,
    peer: Option<[u8; KEY_LEN]>,
}

impl Exchange {
    /// RFC 7748 section 6.1 and RFC 8446 section 7.4.2: a shared secret of zeros, which a peer can force, is an error.
    fn agree(&self, secret: &mut [u8]) -> Result<(), Unspecified> {
        let (Some(own), Some(peer)) = (&self.own, &self.peer) else { return Err(Unspecified) };
        let peer = UnparsedPublicKey::new(&agreement::X25519, peer);
        agreement::agree(own, peer, Unspecified, |shared| {
            secret.copy_from_slice(shared);
            Ok(())
        })
    }
}

// For what follows: OpenSSL calls these functions with what the table's own functions made (see the module above), and with
// lists of parameters that are valid for the call.

unsafe extern "C" fn duplicate(key: *const Key, selection: c_int) -> *mut Key {
    // SAFETY: a key of ours.
    let mut copy = unsafe { &*key }.clone();
    if selection & SELECT_PRIVATE_KEY == 0 {
        copy.private = None;
    }
    if selection & SELECT_PUBLIC_KEY == 0 {
        copy = Key::default();
    }
    object::into_raw(copy)
}

unsafe extern "C" fn has(key: *const Key, selection: c_int) -> c_int {
    // SAFETY: null or a key of ours.
    c_int::from(unsafe { key.as_ref() }.is_some_and(|key| key.has(selection)))
}

/// Every string of 32 bytes is a public key (RFC 7748 section 5).
unsafe extern "C" fn validate(key: *const Key, selection: c_int, _check_type: c_int) -> c_int {
    // SAFETY: a key of ours.
    unsafe { has(key, selection) }
}

unsafe extern "C" fn matches(one: *const Key, other: *const Key, selection: c_int) -> c_int {
    // SAFETY: keys of ours.
    let (one, other) = unsafe { (&*one, &*other) };
    let public = one.public.zip(other.public).filter(|_| selection & SELECT_PUBLIC_KEY != 0);
    let private = || one.seed().zip(other.seed()).filter(|_| selection & SELECT_PRIVATE_KEY != 0);
    let is_equal = if selection & SELECT_KEY_PAIR == 0 {
        true
    } else if let Some((one, other)) = public {
        one == other
    } else {
        private().is_some_and(|(one, other)| verify_slices_are_equal(one.as_ref(), other.as_ref()).is_ok())
    };
    c_int::from(is_equal)
}

unsafe extern "C" fn params(key: *const Key, params: *mut OSSL_PARAM) -> c_int {
    // SAFETY: a key of ours, and such a list.
    let (key, mut places) = unsafe { (&*key, Places::new(params)) };
    let mut is_done = places.set_int(BITS, 253)
        && places.set_int(SECURITY_BITS, 128)
        && places.set_int(SECURITY_CATEGORY, 0)
        && places.set_int(MAX_SIZE, KEY_LEN as c_int);
    if let Some(public) = &key.public {
        is_done = is_done && places.set_octets(PUBLIC, public) && places.set_octets(ENCODED_PUBLIC, public);
    }
    if places.asks_for(PRIVATE)
        && let Some(seed) = key.seed()
    {
        is_done = is_done && places.set_octets(PRIVATE, seed.as_ref());
    }
    c_int::from(is_done)
}

unsafe extern "C" fn gettable_params(_provider: *mut c_void) -> *const OSSL_PARAM {
    static GETTABLE: Descriptions<8> = Descriptions::new([
        param::describe(BITS, OSSL_PARAM_INTEGER),
        param::describe(SECURITY_BITS, OSSL_PARAM_INTEGER),
        param::describe(SECURITY_CATEGORY, OSSL_PARAM_INTEGER),
        param::describe(MAX_SIZE, OSSL_PARAM_INTEGER),
        param::describe(PUBLIC, OSSL_PARAM_OCTET_STRING),
        param::describe(ENCODED_PUBLIC, OSSL_PARAM_OCTET_STRING),
        param::describe(PRIVATE, OSSL_PARAM_OCTET_STRING),
        param::END,
    ]);
    GETTABLE.as_ptr()
}

/// A public key as it came from a peer.
unsafe extern "C" fn set_params(key: *mut Key, params: *const OSSL_PARAM) -> c_int {
    // SAFETY: a key of ours that no other call uses, and such a list.
    let (key, params) = unsafe { (&mut *key, Params::new(params)) };
    match params.octets(ENCODED_PUBLIC) {
        Ok(None) => 1,
        Ok(Some(public)) => public.try_into().map_or(0, |public| {
            *key = Key { private: None, public: Some(public) };
            1
        }),
        Err(WrongType) => 0,
    }
}

unsafe extern "C" fn settable_params(_provider: *mut c_void) -> *const OSSL_PARAM {
    static SETTABLE: Descriptions<2> =
        Descriptions::new([param::describe(ENCODED_PUBLIC, OSSL_PARAM_OCTET_STRING), param::END]);
    SETTABLE.as_ptr()
}

unsafe extern "C" fn import(key: *mut Key, selection: c_int, params: *const OSSL_PARAM) -> c_int {
    // SAFETY: a key of ours that no other call uses, and such a list.
    let (key, params) = unsafe { (&mut *key, Params::new(params)) };
    if selection & SELECT_KEY_PAIR == 0 {
        return 0;
    }
    match Key::from_params(params, selection) {
        Ok(Some(imported)) => {
            *key = imported;
            1
        }
        Ok(None) | Err(WrongType) => 0,
    }
}

type Take = unsafe extern "C" fn(*const OSSL_PARAM, *mut c_void) -> c_int;

unsafe extern "C" fn export(key: *const Key, selection: c_int, take: Take, argument: *mut c_void) -> c_int {
    // SAFETY: a key of ours.
    let key = unsafe { &*key };
    let Some(public) = key.public.as_ref().filter(|_| selection & SELECT_KEY_PAIR != 0) else { return 0 };
    let seed = key.seed().filter(|_| selection & SELECT_PRIVATE_KEY != 0);
    let private = seed.as_ref().map_or(param::END, |seed| param::octets(PRIVATE, seed.as_ref()));
    let params = [param::octets(PUBLIC, public), private, param::END];
    // SAFETY: the list has its end, and is valid for the call, as OpenSSL's function asks.
    unsafe { take(params.as_ptr(), argument) }
}

unsafe extern "C" fn portable_params(selection: c_int) -> *const OSSL_PARAM {
    static PORTABLE: Descriptions<3> = Descriptions::new([
        param::describe(PUBLIC, OSSL_PARAM_OCTET_STRING),
        param::describe(PRIVATE, OSSL_PARAM_OCTET_STRING),
        param::END,
    ]);
    if selection & SELECT_KEY_PAIR == 0 { ptr::null() } else { PORTABLE.as_ptr() }
}

unsafe extern "C" fn set_own(exchange: *mut Exchange, key: *const Key, _params: *const OSSL_PARAM) -> c_int {
    // SAFETY: ours, and no other call uses the exchange.
    let (exchange, key) = unsafe { (&mut *exchange, &*key) };
    *exchange = Exchange { own: key.private.clone(), peer: None };
    c_int::from(exchange.own.is_some())
}

unsafe extern "C" fn set_peer(exchange: *mut Exchange, key: *const Key) -> c_int {
    // SAFETY: ours, and no other call uses the exchange.
    let (exchange, key) = unsafe { (&mut *exchange, &*key) };
    exchange.peer = key.public;
    c_int::from(exchange.peer.is_some())
}

/// Without a place for the secret, only its length is asked for.
unsafe extern "C" fn derive(exchange: *const Exchange, secret: *mut c_char, length: *mut usize, room: usize) -> c_int {
    // SAFETY: one of ours; the place for the length is OpenSSL's.
    let exchange = unsafe {
        *length = KEY_LEN;
        &*exchange
    };
    if secret.is_null() {
        return 1;
    }
    if room < KEY_LEN {
        return 0;
    }
    // SAFETY: the place has that room, and is nobody else's.
    let secret = unsafe { object::place(secret.cast(), KEY_LEN) };
    c_int::from(exchange.agree(secret).is_ok())
}

/// Bytes of a key of either kind, and of a secret.
const KEY_LEN: usize = 32;
