//! The handshake without I/O: bytes from the client in, bytes for the client out, and in the end everything that record
//! protection needs to go on without OpenSSL's SSL object.
//!
//! Our own reader has the first word: by the ClientHello it is decided what OpenSSL is set up with. From then on OpenSSL
//! runs over memory and is shown one record at a time, the next one only when it asks for more. When the handshake
//! finishes, whatever the client sent behind its last handshake record was never seen by OpenSSL: it is the first input of
//! our own record layer.

use std::io::{self, Read, Write};

use openssl::ssl::{ErrorCode, ShutdownState, SslRef, SslStream, SslVerifyMode, SslVersion};

use super::client_auth;
use super::client_hello::{ClientHello, First, Hellos};
use super::compression::Sent;
use super::context::{self, Admitted, Context};
use super::facts::Facts;
use super::failure::Failure;
use super::secrets::{self, HandshakeSecrets};
use super::stapling;
use crate::guard::Cost;
use crate::record::{CipherSuite, Handover, MasterSecret, ProtocolVersion, TrafficKeys, TrafficSecret, TrafficSecrets};
use crate::sys;
use crate::telemetry::{ClientCertificate, StapleResult};

/// Most bytes that a client may send in one handshake: a ClientHello, and a certificate chain of the 100 KiB that
/// OpenSSL accepts. Beyond it the handshake fails with [`Failure::TooLong`].
pub const HANDSHAKE_BYTES_MAX: usize = 128 * 1024;

/// A handshake in progress, in the server's role.
pub struct Handshake {
    context: Context,
    transport: Transport,
    hellos: Hellos,
    client_hello: Option<ClientHello>,
    section: Option<usize>,
    secrets: Option<Box<HandshakeSecrets>>,
    sent: SentRecords,
    received_bytes: usize,
    has_expired_list: bool,
    staple: Option<StapleResult>,
}

/// Who reads what the client sends.
enum Transport {
    /// Our own reader, until the ClientHello has come.
    Hello(Wire),
    /// OpenSSL.
    Tls(SslStream<Wire>),
}

/// How far a handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The client's next bytes are needed.
    Continue,
    /// The handshake is complete: send the output, then call [`Handshake::finish`].
    Done,
}

/// Whether the client proved itself anew or through a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeKind {
    /// With certificate.
    Full,
    /// With a ticket.
    Resumed,
}

/// What a handshake leaves behind: the connection's facts and the keys of both directions.
pub struct Established {
    /// Full handshake or resumption.
    pub kind: HandshakeKind,
    /// The key-exchange group; none in a TLS 1.2 resumption.
    pub group: Option<String>,
    /// The position of the section, among those of the listener, that the client's server_name belongs to.
    pub section: Option<usize>,
    /// The ALPN protocol that was chosen.
    pub alpn: Option<Vec<u8>>,
    /// What became of the client's certificate; none where the client was not asked for one.
    pub client_certificate: Option<ClientCertificate>,
    /// What became of the client's wish for an OCSP response; none where it had none, or could have none.
    pub staple: Option<StapleResult>,
    /// How the certificate went out; none where the client takes none that is compressed, or got none.
    pub certificate: Option<Sent>,
    /// More about it; to be dropped soon.
    pub facts: Facts,
    /// What record protection goes on with.
    pub handover: Box<Handover>,
}

impl Established {
    /// What record protection goes on with; everything else is freed.
    pub fn into_handover(self) -> Box<Handover> {
        self.handover
    }
}

impl Handshake {
    /// Starts a handshake. Until the ClientHello has come it holds the client's bytes and nothing of OpenSSL's.
    pub fn new(context: &Context) -> Self {
        Self {
            context: context.clone(),
            transport: Transport::Hello(Wire::default()),
            hellos: Hellos::default(),
            client_hello: None,
            section: None,
            secrets: Some(Box::default()),
            sent: SentRecords::default(),
            received_bytes: 0,
            has_expired_list: false,
            staple: None,
        }
    }

