//! In-memory TLS pairs: a server context with ticket keys, and a client that keeps its sessions.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock};

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{
    ShutdownState, Ssl, SslContext, SslContextBuilder, SslMethod, SslSession, SslSessionCacheMode, SslSessionRef,
    SslStream, SslVerifyMode, SslVersion,
};
use openssl::x509::{X509, X509NameBuilder};
use sluice::ticket::{
    Clock, KeyTable, ManualClock, Ring, RingShape, ScopeHash, ScopeKeys, TicketSettings, UnixSeconds, install,
};

/// Seconds since 1970 when the test began: OpenSSL's own checks run on the real clock, so manual clocks start there.
pub fn real_now() -> UnixSeconds {
    std::time::SystemTime::now().into()
}

pub fn scope(name: &str) -> ScopeHash {
    ScopeHash::of(&[("listener", name.as_bytes())])
}

/// The keys of `ring` for `scope` at `now`.
pub fn keys_at(ring: &Ring, scope: ScopeHash, now: UnixSeconds) -> Arc<ScopeKeys> {
    Arc::new(ScopeKeys::new(scope, table_at(ring, &scope, now)))
}

pub fn table_at(ring: &Ring, scope: &ScopeHash, now: UnixSeconds) -> KeyTable {
    KeyTable::new(ring.keys_at(scope, now).unwrap(), Vec::new(), ring.shape().retention())
}

pub fn new_ring(now: UnixSeconds) -> Ring {
    Ring::generate_at(RingShape::default(), now).unwrap()
}

pub type Identity = (X509, PKey<Private>);

pub fn server_identity() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| identity("server.example", &Asn1Time::days_from_now(30).unwrap()))
}

/// A self-signed P-256 certificate.
pub fn identity(name: &str, not_after: &Asn1TimeRef) -> Identity {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    let subject = subject.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&BigNum::from_u32(1).unwrap().to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(&subject).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(real_now().0 as i64 - 60).unwrap()).unwrap();
    builder.set_not_after(not_after).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    (builder.build(), key)
}

pub fn server_builder(version: SslVersion) -> SslContextBuilder {
    let mut builder = SslContextBuilder::new(SslMethod::tls_server()).unwrap();
    builder.set_certificate(&server_identity().0).unwrap();
    builder.set_private_key(&server_identity().1).unwrap();
    builder.set_min_proto_version(Some(version)).unwrap();
    builder.set_max_proto_version(Some(version)).unwrap();
    builder
}

/// A server whose tickets OpenSSL protects by itself, as other programs have it do, under a key of 80 bytes.
#[allow(unsafe_code, reason = "the crate has no wrapper for SSL_CTX_set_tlsext_ticket_keys")]
pub fn server_of_another_program(version: SslVersion, key: &mut [u8; 80]) -> SslContext {
    const SSL_CTRL_SET_TLSEXT_TICKET_KEYS: std::ffi::c_int = 59;
    let builder = server_builder(version);
    // SAFETY: the context is live, and OpenSSL copies the 80 bytes.
    let set = unsafe {
        openssl_sys::SSL_CTX_ctrl(
            builder.as_ptr(),
            SSL_CTRL_SET_TLSEXT_TICKET_KEYS,
            key.len() as std::ffi::c_long,
            key.as_mut_ptr().cast(),
        )
    };
    assert_eq!(set, 1);
    builder.build()
}

/// A server with tickets under `keys`, as the proxy makes one.
pub fn server(
    version: SslVersion,
    keys: &Arc<ScopeKeys>,
    settings: &TicketSettings,
    clock: &ManualClock,
) -> SslContext {
    let mut builder = server_builder(version);
    install(&mut builder, Arc::clone(keys), settings, Clock::Manual(clock.clone())).unwrap();
    builder.build()
}

