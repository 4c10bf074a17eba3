//! Values that OpenSSL and a provider hand to each other (`OSSL_PARAM`).

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::{ptr, slice};

use openssl_sys::OSSL_PARAM;

use super::number::*;

/// A list of values, ended by one without a name.
#[derive(Clone, Copy)]
pub(super) struct Params<'a>(&'a [OSSL_PARAM]);

impl<'a> Params<'a> {
    /// # Safety
    /// Null, or a list with its end, valid for `'a` together with all that its values point to.
    pub(super) unsafe fn new(first: *const OSSL_PARAM) -> Self {
        if first.is_null() {
            return Self(&[]);
        }
        let mut length = 0;
        // SAFETY: the list has an end, and this stops there.
        while !unsafe { &*first.add(length) }.key.is_null() {
            length += 1;
        }
        // SAFETY: as many entries were just read.
        Self(unsafe { slice::from_raw_parts(first, length) })
    }

    /// The values and their names, in order; a name may come again.
    pub(super) fn iter(self) -> impl Iterator<Item = (&'a [u8], Value<'a>)> {
        // SAFETY: the name of an entry is a string (`new`).
        self.0.iter().map(|param| (unsafe { CStr::from_ptr(param.key) }.to_bytes(), Value(param)))
    }

    /// The first value of that name.
    pub(super) fn get(self, name: &CStr) -> Option<Value<'a>> {
        self.iter().find(|(known, _)| *known == name.to_bytes()).map(|(_, value)| value)
    }

    /// The bytes of that name.
    ///
    /// # Errors
    /// When the value is of another type.
    pub(super) fn octets(self, name: &CStr) -> Result<Option<&'a [u8]>, WrongType> {
        self.get(name).map(Value::octets).transpose()
    }

    /// The text of that name, without an end.
    ///
    /// # Errors
    /// When the value is of another type.
    pub(super) fn text(self, name: &CStr) -> Result<Option<&'a [u8]>, WrongType> {
        self.get(name).map(Value::text).transpose()
    }

    /// The number of that name, in the byte order of the machine.
    ///
    /// # Errors
    /// When the value is of another type.
    pub(super) fn number(self, name: &CStr) -> Result<Option<&'a [u8]>, WrongType> {
        self.get(name).map(Value::number).transpose()
    }
}

/// A value that OpenSSL hands in.
#[derive(Clone, Copy)]
pub(super) struct Value<'a>(&'a OSSL_PARAM);

impl<'a> Value<'a> {
    /// # Errors
    /// When it is not bytes.
    pub(super) fn octets(self) -> Result<&'a [u8], WrongType> {
        self.bytes(OSSL_PARAM_OCTET_STRING)
    }

    /// Without an end.
    ///
    /// # Errors
    /// When it is not text.
    pub(super) fn text(self) -> Result<&'a [u8], WrongType> {
        // The size may count the end in.
        self.bytes(OSSL_PARAM_UTF8_STRING).map(|text| text.split(|byte| *byte == 0).next().unwrap_or_default())
    }

    /// In the byte order of the machine.
    ///
    /// # Errors
    /// When it is not a number without a sign.
    pub(super) fn number(self) -> Result<&'a [u8], WrongType> {
        self.bytes(OSSL_PARAM_UNSIGNED_INTEGER)
    }

    /// # Errors
    /// When it is not a number, or not the size of an `int`.
    pub(super) fn int(self) -> Result<c_int, WrongType> {
        let number = self.bytes(OSSL_PARAM_INTEGER)?;
        number.try_into().map(c_int::from_ne_bytes).map_err(|_| WrongType)
    }

    fn bytes(self, data_type: c_uint) -> Result<&'a [u8], WrongType> {
        let Self(param) = self;
        if param.data_type != data_type {
            return Err(WrongType);
        }
        if param.data.is_null() {
            return Ok(&[]);
        }
        // SAFETY: the value points to as many bytes (`Params::new`).
        Ok(unsafe { slice::from_raw_parts(param.data.cast(), param.data_size) })
    }
}

/// A value is not of the type that its name asks for.
#[derive(Debug)]
pub(super) struct WrongType;

/// A list of places that OpenSSL wants filled, ended by one without a name.
pub(super) struct Places<'a>(&'a mut [OSSL_PARAM]);

impl<'a> Places<'a> {
    /// # Safety
    /// Null, or a list with its end, which nobody else uses during `'a`; each entry's data is null or has as many bytes.
    pub(super) unsafe fn new(first: *mut OSSL_PARAM) -> Self {
        if first.is_null() {
            return Self(&mut []);
        }
        // SAFETY: it is such a list.
        let length = unsafe { Params::new(first) }.0.len();
        // SAFETY: as many entries were just read, and they are the caller's alone.
        Self(unsafe { slice::from_raw_parts_mut(first, length) })
    }