    /// Takes bytes from the client and goes as far as they allow.
    ///
    /// # Errors
    /// Any of [`Failure`]; [`Handshake::output`] then holds the alert for the client, if there is one to send.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Progress, Failure> {
        self.feed(bytes);
        self.advance()
    }

    /// Takes bytes from the client for [`Handshake::advance`] to work on.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.received_bytes = self.received_bytes.saturating_add(bytes.len());
        self.wire_mut().unread.extend_from_slice(bytes);
    }

    /// Whether what was fed asks for public-key cryptography: a ClientHello, or the client's key exchange of TLS 1.2.
    /// What is protected comes at the end, where little is left to be computed.
    pub fn needs_public_key(&self) -> bool {
        self.wire().next_record().is_some_and(|record| record[0] == HANDSHAKE)
    }

    /// What it is about to cost, as far as the client says.
    pub fn cost(&self) -> Cost {
        let first = self.wire().next_record().map(|record| Hellos::default().first(record));
        match first {
            Some(Ok(First::Whole(hello))) if hello.offers_session() => Cost::Resumption,
            _ => Cost::Full,
        }
    }

    /// Goes as far as what was fed allows.
    ///
    /// # Errors
    /// As [`Handshake::receive`].
    pub fn advance(&mut self) -> Result<Progress, Failure> {
        let mut result = self.work();
        if let Err(failure) = &mut result {
            failure.note_alert(&self.wire().output);
            self.wire_mut().output_alert_of(&result);
        }
        result
    }

    /// Bytes for the client; the caller sends and clears them after each call of [`Handshake::receive`].
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.wire_mut().output
    }

    /// Whether the output may wait for the answer to a request that came with the end of the handshake: one segment then
    /// carries both. In TLS 1.3 tickets alone are left then, and nobody waits for those (RFC 8446 section 4.6.1); in TLS 1.2
    /// the client waits for our Finished. What is left goes with [`Handshake::finish`].
    pub fn may_hold_output(&self) -> bool {
        let Transport::Tls(stream) = &self.transport else { return false };
        let (ssl, wire) = (stream.ssl(), stream.get_ref());
        ssl.is_init_finished() && ssl.version2() == Some(SslVersion::TLS1_3) && wire.unread.len() > wire.exposed_len
    }

    /// Whether the client has sent anything yet.
    pub fn has_begun(&self) -> bool {
        self.received_bytes > 0
    }

    /// What the client offers; given once, as soon as it has come. A handshake that failed may have it, too.
    pub fn take_client_hello(&mut self) -> Option<ClientHello> {
        self.client_hello.take()
    }

    /// Takes the keys out. OpenSSL's state lives on in [`Established::facts`] alone.
    ///
    /// # Errors
    /// When the handshake is not complete, the key log delivered no secrets or OpenSSL negotiated what was never offered:
    /// bugs, or a crippled library.
    pub fn finish(mut self) -> Result<Established, Failure> {
        let Transport::Tls(mut stream) = self.transport else {
            return Err(Failure::Internal("no handshake to finish"));
        };
        let leftover = stream.get_mut().take_leftover();
        let unsent = std::mem::take(&mut stream.get_mut().output);
        // Without this SSL_free would take the connection for a broken one and forget the session.
        stream.set_shutdown(ShutdownState::SENT | ShutdownState::RECEIVED);
        let ssl = stream.ssl();
        let suite = negotiated_suite(ssl)?;
        let secrets = self.secrets.take().unwrap_or_default();
        let (mut receive, mut send, traffic_secrets) = derive_keys(suite, &secrets, ssl)?;
        receive.sequence = u64::from(suite.version == ProtocolVersion::Tls12);
        send.sequence = self.sent.sequence;
        // ChaCha20-Poly1305 has no explicit nonce: what stands there is ciphertext, and its IV must stay as derived.
        if suite.aead.explicit_nonce_len(suite.version) > 0
            && let Some(nonce) = self.sent.explicit_nonce
        {
            send.set_explicit_nonce(nonce.wrapping_add(1));
        }
        let kind = if ssl.session_reused() { HandshakeKind::Resumed } else { HandshakeKind::Full };
        // OpenSSL names the group of the full handshake that the session stems from (RFC 5246 section 7.3).
        let has_key_exchange = suite.version == ProtocolVersion::Tls13 || kind == HandshakeKind::Full;
        let handover = Box::new(Handover {
            suite,
            max_fragment_length: ssl.session().and_then(sys::ssl::max_fragment_length),
            receive,
            send,
            traffic_secrets,
            leftover,
            unsent,
        });
        Ok(Established {
            kind,
            group: sys::ssl::group_name(ssl).filter(|_| has_key_exchange).map(str::to_owned),
            section: self.section,
            alpn: ssl.selected_alpn_protocol().map(<[u8]>::to_vec),
            client_certificate: client_certificate(ssl, kind, self.has_expired_list),
            staple: self.staple,
            certificate: context::sent_certificate(ssl),
            facts: Facts::of(stream),
            handover,
        })
    }

    fn work(&mut self) -> Result<Progress, Failure> {
        if let Transport::Hello(wire) = &mut self.transport {
            let Some(hello) = wire.read_hello(&mut self.hellos)? else { return self.wait() };
            self.begin(hello)?;
        }
        let Transport::Tls(stream) = &mut self.transport else {
            return Err(Failure::Internal("handshake without OpenSSL"));
        };
        loop {
            if !stream.get_mut().expose_record()? {
                return self.wait();
            }
            if let Some(record) = stream.get_ref().record_behind_hello()
                && stream.ssl().version2() == Some(SslVersion::TLS1_3)
            {
                self.hellos.again(record)?;
            }
            let sent_from = stream.get_ref().output.len();
            let (result, observed) = client_auth::observe(|| secrets::capture(&mut self.secrets, || stream.accept()));
            self.has_expired_list |= observed.has_expired_list;
            self.staple = stapling::take_result().or(self.staple);
            let version = stream.ssl().version2();
            self.sent.count(&stream.get_ref().output[sent_from..], version, result.is_ok());
            match result {
                Ok(()) => return Ok(Progress::Done),
                Err(error) if error.code() == ErrorCode::WANT_READ => {}
                Err(error) => {
                    return Err(match observed.refusal {
                        Some(refusal) => Failure::ClientCertificate(refusal),
                        None => Failure::from_openssl(&error),
                    });
                }
            }
        }
    }

    /// Sets OpenSSL up by what the client offers; none: what it sent is no ClientHello, or none that can be read.
    fn begin(&mut self, hello: Option<ClientHello>) -> Result<(), Failure> {
        let admitted = self.context.admit(hello.as_ref());
        self.client_hello = hello;
        let Admitted { ssl, section } = admitted?;
        self.section = section;
        let wire = std::mem::take(self.wire_mut());
        self.transport = Transport::Tls(SslStream::new(ssl, wire).map_err(Failure::library)?);
        Ok(())
    }

    fn wait(&self) -> Result<Progress, Failure> {
        if self.received_bytes > HANDSHAKE_BYTES_MAX { Err(Failure::TooLong) } else { Ok(Progress::Continue) }
    }

    fn wire(&self) -> &Wire {
        match &self.transport {
            Transport::Hello(wire) => wire,
            Transport::Tls(stream) => stream.get_ref(),
        }
    }

    fn wire_mut(&mut self) -> &mut Wire {
        match &mut self.transport {
            Transport::Hello(wire) => wire,
            Transport::Tls(stream) => stream.get_mut(),
        }
    }
}

