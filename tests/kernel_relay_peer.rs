//! An independent peer that speaks kernel TLS from the other end: a rustls client whose records the kernel protects, by
//! the `ktls` crate. Both ends of the connection are then the kernel's, set up by two programs that share no code.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod kernel_support;
mod support;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use ktls::{CorkStream, KtlsStream};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use support::backend::Backend;
use support::body::{self, End, Received};
use support::certificate::KeyKind;
use support::proxy::{Options, Proxy};
use support::suite::{Suite, Version};
use support::wait_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long one transfer may take under emulation.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn kernel_tls_client_of_rustls_transfers_both_ways_with_every_suite() {
    let Some(mut kernel) = kernel_support::kernel_tls() else { return };
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options { kernel_tls: "always".into(), ..Options::to([backend.address()]) });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for suite in Suite::with_key(KeyKind::EcdsaP256) {
        kernel.begin();
        let (up, down) = (body::bytes(300_000, 1), body::bytes(300_000, 2));
        let client = async {
            let mut stream = connect(&proxy, suite).await;
            stream.write_all(&up).await.unwrap();
            stream.flush().await.unwrap();
            let mut received = vec![0; down.len()];
            stream.read_exact(&mut received).await.expect("the download");
            assert!(received == down, "{}", suite.iana);
            // close_notify, as the backend's end of stream proves.
            stream.shutdown().await.unwrap();
            stream
        };
        let (sent, expected) = (down.clone(), Received::of(&up, End::EndOfStream));
        let stream = std::thread::scope(|scope| {
            let serving = scope.spawn(|| {
                let mut server = backend.accept();
                let mut writing = server.try_clone().unwrap();
                let sending = std::thread::spawn(move || writing.write_all(&sent).unwrap());
                let received = body::drain(&mut server);
                sending.join().unwrap();
                received
            });
            let stream = runtime.block_on(async { tokio::time::timeout(PATIENCE, client).await }).expect("in time");
            assert_eq!(serving.join().unwrap(), expected, "{}", suite.iana);
            stream
        });
        // Both ends, both directions.
        assert_eq!((kernel.grown("TlsTxSw"), kernel.grown("TlsRxSw")), (2, 2), "{}", suite.iana);
        assert_eq!(kernel.grown("TlsDecryptError"), 0, "{}", suite.iana);
        drop(runtime.block_on(async { stream.into_raw() }));
        wait_until("the connection is over", || proxy.connections_open() == 0);
    }
}

/// A handshake in userspace, then kernel TLS.
async fn connect(proxy: &Proxy, suite: Suite) -> KtlsStream<TcpStream> {
    let socket = TcpStream::connect(proxy.address()).await.unwrap();
    let connector = TlsConnector::from(config(proxy, suite));
    let stream = connector.connect("localhost".try_into().unwrap(), CorkStream::new(socket)).await.unwrap();
    ktls::config_ktls_client(stream).await.unwrap()
}

fn config(proxy: &Proxy, suite: Suite) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(proxy.ca()).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let name = match suite.version {
        Version::Tls12 => suite.iana.to_owned(),
        Version::Tls13 => suite.iana.replacen("TLS_", "TLS13_", 1),
    };
    let provider = ring::default_provider();
    let suites = provider.cipher_suites.iter().filter(|known| known.suite().as_str() == Some(&name)).copied().collect();
    let provider = CryptoProvider { cipher_suites: suites, ..provider };
    let version = match suite.version {
        Version::Tls12 => &rustls::version::TLS12,
        Version::Tls13 => &rustls::version::TLS13,
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[version]).unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.enable_secret_extraction = true;
    Arc::new(config)
}