    fn find(&mut self, name: &CStr) -> Option<&mut OSSL_PARAM> {
        // SAFETY: the name of an entry is a string (`new`).
        self.0.iter_mut().find(|param| unsafe { CStr::from_ptr(param.key) } == name)
    }

    /// Whether that name is asked for.
    pub(super) fn asks_for(&mut self, name: &CStr) -> bool {
        self.find(name).is_some()
    }

    /// Answers with bytes, where that name is asked for. False when the place is of another type or too small.
    #[must_use]
    pub(super) fn set_octets(&mut self, name: &CStr, value: &[u8]) -> bool {
        let Some(param) = self.find(name) else { return true };
        // SAFETY: the place is valid (`new`), and the value for its length.
        unsafe { OSSL_PARAM_set_octet_string(param, value.as_ptr().cast(), value.len()) == 1 }
    }

    /// Answers with text, where that name is asked for. False when the place is of another type or too small.
    #[must_use]
    pub(super) fn set_text(&mut self, name: &CStr, value: &CStr) -> bool {
        // SAFETY: the place is valid (`new`), and the text ends with NUL.
        self.find(name).is_none_or(|param| unsafe { OSSL_PARAM_set_utf8_string(param, value.as_ptr()) } == 1)
    }

    /// Answers with a number, where that name is asked for. False when the place is of another type or too small.
    #[must_use]
    pub(super) fn set_int(&mut self, name: &CStr, value: c_int) -> bool {
        // SAFETY: the place is valid (`new`).
        self.find(name).is_none_or(|param| unsafe { OSSL_PARAM_set_int(param, value) } == 1)
    }

    /// Answers with a size, where that name is asked for. False when the place is of another type or too small.
    #[must_use]
    pub(super) fn set_size(&mut self, name: &CStr, value: usize) -> bool {
        // SAFETY: the place is valid (`new`).
        self.find(name).is_none_or(|param| unsafe { OSSL_PARAM_set_size_t(param, value) } == 1)
    }
}

/// A list that tells OpenSSL which values there are.
#[repr(transparent)]
pub(super) struct Descriptions<const N: usize>([OSSL_PARAM; N]);

// SAFETY: a constant; OpenSSL only reads it.
unsafe impl<const N: usize> Sync for Descriptions<N> {}

impl<const N: usize> Descriptions<N> {
    /// The last entry is to be [`END`].
    pub(super) const fn new(entries: [OSSL_PARAM; N]) -> Self {
        Self(entries)
    }

    pub(super) const fn as_ptr(&self) -> *const OSSL_PARAM {
        self.0.as_ptr()
    }
}

pub(super) const END: OSSL_PARAM =
    OSSL_PARAM { key: ptr::null(), data_type: 0, data: ptr::null_mut(), data_size: 0, return_size: 0 };

pub(super) const fn octets(name: &'static CStr, value: &[u8]) -> OSSL_PARAM {
    OSSL_PARAM {
        key: name.as_ptr(),
        data_type: OSSL_PARAM_OCTET_STRING,
        data: value.as_ptr().cast_mut().cast(),
        data_size: value.len(),
        return_size: OSSL_PARAM_UNMODIFIED,
    }
}

#[cfg(test)]
pub(super) const fn text(name: &'static CStr, value: &CStr) -> OSSL_PARAM {
    OSSL_PARAM { data_type: OSSL_PARAM_UTF8_STRING, ..octets(name, value.to_bytes()) }
}

#[cfg(test)]
pub(super) const fn int(name: &'static CStr, value: &c_int) -> OSSL_PARAM {
    OSSL_PARAM {
        data: ptr::from_ref(value).cast_mut().cast(),
        data_size: size_of::<c_int>(),
        ..describe(name, OSSL_PARAM_INTEGER)
    }
}

pub(super) const fn describe(name: &'static CStr, data_type: c_uint) -> OSSL_PARAM {
    OSSL_PARAM {
        key: name.as_ptr(),
        data_type,
        data: ptr::null_mut(),
        data_size: 0,
        return_size: OSSL_PARAM_UNMODIFIED,
    }
}

unsafe extern "C" {
    fn OSSL_PARAM_set_octet_string(param: *mut OSSL_PARAM, value: *const std::ffi::c_void, length: usize) -> c_int;
    fn OSSL_PARAM_set_utf8_string(param: *mut OSSL_PARAM, value: *const c_char) -> c_int;
    fn OSSL_PARAM_set_int(param: *mut OSSL_PARAM, value: c_int) -> c_int;
    fn OSSL_PARAM_set_size_t(param: *mut OSSL_PARAM, value: usize) -> c_int;
}