/// What became of the client's certificate in a handshake that has succeeded.
fn client_certificate(ssl: &SslRef, kind: HandshakeKind, has_expired_list: bool) -> Option<ClientCertificate> {
    if !ssl.verify_mode().contains(SslVerifyMode::PEER) {
        return None;
    }
    Some(match (ssl.peer_certificate(), kind) {
        (None, _) => ClientCertificate::Absent,
        (Some(_), HandshakeKind::Resumed) => ClientCertificate::Resumed,
        (Some(_), HandshakeKind::Full) if has_expired_list => ClientCertificate::AcceptedCrlExpired,
        (Some(_), HandshakeKind::Full) => ClientCertificate::Accepted,
    })
}

/// The in-memory transport that OpenSSL reads and writes.
#[derive(Default)]
pub(super) struct Wire {
    /// From the client, not yet read by OpenSSL.
    unread: Vec<u8>,
    /// How many bytes of `unread` our own reader has looked at for the first ClientHello.
    looked_len: usize,
    /// How many bytes of `unread` OpenSSL may read: the rest of one record.
    exposed_len: usize,
    /// How many bytes of the exposed record OpenSSL has read.
    read_len: usize,
    output: Vec<u8>,
}

impl Wire {
    /// Looks for the ClientHello, which OpenSSL is not shown yet. None where more is needed; then what was found: nothing,
    /// where the client does not begin with one.
    fn read_hello(&mut self, hellos: &mut Hellos) -> Result<Option<Option<ClientHello>>, Failure> {
        if self.looked_len == 0 {
            Failure::check_first_bytes(&self.unread)?;
        }
        while let Some(record_len) = record_len(&self.unread[self.looked_len..])? {
            let begin = self.looked_len;
            self.looked_len += record_len;
            match hellos.first(&self.unread[begin..self.looked_len])? {
                First::Cut => {}
                First::Whole(hello) => return Ok(Some(Some(hello))),
                First::Other => return Ok(Some(None)),
            }
        }
        Ok(None)
    }

    /// Shows OpenSSL the next record; false when it is not there as a whole.
    fn expose_record(&mut self) -> Result<bool, Failure> {
        debug_assert!(self.read_len == self.exposed_len, "OpenSSL asked for more than the record that it was shown");
        self.unread.drain(..self.exposed_len);
        self.looked_len = self.looked_len.saturating_sub(self.exposed_len);
        (self.exposed_len, self.read_len) = (0, 0);
        let Some(record_len) = record_len(&self.unread)? else { return Ok(false) };
        self.exposed_len = record_len;
        Ok(true)
    }

