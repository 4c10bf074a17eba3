//! The record layer against OpenSSL itself: a handshake between two OpenSSL ends in memory, then one end is replaced by
//! our own sealer and opener, made from the key log and from what was counted on the wire.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::{ErrorCode, HandshakeError, Ssl, SslContext, SslContextBuilder, SslMethod, SslStream, SslVersion};
use openssl::x509::{X509, X509NameBuilder};
use sluice::record::{
    Aead, Alert, AlertDescription, CipherSuite, ContentType, Event, Framing, KEY_UPDATE_NOT_REQUESTED,
    KEY_UPDATE_REQUESTED, MasterSecret, Opener, PostHandshake, ProtocolVersion, Sealer, TrafficKeys, TrafficSecret,
    frame_protected,
};

#[test]
fn opener_reads_what_openssl_sealed_and_openssl_reads_what_sealer_sealed() {
    for suite in CipherSuite::all() {
        for we_are in [Role::Server, Role::Client] {
            let mut world = World::new(suite, we_are);
            for len in [1, 2, 100, 16384, 50_000, 0] {
                let data: Vec<u8> = (0..len).map(|at| (at * 31 + len) as u8).collect();
                world.openssl_sends(&data);
                world.openssl_receives(&data);
            }
        }
    }
}

#[test]
fn close_notify_goes_through_in_both_directions() {
    for suite in CipherSuite::all() {
        let mut world = World::new(suite, Role::Server);
        let mut out = Vec::new();
        world.sealer.seal_control(ContentType::Alert, &Alert::CLOSE_NOTIFY.encode(), &mut out).unwrap();
        world.wire.push(&out);
        let error = world.openssl.ssl_read(&mut [0; 16]).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ZERO_RETURN, "{}", suite.name);
        world.openssl.shutdown().unwrap();
        let (content_type, payload) = world.next_record();
        assert_eq!(content_type, ContentType::Alert);
        assert_eq!(PostHandshake::new(suite.version).alert_record(&payload).unwrap(), Event::CloseNotify);
    }
}

#[test]
fn key_updates_in_both_directions_keep_data_flowing() {
    for suite in CipherSuite::all().iter().filter(|suite| suite.version == ProtocolVersion::Tls13) {
        for we_are in [Role::Server, Role::Client] {
            let mut world = World::new(suite, we_are);
            let mut state = PostHandshake::new(suite.version);
            for generation in 1..=3_u8 {
                world.update_our_keys(&KEY_UPDATE_REQUESTED);
                // OpenSSL answers with its own KeyUpdate before its next data.
                world.openssl_receives(&[generation; 100]);
                world.openssl.write_all(&[generation; 200]).unwrap();
                let (content_type, payload) = world.next_record();
                assert_eq!(content_type, ContentType::Handshake, "{}", suite.name);
                let event = state.handshake_record(&payload, Instant::now()).unwrap();
                assert_eq!(event, Some(Event::KeyUpdate { update_requested: false }));
                world.their_keys_were_updated();
                assert_eq!(world.next_record(), (ContentType::ApplicationData, vec![generation; 200]));
                world.update_our_keys(&KEY_UPDATE_NOT_REQUESTED);
                world.openssl_receives(&[generation; 300]);
                world.openssl_sends(&[generation; 400]);
            }
        }
    }
}

#[test]
fn forged_record_makes_openssl_answer_with_an_alert_that_opener_reads() {
    for suite in CipherSuite::all() {
        let mut world = World::new(suite, Role::Server);
        let mut out = Vec::new();
        world.sealer.seal_control(ContentType::ApplicationData, b"forge me", &mut out).unwrap();
        *out.last_mut().unwrap() ^= 1;
        world.wire.push(&out);
        assert_eq!(world.openssl.ssl_read(&mut [0; 16]).unwrap_err().code(), ErrorCode::SSL);
        let (content_type, payload) = world.next_record();
        assert_eq!(content_type, ContentType::Alert);
        let event = PostHandshake::new(suite.version).alert_record(&payload).unwrap();
        assert_eq!(event, Event::FatalAlert(AlertDescription::BadRecordMac));
    }
}

