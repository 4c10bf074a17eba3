//! OpenSSL's session-ticket callbacks, which the `openssl` crate does not wrap.
//!
//! OpenSSL calls twice for each ticket. Issuing: first the session may be amended ([`TicketHooks::issue`]), then the key
//! is asked for ([`TicketHooks::seal`]). Opening: first the key ([`TicketHooks::open`]), then, once the MAC was checked and
//! the content decrypted, the session is shown ([`TicketHooks::admit`]).
//!
//! Our build of OpenSSL has the key protect the ticket itself (`by_key.rs`, docs/decisions/0018-ticket-sealing.md), the
//! system's protects it in contexts of its own (`by_openssl.rs`). The bytes are the same.
//!
//! No hook can fail a handshake: whatever goes wrong, a panic included, means "no ticket" or "full handshake".

use std::ffi::{c_int, c_long, c_uchar, c_uint, c_void};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::{ptr, slice};

use foreign_types_shared::ForeignTypeRef;
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{NameType, Ssl, SslContext, SslContextBuilder, SslRef, SslVerifyMode, SslVersion};
use openssl::x509::X509Ref;
use openssl_sys as ffi;

#[cfg(feature = "vendored-openssl")]
mod by_key;
#[cfg(not(feature = "vendored-openssl"))]
mod by_openssl;

#[cfg(feature = "vendored-openssl")]
use by_key as protection;
#[cfg(not(feature = "vendored-openssl"))]
use by_openssl as protection;

pub use protection::ProtectionSlot;

/// Bytes of a key name.
pub const TICKET_KEY_NAME_BYTES: usize = 16;
/// Bytes of the session id contexts that handshakes choose between: as many as OpenSSL takes.
pub const SESSION_ID_CONTEXT_BYTES: usize = 32;

/// What a listener does with tickets.
///
/// A trait because this module may not know the ring: the arrow between the two goes the other way.
pub trait TicketHooks: Send + Sync + 'static {
    /// A ticket is about to be made for `session`, which may be amended here.
    fn issue(&self, handshake: &Handshake<'_>, session: &mut Session<'_>);
    /// Hands the key for that ticket to `slot`. Returning false means that no ticket is sent.
    fn seal(&self, session: Option<&Session<'_>>, slot: &mut ProtectionSlot<'_>) -> bool;
    /// Hands the key named in a received ticket to `slot`. Returning false means a full handshake.
    fn open(&self, key_name: &[u8; TICKET_KEY_NAME_BYTES], slot: &mut ProtectionSlot<'_>) -> bool;
    /// A hook panicked on this thread; the handshake goes on without a ticket. Must not panic itself.
    fn panicked(&self) {}
    /// Judges what was in the ticket: `None` where its MAC was wrong, it made no sense, or [`TicketHooks::open`] had no
    /// key.
    fn admit(&self, handshake: &Handshake<'_>, session: Option<&Session<'_>>) -> Admission;
}

/// The verdict on a received ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Resume; the client keeps its ticket.
    Resume,
    /// Resume and send a new ticket.
    ResumeAndRenew,
    /// Do a full handshake and send a ticket for the new session.
    Refuse,
}

/// Installs `hooks` as the ticket callbacks of a context.
pub fn install_ticket_hooks(ctx: &mut SslContextBuilder, hooks: Arc<dyn TicketHooks>) -> Result<(), ErrorStack> {
    protection::prepare()?;
    ctx.set_ex_data(hooks_index()?, Hooks(hooks));
    let raw = ctx.as_ptr();
    // SAFETY: `raw` is the live context of the builder; the callback has the type that OpenSSL expects and lives as long
    // as the program.
    let set = unsafe { SSL_CTX_set_tlsext_ticket_key_evp_cb(raw, Some(protection::ticket_key_callback)) };
    if set != 1 {
        return Err(ErrorStack::get());
    }
    // SAFETY: as above; the argument is unused by both callbacks, so null is fine.
    let set = unsafe {
        SSL_CTX_set_session_ticket_cb(
            raw,
            Some(generate_ticket_callback),
            Some(decrypt_ticket_callback),
            ptr::null_mut(),
        )
    };
    if set == 1 { Ok(()) } else { Err(ErrorStack::get()) }
}

