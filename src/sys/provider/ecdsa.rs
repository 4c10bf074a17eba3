//! ECDSA on P-256 and P-384 (FIPS 186-5 section 6), with the keys of OpenSSL's own provider.
//!
//! Keys are made, read and written by OpenSSL: its default provider is preferred for that ([`KEY_MANAGEMENT`]). The first
//! signature or verification with a key exports it to here, and OpenSSL keeps the copy with the key. A key on another
//! curve is not taken, and stays with OpenSSL's code.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;

use aws_lc_rs::digest;
use aws_lc_sys as aws;
use openssl_sys::OSSL_PARAM;

use super::number::*;
use super::param::{self, Descriptions, Params, Places};
use super::{Algorithm, Dispatch, object};

/// Takes keys from elsewhere and nothing more, so it is not to be preferred.
pub(super) const KEY_MANAGEMENT: Algorithm =
    Algorithm::importing(c"EC:id-ecPublicKey:1.2.840.10045.2.1", &MANAGEMENT, c"keys for ECDSA by AWS-LC");
pub(super) const SIGNATURE: Algorithm = Algorithm::new(c"ECDSA", &SIGNING, c"ECDSA by AWS-LC");

static MANAGEMENT: [Dispatch; 6] = [
    Dispatch::new(OSSL_FUNC_KEYMGMT_NEW, object::new::<Key> as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_FREE, object::free::<Key> as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_HAS, has as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_IMPORT, import as *const ()),
    Dispatch::new(OSSL_FUNC_KEYMGMT_IMPORT_TYPES, importable as *const ()),
    Dispatch::END,
];

static SIGNING: [Dispatch; 20] = [
    Dispatch::new(OSSL_FUNC_SIGNATURE_NEWCTX, new as *const ()),
    Dispatch::new(OSSL_FUNC_SIGNATURE_FREECTX, object::free::<Context> as *const ()),
    Dispatch::new(OSSL_FUNC_SIGNATURE_DUPCTX, object::duplicate::<Context> as *const ()),
    Dispatch::new(OSSL_FUNC_SIGNATURE_SIGN_INIT, begin as *const ()),
    Dispatch::new(OSSL_FUNC_SIGNATURE_SIGN, sign as *const ()),
    Dispatch::new(OSSL_FUNC_SIGNATURE_VERIFY_INIT, begin as *const ()),
    Dispatch::new(OSSL_FUNC_SIGNATURE_VERIFY, verify as *const ()),
    Dispatch::new(OSSL_FUNC_SIGNATURE_DIGEST_SIGN_INIT, begin_hashing as *const ()),
    Dispatch::new(OSSL_FUNC_SIGNATURE_DIGEST_SIGN_UPDATE, update as *const ()),
    Dispatch::new(OSSL_FUNC_SIGNATURE_DIGEST_SIGN_FINAL, sign_hashed as *const ()),
    Dispatch::new(OSSL_FUNC_SIGNATURE_DIGEST_SIGN, sign_message as *const ()),
    Dispatch::new(OSSL_FUNC_SIGNATURE_DIGEST_VERIFY_INIT, begin_hashing as *const ()),
    Dispatch::new(OSSL_FUNC_SIGNATURE_DIGEST_VERIFY_UPDATE, update as *const ()),
    Dispatch::new(OSSL_FUNC_SIGNATURE_DIGEST_VERIFY_FINAL, verify_hashed as *const ()),
    Dispatch::new(OSSL_FUNC_SIGNATURE_DIGEST_VERIFY, verify_message as *const ()),
    Dispatch::new(OSSL_FUNC_SIGNATURE_GET_CTX_PARAMS, params as *const ()),
    Dispatch::new(OSSL_FUNC_SIGNATURE_GETTABLE_CTX_PARAMS, gettable as *const ()),
    Dispatch::new(OSSL_FUNC_SIGNATURE_SET_CTX_PARAMS, set_params as *const ()),
    Dispatch::new(OSSL_FUNC_SIGNATURE_SETTABLE_CTX_PARAMS, settable as *const ()),
    Dispatch::END,
];

/// A key of AWS-LC's, with its public part and perhaps its private one. Wiped when it goes.
struct EcKey {
    key: NonNull<aws::EC_KEY>,
    is_private: bool,
}