/// What the client offers.
#[derive(Default)]
pub struct Offer<'a> {
    pub session: Option<&'a SslSession>,
    pub server_name: Option<&'a str>,
    pub alpn: Option<&'a [u8]>,
    pub identity: Option<&'a Identity>,
}

impl<'a> Offer<'a> {
    pub fn resume(session: &'a SslSession) -> Self {
        Self { session: Some(session), ..Self::default() }
    }
}

/// What a finished handshake was like.
pub struct Done {
    pub resumed: bool,
    pub sessions: Vec<SslSession>,
    pub alpn: Option<Vec<u8>>,
    pub client_certificate: Option<X509>,
}

impl Done {
    pub fn session(&self) -> &SslSession {
        self.sessions.last().expect("a ticket was issued")
    }
}

/// One handshake, one byte each way, and the tickets.
pub fn connect(server: &SslContext, offer: &Offer<'_>) -> Done {
    try_connect(server, offer).expect("the handshake succeeds")
}

pub fn try_connect(server: &SslContext, offer: &Offer<'_>) -> Result<Done, openssl::ssl::Error> {
    let sessions = Arc::new(Mutex::new(Vec::new()));
    let client = client_context(&sessions, offer);
    let mut ssl = Ssl::new(&client).unwrap();
    if let Some(name) = offer.server_name {
        ssl.set_hostname(name).unwrap();
    }
    if let Some(session) = offer.session {
        // A copy, because OpenSSL's client spends a TLS 1.3 session with its first use.
        set_session(&mut ssl, &copy_of(session));
    }
    let (near, far) = Pipe::pair();
    let mut client = SslStream::new(ssl, near).unwrap();
    let mut server = SslStream::new(Ssl::new(server).unwrap(), far).unwrap();
    let (mut client_done, mut server_done) = (false, false);
    for _ in 0..20 {
        client_done = client_done || step(client.connect())?;
        server_done = server_done || step(server.accept())?;
        if client_done && server_done {
            break;
        }
    }
    assert!(client_done && server_done, "the handshake ends");
    let mut byte = [0];
    client.ssl_write(b"x")?;
    assert_eq!(server.ssl_read(&mut byte)?, 1);
    server.ssl_write(b"y")?;
    assert_eq!(client.ssl_read(&mut byte)?, 1);
    assert_eq!(client.ssl().session_reused(), server.ssl().session_reused());
    // Freed without a shutdown, OpenSSL marks the sessions as not resumable.
    client.set_shutdown(ShutdownState::SENT | ShutdownState::RECEIVED);
    let resumed = server.ssl().session_reused();
    let mut sessions = std::mem::take(&mut *sessions.lock().unwrap());
    if let (true, Some(SslVersion::TLS1_2), Some(offered)) = (resumed, client.ssl().version2(), offer.session) {
        // OpenSSL's client does not call back for a ticket that came with an abbreviated handshake.
        let now = client.ssl().session().unwrap().to_owned();
        if ticket_of(&now) != ticket_of(offered) {
            sessions.push(now);
        }
    }
    let done = Done {
        resumed,
        sessions,
        alpn: client.ssl().selected_alpn_protocol().map(<[u8]>::to_vec),
        client_certificate: server.ssl().peer_certificate(),
    };
    Ok(done)
}

/// Offers the session with the next handshake.
#[allow(unsafe_code, reason = "SslRef::set_session is unsafe in the crate")]
pub fn set_session(ssl: &mut Ssl, session: &SslSession) {
    // SAFETY: the session was made by a client context of the same method.
    unsafe { ssl.set_session(session).unwrap() };
}

pub fn copy_of(session: &SslSessionRef) -> SslSession {
    SslSession::from_der(&session.to_der().unwrap()).unwrap()
}

/// The ticket of a session: [10] OCTET STRING in its DER form.
pub fn ticket_of(session: &SslSessionRef) -> Vec<u8> {
    let der = session.to_der().unwrap();
    let range = ticket_range(&der).expect("a ticket");
    der[range].to_vec()
}