/// Has one handshake use `hooks` instead of those of its context, and accept sessions of `id_context` only.
///
/// To be called before OpenSSL looks for a ticket, in the ClientHello callback: the callback for the server name comes too
/// late. The context of the listener must have hooks of its own; without them OpenSSL never calls back.
pub fn choose_ticket_hooks(
    ssl: &mut SslRef,
    hooks: Arc<dyn TicketHooks>,
    id_context: &[u8; SESSION_ID_CONTEXT_BYTES],
) -> Result<(), ErrorStack> {
    ssl.set_ex_data(chosen_index()?, Hooks(hooks));
    // SAFETY: the SSL object is alive; OpenSSL copies the bytes, whose number it takes.
    let set =
        unsafe { SSL_set_session_id_context(ssl.as_ptr(), id_context.as_ptr(), SESSION_ID_CONTEXT_BYTES as c_uint) };
    if set == 1 { Ok(()) } else { Err(ErrorStack::get()) }
}

/// How many panics the callbacks have caught in this process. Each is a bug; the handshake went on without a ticket.
pub fn ticket_panics_caught() -> u64 {
    PANICS_CAUGHT.load(Ordering::Relaxed)
}

/// The handshake in which a callback runs.
#[derive(Debug)]
pub struct Handshake<'a> {
    ssl: &'a SslRef,
}

impl Handshake<'_> {
    /// Whether it resumes a session. Settled when a ticket is issued, not yet when one is opened.
    pub fn is_resumed(&self) -> bool {
        self.ssl.session_reused()
    }

    /// Whether a client without a certificate is to be refused.
    pub fn requires_client_certificate(&self) -> bool {
        self.ssl.verify_mode().contains(SslVerifyMode::FAIL_IF_NO_PEER_CERT)
    }

    /// The negotiated version.
    pub fn version(&self) -> Option<SslVersion> {
        self.ssl.version2()
    }

    /// The server name of the handshake, once its extensions were processed: when a ticket is issued.
    pub fn server_name(&self) -> Option<&[u8]> {
        self.ssl.servername_raw(NameType::HOST_NAME)
    }

    /// The body of a ClientHello extension, while the ClientHello is being processed: when a ticket is opened.
    pub fn client_hello_extension(&self, extension: u16) -> Option<&[u8]> {
        let mut data = ptr::null();
        let mut length = 0;
        // SAFETY: the SSL object is alive and in a callback of its own; OpenSSL only writes the two out-parameters.
        let found = unsafe {
            ffi::SSL_client_hello_get0_ext(self.ssl.as_ptr(), c_uint::from(extension), &raw mut data, &raw mut length)
        };
        // SAFETY: on success OpenSSL points into the ClientHello, which it keeps at least until the callback returns,
        // and `self` cannot outlive the callback.
        (found == 1).then(|| unsafe { bytes(data, length) })
    }
}

/// The session that a ticket carries.
#[derive(Debug)]
pub struct Session<'a> {
    session: *mut ffi::SSL_SESSION,
    callback: PhantomData<&'a mut ffi::SSL_SESSION>,
}

impl Session<'_> {
    /// The bytes that [`Session::set_application_data`] put in; empty for a session without.
    pub fn application_data(&self) -> &[u8] {
        let mut data = ptr::null_mut();
        let mut length = 0;
        // SAFETY: the session is alive during the callback; OpenSSL only writes the two out-parameters.
        let found = unsafe { SSL_SESSION_get0_ticket_appdata(self.session, &raw mut data, &raw mut length) };
        if found != 1 {
            return &[];
        }
        // SAFETY: OpenSSL points at `length` bytes owned by the session, which changes only through `&mut self`.
        unsafe { bytes(data.cast(), length) }
    }

    /// Puts bytes into the session that travel inside the ticket, encrypted.
    pub fn set_application_data(&mut self, data: &[u8]) -> Result<(), ErrorStack> {
        // SAFETY: the session is alive, and OpenSSL copies `data.len()` bytes from a live slice.
        let set = unsafe { SSL_SESSION_set1_ticket_appdata(self.session, data.as_ptr().cast(), data.len()) };
        if set == 1 { Ok(()) } else { Err(ErrorStack::get()) }
    }

    /// How long the session lives, in seconds from its time: also the lifetime that a TLS 1.3 ticket announces.
    pub fn set_timeout(&mut self, seconds: u32) -> Result<(), ErrorStack> {
        // SAFETY: the session is alive; the function only stores the number.
        let set = unsafe { SSL_SESSION_set_timeout(self.session, c_long::from(seconds)) };
        if set == 1 { Ok(()) } else { Err(ErrorStack::get()) }
    }

    /// The session id context under which the session was established.
    pub fn id_context(&self) -> &[u8] {
        let mut length = 0;
        // SAFETY: the session is alive; OpenSSL gives a pointer into it and its length.
        let data = unsafe { SSL_SESSION_get0_id_context(self.session, &raw mut length) };
        // SAFETY: the bytes are a part of the session, which outlives `self`.
        unsafe { bytes(data, length as usize) }
    }

    /// The protocol version of the session; none for one that we do not speak.
    pub fn version(&self) -> Option<SslVersion> {
        // SAFETY: the session is alive.
        match unsafe { ffi::SSL_SESSION_get_protocol_version(self.session) } {
            ffi::TLS1_2_VERSION => Some(SslVersion::TLS1_2),
            ffi::TLS1_3_VERSION => Some(SslVersion::TLS1_3),
            _ => None,
        }
    }

    /// The certificate that the client presented in the full handshake.
    pub fn client_certificate(&self) -> Option<&X509Ref> {
        // SAFETY: the session is alive.
        let certificate = unsafe { SSL_SESSION_get0_peer(self.session) };
        // SAFETY: a non-null result is owned by the session, which outlives `self`.
        (!certificate.is_null()).then(|| unsafe { X509Ref::from_ptr(certificate) })
    }
}