#[test]
fn renegotiation_of_openssl_is_recognised_and_refused() {
    for suite in CipherSuite::all().iter().filter(|suite| suite.version == ProtocolVersion::Tls12) {
        let mut world = World::new(suite, Role::Server);
        // A HelloRequest makes an OpenSSL client start a renegotiation.
        let mut out = Vec::new();
        world.sealer.seal_control(ContentType::Handshake, &[0, 0, 0, 0], &mut out).unwrap();
        world.wire.push(&out);
        assert_eq!(world.openssl.ssl_read(&mut [0; 16]).unwrap_err().code(), ErrorCode::WANT_READ);
        let (content_type, payload) = world.next_record();
        assert_eq!(content_type, ContentType::Handshake, "{}", suite.name);
        let event = PostHandshake::new(suite.version).handshake_record(&payload, Instant::now()).unwrap();
        assert_eq!(event, Some(Event::RenegotiationRefused));
    }
}

/// Which end our record layer replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

/// An OpenSSL end that has finished its handshake, and our sealer and opener in the place of the other end.
struct World {
    suite: &'static CipherSuite,
    openssl: SslStream<Wire>,
    wire: Wire,
    sealer: Sealer,
    opener: Opener,
    our_secret: Option<TrafficSecret>,
    their_secret: Option<TrafficSecret>,
    received: VecDeque<u8>,
}

impl World {
    fn new(suite: &'static CipherSuite, we_are: Role) -> Self {
        let log = KeyLog::default();
        let Handshaken { client, server, client_wrote, server_wrote } = handshake(suite, &log);
        let (client_keys, server_keys, secrets) = log.keys(suite, &client);
        let client_keys = positioned(client_keys, &client_wrote);
        let server_keys = positioned(server_keys, &server_wrote);
        let (client_secret, server_secret) = secrets.unzip();
        let (openssl, ours, theirs, our_secret, their_secret) = match we_are {
            Role::Server => (client, server_keys, client_keys, server_secret, client_secret),
            Role::Client => (server, client_keys, server_keys, client_secret, server_secret),
        };
        Self {
            suite,
            wire: openssl.get_ref().clone(),
            openssl,
            sealer: Sealer::new(ours).unwrap(),
            opener: Opener::new(theirs).unwrap(),
            our_secret,
            their_secret,
            received: VecDeque::new(),
        }
    }

    /// OpenSSL seals `data`, and our opener must read it.
    fn openssl_sends(&mut self, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        self.openssl.write_all(data).unwrap();
        let mut got = Vec::new();
        while got.len() < data.len() {
            let (content_type, payload) = self.next_record();
            assert_eq!(content_type, ContentType::ApplicationData, "{}", self.suite.name);
            got.extend(payload);
        }
        assert_eq!(got, data, "{}", self.suite.name);
    }

    /// Our sealer protects an empty record and `data` in records of full size, and OpenSSL must read it.
    fn openssl_receives(&mut self, data: &[u8]) {
        let mut out = Vec::new();
        self.sealer.seal_control(ContentType::ApplicationData, &[], &mut out).unwrap();
        for payload in data.chunks(self.sealer.payload_len_max()) {
            self.sealer.seal_control(ContentType::ApplicationData, payload, &mut out).unwrap();
        }
        self.wire.push(&out);
        if data.is_empty() {
            let error = self.openssl.ssl_read(&mut [0; 1]).unwrap_err();
            assert_eq!(error.code(), ErrorCode::WANT_READ);
            return;
        }
        let mut got = vec![0; data.len()];
        self.openssl.read_exact(&mut got).unwrap();
        assert_eq!(got, data, "{}", self.suite.name);
    }

    fn update_our_keys(&mut self, key_update: &[u8]) {
        let mut out = Vec::new();
        self.sealer.seal_control(ContentType::Handshake, key_update, &mut out).unwrap();
        self.wire.push(&out);
        let next = self.our_secret.take().unwrap().next_generation().unwrap();
        self.sealer.rekey(next.keys(self.suite).unwrap()).unwrap();
        self.our_secret = Some(next);
    }

    fn their_keys_were_updated(&mut self) {
        let next = self.their_secret.take().unwrap().next_generation().unwrap();
        self.opener.rekey(next.keys(self.suite).unwrap()).unwrap();
        self.their_secret = Some(next);
    }

