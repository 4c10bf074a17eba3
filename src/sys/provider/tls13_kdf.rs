//! The key schedule of TLS 1.3 (RFC 8446 section 7.1), as OpenSSL's `TLS13-KDF`.

use std::ffi::{c_int, c_void};

use aws_lc_rs::error::Unspecified;
use openssl_sys::{
    EVP_KDF_HKDF_MODE_EXPAND_ONLY as EXPAND_ONLY, EVP_KDF_HKDF_MODE_EXTRACT_ONLY as EXTRACT_ONLY, OSSL_PARAM,
};
use zeroize::Zeroizing;

use super::number::*;
use super::param::{self, Descriptions, Params, Places, WrongType};
use super::{Algorithm, Dispatch, object};
use crate::sys::kdf::{Digest, Label, hkdf_expand_label, tls13_next_secret};

pub(super) const KEY_DERIVATION: Algorithm =
    Algorithm::new(c"TLS13-KDF", &DERIVATION, c"key schedule of TLS 1.3 by AWS-LC");

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

/// What a derivation was told before it is asked for. OpenSSL's TLS tells all of it in the asking.
#[derive(Clone, Default)]
struct Context {
    mode: Option<c_int>,
    digest: Option<Digest>,
    key: Option<Zeroizing<Vec<u8>>>,
    salt: Option<Zeroizing<Vec<u8>>>,
    prefix: Option<Vec<u8>>,
    label: Option<Vec<u8>>,
    data: Option<Vec<u8>>,
}

impl Context {
    fn set(&mut self, params: Params<'_>) -> Result<(), WrongType> {
        let Inputs { mode, digest, key, salt, prefix, label, data } = self.inputs(params)?;
        let secret = |bytes: &[u8]| Zeroizing::new(bytes.to_vec());
        *self = Self {
            mode,
            digest,
            key: key.map(secret),
            salt: salt.map(secret),
            prefix: prefix.map(<[u8]>::to_vec),
            label: label.map(<[u8]>::to_vec),
            data: data.map(<[u8]>::to_vec),
        };
        Ok(())
    }

    /// What `params` say, and what was told before of that which they do not say.
    fn inputs<'a>(&'a self, params: Params<'a>) -> Result<Inputs<'a>, WrongType> {
        let mut inputs = Inputs {
            mode: self.mode,
            digest: self.digest,
            key: self.key.as_ref().map(|key| key.as_slice()),
            salt: self.salt.as_ref().map(|salt| salt.as_slice()),
            prefix: self.prefix.as_deref(),
            label: self.label.as_deref(),
            data: self.data.as_deref(),
        };
        for (name, value) in params.iter() {
            // openssl/core_names.h.
            match name {
                b"mode" => inputs.mode = Some(value.int()?),
                b"digest" => inputs.digest = Some(digest_of(value.text()?)?),
                b"key" => inputs.key = Some(value.octets()?),
                b"salt" => inputs.salt = Some(value.octets()?),
                b"prefix" => inputs.prefix = Some(value.octets()?),
                b"label" => inputs.label = Some(value.octets()?),
                b"data" => inputs.data = Some(value.octets()?),
                _ => {}
            }
        }
        Ok(inputs)
    }
}

struct Inputs<'a> {
    mode: Option<c_int>,
    digest: Option<Digest>,
    key: Option<&'a [u8]>,
    salt: Option<&'a [u8]>,
    prefix: Option<&'a [u8]>,
    label: Option<&'a [u8]>,
    data: Option<&'a [u8]>,
}

impl Inputs<'_> {
    fn derive(&self, out: &mut [u8]) -> Result<(), Unspecified> {
        let digest = self.digest.ok_or(Unspecified)?;
        let label = Label {
            prefix: self.prefix.ok_or(Unspecified)?,
            name: self.label.ok_or(Unspecified)?,
            context: self.data.unwrap_or_default(),
        };
        match self.mode {
            Some(EXPAND_ONLY) => hkdf_expand_label(digest, self.key.ok_or(Unspecified)?, label, out),
            Some(EXTRACT_ONLY) => tls13_next_secret(digest, self.salt, self.key, label, out),
            _ => Err(Unspecified),
        }
    }
}

/// The hashes of the suites that we have, by any of the names that OpenSSL has for them.
pub(super) fn digest_of(name: &[u8]) -> Result<Digest, WrongType> {
    let is_any = |names: [&str; 3]| names.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
    if is_any(["SHA2-256", "SHA256", "SHA-256"]) {
        Ok(Digest::Sha256)
    } else if is_any(["SHA2-384", "SHA384", "SHA-384"]) {
        Ok(Digest::Sha384)
    } else {
        Err(WrongType)
    }
}

// For what follows: OpenSSL calls these functions with contexts that `new` or `duplicate` made (see the module above), and
// with lists of parameters that are valid for the call.

unsafe extern "C" fn derive(context: *mut Context, out: *mut u8, length: usize, params: *const OSSL_PARAM) -> c_int {
    if out.is_null() || length == 0 {
        return 0;
    }
    // SAFETY: one of ours, such a list, and a place of that length.
    let (context, params, out) = unsafe { (&*context, Params::new(params), object::place(out, length)) };
    let derived = context.inputs(params).map_err(|WrongType| Unspecified).and_then(|inputs| inputs.derive(out));
    c_int::from(derived.is_ok())
}

unsafe extern "C" fn set(context: *mut Context, params: *const OSSL_PARAM) -> c_int {
    // SAFETY: one of ours, which no other call uses, and such a list.
    let (context, params) = unsafe { (&mut *context, Params::new(params)) };
    c_int::from(context.set(params).is_ok())
}

unsafe extern "C" fn settable(_context: *mut Context, _provider: *mut c_void) -> *const OSSL_PARAM {
    static SETTABLE: Descriptions<8> = Descriptions::new([
        param::describe(MODE, OSSL_PARAM_INTEGER),
        param::describe(DIGEST, OSSL_PARAM_UTF8_STRING),
        param::describe(KEY, OSSL_PARAM_OCTET_STRING),
        param::describe(SALT, OSSL_PARAM_OCTET_STRING),
        param::describe(PREFIX, OSSL_PARAM_OCTET_STRING),
        param::describe(LABEL, OSSL_PARAM_OCTET_STRING),
        param::describe(DATA, OSSL_PARAM_OCTET_STRING),
        param::END,
    ]);
    SETTABLE.as_ptr()
}

/// How much can be derived.
unsafe extern "C" fn get(context: *mut Context, params: *mut OSSL_PARAM) -> c_int {
    // SAFETY: one of ours, and such a list.
    let (context, mut places) = unsafe { (&*context, Places::new(params)) };
    let size = match (context.mode, context.digest) {
        (Some(EXTRACT_ONLY), Some(digest)) => digest.output_len(),
        (Some(EXTRACT_ONLY), None) => return c_int::from(!places.asks_for(SIZE)),
        _ => usize::MAX,
    };
    c_int::from(places.set_size(SIZE, size))
}

unsafe extern "C" fn gettable(_context: *mut Context, _provider: *mut c_void) -> *const OSSL_PARAM {
    static GETTABLE: Descriptions<2> =
        Descriptions::new([param::describe(SIZE, OSSL_PARAM_UNSIGNED_INTEGER), param::END]);
    GETTABLE.as_ptr()
}
