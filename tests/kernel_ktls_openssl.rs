//! A whole connection against OpenSSL: its handshake, then our end in the kernel with keys from the key log, for every
//! suite that Sluice negotiates.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod kernel_support;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::thread;

use kernel_support::{kernel_tls, pattern, socket};
use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::sign::Signer;
use openssl::ssl::{Ssl, SslContext, SslContextBuilder, SslMethod, SslRef, SslVersion};
use openssl::x509::{X509, X509NameBuilder};
use sluice::ktls::control::{self, Received, Sent};
use sluice::ktls::install::live_state;
use sluice::ktls::{Direction, attach_ulp, install};
use sluice::record::Alert;
use sluice::record::{Aead, CipherSuite, KeyMaterial, ProtocolVersion, TrafficKeys};

use ProtocolVersion::{Tls12, Tls13};

const REQUEST_BYTES: usize = 20_000;
const RESPONSE_BYTES: usize = 50_000;
const SUITES: [u16; 6] = [0x1301, 0x1302, 0x1303, 0xc02b, 0xc02c, 0xcca9];

/// Secrets by the labels of the key log.
type KeyLog = Arc<Mutex<HashMap<String, Vec<u8>>>>;

#[test]
fn openssl_client_is_served_from_the_kernel_with_every_suite() {
    let Some(kernel) = kernel_tls() else { return };
    let key =
        PKey::from_ec_key(EcKey::generate(&EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap()).unwrap()).unwrap();
    let certificate = self_signed(&key);
    for code in SUITES {
        let suite = CipherSuite::from_code(code).unwrap();
        let (client, server) = kernel_support::connect();
        let client = thread::spawn(move || talk(client, suite));
        serve(server, suite, &key, &certificate);
        client.join().expect(suite.name);
    }
    let suites = SUITES.len() as u64;
    assert!(kernel.grown("TlsTxSw") >= suites && kernel.grown("TlsRxSw") >= suites, "the kernel did the work");
    assert_eq!(kernel.grown("TlsDecryptError"), 0);
}

/// The client: request, response, then close_notify both ways.
fn talk(stream: TcpStream, suite: &CipherSuite) {
    let mut context = SslContext::builder(SslMethod::tls_client()).unwrap();
    select(&mut context, suite);
    let mut tls = Ssl::new(&context.build()).unwrap().connect(stream).unwrap();
    tls.write_all(&pattern(REQUEST_BYTES)).unwrap();
    let mut response = vec![0; RESPONSE_BYTES];
    tls.read_exact(&mut response).unwrap();
    assert!(response == pattern(RESPONSE_BYTES), "{}", suite.name);
    tls.shutdown().unwrap();
    assert_eq!(tls.read(&mut response).unwrap(), 0, "a close_notify ends the stream");
}

/// The server: OpenSSL up to the end of the handshake, the kernel afterwards.
fn serve(stream: TcpStream, suite: &CipherSuite, key: &PKey<Private>, certificate: &X509) {
    let log = KeyLog::default();
    let context = server_context(suite, key, certificate, Arc::clone(&log));
    let socket = stream.try_clone().unwrap();
    let (receive, transmit) = {
        let tls = Ssl::new(&context).unwrap().accept(stream).unwrap();
        traffic_keys(suite, &log.lock().unwrap(), tls.ssl())
    };
    attach_ulp(socket.as_fd()).unwrap();
    install(socket.as_fd(), Direction::Receive, &receive).unwrap();
    install(socket.as_fd(), Direction::Transmit, &transmit).unwrap();
    socket.set_nonblocking(true).unwrap();

    assert!(socket::receive_data(&socket, REQUEST_BYTES) == pattern(REQUEST_BYTES), "{}", suite.name);
    socket::send_all(&socket, &pattern(RESPONSE_BYTES));
    let mut buffer = [0; 16];
    let close_notify = Received::Control { content_type: 21, len: 2, end_of_record: true };
    assert_eq!(socket::receive(&socket, &mut buffer), close_notify, "{}", suite.name);
    assert_eq!(buffer[..2], [1, 0]);
    assert_eq!(control::send_alert(socket.as_fd(), Alert::CLOSE_NOTIFY).unwrap(), Sent::Done);
    let state = live_state(socket.as_fd(), Direction::Transmit, suite.version, suite.aead).unwrap();
    assert!(state.sequence >= transmit.sequence + 5, "four records of data at least, and the alert");
}