    /// Opens the next record that OpenSSL wrote.
    fn next_record(&mut self) -> (ContentType, Vec<u8>) {
        self.received.extend(self.wire.take_written());
        let stream = self.received.make_contiguous();
        let framing = frame_protected(self.suite.version, self.suite.aead, stream).unwrap();
        let Framing::Complete { len } = framing else { panic!("OpenSSL wrote no whole record: {framing:?}") };
        let mut record: Vec<u8> = self.received.drain(..len).collect();
        let opened = self.opener.open(&mut record).unwrap();
        (opened.content_type, record[opened.payload].to_vec())
    }
}

/// Two ends that have finished a handshake, and the records that each wrote under the keys of the key log.
struct Handshaken {
    client: SslStream<Wire>,
    server: SslStream<Wire>,
    client_wrote: Vec<Vec<u8>>,
    server_wrote: Vec<Vec<u8>>,
}

/// Runs a handshake. Under the keys of the key log the server writes its tickets in TLS 1.3 (the records behind the
/// client's Finished), and in TLS 1.2 both ends write their Finished (the records behind the ChangeCipherSpec).
fn handshake(suite: &CipherSuite, log: &KeyLog) -> Handshaken {
    let (client_wire, server_wire) = Wire::pair();
    let client = Ssl::new(&client_context(suite)).unwrap().connect(client_wire.clone());
    let Err(HandshakeError::WouldBlock(client)) = client else { panic!("the client waits for the server") };
    let server = Ssl::new(&server_context(suite, log)).unwrap().accept(server_wire.clone());
    let Err(HandshakeError::WouldBlock(server)) = server else { panic!("the server waits for the client") };
    let before = server_wire.written().len();
    let client = client.handshake();
    let server = server.handshake().map_err(|_| "server handshake").unwrap();
    match client {
        // TLS 1.3: the client is done first, and takes the tickets when it reads.
        Ok(mut client) => {
            let server_wrote = records(&server_wire.written()[before..]);
            assert_eq!(client.ssl_read(&mut [0; 1]).unwrap_err().code(), ErrorCode::WANT_READ);
            Handshaken { client, server, client_wrote: Vec::new(), server_wrote }
        }
        Err(HandshakeError::WouldBlock(client)) => {
            let client = client.handshake().map_err(|_| "client handshake").unwrap();
            let client_wrote = behind_change_cipher_spec(&client_wire.written());
            let server_wrote = behind_change_cipher_spec(&server_wire.written());
            Handshaken { client, server, client_wrote, server_wrote }
        }
        Err(_) => panic!("client handshake of {}", suite.name),
    }
}

/// Moves `keys` behind the records that were written under them.
fn positioned(mut keys: TrafficKeys, wrote: &[Vec<u8>]) -> TrafficKeys {
    keys.sequence = wrote.len() as u64;
    if keys.version == ProtocolVersion::Tls12 && keys.aead != Aead::ChaCha20Poly1305 {
        let last = wrote.last().expect("a Finished");
        let explicit = u64::from_be_bytes(last[5..13].try_into().unwrap());
        keys.iv[4..].copy_from_slice(&explicit.wrapping_add(1).to_be_bytes());
    }
    keys
}

fn records(mut stream: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while !stream.is_empty() {
        let len = 5 + usize::from(u16::from_be_bytes([stream[3], stream[4]]));
        let (record, rest) = stream.split_at(len);
        records.push(record.to_vec());
        stream = rest;
    }
    records
}

fn behind_change_cipher_spec(stream: &[u8]) -> Vec<Vec<u8>> {
    records(stream).into_iter().skip_while(|record| record[0] != 20).skip(1).collect()
}

fn client_context(suite: &CipherSuite) -> SslContext {
    let mut builder = SslContext::builder(SslMethod::tls_client()).unwrap();
    restrict(&mut builder, suite);
    builder.build()
}

fn server_context(suite: &CipherSuite, log: &KeyLog) -> SslContext {
    let mut builder = SslContext::builder(SslMethod::tls_server()).unwrap();
    restrict(&mut builder, suite);
    let key = if suite.name.contains("_RSA_") {
        PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap()
    } else {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
    };
    builder.set_certificate(&certificate(&key)).unwrap();
    builder.set_private_key(&key).unwrap();
    let log = log.clone();
    builder.set_keylog_callback(move |_, line| log.add(line));
    builder.build()
}

