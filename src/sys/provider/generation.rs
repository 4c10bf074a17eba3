//! Generating keys for key shares: the part of key management that the algorithms have in common.

use std::ffi::{c_int, c_void};
use std::ptr;

use openssl_sys::OSSL_PARAM;

use super::number::*;
use super::object;
use super::param::{self, Descriptions, Params};

/// A key that can be generated; the default is one of parameters only, of which there are none.
pub(super) trait Generated: Default {
    /// Whether a key as asked for is one of this kind.
    fn is_asked_for(params: Params<'_>) -> bool;

    /// A new key pair; none where the library fails.
    fn generate() -> Option<Self>;
}

/// What is to be generated: a key pair, or a key of parameters only.
pub(super) struct Generation {
    selection: c_int,
}

// For what follows: OpenSSL calls these functions with what they made themselves (see the module above), and with lists that
// are valid for the call.

pub(super) unsafe extern "C" fn begin<K: Generated>(
    _provider: *mut c_void,
    selection: c_int,
    params: *const OSSL_PARAM,
) -> *mut Generation {
    // SAFETY: such a list.
    let is_asked_for = K::is_asked_for(unsafe { Params::new(params) });
    if is_asked_for { object::into_raw(Generation { selection }) } else { ptr::null_mut() }
}

pub(super) unsafe extern "C" fn set_params<K: Generated>(_: *mut Generation, params: *const OSSL_PARAM) -> c_int {
    // SAFETY: such a list.
    c_int::from(K::is_asked_for(unsafe { Params::new(params) }))
}

pub(super) unsafe extern "C" fn settable(_: *mut Generation, _provider: *mut c_void) -> *const OSSL_PARAM {
    static SETTABLE: Descriptions<2> = Descriptions::new([param::describe(GROUP, OSSL_PARAM_UTF8_STRING), param::END]);
    SETTABLE.as_ptr()
}

pub(super) unsafe extern "C" fn generate<K: Generated>(
    generation: *mut Generation,
    _progress: *const c_void,
    _argument: *mut c_void,
) -> *mut K {
    // SAFETY: one of ours.
    let selection = unsafe { &*generation }.selection;
    let key = if selection & SELECT_KEY_PAIR == 0 { Some(K::default()) } else { K::generate() };
    key.map_or(ptr::null_mut(), object::into_raw)
}