/// A ticket key: what OpenSSL needs of it, and what it does itself.
pub trait TicketProtection {
    /// The public name, which stands at the beginning of each ticket.
    fn key_name(&self) -> &[u8; TICKET_KEY_NAME_BYTES];
    /// The key of AES-CBC: 16 or 32 bytes.
    fn cipher_key(&self) -> &[u8];
    /// The key of HMAC-SHA256.
    fn mac_key(&self) -> &[u8];
    /// Seals `content` into the beginning of `ticket`, under a random IV; gives the length. None where it does not fit, or
    /// the library fails.
    fn seal_into(&self, content: &[u8], ticket: &mut [u8]) -> Option<usize>;
    /// Opens `ticket` into `content`, which is as long; gives the length of the content. None where it is not authentic.
    fn open_into(&self, ticket: &[u8], content: &mut [u8]) -> Option<usize>;
}

/// A sized owner for the context's application data.
struct Hooks(Arc<dyn TicketHooks>);

fn hooks_index() -> Result<Index<SslContext, Hooks>, ErrorStack> {
    static INDEX: LazyLock<Result<Index<SslContext, Hooks>, ErrorStack>> = LazyLock::new(SslContext::new_ex_index);
    INDEX.clone()
}

fn chosen_index() -> Result<Index<Ssl, Hooks>, ErrorStack> {
    static INDEX: LazyLock<Result<Index<Ssl, Hooks>, ErrorStack>> = LazyLock::new(Ssl::new_ex_index);
    INDEX.clone()
}

/// The hooks chosen for this handshake, else those of the context that is in use; none when a context without hooks was
/// switched in.
fn hooks_of(ssl: &SslRef) -> Option<&dyn TicketHooks> {
    let chosen = ssl.ex_data(chosen_index().ok()?);
    let hooks = chosen.or_else(|| ssl.ssl_context().ex_data(hooks_index().ok()?))?;
    Some(&*hooks.0)
}

/// The SSL object of a callback.
///
/// # Safety
///
/// `ssl` must be the object that OpenSSL passed to the callback, and the result must not outlive it.
unsafe fn handshake_of<'a>(ssl: *mut ffi::SSL) -> Option<&'a SslRef> {
    // SAFETY: by contract alive for 'a; `SslRef` is a view of the same object.
    (!ssl.is_null()).then(|| unsafe { SslRef::from_ptr(ssl) })
}

/// A view of OpenSSL's bytes; empty for a null pointer.
///
/// # Safety
///
/// `data` must be null or point at `length` bytes that live and stay unchanged for 'a.
unsafe fn bytes<'a>(data: *const c_uchar, length: usize) -> &'a [u8] {
    if data.is_null() || length == 0 {
        return &[];
    }
    // SAFETY: by contract.
    unsafe { slice::from_raw_parts(data, length) }
}

/// Runs `hook` with the hooks of a handshake. Without hooks, or after a panic, which must not cross into C, the result is
/// `otherwise`.
///
/// # Safety
///
/// `ssl` must be the object that OpenSSL passed to the calling callback, or null.
unsafe fn with_hooks<T: Copy>(
    ssl: *mut ffi::SSL,
    otherwise: T,
    hook: impl FnOnce(&SslRef, &dyn TicketHooks) -> T,
) -> T {
    // SAFETY: by contract; the view ends with this function.
    let Some(ssl) = (unsafe { handshake_of(ssl) }) else { return otherwise };
    let Some(hooks) = hooks_of(ssl) else { return otherwise };
    catch_unwind(AssertUnwindSafe(|| hook(ssl, hooks))).unwrap_or_else(|_| {
        PANICS_CAUGHT.fetch_add(1, Ordering::Relaxed);
        hooks.panicked();
        otherwise
    })
}

