//! Tickets that OpenSSL protects: the ticket-key callback of every OpenSSL (tls1.h).

use std::ffi::{c_int, c_uchar, c_uint};
use std::marker::PhantomData;
use std::sync::LazyLock;
use std::{ptr, slice};

use foreign_types_shared::ForeignTypeRef;
use openssl::cipher::{Cipher, CipherRef};
use openssl::cipher_ctx::CipherCtxRef;
use openssl::error::ErrorStack;
use openssl::ssl::SslRef;
use openssl_sys as ffi;

use super::{TICKET_KEY_NAME_BYTES, TicketHooks, TicketProtection, session_of, with_hooks};

/// Bytes of the initialisation vector of AES-CBC, and of the buffer that OpenSSL hands to the callback.
const TICKET_IV_BYTES: usize = 16;

/// Where OpenSSL wants the key for one ticket. Sealing or opening is fixed by the callback that made the slot.
#[derive(Debug)]
pub struct ProtectionSlot<'a> {
    key_name: *mut c_uchar,
    iv: *mut c_uchar,
    cipher: *mut ffi::EVP_CIPHER_CTX,
    mac: *mut ffi::EVP_MAC_CTX,
    direction: Direction,
    callback: PhantomData<&'a mut ffi::EVP_CIPHER_CTX>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Seal,
    Open,
}

impl ProtectionSlot<'_> {
    /// Sets the key, and when sealing, writes its name and a random IV into the ticket; false where that fails.
    pub fn protect(&mut self, key: &dyn TicketProtection) -> bool {
        self.set_key(key).is_ok()
    }

    fn set_key(&mut self, key: &dyn TicketProtection) -> Result<(), ErrorStack> {
        let (key_name, cipher_key) = (key.key_name(), key.cipher_key());
        let cipher = Protection::fetched()?.cipher(cipher_key.len())?;
        // SAFETY: OpenSSL made the context for this callback and uses it nowhere else meanwhile.
        let ctx = unsafe { CipherCtxRef::from_ptr_mut(self.cipher) };
        if self.direction == Direction::Seal {
            let mut iv = [0; TICKET_IV_BYTES];
            openssl::rand::rand_bytes(&mut iv)?;
            // SAFETY: when sealing, `iv` points at EVP_MAX_IV_LENGTH (16) writable bytes.
            unsafe { ptr::copy_nonoverlapping(iv.as_ptr(), self.iv, TICKET_IV_BYTES) };
            // SAFETY: when sealing, `key_name` points at 16 writable bytes.
            unsafe { ptr::copy_nonoverlapping(key_name.as_ptr(), self.key_name, TICKET_KEY_NAME_BYTES) };
            ctx.encrypt_init(Some(cipher), Some(cipher_key), Some(&iv))?;
        } else {
            // SAFETY: when opening, OpenSSL has checked that the ticket holds a name and an IV.
            let iv = unsafe { slice::from_raw_parts(self.iv, TICKET_IV_BYTES) };
            ctx.decrypt_init(Some(cipher), Some(cipher_key), Some(iv))?;
        }
        // SAFETY: OpenSSL made the context for this callback and uses it nowhere else meanwhile.
        unsafe { init_hmac_sha256(self.mac, key.mac_key()) }
    }
}

/// Fetches the algorithms, so that a missing one is an error at start-up and not in a callback.
pub(super) fn prepare() -> Result<(), ErrorStack> {
    Protection::fetched().map(|_| ())
}

pub(super) unsafe extern "C" fn ticket_key_callback(
    ssl: *mut ffi::SSL,
    key_name: *mut c_uchar,
    iv: *mut c_uchar,
    cipher: *mut ffi::EVP_CIPHER_CTX,
    mac: *mut ffi::EVP_MAC_CTX,
    encrypt: c_int,
) -> c_int {
    const WITHOUT_KEY: c_int = 0;
    const WITH_KEY: c_int = 1;
    let hook = |ssl: &SslRef, hooks: &dyn TicketHooks| {
        let direction = if encrypt == 1 { Direction::Seal } else { Direction::Open };
        let mut slot = ProtectionSlot { key_name, iv, cipher, mac, direction, callback: PhantomData };
        let done = match direction {
            Direction::Seal => hooks.seal(session_of(ssl).as_ref(), &mut slot),
            Direction::Open => {
                // SAFETY: OpenSSL has checked that the ticket is longer than name and IV.
                let name = unsafe { &*key_name.cast::<[u8; TICKET_KEY_NAME_BYTES]>() };
                hooks.open(name, &mut slot)
            }
        };
        if done { WITH_KEY } else { WITHOUT_KEY }
    };
    // SAFETY: OpenSSL passes its live object.
    unsafe { with_hooks(ssl, WITHOUT_KEY, hook) }
}

/// Sets key and digest of an HMAC context.
///
/// # Safety
///
/// `ctx` must be a live context of the HMAC algorithm that nothing else uses during the call.
unsafe fn init_hmac_sha256(ctx: *mut ffi::EVP_MAC_CTX, key: &[u8]) -> Result<(), ErrorStack> {
    let digest = c"SHA256";
    let params = [
        ffi::OSSL_PARAM {
            key: c"digest".as_ptr(),
            data_type: OSSL_PARAM_UTF8_STRING,
            data: digest.as_ptr().cast_mut().cast(),
            data_size: digest.to_bytes().len(),
            return_size: OSSL_PARAM_UNMODIFIED,
        },
        ffi::OSSL_PARAM { key: ptr::null(), data_type: 0, data: ptr::null_mut(), data_size: 0, return_size: 0 },
    ];
    // SAFETY: by contract; key and parameters are live for the call, which copies them, and the array ends with the
    // null key that terminates it. The digest name is only read.
    let set = unsafe { ffi::EVP_MAC_init(ctx, key.as_ptr(), key.len(), params.as_ptr()) };
    if set == 1 { Ok(()) } else { Err(ErrorStack::get()) }
}

/// The ciphers, fetched once: an implicit fetch on every ticket takes OpenSSL's method-store lock (openssl#17064).
struct Protection {
    aes_128_cbc: Cipher,
    aes_256_cbc: Cipher,
}

impl Protection {
    fn fetched() -> Result<&'static Self, ErrorStack> {
        static PROTECTION: LazyLock<Result<Protection, ErrorStack>> = LazyLock::new(|| {
            Ok(Protection {
                aes_128_cbc: Cipher::fetch(None, "AES-128-CBC", None)?,
                aes_256_cbc: Cipher::fetch(None, "AES-256-CBC", None)?,
            })
        });
        PROTECTION.as_ref().map_err(Clone::clone)
    }

    fn cipher(&self, key_bytes: usize) -> Result<&CipherRef, ErrorStack> {
        match key_bytes {
            16 => Ok(&self.aes_128_cbc),
            32 => Ok(&self.aes_256_cbc),
            _ => Err(ErrorStack::get()),
        }
    }
}

const OSSL_PARAM_UTF8_STRING: c_uint = 4;
const OSSL_PARAM_UNMODIFIED: usize = usize::MAX;