// SAFETY: it is changed by nobody once it was made, and AWS-LC lets threads sign and verify with one key at once.
unsafe impl Send for EcKey {}
// SAFETY: as above.
unsafe impl Sync for EcKey {}

impl EcKey {
    /// A key of what OpenSSL exports: none where it is on another curve, or makes no sense.
    fn import(params: Params<'_>, selection: c_int) -> Option<Self> {
        let curve = match params.text(GROUP).ok()?? {
            b"prime256v1" => aws::NID_X9_62_prime256v1,
            b"secp384r1" => aws::NID_secp384r1,
            _ => return None,
        };
        let public = params.octets(PUBLIC).ok()??;
        let private = params.number(PRIVATE).ok()?.filter(|_| selection & SELECT_PRIVATE_KEY != 0);
        // SAFETY: the curve is one that there is.
        let key = NonNull::new(unsafe { aws::EC_KEY_new_by_curve_name(curve) })?;
        let key = Self { key, is_private: private.is_some() };
        (key.set_public(public) && private.is_none_or(|private| key.set_private(private))).then_some(key)
    }

    /// AWS-LC refuses what is not on the curve.
    fn set_public(&self, encoded: &[u8]) -> bool {
        // SAFETY: the key is live and owned, the bytes are valid for their length; the point is freed, and was copied by
        // the key before. A null context is allowed.
        unsafe {
            let group = aws::EC_KEY_get0_group(self.key.as_ptr());
            let point = aws::EC_POINT_new(group);
            let set = !point.is_null()
                && aws::EC_POINT_oct2point(group, point, encoded.as_ptr(), encoded.len(), ptr::null_mut()) == 1
                && aws::EC_KEY_set_public_key(self.key.as_ptr(), point) == 1;
            aws::EC_POINT_free(point);
            set
        }
    }

    /// `number` is little-endian.
    fn set_private(&self, number: &[u8]) -> bool {
        // SAFETY: as above; the number is wiped and freed, and was copied by the key before.
        unsafe {
            let number = aws::BN_le2bn(number.as_ptr(), number.len(), ptr::null_mut());
            let set = !number.is_null() && aws::EC_KEY_set_private_key(self.key.as_ptr(), number) == 1;
            aws::BN_clear_free(number);
            set
        }
    }

    /// The most bytes that a signature takes.
    fn signature_len_max(&self) -> usize {
        // SAFETY: the key is live.
        unsafe { aws::ECDSA_size(self.key.as_ptr()) }
    }

    /// # Safety
    /// `signature` has room for the longest.
    unsafe fn sign(&self, hash: &[u8], signature: *mut u8) -> Option<usize> {
        let mut length: c_uint = 0;
        // SAFETY: the key is live and the hash valid for its length; the caller vouches for the room.
        let signed = unsafe {
            aws::ECDSA_sign(UNUSED, hash.as_ptr(), hash.len(), signature, &raw mut length, self.key.as_ptr())
        };
        (self.is_private && signed == 1).then_some(length as usize)
    }

    fn verify(&self, hash: &[u8], signature: &[u8]) -> bool {
        // SAFETY: the key is live, hash and signature are valid for their lengths.
        let verified = unsafe {
            aws::ECDSA_verify(UNUSED, hash.as_ptr(), hash.len(), signature.as_ptr(), signature.len(), self.key.as_ptr())
        };
        verified == 1
    }
}

impl Drop for EcKey {
    fn drop(&mut self) {
        // SAFETY: `import` made it, and nothing else frees it.
        unsafe { aws::EC_KEY_free(self.key.as_ptr()) }
    }
}

/// A hash that signatures are made of.
struct Hash {
    /// What OpenSSL calls it, the first being the name it answers with.
    names: &'static [&'static CStr],
    algorithm: &'static digest::Algorithm,
    /// The AlgorithmIdentifier of ECDSA with it, DER (RFC 5758 section 3.2, RFC 3279 section 2.2.3, NIST's for SHA-3).
    identifier: &'static [u8],
}

