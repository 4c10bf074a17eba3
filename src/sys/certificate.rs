//! Choosing the server's certificate within a handshake, and reading what the `openssl` crate does not wrap.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::{mem, ptr};

use foreign_types_shared::ForeignTypeRef;
use openssl::asn1::{Asn1GeneralizedTimeRef, Asn1OctetStringRef, Asn1TimeRef};
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{PKeyRef, Private};
use openssl::ssl::{SslContextBuilder, SslRef};
use openssl::stack::StackRef;
use openssl::x509::{X509, X509Ref};
use openssl_sys as ffi;

/// Gives the handshake its certificate, by [`use_certificate`].
pub type CertificateCallback = fn(&mut SslRef) -> Result<(), ErrorStack>;

/// Makes OpenSSL call back in each full handshake, before it looks for a certificate. An error, or a panic, ends the
/// handshake with internal_error.
pub fn set_certificate_callback(ctx: &mut SslContextBuilder, callback: CertificateCallback) {
    // SAFETY: the context of the builder is live; the function stores the two pointers, both of functions, which live as
    // long as the program.
    unsafe { SSL_CTX_set_cert_cb(ctx.as_ptr(), Some(certificate_callback), callback as *mut c_void) };
}

/// Takes this certificate for the handshake, in the place of one for the same kind of key.
///
/// # Errors
/// When memory is short, or OpenSSL's security level forbids the certificate.
pub fn use_certificate(
    ssl: &mut SslRef,
    leaf: &X509Ref,
    issuers: &StackRef<X509>,
    key: &PKeyRef<Private>,
) -> Result<(), ErrorStack> {
    const OVERRIDE: c_int = 1;
    let chain = if issuers.is_empty() { ptr::null_mut() } else { issuers.as_ptr() };
    // SAFETY: all four objects are live. OpenSSL takes references of its own, changes none of them beyond their reference
    // counts (both keys have their parameters, as keys read from files do) and copies the stack.
    let set = unsafe { SSL_use_cert_and_key(ssl.as_ptr(), leaf.as_ptr(), key.as_ptr(), chain, OVERRIDE) };
    if set == 1 { Ok(()) } else { Err(ErrorStack::get()) }
}

/// The value of an extension of a certificate, DER; none where it is not there.
pub fn extension(certificate: &X509Ref, nid: Nid) -> Option<&[u8]> {
    const FROM_THE_START: c_int = -1;
    // SAFETY: the certificate is live and only read.
    let position = unsafe { ffi::X509_get_ext_by_NID(certificate.as_ptr(), nid.as_raw(), FROM_THE_START) };
    if position < 0 {
        return None;
    }
    // SAFETY: the position is one that the certificate has; the extension belongs to it.
    let extension = unsafe { ffi::X509_get_ext(certificate.as_ptr(), position) };
    // SAFETY: the extension was just found.
    let value = unsafe { ffi::X509_EXTENSION_get_data(extension) };
    if value.is_null() {
        return None;
    }
    // SAFETY: not null, checked above; it belongs to the certificate, which is borrowed for as long and never changed.
    Some(unsafe { Asn1OctetStringRef::from_ptr(value) }.as_slice())
}

/// A GeneralizedTime as what the `openssl` crate can compute with.
pub fn general_time(time: &Asn1GeneralizedTimeRef) -> &Asn1TimeRef {
    // SAFETY: both are OpenSSL's asn1_string_st, which carries its own type and which every function on ASN1_TIME takes
    // with either; the borrow is that of `time`.
    unsafe { Asn1TimeRef::from_ptr(time.as_ptr().cast()) }
}

unsafe extern "C" fn certificate_callback(ssl: *mut ffi::SSL, argument: *mut c_void) -> c_int {
    const FAILED: c_int = 0;
    const DONE: c_int = 1;
    // SAFETY: the argument was made of a function of this very type by `set_certificate_callback`.
    let callback = unsafe { mem::transmute::<*mut c_void, CertificateCallback>(argument) };
    // SAFETY: OpenSSL passes its live object, which nobody else uses during the callback.
    let ssl = unsafe { SslRef::from_ptr_mut(ssl) };
    // A panic must not cross into C.
    match catch_unwind(AssertUnwindSafe(|| callback(ssl))) {
        Ok(Ok(())) => DONE,
        Ok(Err(_)) | Err(_) => FAILED,
    }
}

// Declared in OpenSSL's ssl.h, 3.0 to 4.0 alike.
unsafe extern "C" {
    fn SSL_CTX_set_cert_cb(
        ctx: *mut ffi::SSL_CTX,
        callback: Option<unsafe extern "C" fn(*mut ffi::SSL, *mut c_void) -> c_int>,
        argument: *mut c_void,
    );
    fn SSL_use_cert_and_key(
        ssl: *mut ffi::SSL,
        certificate: *mut ffi::X509,
        key: *mut ffi::EVP_PKEY,
        chain: *mut ffi::stack_st_X509,
        overrides: c_int,
    ) -> c_int;
}
