//! Objects that OpenSSL holds for the provider.

use std::ffi::c_void;
use std::slice;

/// An object with nothing in it. Its argument is the provider's context, which has nothing in it either.
pub(super) unsafe extern "C" fn new<T: Default>(_provider: *mut c_void) -> *mut T {
    into_raw(T::default())
}

/// # Safety
/// Null, or an object that a function of this module handed out and that nobody uses any more.
pub(super) unsafe extern "C" fn free<T>(object: *mut T) {
    if !object.is_null() {
        // SAFETY: made by `into_raw`, and freed once.
        drop(unsafe { Box::from_raw(object) });
    }
}

/// # Safety
/// An object that a function of this module handed out and that nobody else uses.
pub(super) unsafe extern "C" fn reset<T: Default>(object: *mut T) {
    // SAFETY: as the caller says.
    unsafe { *object = T::default() };
}

/// # Safety
/// An object that a function of this module handed out and that is not being changed.
pub(super) unsafe extern "C" fn duplicate<T: Clone>(object: *const T) -> *mut T {
    // SAFETY: as the caller says.
    into_raw(unsafe { &*object }.clone())
}

/// A place of OpenSSL's for a value, as bytes that have one: it may come as it was allocated.
///
/// # Safety
/// So many bytes are there for `'a`, and nobody else uses them.
pub(super) unsafe fn place<'a>(first: *mut u8, length: usize) -> &'a mut [u8] {
    // SAFETY: as the caller says; the bytes are initialised before they are referred to.
    unsafe {
        first.write_bytes(0, length);
        slice::from_raw_parts_mut(first, length)
    }
}

/// Hands an object out, to be freed by [`free`].
pub(super) fn into_raw<T>(object: T) -> *mut T {
    Box::into_raw(Box::new(object))
}