static HASHES: [Hash; 8] = [
    Hash {
        names: &[c"SHA2-256", c"SHA256", c"SHA-256"],
        algorithm: &digest::SHA256,
        identifier: b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02",
    },
    Hash {
        names: &[c"SHA2-384", c"SHA384", c"SHA-384"],
        algorithm: &digest::SHA384,
        identifier: b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03",
    },
    Hash {
        names: &[c"SHA2-512", c"SHA512", c"SHA-512"],
        algorithm: &digest::SHA512,
        identifier: b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x04",
    },
    Hash {
        names: &[c"SHA2-224", c"SHA224", c"SHA-224"],
        algorithm: &digest::SHA224,
        identifier: b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x01",
    },
    Hash {
        names: &[c"SHA1", c"SHA-1", c"SSL3-SHA1"],
        algorithm: &digest::SHA1_FOR_LEGACY_USE_ONLY,
        identifier: b"\x30\x09\x06\x07\x2a\x86\x48\xce\x3d\x04\x01",
    },
    Hash {
        names: &[c"SHA3-256"],
        algorithm: &digest::SHA3_256,
        identifier: b"\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x03\x0a",
    },
    Hash {
        names: &[c"SHA3-384"],
        algorithm: &digest::SHA3_384,
        identifier: b"\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x03\x0b",
    },
    Hash {
        names: &[c"SHA3-512"],
        algorithm: &digest::SHA3_512,
        identifier: b"\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x03\x0c",
    },
];

impl Hash {
    fn of(name: &[u8]) -> Option<&'static Self> {
        let is_it = |known: &&CStr| known.to_bytes().eq_ignore_ascii_case(name);
        HASHES.iter().find(|hash| hash.names.iter().any(is_it))
    }
}

/// One signature, made or verified.
#[derive(Clone, Default)]
struct Context {
    key: Option<Arc<EcKey>>,
    /// What messages are hashed with; of hashes that the caller made, what they were made with, where that was told.
    hash: Option<&'static Hash>,
    /// Whether messages are hashed here.
    takes_messages: bool,
    hashing: Option<digest::Context>,
}

impl Context {
    /// A new signature, of messages that are hashed with `hash` or of hashes that come from elsewhere; without a key, with
    /// that of before.
    fn begin(&mut self, key: Option<&Key>, hash: Option<&'static Hash>, params: Params<'_>) -> c_int {
        let key = key.cloned().unwrap_or_else(|| self.key.take());
        *self = Self { key, hash, takes_messages: hash.is_some(), hashing: None };
        c_int::from(self.key.is_some() && self.set(params))
    }

    /// Takes what may be set, and passes over what means nothing here.
    fn set(&mut self, params: Params<'_>) -> bool {
        params.iter().all(|(name, value)| match name {
            // openssl/core_names.h.
            b"digest" => {
                let hash = value.text().ok().and_then(Hash::of);
                let may_be = !self.takes_messages || hash.map(|hash| hash.names) == self.hash.map(|hash| hash.names);
                self.hash = if may_be { hash } else { self.hash };
                may_be && hash.is_some()
            }
            // Nonces that are derived from the message (RFC 6979) are not ours.
            b"nonce-type" => value.number().is_ok_and(|kind| kind.iter().all(|byte| *byte == 0)),
            _ => true,
        })
    }

    /// A hash that is made piece by piece.
    fn hashing(&mut self) -> Option<&mut digest::Context> {
        let algorithm = self.hash?.algorithm;
        Some(self.hashing.get_or_insert_with(|| digest::Context::new(algorithm)))
    }

    /// What was hashed piece by piece, and `message` behind it; the context is then as at the beginning.
    fn finish(&mut self, message: &[u8]) -> Option<digest::Digest> {
        if self.hashing.is_none() {
            return Some(digest::digest(self.hash?.algorithm, message));
        }
        self.hashing()?.update(message);
        Some(self.hashing.take()?.finish())
    }

    /// Whether a hash that the caller made may be one of this length.
    fn takes_hash(&self, hash: &[u8]) -> bool {
        self.hash.is_none_or(|known| known.algorithm.output_len() == hash.len())
    }