/// Where the ticket lies in the DER form of a session.
pub fn ticket_range(der: &[u8]) -> Option<std::ops::Range<usize>> {
    const TICKET: u8 = 0xaa;
    field_range(der, TICKET)
}

/// The session with another ticket in it.
pub fn with_ticket(session: &SslSessionRef, ticket: &[u8]) -> SslSession {
    let der = session.to_der().unwrap();
    let inner = ticket_range(&der).expect("a ticket");
    let (_, first) = header(&der, 0).unwrap();
    // The field is [10] { OCTET STRING { ticket } }: everything before and behind it stays.
    let mut at = first;
    let field = loop {
        let (length, content) = header(&der, at).unwrap();
        if content + length == inner.end && der[at] == 0xaa {
            break at;
        }
        at = content + length;
    };
    let octets = [&[0x04][..], &der_length(ticket.len()), ticket].concat();
    let field_bytes = [&[0xaa][..], &der_length(octets.len()), &octets].concat();
    let body = [&der[first..field], &field_bytes, &der[inner.end..]].concat();
    let whole = [&[0x30][..], &der_length(body.len()), &body].concat();
    SslSession::from_der(&whole).unwrap()
}

fn der_length(length: usize) -> Vec<u8> {
    match length {
        0..0x80 => vec![length as u8],
        _ => vec![0x82, (length >> 8) as u8, length as u8],
    }
}

/// Where the content of a context-tagged field lies in the DER form of a session.
pub fn field_range(der: &[u8], tag: u8) -> Option<std::ops::Range<usize>> {
    let (_, mut at) = header(der, 0)?;
    while at < der.len() {
        let (length, content) = header(der, at)?;
        if der[at] == tag {
            let (length, content) = header(der, content)?;
            return Some(content..content + length);
        }
        at = content + length;
    }
    None
}

/// Length and start of the content of the DER element at `at`.
fn header(der: &[u8], at: usize) -> Option<(usize, usize)> {
    match *der.get(at + 1)? {
        short @ 0..0x80 => Some((short.into(), at + 2)),
        long => {
            let count = usize::from(long & 0x7f);
            let length =
                der.get(at + 2..at + 2 + count)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            Some((length, at + 2 + count))
        }
    }
}

fn step(result: Result<(), openssl::ssl::Error>) -> Result<bool, openssl::ssl::Error> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.code() == openssl::ssl::ErrorCode::WANT_READ => Ok(false),
        Err(error) => Err(error),
    }
}

fn client_context(sessions: &Arc<Mutex<Vec<SslSession>>>, offer: &Offer<'_>) -> SslContext {
    let mut builder = SslContextBuilder::new(SslMethod::tls_client()).unwrap();
    builder.set_verify(SslVerifyMode::NONE);
    builder.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
    let sessions = Arc::clone(sessions);
    builder.set_new_session_callback(move |_, session| sessions.lock().unwrap().push(session));
    if let Some(alpn) = offer.alpn {
        builder.set_alpn_protos(alpn).unwrap();
    }
    if let Some((certificate, key)) = offer.identity {
        builder.set_certificate(certificate).unwrap();
        builder.set_private_key(key).unwrap();
    }
    builder.build()
}

/// One end of a connection in memory; reading from an empty one would block.
#[derive(Debug)]
struct Pipe {
    incoming: Rc<RefCell<VecDeque<u8>>>,
    outgoing: Rc<RefCell<VecDeque<u8>>>,
}

impl Pipe {
    fn pair() -> (Self, Self) {
        let (one, two) = (Rc::default(), Rc::default());
        (Self { incoming: Rc::clone(&one), outgoing: Rc::clone(&two) }, Self { incoming: two, outgoing: one })
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.incoming.borrow_mut().read(buffer)? {
            0 if !buffer.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.outgoing.borrow_mut().write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
