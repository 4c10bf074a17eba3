//! rustls as the client: transfers with every suite, key updates, and its view of how streams end.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use support::backend::{self, Backend};
use support::body::{self, End};
use support::certificate::KeyKind;
use support::http::{get_request, put_request};
use support::nginx::Nginx;
use support::proxy::{Options, Proxy};
use support::suite::{Suite, Version};

type Tls = StreamOwned<ClientConnection, TcpStream>;

#[test]
fn rustls_transfers_files_with_every_suite() {
    let nginx = Nginx::start();
    let content = body::bytes(1 << 20, 1);
    nginx.publish("file", &content);
    for key in [KeyKind::EcdsaP256, KeyKind::Rsa2048] {
        let proxy = Proxy::start(&Options { key, ..Options::to([nginx.address()]) });
        for suite in Suite::with_key(key) {
            let mut tls = connect(&proxy, suite, &[]);
            tls.write_all(&get_request("file")).unwrap();
            // rustls reports a stream that ends without close_notify as an error.
            let mut answer = Vec::new();
            tls.read_to_end(&mut answer).expect("a clean end");
            assert_eq!(tls.conn.negotiated_cipher_suite().unwrap().suite().as_str().unwrap(), rustls_name(suite));
            assert!(answer.ends_with(&content), "{}", suite.iana);

            let name = format!("{key:?}-{}", suite.iana);
            let mut tls = connect(&proxy, suite, &[]);
            tls.write_all(&put_request(&name, &content)).unwrap();
            tls.read_to_end(&mut answer).expect("a clean end");
            assert!(nginx.uploaded(&name) == content, "{name}");
        }
    }
}

#[test]
fn key_updates_of_rustls_keep_data_flowing_in_both_directions() {
    let proxy = Proxy::start(&Options::to([Backend::echo()]));
    for suite in Suite::with_key(KeyKind::EcdsaP256).filter(|suite| suite.version == Version::Tls13) {
        let mut tls = connect(&proxy, suite, &[]);
        let piece = body::bytes(40_000, 2);
        for round in 0..4 {
            tls.write_all(&piece).unwrap();
            // Asks for new keys of the server too.
            tls.conn.refresh_traffic_keys().unwrap();
            let mut echo = vec![0; piece.len()];
            tls.read_exact(&mut echo).unwrap();
            assert!(echo == piece, "{} {round}", suite.iana);
        }
    }
    assert_eq!(proxy.metric("sluice_key_updates_received_total"), 12);
    assert_eq!(proxy.metric("sluice_key_updates_sent_total"), 12);
}

#[test]
fn resumed_session_carries_data_with_every_suite() {
    for key in [KeyKind::EcdsaP256, KeyKind::Rsa2048] {
        let proxy = Proxy::start(&Options { key, ..Options::to([Backend::echo()]) });
        for suite in Suite::with_key(key) {
            let config = config(&proxy, suite, &[]);
            for expected in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
                let mut tls = connect_with(&config, &proxy);
                let data = body::bytes(100_000, 3);
                tls.write_all(&data).unwrap();
                let mut echo = vec![0; data.len()];
                tls.read_exact(&mut echo).unwrap();
                assert!(echo == data, "{} {expected:?}", suite.iana);
                assert_eq!(tls.conn.handshake_kind(), Some(expected), "{}", suite.iana);
            }
        }
    }
}

#[test]
fn alpn_is_negotiated_with_rustls() {
    let proxy = Proxy::start(&Options { alpn: vec!["h2", "http/1.1"], ..Options::to([Backend::echo()]) });
    for version in Version::ALL {
        let mut tls = connect(&proxy, version.usual_suite(), &["http/1.1", "h2"]);
        tls.write_all(b"x").unwrap();
        tls.read_exact(&mut [0]).unwrap();
        assert_eq!(tls.conn.alpn_protocol(), Some(&b"h2"[..]), "the server's order decides");
    }
}

#[test]
fn rustls_tells_a_reset_of_the_backend_from_a_clean_end() {
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options::to([backend.address()]));
    for version in Version::ALL {
        let mut tls = connect(&proxy, version.usual_suite(), &[]);
        tls.write_all(b"request").unwrap();
        let mut server = backend.accept();
        backend::receive(&mut server, 7);
        server.write_all(b"half of an ans").unwrap();
        tls.read_exact(&mut [0; 14]).unwrap();
        backend::reset(server);
        let error = tls.read(&mut [0]).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{version:?}: {error}");
    }
}

#[test]
fn close_notify_of_rustls_is_a_half_close() {
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options::to([backend.address()]));
    for version in Version::ALL {
        let mut tls = connect(&proxy, version.usual_suite(), &[]);
        tls.write_all(b"request").unwrap();
        tls.conn.send_close_notify();
        tls.flush().unwrap();
        let mut server = backend.accept();
        assert_eq!(body::drain(&mut server).end, End::EndOfStream);
        server.write_all(b"answer").unwrap();
        drop(server);
        let mut answer = String::new();
        tls.read_to_string(&mut answer).expect("a clean end");
        assert_eq!(answer, "answer");
    }
}

fn connect(proxy: &Proxy, suite: Suite, alpn: &[&str]) -> Tls {
    connect_with(&config(proxy, suite, alpn), proxy)
}

fn connect_with(config: &Arc<ClientConfig>, proxy: &Proxy) -> Tls {
    let connection = ClientConnection::new(Arc::clone(config), "localhost".try_into().unwrap()).unwrap();
    let socket = TcpStream::connect(proxy.address()).unwrap();
    backend::bound(&socket);
    StreamOwned::new(connection, socket)
}

/// A client that remembers its sessions.
fn config(proxy: &Proxy, suite: Suite, alpn: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(proxy.ca()).unwrap()).unwrap();
    let all = ring::default_provider();
    let chosen =
        all.cipher_suites.iter().filter(|offered| offered.suite().as_str() == Some(rustls_name(suite).as_str()));
    let provider = CryptoProvider { cipher_suites: chosen.copied().collect(), ..all };
    let version = match suite.version {
        Version::Tls12 => &rustls::version::TLS12,
        Version::Tls13 => &rustls::version::TLS13,
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[version]);
    let mut config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// rustls says which version a suite is of.
fn rustls_name(suite: Suite) -> String {
    match suite.version {
        Version::Tls12 => suite.iana.to_owned(),
        Version::Tls13 => suite.iana.replacen("TLS_", "TLS13_", 1),
    }
}