    /// Signs a hash, or says how long a signature may be where there is no place for one.
    ///
    /// # Safety
    /// `signature` is null or has `room` bytes; `length` is valid.
    unsafe fn sign(&self, hash: Option<&[u8]>, place: Place) -> c_int {
        let Some(key) = &self.key else { return 0 };
        let length_max = key.signature_len_max();
        // SAFETY: the place for the length is valid.
        unsafe { *place.length = length_max };
        if place.signature.is_null() {
            return 1;
        }
        let Some(hash) = hash.filter(|_| place.room >= length_max) else { return 0 };
        // SAFETY: there is room for the longest.
        unsafe { key.sign(hash, place.signature) }.map_or(0, |length| {
            // SAFETY: as above.
            unsafe { *place.length = length };
            1
        })
    }

    fn verify(&self, hash: &[u8], signature: &[u8]) -> c_int {
        c_int::from(self.key.as_ref().is_some_and(|key| key.verify(hash, signature)))
    }
}

/// Where OpenSSL wants a signature.
struct Place {
    signature: *mut u8,
    length: *mut usize,
    room: usize,
}

// For what follows: OpenSSL calls these functions with what the table's own functions made (see the module above), and with
// bytes, places and lists that are valid for the call.

/// A key and the place for one: OpenSSL asks for the place before it fills it.
type Key = Option<Arc<EcKey>>;

unsafe extern "C" fn has(key: *const Key, selection: c_int) -> c_int {
    // SAFETY: null or a key of ours.
    let key = unsafe { key.as_ref() }.and_then(Option::as_ref);
    c_int::from(key.is_some_and(|key| selection & SELECT_PRIVATE_KEY == 0 || key.is_private))
}

unsafe extern "C" fn import(key: *mut Key, selection: c_int, params: *const OSSL_PARAM) -> c_int {
    // SAFETY: a key of ours that no other call uses, and such a list.
    let (key, params) = unsafe { (&mut *key, Params::new(params)) };
    *key = EcKey::import(params, selection).map(Arc::new);
    c_int::from(key.is_some())
}

unsafe extern "C" fn importable(_selection: c_int) -> *const OSSL_PARAM {
    static IMPORTABLE: Descriptions<4> = Descriptions::new([
        param::describe(GROUP, OSSL_PARAM_UTF8_STRING),
        param::describe(PUBLIC, OSSL_PARAM_OCTET_STRING),
        param::describe(PRIVATE, OSSL_PARAM_UNSIGNED_INTEGER),
        param::END,
    ]);
    IMPORTABLE.as_ptr()
}

unsafe extern "C" fn new(_provider: *mut c_void, _query: *const c_char) -> *mut Context {
    Box::into_raw(Box::<Context>::default())
}

/// A hash that the caller has is to be signed, or is what was signed.
unsafe extern "C" fn begin(context: *mut Context, key: *const Key, params: *const OSSL_PARAM) -> c_int {
    // SAFETY: ours, and no other call uses the context; such a list.
    unsafe { (*context).begin(key.as_ref(), None, Params::new(params)) }
}

/// Without a name, the hash is SHA-256, as with OpenSSL's own. A null key means that of before.
unsafe extern "C" fn begin_hashing(
    context: *mut Context,
    name: *const c_char,
    key: *const Key,
    params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: ours, and no other call uses the context; the name is null or ends with NUL; such a list.
    unsafe {
        let name = if name.is_null() { c"SHA2-256" } else { CStr::from_ptr(name) };
        Hash::of(name.to_bytes()).map_or(0, |hash| (*context).begin(key.as_ref(), Some(hash), Params::new(params)))
    }
}

unsafe extern "C" fn update(context: *mut Context, data: *const u8, length: usize) -> c_int {
    // SAFETY: one of ours that no other call uses; so many bytes are there.
    let (context, data) = unsafe { (&mut *context, bytes(data, length)) };
    context.hashing().map_or(0, |hashing| {
        hashing.update(data);
        1
    })
}

unsafe extern "C" fn sign_hashed(context: *mut Context, signature: *mut u8, length: *mut usize, room: usize) -> c_int {
    // SAFETY: as below.
    unsafe { sign_message(context, signature, length, room, ptr::null(), 0) }
}

unsafe extern "C" fn sign_message(
    context: *mut Context,
    signature: *mut u8,
    length: *mut usize,
    room: usize,
    message: *const u8,
    message_length: usize,
) -> c_int {
    // SAFETY: one of ours that no other call uses; the message is valid.
    let (context, message) = unsafe { (&mut *context, bytes(message, message_length)) };
    // To be asked for the length is not yet the end.
    let hash = if signature.is_null() { None } else { context.finish(message) };
    // SAFETY: the places are valid.
    unsafe { context.sign(hash.as_ref().map(AsRef::as_ref), Place { signature, length, room }) }
}

