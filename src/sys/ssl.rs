//! OpenSSL functions that the `openssl` crate does not wrap.

use std::ffi::{CStr, c_char, c_int};

use foreign_types_shared::ForeignTypeRef;
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::ssl::{SslMode, SslOptions, SslRef, SslSessionRef};
use openssl::x509::store::X509StoreBuilderRef;
use openssl::x509::{X509CrlRef, X509VerifyResult};

/// Lets a context take no compressed certificates, and not ask for them: a few KiB could expand to 16 MiB (RFC 8879
/// section 5). To be set on every context, since OpenSSL asks by itself where it was built with an algorithm. OpenSSL before
/// 3.2 has no compression, and no meaning for it.
pub const NO_RX_CERTIFICATE_COMPRESSION: SslOptions = SslOptions::from_bits_retain(1 << 33);

/// To send the certificates that were set and no other: OpenSSL by itself looks in the context's store for the issuers of a
/// lone certificate, in each handshake. That store is empty here, so it is only the time that is saved.
pub const NO_AUTO_CHAIN: SslMode = SslMode::from_bits_retain(openssl_sys::SSL_MODE_NO_AUTO_CHAIN);

/// The name of the key-exchange group that the handshake settled on, as OpenSSL spells it; none before it did.
pub fn group_name(ssl: &SslRef) -> Option<&str> {
    // SSL_get_negotiated_group is this control in the header; SSL_get0_group_name came only with OpenSSL 3.2.
    const SSL_CTRL_GET_NEGOTIATED_GROUP: c_int = 134;
    // SAFETY: the SSL object is live; this control takes no argument and returns a number.
    let id = unsafe { openssl_sys::SSL_ctrl(ssl.as_ptr(), SSL_CTRL_GET_NEGOTIATED_GROUP, 0, std::ptr::null_mut()) };
    let id = c_int::try_from(id).ok().filter(|id| *id != 0)?;
    // SAFETY: the SSL object is live; the function returns null or a NUL-terminated string of the library or of a
    // provider, which lives as long as the SSL object.
    let name = unsafe { SSL_group_to_name(ssl.as_ptr(), id) };
    if name.is_null() {
        return None;
    }
    // SAFETY: not null, checked above, and valid for as long as `ssl`.
    unsafe { CStr::from_ptr(name) }.to_str().ok()
}

/// The fragment length that the client asked for with `max_fragment_length` (RFC 6066 section 4), in bytes of
/// plaintext per record; none when it did not.
pub fn max_fragment_length(session: &SslSessionRef) -> Option<u16> {
    // SAFETY: the session object is live and the function only reads it.
    match unsafe { SSL_SESSION_get_max_fragment_length(session.as_ptr()) } {
        code @ 1..=4 => Some(1 << (8 + u16::from(code))),
        _ => None,
    }
}

/// The kind of signature with which the handshake was signed by us, and its digest ([`Nid::UNDEF`] where the kind has its
/// own); none where nothing was signed.
pub fn signature(ssl: &SslRef) -> Option<(Nid, Nid)> {
    // SSL_get_signature_nid is this control in the header.
    const SSL_CTRL_GET_SIGNATURE_NID: c_int = 132;
    let (mut kind, mut digest): (c_int, c_int) = (0, 0);
    // SAFETY: the SSL object is live; the function only writes the number on success.
    let has_kind = unsafe { SSL_get_signature_type_nid(ssl.as_ptr(), &raw mut kind) } == 1;
    // SAFETY: the SSL object is live; this control writes one int through its argument, which points to one.
    let has_digest =
        unsafe { openssl_sys::SSL_ctrl(ssl.as_ptr(), SSL_CTRL_GET_SIGNATURE_NID, 0, (&raw mut digest).cast()) } == 1;
    (has_kind && has_digest).then(|| (Nid::from_raw(kind), Nid::from_raw(digest)))
}

/// Adds a revocation list to a store, which keeps a reference to it.
///
/// # Errors
/// When memory is short.
pub fn add_crl(store: &mut X509StoreBuilderRef, list: &X509CrlRef) -> Result<(), ErrorStack> {
    // SAFETY: both objects are live; the store takes a reference of its own to the list.
    let added = unsafe { X509_STORE_add_crl(store.as_ptr(), list.as_ptr()) };
    if added == 1 { Ok(()) } else { Err(ErrorStack::get()) }
}

/// The verdict of an application that has reasons of its own to refuse a certificate.
pub fn certificate_rejected() -> X509VerifyResult {
    const X509_V_ERR_CERT_REJECTED: c_int = 28;
    // SAFETY: the number is one of those that OpenSSL defines.
    unsafe { X509VerifyResult::from_raw(X509_V_ERR_CERT_REJECTED) }
}

unsafe extern "C" {
    fn X509_STORE_add_crl(store: *mut openssl_sys::X509_STORE, crl: *mut openssl_sys::X509_CRL) -> c_int;
    fn SSL_get_signature_type_nid(ssl: *const openssl_sys::SSL, nid: *mut c_int) -> c_int;
    fn SSL_group_to_name(ssl: *mut openssl_sys::SSL, id: c_int) -> *const c_char;
    fn SSL_SESSION_get_max_fragment_length(session: *const openssl_sys::SSL_SESSION) -> u8;
}