unsafe extern "C" fn generate_ticket_callback(ssl: *mut ffi::SSL, _: *mut c_void) -> c_int {
    const CONTINUE: c_int = 1;
    let hook = |ssl: &SslRef, hooks: &dyn TicketHooks| {
        if let Some(mut session) = session_of(ssl) {
            hooks.issue(&Handshake { ssl }, &mut session);
        }
        CONTINUE
    };
    // SAFETY: OpenSSL passes its live object.
    unsafe { with_hooks(ssl, CONTINUE, hook) }
}

unsafe extern "C" fn decrypt_ticket_callback(
    ssl: *mut ffi::SSL,
    session: *mut ffi::SSL_SESSION,
    _key_name: *const c_uchar,
    _key_name_bytes: usize,
    status: c_int,
    _: *mut c_void,
) -> c_int {
    if status == SSL_TICKET_EMPTY {
        // The client takes tickets but has none.
        return SSL_TICKET_RETURN_IGNORE_RENEW;
    }
    let hook = |ssl: &SslRef, hooks: &dyn TicketHooks| {
        let opened = matches!(status, SSL_TICKET_SUCCESS | SSL_TICKET_SUCCESS_RENEW) && !session.is_null();
        let session = opened.then_some(Session { session, callback: PhantomData });
        match (hooks.admit(&Handshake { ssl }, session.as_ref()), opened) {
            (Admission::Resume, true) => SSL_TICKET_RETURN_USE,
            (Admission::ResumeAndRenew, true) => SSL_TICKET_RETURN_USE_RENEW,
            (Admission::Refuse, _) | (_, false) => SSL_TICKET_RETURN_IGNORE_RENEW,
        }
    };
    // SAFETY: OpenSSL passes its live object.
    unsafe { with_hooks(ssl, SSL_TICKET_RETURN_IGNORE_RENEW, hook) }
}

/// The session of a handshake, for the duration of a callback.
fn session_of(ssl: &SslRef) -> Option<Session<'_>> {
    // SAFETY: the SSL object is alive; the result belongs to it.
    let session = unsafe { ffi::SSL_get_session(ssl.as_ptr()) };
    (!session.is_null()).then_some(Session { session, callback: PhantomData })
}

static PANICS_CAUGHT: AtomicU64 = AtomicU64::new(0);

const SSL_TICKET_EMPTY: c_int = 3;
const SSL_TICKET_SUCCESS: c_int = 5;
const SSL_TICKET_SUCCESS_RENEW: c_int = 6;
const SSL_TICKET_RETURN_IGNORE_RENEW: c_int = 2;
const SSL_TICKET_RETURN_USE: c_int = 3;
const SSL_TICKET_RETURN_USE_RENEW: c_int = 4;

type TicketKeyCallback = unsafe extern "C" fn(
    *mut ffi::SSL,
    *mut c_uchar,
    *mut c_uchar,
    *mut ffi::EVP_CIPHER_CTX,
    *mut ffi::EVP_MAC_CTX,
    c_int,
) -> c_int;
type GenerateTicketCallback = unsafe extern "C" fn(*mut ffi::SSL, *mut c_void) -> c_int;
type DecryptTicketCallback =
    unsafe extern "C" fn(*mut ffi::SSL, *mut ffi::SSL_SESSION, *const c_uchar, usize, c_int, *mut c_void) -> c_int;

// Declared in OpenSSL's ssl.h and tls1.h, 3.0 to 4.0 alike.
unsafe extern "C" {
    fn SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx: *mut ffi::SSL_CTX, callback: Option<TicketKeyCallback>) -> c_int;
    fn SSL_CTX_set_session_ticket_cb(
        ctx: *mut ffi::SSL_CTX,
        generate: Option<GenerateTicketCallback>,
        decrypt: Option<DecryptTicketCallback>,
        argument: *mut c_void,
    ) -> c_int;
    fn SSL_SESSION_set1_ticket_appdata(session: *mut ffi::SSL_SESSION, data: *const c_void, length: usize) -> c_int;
    fn SSL_SESSION_get0_ticket_appdata(
        session: *mut ffi::SSL_SESSION,
        data: *mut *mut c_void,
        length: *mut usize,
    ) -> c_int;
    fn SSL_SESSION_set_timeout(session: *mut ffi::SSL_SESSION, seconds: c_long) -> c_long;
    fn SSL_SESSION_get0_id_context(session: *const ffi::SSL_SESSION, length: *mut c_uint) -> *const c_uchar;
    fn SSL_set_session_id_context(ssl: *mut ffi::SSL, context: *const c_uchar, length: c_uint) -> c_int;
    fn SSL_SESSION_get0_peer(session: *mut ffi::SSL_SESSION) -> *mut ffi::X509;
}
