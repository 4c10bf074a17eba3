//! Handshakes in memory: the listener's context as the proxy builds it, and an OpenSSL client whose flights are bytes in
//! the hand of the caller.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
#![allow(dead_code, unreachable_pub, reason = "each user takes a part")]

#[path = "../support/certificate.rs"]
pub mod certificate;
#[path = "../ticket_common/mod.rs"]
pub mod ticket_common;

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};

use openssl::ssl::{
    ErrorCode, ShutdownState, Ssl, SslContext, SslMethod, SslSession, SslSessionCacheMode, SslStream, SslVersion,
};
use sluice::ticket::TicketSettings;
use sluice::tls::identity::Table;
use sluice::tls::{
    CertificateFiles, CertificateSources, Context, Handshake, Policy, Protocol, Settings, TicketKeys, UnknownServerName,
};

use certificate::KeyKind;

/// The context of a listener for TLS 1.2 and 1.3, with tickets as by default.
pub fn listener(key: KeyKind) -> Context {
    let directory = tempfile::tempdir().unwrap();
    let files = certificate::issue(directory.path(), key);
    let certificates = CertificateSources::one(CertificateFiles::pem(files.chain, files.key));
    let settings = Settings {
        protocol: Protocol::of(Policy::Intermediate),
        identities: Arc::new(Table::load(&certificates).unwrap()),
        certificates,
        compression: sluice::tls::compression::CompressionMode::Auto,
        ocsp: sluice::tls::stapling::OcspMode::Off,
        unknown_server_name: UnknownServerName::Default,
        alpn: vec!["http/1.1".into()],
        client_auth: None,
        sections: Vec::new(),
    };
    let now = ticket_common::real_now();
    let keys = ticket_common::keys_at(&ticket_common::new_ring(now), ticket_common::scope("edge"), now);
    Context::build(&settings, Some((&TicketKeys::of_listener(keys), &TicketSettings::default()))).unwrap()
}

/// Sends a server's flight away: what there is to send, and nothing is left.
pub fn take_output(handshake: &mut Handshake) -> Vec<u8> {
    let output = handshake.output().clone();
    handshake.output().clear();
    output
}

/// What a client offers; it trusts everybody.
pub struct Offer {
    context: SslContext,
    sessions: Arc<Mutex<Vec<SslSession>>>,
}

impl Offer {
    /// These versions, from the lowest to the highest, and these groups.
    pub fn new(versions: [SslVersion; 2], groups: &str) -> Self {
        let mut builder = SslContext::builder(SslMethod::tls_client()).unwrap();
        builder.set_min_proto_version(Some(versions[0])).unwrap();
        builder.set_max_proto_version(Some(versions[1])).unwrap();
        builder.set_groups_list(groups).unwrap();
        builder.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
        let sessions = Arc::<Mutex<Vec<_>>>::default();
        let collected = Arc::clone(&sessions);
        builder.set_new_session_callback(move |_, session| collected.lock().unwrap().push(session));
        Self { context: builder.build(), sessions }
    }

    /// A client in its first handshake.
    pub fn client(&self) -> Client {
        self.client_with(None)
    }

    /// A client that offers the session.
    pub fn resuming(&self, session: &SslSession) -> Client {
        self.client_with(Some(session))
    }

    /// The session of the newest ticket that a client of this offer got.
    pub fn session(&self) -> SslSession {
        self.sessions.lock().unwrap().pop().expect("the server issued a ticket")
    }

    fn client_with(&self, session: Option<&SslSession>) -> Client {
        self.sessions.lock().unwrap().clear();
        let mut ssl = Ssl::new(&self.context).unwrap();
        ssl.set_hostname(certificate::SERVER_NAME).unwrap();
        if let Some(session) = session {
            // A copy, because OpenSSL's client spends a TLS 1.3 session with its first use.
            ticket_common::set_session(&mut ssl, &ticket_common::copy_of(session));
        }
        Client { stream: SslStream::new(ssl, Wire::default()).unwrap(), is_done: false }
    }
}

/// A client in a handshake.
pub struct Client {
    stream: SslStream<Wire>,
    is_done: bool,
}

impl Client {
    /// Takes the server's bytes and gives the client's next ones; the first flight is the answer to nothing.
    pub fn answer(&mut self, received: &[u8]) -> Result<Vec<u8>, openssl::ssl::Error> {
        self.stream.get_mut().unread.extend_from_slice(received);
        if !self.is_done {
            self.is_done = is_complete(self.stream.connect())?;
        }
        if self.is_done {
            // Takes the tickets of TLS 1.3.
            is_complete(self.stream.ssl_read(&mut [0]).map(drop))?;
        }
        Ok(std::mem::take(&mut self.stream.get_mut().written))
    }

    /// Whether the handshake is complete on this side.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// The record that carries `data`, once the handshake is complete.
    pub fn seal(&mut self, data: &[u8]) -> Vec<u8> {
        self.stream.write_all(data).unwrap();
        std::mem::take(&mut self.stream.get_mut().written)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Freed without a shutdown, OpenSSL marks the session as not resumable.
        self.stream.set_shutdown(ShutdownState::SENT | ShutdownState::RECEIVED);
    }
}

/// Whether a call was done; it may also be waiting for bytes.
fn is_complete(result: Result<(), openssl::ssl::Error>) -> Result<bool, openssl::ssl::Error> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.code() == ErrorCode::WANT_READ => Ok(false),
        Err(error) => Err(error),
    }
}

#[derive(Default)]
struct Wire {
    unread: Vec<u8>,
    written: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.unread.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = self.unread.len().min(buffer.len());
        buffer[..len].copy_from_slice(&self.unread[..len]);
        self.unread.drain(..len);
        Ok(len)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
