//! The two OpenSSL calls that have no safe wrapper; the only unsafe code of this crate.
#![allow(unsafe_code, reason = "no safe wrapper exists; every block says why it is sound")]

use std::ffi::CStr;

use foreign_types_shared::ForeignTypeRef;
use openssl::error::ErrorStack;
use openssl::ssl::{SslRef, SslSessionRef};

/// Offers `session` in the handshake that `ssl` is about to start.
///
/// Only for a session that a callback of the same context delivered: `engine::client_tls` keeps both on one thread's
/// client and never lets a session leave it.
pub(crate) fn offer_session(ssl: &mut SslRef, session: &SslSessionRef) -> Result<(), ErrorStack> {
    // SAFETY: the wrapper is unsafe because a session of another context would be undefined behaviour; sessions come
    // from the new-session callback of the context that made `ssl` (see above). OpenSSL takes its own reference.
    unsafe { ssl.set_session(session) }
}

/// The key exchange group of a finished handshake as OpenSSL names it, if there was a key exchange.
pub(crate) fn group_name(ssl: &SslRef) -> Option<String> {
    // SAFETY: `ssl` is a live SSL; the call only reads it.
    let name = unsafe { openssl_sys::SSL_get0_group_name(ssl.as_ptr()) };
    if name.is_null() {
        return None;
    }
    // SAFETY: a non-null answer is a NUL-terminated string that lives as long as the library's group table or `ssl`;
    // it is copied before `ssl` can change.
    let name = unsafe { CStr::from_ptr(name) };
    Some(name.to_string_lossy().into_owned())
}