    /// The record that OpenSSL is to be shown next, if it is there as a whole.
    fn next_record(&self) -> Option<&[u8]> {
        let next = self.unread.get(self.exposed_len..)?;
        let [_, _, _, high, low] = *next.first_chunk()?;
        next.get(..usize::from(u16::from_be_bytes([high, low])) + 5)
    }

    /// The record that OpenSSL is shown, where it is none of the first ClientHello.
    fn record_behind_hello(&self) -> Option<&[u8]> {
        (self.looked_len == 0).then(|| &self.unread[..self.exposed_len])
    }

    /// What stands behind the last record that OpenSSL was shown.
    fn take_leftover(&mut self) -> Vec<u8> {
        let mut leftover = std::mem::take(&mut self.unread);
        leftover.drain(..self.exposed_len);
        leftover.shrink_to_fit();
        leftover
    }

    /// Adds the alert that a failure found before OpenSSL saw the bytes deserves.
    fn output_alert_of(&mut self, result: &Result<Progress, Failure>) {
        if let Err(failure) = result
            && let Some(alert) = failure.own_alert()
        {
            self.output.extend_from_slice(&[0x15, 0x03, 0x03, 0x00, 0x02, 0x02, alert.code()]);
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let visible = &self.unread[self.read_len..self.exposed_len];
        if visible.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = visible.len().min(buffer.len());
        buffer[..len].copy_from_slice(&visible[..len]);
        self.read_len += len;
        Ok(len)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The length of the first record, header included, if it is there as a whole.
fn record_len(bytes: &[u8]) -> Result<Option<usize>, Failure> {
    let Some(header) = bytes.first_chunk::<5>() else { return Ok(None) };
    let len = Failure::check_handshake_header(header)? + header.len();
    Ok((bytes.len() >= len).then_some(len))
}

/// Counts the records that OpenSSL wrote under the keys that we take over: sequence numbers are counted, not assumed.
#[derive(Default)]
struct SentRecords {
    /// Records written under the application keys.
    sequence: u64,
    /// The first bytes of the last record: with AES-GCM in TLS 1.2 its explicit nonce.
    explicit_nonce: Option<u64>,
    has_changed_cipher: bool,
}

impl SentRecords {
    /// Takes what one call of `SSL_accept` wrote. In TLS 1.3 the records under the application keys are those of the
    /// call that completed the handshake, which OpenSSL was shown nothing but the client's Finished in: the tickets.
    /// In TLS 1.2 they are those behind our ChangeCipherSpec (RFC 5246 section 6.1).
    fn count(&mut self, mut output: &[u8], version: Option<SslVersion>, is_complete: bool) {
        while let Some((header, rest)) = output.split_first_chunk::<5>() {
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            let (body, rest) = rest.split_at(length.min(rest.len()));
            output = rest;
            if version == Some(SslVersion::TLS1_3) {
                self.sequence += u64::from(is_complete);
            } else if header[0] == CHANGE_CIPHER_SPEC {
                self.has_changed_cipher = true;
            } else if self.has_changed_cipher {
                self.sequence += 1;
                self.explicit_nonce = body.first_chunk().map(|nonce| u64::from_be_bytes(*nonce));
            }
        }
    }
}

const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;

fn negotiated_suite(ssl: &SslRef) -> Result<&'static CipherSuite, Failure> {
    let code = ssl.current_cipher().map(|cipher| u16::from_be_bytes(cipher.protocol_id()));
    code.and_then(CipherSuite::from_code).ok_or(Failure::Internal("negotiated a suite that was not offered"))
}

type DerivedKeys = (TrafficKeys, TrafficKeys, Option<TrafficSecrets>);

fn derive_keys(suite: &'static CipherSuite, logged: &HandshakeSecrets, ssl: &SslRef) -> Result<DerivedKeys, Failure> {
    match suite.version {
        ProtocolVersion::Tls13 => {
            let client = TrafficSecret::new(suite, logged.client_traffic.expose()).map_err(Failure::keys)?;
            let server = TrafficSecret::new(suite, logged.server_traffic.expose()).map_err(Failure::keys)?;
            let receive = client.keys(suite).map_err(Failure::keys)?;
            let send = server.keys(suite).map_err(Failure::keys)?;
            Ok((receive, send, Some(TrafficSecrets { client, server })))
        }
        ProtocolVersion::Tls12 => {
            let (mut client_random, mut server_random) = ([0; 32], [0; 32]);
            ssl.client_random(&mut client_random);
            ssl.server_random(&mut server_random);
            let master = MasterSecret::new(logged.master.expose()).map_err(Failure::keys)?;
            let (receive, send) = master.key_block(suite, &client_random, &server_random).map_err(Failure::keys)?;
            Ok((receive, send, None))
        }
    }
}
