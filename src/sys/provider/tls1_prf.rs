//! The pseudorandom function of TLS 1.2 (RFC 5246 section 5), as OpenSSL's `TLS1-PRF`. Earlier versions have another, and are
//! not offered.

use std::ffi::{c_int, c_void};

use aws_lc_rs::error::Unspecified;
use openssl_sys::OSSL_PARAM;
use zeroize::Zeroizing;

use super::number::*;
use super::param::{self, Descriptions, Params, Places, WrongType};
use super::tls13_kdf::digest_of;
use super::{Algorithm, Dispatch, object};
use crate::sys::kdf::{Digest, tls12_prf};

pub(super) const KEY_DERIVATION: Algorithm = Algorithm::new(c"TLS1-PRF", &DERIVATION, c"PRF of TLS 1.2 by AWS-LC");

static DERIVATION: [Dispatch; 10] = [
    Dispatch::new(OSSL_FUNC_KDF_NEWCTX, object::new::<Context> as *const ()),
    Dispatch::new(OSSL_FUNC_KDF_DUPCTX, object::duplicate::<Context> as *const ()),
    Dispatch::new(OSSL_FUNC_KDF_FREECTX, object::free::<Context> as *const ()),
    Dispatch::new(OSSL_FUNC_KDF_RESET, object::reset::<Context> as *const ()),
    Dispatch::new(OSSL_FUNC_KDF_DERIVE, derive as *const ()),
    Dispatch::new(OSSL_FUNC_KDF_SETTABLE_CTX_PARAMS, settable as *const ()),
    Dispatch::new(OSSL_FUNC_KDF_SET_CTX_PARAMS, set as *const ()),
    Dispatch::new(OSSL_FUNC_KDF_GETTABLE_CTX_PARAMS, gettable as *const ()),
    Dispatch::new(OSSL_FUNC_KDF_GET_CTX_PARAMS, get as *const ()),
    Dispatch::END,
];

/// What a derivation was told.
#[derive(Clone, Default)]
struct Context {
    digest: Option<Digest>,
    secret: Option<Zeroizing<Vec<u8>>>,
    /// All seeds, the label first, in the order in which they came.
    seed: Vec<u8>,
}

impl Context {
    fn set(&mut self, params: Params<'_>) -> Result<(), WrongType> {
        for (name, value) in params.iter() {
            // openssl/core_names.h.
            match name {
                b"digest" => self.digest = Some(digest_of(value.text()?)?),
                b"secret" => self.secret = Some(Zeroizing::new(value.octets()?.to_vec())),
                b"seed" => self.seed.extend_from_slice(value.octets()?),
                _ => {}
            }
        }
        Ok(())
    }

    fn derive(&self, out: &mut [u8]) -> Result<(), Unspecified> {
        let (Some(digest), Some(secret)) = (self.digest, &self.secret) else { return Err(Unspecified) };
        if self.seed.is_empty() {
            return Err(Unspecified);
        }
        tls12_prf(digest, secret, &self.seed, out)
    }
}

// For what follows: OpenSSL calls these functions with contexts that the table's own functions made (see the module above),
// and with lists of parameters that are valid for the call.

unsafe extern "C" fn derive(context: *mut Context, out: *mut u8, length: usize, params: *const OSSL_PARAM) -> c_int {
    if out.is_null() || length == 0 {
        return 0;
    }
    // SAFETY: one of ours which no other call uses, such a list, and a place of that length.
    let (context, params, out) = unsafe { (&mut *context, Params::new(params), object::place(out, length)) };
    c_int::from(context.set(params).is_ok() && context.derive(out).is_ok())
}

unsafe extern "C" fn set(context: *mut Context, params: *const OSSL_PARAM) -> c_int {
    // SAFETY: one of ours, which no other call uses, and such a list.
    let (context, params) = unsafe { (&mut *context, Params::new(params)) };
    c_int::from(context.set(params).is_ok())
}

unsafe extern "C" fn settable(_context: *mut Context, _provider: *mut c_void) -> *const OSSL_PARAM {
    static SETTABLE: Descriptions<4> = Descriptions::new([
        param::describe(DIGEST, OSSL_PARAM_UTF8_STRING),
        param::describe(SECRET, OSSL_PARAM_OCTET_STRING),
        param::describe(SEED, OSSL_PARAM_OCTET_STRING),
        param::END,
    ]);
    SETTABLE.as_ptr()
}

/// How much can be derived: there is no bound.
unsafe extern "C" fn get(_context: *mut Context, params: *mut OSSL_PARAM) -> c_int {
    // SAFETY: such a list.
    let mut places = unsafe { Places::new(params) };
    c_int::from(places.set_size(SIZE, usize::MAX))
}

unsafe extern "C" fn gettable(_context: *mut Context, _provider: *mut c_void) -> *const OSSL_PARAM {
    static GETTABLE: Descriptions<2> =
        Descriptions::new([param::describe(SIZE, OSSL_PARAM_UNSIGNED_INTEGER), param::END]);
    GETTABLE.as_ptr()
}
