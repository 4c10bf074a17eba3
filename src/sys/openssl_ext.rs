//! OpenSSL's session-ticket callbacks, which the `openssl` crate does not wrap.
//!
//! OpenSSL calls twice for each ticket. Issuing: first the session may be amended ([`TicketHooks::issue`]), then the key
//! is asked for ([`TicketHooks::seal`]). Opening: first the key ([`TicketHooks::open`]), then, once OpenSSL has checked
//! the MAC and decrypted, the session is shown ([`TicketHooks::admit`]).
//!
//! No hook can fail a handshake: whatever goes wrong, a panic included, means "no ticket" or "full handshake".

use std::ffi::{c_int, c_long, c_uchar, c_uint, c_void};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::{ptr, slice};

use foreign_types_shared::ForeignTypeRef;
use openssl::cipher::{Cipher, CipherRef};
use openssl::cipher_ctx::CipherCtxRef;
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{NameType, Ssl, SslContext, SslContextBuilder, SslRef, SslVerifyMode, SslVersion};
use openssl::x509::X509Ref;
use openssl_sys as ffi;

/// Bytes of a key name.
pub const TICKET_KEY_NAME_BYTES: usize = 16;
/// Bytes of the session id contexts that handshakes choose between: as many as OpenSSL takes.
pub const SESSION_ID_CONTEXT_BYTES: usize = 32;
/// Bytes of the initialisation vector of AES-CBC, and of the buffer that OpenSSL hands to the callback.
pub const TICKET_IV_BYTES: usize = 16;

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
    // Fetched here so that a missing algorithm is an error at start-up and not in a callback.
    Protection::fetched()?;
    ctx.set_ex_data(hooks_index()?, Hooks(hooks));
    let raw = ctx.as_ptr();
    // SAFETY: `raw` is the live context of the builder; the callback has the type that OpenSSL expects and lives as long
    // as the program.
    let set = unsafe { SSL_CTX_set_tlsext_ticket_key_evp_cb(raw, Some(ticket_key_callback)) };
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
    /// Sets the key: AES-CBC under `cipher_key` (16 or 32 bytes, else an error) and HMAC-SHA256 under `mac_key`. When
    /// sealing, writes `key_name` and a random IV into the ticket.
    pub fn protect(
        &mut self,
        key_name: &[u8; TICKET_KEY_NAME_BYTES],
        cipher_key: &[u8],
        mac_key: &[u8],
    ) -> Result<(), ErrorStack> {
        let cipher = aes_cbc(cipher_key.len())?;
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
        self.set_mac(mac_key)
    }

    fn set_mac(&mut self, mac_key: &[u8]) -> Result<(), ErrorStack> {
        // SAFETY: OpenSSL made the context for this callback and uses it nowhere else meanwhile.
        unsafe { init_hmac_sha256(self.mac, mac_key) }
    }
}

/// AES-CBC for a key of 16 or 32 bytes, fetched once in this process; an error for any other length.
pub fn aes_cbc(key_bytes: usize) -> Result<&'static CipherRef, ErrorStack> {
    Protection::fetched()?.cipher(key_bytes)
}

/// HMAC-SHA256 the way OpenSSL computes it over a ticket: algorithm fetched and context made anew each time. For
/// tickets outside a handshake: vectors, fuzzing, measurements.
#[derive(Debug)]
pub struct HmacSha256(*mut ffi::EVP_MAC_CTX);

impl HmacSha256 {
    /// A computation under `key`.
    pub fn new(key: &[u8]) -> Result<Self, ErrorStack> {
        // SAFETY: both names are terminated strings; null stands for the default library context.
        let algorithm = unsafe { ffi::EVP_MAC_fetch(ptr::null_mut(), c"HMAC".as_ptr(), ptr::null()) };
        if algorithm.is_null() {
            return Err(ErrorStack::get());
        }
        // SAFETY: `algorithm` is alive; the context takes a reference of its own.
        let ctx = unsafe { ffi::EVP_MAC_CTX_new(algorithm) };
        // SAFETY: this gives back the one reference that the fetch gave.
        unsafe { ffi::EVP_MAC_free(algorithm) };
        if ctx.is_null() {
            return Err(ErrorStack::get());
        }
        let mac = Self(ctx);
        // SAFETY: the context is alive and owned by `mac`.
        unsafe { init_hmac_sha256(mac.0, key)? };
        Ok(mac)
    }

    /// Adds bytes.
    pub fn update(&mut self, data: &[u8]) -> Result<(), ErrorStack> {
        // SAFETY: the context is alive; OpenSSL reads `data.len()` bytes from a live slice.
        let done = unsafe { ffi::EVP_MAC_update(self.0, data.as_ptr(), data.len()) };
        if done == 1 { Ok(()) } else { Err(ErrorStack::get()) }
    }

    /// The 32 bytes of the MAC.
    pub fn finish(self) -> Result<[u8; 32], ErrorStack> {
        let mut mac = [0; 32];
        let mut written = 0;
        // SAFETY: the context is alive; OpenSSL writes at most `mac.len()` bytes, and their number.
        let done = unsafe { ffi::EVP_MAC_final(self.0, mac.as_mut_ptr(), &raw mut written, mac.len()) };
        if done == 1 && written == mac.len() { Ok(mac) } else { Err(ErrorStack::get()) }
    }
}

impl Drop for HmacSha256 {
    fn drop(&mut self) {
        // SAFETY: the context is owned by `self` and freed once.
        unsafe { ffi::EVP_MAC_CTX_free(self.0) };
    }
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
unsafe fn with_hooks(
    ssl: *mut ffi::SSL,
    otherwise: c_int,
    hook: impl FnOnce(&SslRef, &dyn TicketHooks) -> c_int,
) -> c_int {
    // SAFETY: by contract; the view ends with this function.
    let Some(ssl) = (unsafe { handshake_of(ssl) }) else { return otherwise };
    let Some(hooks) = hooks_of(ssl) else { return otherwise };
    catch_unwind(AssertUnwindSafe(|| hook(ssl, hooks))).unwrap_or_else(|_| {
        PANICS_CAUGHT.fetch_add(1, Ordering::Relaxed);
        hooks.panicked();
        otherwise
    })
}

unsafe extern "C" fn ticket_key_callback(
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

const OSSL_PARAM_UTF8_STRING: c_uint = 4;
const OSSL_PARAM_UNMODIFIED: usize = usize::MAX;
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