unsafe extern "C" fn sign(
    context: *mut Context,
    signature: *mut u8,
    length: *mut usize,
    room: usize,
    hash: *const u8,
    hash_length: usize,
) -> c_int {
    // SAFETY: one of ours; the hash is valid.
    let (context, hash) = unsafe { (&*context, bytes(hash, hash_length)) };
    let hash = Some(hash).filter(|hash| context.takes_hash(hash));
    // SAFETY: the places are valid.
    unsafe { context.sign(hash, Place { signature, length, room }) }
}

unsafe extern "C" fn verify_hashed(context: *mut Context, signature: *const u8, length: usize) -> c_int {
    // SAFETY: as below.
    unsafe { verify_message(context, signature, length, ptr::null(), 0) }
}

unsafe extern "C" fn verify_message(
    context: *mut Context,
    signature: *const u8,
    length: usize,
    message: *const u8,
    message_length: usize,
) -> c_int {
    // SAFETY: one of ours that no other call uses; signature and message are valid.
    let (context, signature, message) =
        unsafe { (&mut *context, bytes(signature, length), bytes(message, message_length)) };
    context.finish(message).map_or(0, |hash| context.verify(hash.as_ref(), signature))
}

unsafe extern "C" fn verify(
    context: *mut Context,
    signature: *const u8,
    length: usize,
    hash: *const u8,
    hash_length: usize,
) -> c_int {
    // SAFETY: one of ours; signature and hash are valid.
    let (context, signature, hash) = unsafe { (&*context, bytes(signature, length), bytes(hash, hash_length)) };
    if context.takes_hash(hash) { context.verify(hash, signature) } else { 0 }
}

/// # Safety
/// Null, or so many bytes, valid for `'a`.
unsafe fn bytes<'a>(first: *const u8, length: usize) -> &'a [u8] {
    // SAFETY: as the caller says.
    if first.is_null() { &[] } else { unsafe { slice::from_raw_parts(first, length) } }
}

unsafe extern "C" fn params(context: *mut Context, params: *mut OSSL_PARAM) -> c_int {
    // SAFETY: one of ours, and such a list.
    let (context, mut places) = unsafe { (&*context, Places::new(params)) };
    let (identifier, length) = context.hash.map_or((&[][..], 0), |hash| (hash.identifier, hash.algorithm.output_len()));
    let name = context.hash.map_or(c"", |hash| hash.names[0]);
    let is_done = places.set_octets(ALGORITHM_ID, identifier)
        && places.set_size(DIGEST_SIZE, length)
        && places.set_text(DIGEST, name);
    c_int::from(is_done)
}

unsafe extern "C" fn gettable(_context: *mut Context, _provider: *mut c_void) -> *const OSSL_PARAM {
    static GETTABLE: Descriptions<4> = Descriptions::new([
        param::describe(ALGORITHM_ID, OSSL_PARAM_OCTET_STRING),
        param::describe(DIGEST_SIZE, OSSL_PARAM_UNSIGNED_INTEGER),
        param::describe(DIGEST, OSSL_PARAM_UTF8_STRING),
        param::END,
    ]);
    GETTABLE.as_ptr()
}

unsafe extern "C" fn set_params(context: *mut Context, params: *const OSSL_PARAM) -> c_int {
    // SAFETY: one of ours that no other call uses, and such a list.
    unsafe { c_int::from((*context).set(Params::new(params))) }
}

unsafe extern "C" fn settable(_context: *mut Context, _provider: *mut c_void) -> *const OSSL_PARAM {
    static SETTABLE: Descriptions<3> = Descriptions::new([
        param::describe(DIGEST, OSSL_PARAM_UTF8_STRING),
        param::describe(NONCE_TYPE, OSSL_PARAM_UNSIGNED_INTEGER),
        param::END,
    ]);
    SETTABLE.as_ptr()
}

/// AWS-LC's functions have an argument that means nothing.
const UNUSED: c_int = 0;
