//! Sending certificates that were compressed before (RFC 8879), which the `openssl` crate does not wrap.
//!
//! OpenSSL can since 3.2, for the algorithms that it was built with. Ours was (crates/openssl-src); a distribution's need not
//! even have the functions, so nothing here is linked where that is used.

#[cfg(feature = "vendored-openssl")]
pub use carried::{can_send, send};
#[cfg(not(feature = "vendored-openssl"))]
pub use missing::{can_send, send};

/// An algorithm, by its number (RFC 8879 section 7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Algorithm {
    /// zlib (RFC 1950).
    Zlib = 1,
    /// Brotli (RFC 7932).
    Brotli = 2,
}

#[cfg(feature = "vendored-openssl")]
mod carried {
    use std::ffi::{c_int, c_uchar};

    use foreign_types_shared::ForeignTypeRef;
    use openssl::error::ErrorStack;
    use openssl::ssl::SslRef;
    use openssl_sys as ffi;

    use super::Algorithm;

    /// Whether OpenSSL sends what was compressed with the algorithm.
    pub fn can_send(algorithm: Algorithm) -> bool {
        let method = match algorithm {
            // SAFETY: takes nothing, and gives null or a static object, of which nothing is done here.
            Algorithm::Zlib => unsafe { COMP_zlib_oneshot() },
            // SAFETY: as above.
            Algorithm::Brotli => unsafe { COMP_brotli_oneshot() },
        };
        !method.is_null()
    }

    /// Has the handshake send these bytes in the place of its Certificate message, to whose `uncompressed_len` bytes they
    /// expand, if it comes to TLS 1.3, the client takes the algorithm, and the certificate that is set now is the one sent.
    ///
    /// # Errors
    /// When memory is short, or OpenSSL was built without the algorithm.
    pub fn send(
        ssl: &mut SslRef,
        algorithm: Algorithm,
        compressed: &[u8],
        uncompressed_len: usize,
    ) -> Result<(), ErrorStack> {
        // SAFETY: the SSL object is live; the function copies the bytes, which it takes without const and leaves alone.
        let set = unsafe {
            SSL_set1_compressed_cert(
                ssl.as_ptr(),
                algorithm as c_int,
                compressed.as_ptr().cast_mut(),
                compressed.len(),
                uncompressed_len,
            )
        };
        if set == 1 { Ok(()) } else { Err(ErrorStack::get()) }
    }

    /// OpenSSL's COMP_METHOD, of which nothing is known here.
    #[repr(C)]
    struct CompMethod([u8; 0]);

    // Declared in OpenSSL's comp.h and ssl.h from 3.2 on.
    unsafe extern "C" {
        fn COMP_zlib_oneshot() -> *mut CompMethod;
        fn COMP_brotli_oneshot() -> *mut CompMethod;
        fn SSL_set1_compressed_cert(
            ssl: *mut ffi::SSL,
            algorithm: c_int,
            compressed: *mut c_uchar,
            compressed_len: usize,
            uncompressed_len: usize,
        ) -> c_int;
    }
}

#[cfg(not(feature = "vendored-openssl"))]
mod missing {
    use openssl::error::ErrorStack;
    use openssl::ssl::SslRef;

    use super::Algorithm;

    /// Never: the library is the system's.
    pub fn can_send(_: Algorithm) -> bool {
        false
    }

    /// Sends the certificate as it is; never called, since nothing can be sent otherwise.
    ///
    /// # Errors
    /// None.
    pub fn send(_: &mut SslRef, _: Algorithm, _: &[u8], _: usize) -> Result<(), ErrorStack> {
        Ok(())
    }
}