fn select(context: &mut SslContextBuilder, suite: &CipherSuite) {
    let (version, tls12, tls13) = match suite.code {
        0x1301..=0x1303 => (SslVersion::TLS1_3, None, Some(suite.name)),
        0xc02b => (SslVersion::TLS1_2, Some("ECDHE-ECDSA-AES128-GCM-SHA256"), None),
        0xc02c => (SslVersion::TLS1_2, Some("ECDHE-ECDSA-AES256-GCM-SHA384"), None),
        0xcca9 => (SslVersion::TLS1_2, Some("ECDHE-ECDSA-CHACHA20-POLY1305"), None),
        other => panic!("no OpenSSL name for {other:#x}"),
    };
    context.set_min_proto_version(Some(version)).unwrap();
    context.set_max_proto_version(Some(version)).unwrap();
    tls12.into_iter().for_each(|name| context.set_cipher_list(name).unwrap());
    tls13.into_iter().for_each(|name| context.set_ciphersuites(name).unwrap());
}

fn server_context(suite: &CipherSuite, key: &PKey<Private>, certificate: &X509, log: KeyLog) -> SslContext {
    let mut context = SslContext::builder(SslMethod::tls_server()).unwrap();
    select(&mut context, suite);
    context.set_private_key(key).unwrap();
    context.set_certificate(certificate).unwrap();
    // Tickets would be records behind the handshake, and count.
    context.set_num_tickets(0).unwrap();
    context.set_keylog_callback(move |_, line| {
        let words: Vec<_> = line.split(' ').collect();
        log.lock().unwrap().insert(words[0].to_owned(), from_hex(words[2]));
    });
    context.build()
}

/// The keys for receiving and for sending, as the server.
fn traffic_keys(suite: &CipherSuite, log: &HashMap<String, Vec<u8>>, ssl: &SslRef) -> (TrafficKeys, TrafficKeys) {
    match suite.version {
        Tls13 => {
            let keys = |label: &str| tls13_keys(suite, &log[label]);
            (keys("CLIENT_TRAFFIC_SECRET_0"), keys("SERVER_TRAFFIC_SECRET_0"))
        }
        Tls12 => tls12_keys(suite, &log["CLIENT_RANDOM"], ssl),
    }
}

/// RFC 8446 section 7.3.
fn tls13_keys(suite: &CipherSuite, secret: &[u8]) -> TrafficKeys {
    let expand = |label: &str, len: usize| {
        let label = format!("tls13 {label}");
        let mut info = vec![0, len as u8, label.len() as u8];
        info.extend(label.as_bytes());
        // No context; then the number of the first, and here only, block of HKDF-Expand.
        info.extend([0, 1]);
        hmac(suite, secret, &info)[..len].to_vec()
    };
    build(suite, &expand("key", suite.aead.key_len()), &expand("iv", 12), 0)
}

/// RFC 5246 section 6.3: the key block, client first; the Finished message was record 0.
fn tls12_keys(suite: &CipherSuite, master: &[u8], ssl: &SslRef) -> (TrafficKeys, TrafficKeys) {
    let mut randoms = [0; 64];
    ssl.server_random(&mut randoms[..32]);
    ssl.client_random(&mut randoms[32..]);
    let seed = [b"key expansion", &randoms[..]].concat();
    let (mut a, mut block) = (hmac(suite, master, &seed), Vec::new());
    while block.len() < 2 * (32 + 12) {
        block.extend(hmac(suite, master, &[&a[..], &seed].concat()));
        a = hmac(suite, master, &a);
    }
    let key_len = suite.aead.key_len();
    let iv_len = if suite.aead == Aead::ChaCha20Poly1305 { 12 } else { 4 };
    let (keys, ivs) = block.split_at(2 * key_len);
    // The explicit nonce of AES-GCM goes on anywhere that was not used before.
    let iv = |nth: usize| [&ivs[nth * iv_len..][..iv_len], &[0x5a; 8][..12 - iv_len]].concat();
    (build(suite, &keys[..key_len], &iv(0), 1), build(suite, &keys[key_len..], &iv(1), 1))
}

fn build(suite: &CipherSuite, key: &[u8], iv: &[u8], sequence: u64) -> TrafficKeys {
    let (version, aead) = (suite.version, suite.aead);
    TrafficKeys { version, aead, key: KeyMaterial::new(key), iv: iv.try_into().unwrap(), sequence }
}

fn hmac(suite: &CipherSuite, key: &[u8], data: &[u8]) -> Vec<u8> {
    let digest = if suite.sha384 { MessageDigest::sha384() } else { MessageDigest::sha256() };
    let key = PKey::hmac(key).unwrap();
    Signer::new(digest, &key).unwrap().sign_oneshot_to_vec(data).unwrap()
}

fn from_hex(text: &str) -> Vec<u8> {
    text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn self_signed(key: &PKey<Private>) -> X509 {
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_nid(Nid::COMMONNAME, "sluice.test").unwrap();
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