fn restrict(builder: &mut SslContextBuilder, suite: &CipherSuite) {
    let version = match suite.version {
        ProtocolVersion::Tls12 => SslVersion::TLS1_2,
        ProtocolVersion::Tls13 => SslVersion::TLS1_3,
    };
    builder.set_min_proto_version(Some(version)).unwrap();
    builder.set_max_proto_version(Some(version)).unwrap();
    match suite.version {
        ProtocolVersion::Tls13 => builder.set_ciphersuites(suite.name).unwrap(),
        ProtocolVersion::Tls12 => builder.set_cipher_list(&openssl_name(suite)).unwrap(),
    }
}

fn openssl_name(suite: &CipherSuite) -> String {
    let auth = if suite.name.contains("_RSA_") { "RSA" } else { "ECDSA" };
    let cipher = match suite.aead {
        Aead::Aes128Gcm => "AES128-GCM-SHA256",
        Aead::Aes256Gcm => "AES256-GCM-SHA384",
        Aead::ChaCha20Poly1305 => "CHACHA20-POLY1305",
    };
    format!("ECDHE-{auth}-{cipher}")
}

fn certificate(key: &PKey<Private>) -> X509 {
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "record.test").unwrap();
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    builder.sign(key, MessageDigest::sha256()).unwrap();
    builder.build()
}

/// The secrets of a handshake by their label.
#[derive(Clone, Default)]
struct KeyLog(Arc<Mutex<HashMap<String, Vec<u8>>>>);

/// The keys of both directions, client first, and in TLS 1.3 the secrets behind them.
type Keys = (TrafficKeys, TrafficKeys, Option<(TrafficSecret, TrafficSecret)>);

impl KeyLog {
    fn add(&self, line: &str) {
        let mut words = line.split(' ');
        let (Some(label), Some(_random), Some(secret)) = (words.next(), words.next(), words.next()) else {
            panic!("key log line {line:?}")
        };
        self.0.lock().unwrap().insert(label.to_owned(), unhex(secret));
    }

    fn keys(&self, suite: &CipherSuite, client: &SslStream<Wire>) -> Keys {
        let log = self.0.lock().unwrap();
        if suite.version == ProtocolVersion::Tls12 {
            let (mut client_random, mut server_random) = ([0; 32], [0; 32]);
            client.ssl().client_random(&mut client_random);
            client.ssl().server_random(&mut server_random);
            let master = MasterSecret::new(&log["CLIENT_RANDOM"]).unwrap();
            let (client, server) = master.key_block(suite, &client_random, &server_random).unwrap();
            return (client, server, None);
        }
        let client = TrafficSecret::new(suite, &log["CLIENT_TRAFFIC_SECRET_0"]).unwrap();
        let server = TrafficSecret::new(suite, &log["SERVER_TRAFFIC_SECRET_0"]).unwrap();
        (client.keys(suite).unwrap(), server.keys(suite).unwrap(), Some((client, server)))
    }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// One end of a connection in memory that never blocks.
#[derive(Clone, Debug)]
struct Wire {
    incoming: Rc<RefCell<VecDeque<u8>>>,
    outgoing: Rc<RefCell<VecDeque<u8>>>,
    written: Rc<RefCell<Vec<u8>>>,
}

impl Wire {
    fn pair() -> (Self, Self) {
        let (a, b) = (Rc::default(), Rc::default());
        (
            Self { incoming: Rc::clone(&a), outgoing: Rc::clone(&b), written: Rc::default() },
            Self { incoming: b, outgoing: a, written: Rc::default() },
        )
    }

    /// Everything that this end ever wrote.
    fn written(&self) -> Vec<u8> {
        self.written.borrow().clone()
    }

    /// Puts bytes where this end reads.
    fn push(&self, bytes: &[u8]) {
        self.incoming.borrow_mut().extend(bytes);
    }

    /// Takes what this end wrote and nobody read.
    fn take_written(&self) -> Vec<u8> {
        self.outgoing.borrow_mut().drain(..).collect()
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut incoming = self.incoming.borrow_mut();
        if incoming.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        incoming.read(buffer)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.borrow_mut().extend(bytes);
        self.written.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
