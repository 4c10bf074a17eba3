//! An OpenSSL provider whose algorithms are AWS-LC's: what a handshake spends most on is faster there.
//!
//! X25519 alone and with ML-KEM-768, ECDSA, the key schedules of TLS 1.2 and 1.3, and random numbers
//! ([decision 0016](../../../docs/decisions/0016-provider.md)). Everything else stays with OpenSSL's default provider. The interface is that of provider(7) and of the `provider-*` pages beside it; which
//! functions there are, and their numbers, is in `openssl/core_dispatch.h`.
//!
//! OpenSSL vouches for the pointers: a key or context that it hands in is one that a function of the same table made, has
//! not been freed, and is in no other call that changes it.

#[cfg(target_endian = "big")]
compile_error!("OpenSSL's numbers are read as little-endian here");

mod ecdsa;
mod generation;
mod number;
mod object;
mod param;
mod random;
mod tls13_kdf;
mod tls1_prf;
mod x25519;
mod x25519_mlkem768;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::LazyLock;

use openssl::error::ErrorStack;
use openssl_sys as ffi;

use number::*;

/// Has OpenSSL prefer these algorithms to its own, in the whole process and from now on.
///
/// # Errors
/// When OpenSSL will not take the provider: the first answer is that of every later call.
pub fn install() -> Result<(), ErrorStack> {
    static INSTALLED: LazyLock<Result<(), ErrorStack>> = LazyLock::new(register);
    INSTALLED.clone()
}

fn register() -> Result<(), ErrorStack> {
    openssl::init();
    // SAFETY: null is the default library context; the name ends with NUL and the function lives as long as the program.
    if unsafe { OSSL_PROVIDER_add_builtin(ptr::null_mut(), NAME.as_ptr(), initialise) } != 1 {
        return Err(ErrorStack::get());
    }
    // Otherwise a provider that is loaded by name keeps the default one, with everything else, from being loaded.
    let retain_fallbacks = 1;
    // SAFETY: as above. The provider is never unloaded: contexts may refer to it until the process ends.
    let provider = unsafe { ffi::OSSL_PROVIDER_try_load(ptr::null_mut(), NAME.as_ptr(), retain_fallbacks) };
    if provider.is_null() {
        return Err(ErrorStack::get());
    }
    // SAFETY: as above, and the provider is that of the same library context.
    let is_set = unsafe {
        EVP_set_default_properties(ptr::null_mut(), PREFERENCE.as_ptr()) == 1
            && RAND_set1_random_provider(ptr::null_mut(), provider) == 1
    };
    if is_set { Ok(()) } else { Err(ErrorStack::get()) }
}

const NAME: &CStr = c"sluice";
const PROPERTIES: &CStr = c"provider=sluice";
/// What only takes the keys of another provider is no match for those that make and read keys.
const IMPORT_PROPERTIES: &CStr = c"sluice.imports=yes";
/// The question marks make it preferences: what the provider has not comes from another (property(7)). What says nothing of a
/// property has it as "no".
const PREFERENCE: &CStr = c"?provider=sluice,?sluice.imports=no";

/// An entry of a table of functions; a number of 0 ends the table (`OSSL_DISPATCH`).
#[repr(C)]
struct Dispatch {
    number: c_int,
    function: *const c_void,
}

// SAFETY: an entry is a constant, and what it points to is code.
unsafe impl Sync for Dispatch {}

impl Dispatch {
    const END: Self = Self { number: 0, function: ptr::null() };

    const fn new(number: c_int, function: *const ()) -> Self {
        Self { number, function: function.cast() }
    }
}

/// An algorithm of an operation; one without names ends the list (`OSSL_ALGORITHM`).
#[repr(C)]
struct Algorithm {
    names: *const c_char,
    properties: *const c_char,
    functions: *const Dispatch,
    description: *const c_char,
}

// SAFETY: constants that point to constants.
unsafe impl Sync for Algorithm {}

impl Algorithm {
    const END: Self =
        Self { names: ptr::null(), properties: ptr::null(), functions: ptr::null(), description: ptr::null() };

    /// `names` is what OpenSSL's own provider calls it, so that asking for any of the names finds this one.
    const fn new(names: &'static CStr, functions: &'static [Dispatch], description: &'static CStr) -> Self {
        Self {
            names: names.as_ptr(),
            properties: PROPERTIES.as_ptr(),
            functions: functions.as_ptr(),
            description: description.as_ptr(),
        }
    }

    /// The same for key management that is there for keys of another provider.
    const fn importing(names: &'static CStr, functions: &'static [Dispatch], description: &'static CStr) -> Self {
        Self { properties: IMPORT_PROPERTIES.as_ptr(), ..Self::new(names, functions, description) }
    }
}

static KEY_MANAGEMENT: [Algorithm; 4] =
    [x25519::KEY_MANAGEMENT, x25519_mlkem768::KEY_MANAGEMENT, ecdsa::KEY_MANAGEMENT, Algorithm::END];
static KEY_EXCHANGE: [Algorithm; 2] = [x25519::KEY_EXCHANGE, Algorithm::END];
static KEY_ENCAPSULATION: [Algorithm; 2] = [x25519_mlkem768::KEY_ENCAPSULATION, Algorithm::END];
static SIGNATURE: [Algorithm; 2] = [ecdsa::SIGNATURE, Algorithm::END];
static KEY_DERIVATION: [Algorithm; 3] = [tls13_kdf::KEY_DERIVATION, tls1_prf::KEY_DERIVATION, Algorithm::END];

static PROVIDER: [Dispatch; 3] =
    [Dispatch::new(OSSL_FUNC_PROVIDER_QUERY_OPERATION, query as *const ()), random::BYTES, Dispatch::END];

/// # Safety
/// Called by OpenSSL, with places to write to.
unsafe extern "C" fn initialise(
    handle: *const c_void,
    _core: *const Dispatch,
    functions: *mut *const Dispatch,
    context: *mut *mut c_void,
) -> c_int {
    // SAFETY: both places are OpenSSL's and valid for this call.
    unsafe {
        *functions = PROVIDER.as_ptr();
        // No state of ours; null would count as a failure.
        *context = handle.cast_mut();
    }
    1
}

/// # Safety
/// Called by OpenSSL, with a place to write to.
unsafe extern "C" fn query(_context: *mut c_void, operation: c_int, no_cache: *mut c_int) -> *const Algorithm {
    // SAFETY: the place is OpenSSL's and valid for this call.
    unsafe { *no_cache = 0 };
    match operation {
        OSSL_OP_KDF => KEY_DERIVATION.as_ptr(),
        OSSL_OP_KEYMGMT => KEY_MANAGEMENT.as_ptr(),
        OSSL_OP_KEYEXCH => KEY_EXCHANGE.as_ptr(),
        OSSL_OP_KEM => KEY_ENCAPSULATION.as_ptr(),
        OSSL_OP_SIGNATURE => SIGNATURE.as_ptr(),
        _ => ptr::null(),
    }
}

type Initialise = unsafe extern "C" fn(*const c_void, *const Dispatch, *mut *const Dispatch, *mut *mut c_void) -> c_int;

unsafe extern "C" {
    fn OSSL_PROVIDER_add_builtin(context: *mut ffi::OSSL_LIB_CTX, name: *const c_char, init: Initialise) -> c_int;
    fn EVP_set_default_properties(context: *mut ffi::OSSL_LIB_CTX, query: *const c_char) -> c_int;
    fn RAND_set1_random_provider(context: *mut ffi::OSSL_LIB_CTX, provider: *mut ffi::OSSL_PROVIDER) -> c_int;
}

#[cfg(test)]
mod tests;
