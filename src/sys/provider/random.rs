//! Random numbers: what OpenSSL draws comes from AWS-LC's generator, which costs half as much.
//!
//! It is a CTR_DRBG of each thread, seeded from the kernel, and again after some thousand draws. A page that the kernel wipes on
//! fork keeps a child from its parent's numbers, so that a draw needs no system call; it does take locks that all threads
//! share, for reading. OpenSSL's two streams, of what is sent and of what stays secret, are one here: an output
//! tells nothing of the others.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr::NonNull;
use std::slice;

use super::Dispatch;
use super::number::*;

pub(super) const BYTES: Dispatch = Dispatch::new(OSSL_FUNC_PROVIDER_RANDOM_BYTES, bytes as *const ());

/// # Safety
/// Called by OpenSSL, with `len` bytes to write to. Any strength that it asks for is within the generator's 256 bits.
unsafe extern "C" fn bytes(
    _provider: *mut c_void,
    _stream: c_int,
    out: *mut c_void,
    len: usize,
    _strength: c_uint,
) -> c_int {
    #[cfg(test)]
    DRAWS.set(DRAWS.get() + 1);
    let Some(out) = NonNull::new(out.cast::<u8>()) else { return c_int::from(len == 0) };
    // SAFETY: as the caller says. What stood there may be uninitialised: it is overwritten first.
    let out = unsafe {
        out.write_bytes(0, len);
        slice::from_raw_parts_mut(out.as_ptr(), len)
    };
    c_int::from(aws_lc_rs::rand::fill(out).is_ok())
}

#[cfg(test)]
thread_local! {
    /// How often this thread has drawn.
    pub(super) static DRAWS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}
