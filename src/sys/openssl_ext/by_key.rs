//! Tickets that their key protects: hooks that our build of OpenSSL has (`crates/openssl-src/changes`).

use std::ffi::{c_int, c_uchar};
use std::sync::Once;
use std::{fmt, slice};

use openssl::error::ErrorStack;
use openssl::ssl::SslRef;
use openssl_sys as ffi;

use super::{TicketHooks, TicketProtection, bytes, session_of, with_hooks};

/// One ticket that waits for its key.
pub struct ProtectionSlot<'a> {
    direction: Direction,
    input: &'a [u8],
    output: &'a mut [u8],
    /// Bytes of the output that count.
    len: usize,
}

#[derive(Clone, Copy, Debug)]
enum Direction {
    Seal,
    Open,
}

impl<'a> ProtectionSlot<'a> {
    fn new(direction: Direction, input: &'a [u8], output: &'a mut [u8]) -> Self {
        Self { direction, input, output, len: 0 }
    }

    /// Seals or opens the ticket under `key`; false where that fails.
    pub fn protect(&mut self, key: &dyn TicketProtection) -> bool {
        let done = match self.direction {
            Direction::Seal => key.seal_into(self.input, self.output),
            Direction::Open => key.open_into(self.input, self.output),
        };
        // OpenSSL reads as many bytes as it is told.
        let done = done.filter(|len| (1..=self.output.len()).contains(len));
        self.len = done.unwrap_or(0);
        done.is_some()
    }
}

impl fmt::Debug for ProtectionSlot<'_> {
    /// Without the session, which has secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProtectionSlot").field("direction", &self.direction).finish_non_exhaustive()
    }
}

/// Has OpenSSL call [`seal_ticket`] and [`open_ticket`] for contexts with a ticket-key callback.
pub(super) fn prepare() -> Result<(), ErrorStack> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: written once, before there is a context with a ticket-key callback: OpenSSL reads them for no other.
        unsafe {
            sluice_ticket_seal = Some(seal_ticket);
            sluice_ticket_open = Some(open_ticket);
        }
    });
    Ok(())
}

/// Never called: its presence is what makes OpenSSL call the two below.
pub(super) unsafe extern "C" fn ticket_key_callback(
    _: *mut ffi::SSL,
    _: *mut c_uchar,
    _: *mut c_uchar,
    _: *mut ffi::EVP_CIPHER_CTX,
    _: *mut ffi::EVP_MAC_CTX,
    _: c_int,
) -> c_int {
    const WITHOUT_KEY: c_int = 0;
    WITHOUT_KEY
}

unsafe extern "C" fn seal_ticket(
    ssl: *mut ffi::SSL,
    content: *const c_uchar,
    content_len: usize,
    ticket: *mut c_uchar,
    room: usize,
) -> usize {
    let hook = |ssl: &SslRef, hooks: &dyn TicketHooks| {
        // SAFETY: OpenSSL passes the encoded session.
        let content = unsafe { bytes(content, content_len) };
        // SAFETY: OpenSSL passes `room` bytes that it has zeroed and uses nowhere else meanwhile.
        let ticket = unsafe { slice::from_raw_parts_mut(ticket, room) };
        let mut slot = ProtectionSlot::new(Direction::Seal, content, ticket);
        if hooks.seal(session_of(ssl).as_ref(), &mut slot) { slot.len } else { 0 }
    };
    // SAFETY: OpenSSL passes its live object.
    unsafe { with_hooks(ssl, 0, hook) }
}

unsafe extern "C" fn open_ticket(
    ssl: *mut ffi::SSL,
    ticket: *const c_uchar,
    ticket_len: usize,
    content: *mut c_uchar,
) -> usize {
    let hook = |_: &SslRef, hooks: &dyn TicketHooks| {
        // SAFETY: OpenSSL passes the ticket that the client sent.
        let ticket = unsafe { bytes(ticket, ticket_len) };
        // SAFETY: OpenSSL passes as many bytes, which it has zeroed and uses nowhere else meanwhile.
        let content = unsafe { slice::from_raw_parts_mut(content, ticket_len) };
        let mut slot = ProtectionSlot::new(Direction::Open, ticket, content);
        let Some((name, _)) = ticket.split_first_chunk() else { return 0 };
        if hooks.open(name, &mut slot) { slot.len } else { 0 }
    };
    // SAFETY: OpenSSL passes its live object.
    unsafe { with_hooks(ssl, 0, hook) }
}

// Defined in crates/openssl-src/changes/ticket_hooks.c.
unsafe extern "C" {
    static mut sluice_ticket_seal:
        Option<unsafe extern "C" fn(*mut ffi::SSL, *const c_uchar, usize, *mut c_uchar, usize) -> usize>;
    static mut sluice_ticket_open:
        Option<unsafe extern "C" fn(*mut ffi::SSL, *const c_uchar, usize, *mut c_uchar) -> usize>;
}
