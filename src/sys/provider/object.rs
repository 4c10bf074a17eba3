//! Objects that OpenSSL holds for the provider.

use std::ffi::c_void;

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

/// Hands an object out, to be freed by [`free`].
pub(super) fn into_raw<T>(object: T) -> *mut T {
    Box::into_raw(Box::new(object))
}
