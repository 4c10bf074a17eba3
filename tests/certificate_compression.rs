//! Certificates are sent compressed to clients that take it (RFC 8879): rustls and Chromium expand them; others notice nothing;
//! and nobody is asked for a compressed one. gnutls-cli has an option for it, but Debian's is built without any algorithm.

#![cfg(feature = "vendored-openssl")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod browser_support;
mod ocsp_support;
mod pki_support;
mod run_support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use browser_support::Browser;
use ocsp_support::{Pki, Signer, Status, ask_as_gnutls, ask_as_openssl};
use pki_support::{Authority, Profile, Purpose};
use run_support::{DEADLINE, Options, Prepared, Proxy, openmetrics, wait_until};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::compress::{
    BROTLI_DECOMPRESSOR, CertCompressor, CertDecompressor, CompressionFailed, CompressionLevel, DecompressionFailed,
    ZLIB_DECOMPRESSOR,
};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateCompressionAlgorithm, ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind,
    RootCertStore, SignatureScheme, StreamOwned,
};
use sluice::tls::ClientHello;

/// A server that answers each request with a word.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = |mut stream: TcpStream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|len| len > 2) {
            line.clear();
        }
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nhello");
    };
    thread::spawn(move || {
        listener.incoming().map_while(Result::ok).for_each(|stream| drop(thread::spawn(move || serve(stream))))
    });
    address
}

/// A proxy whose certificate has its issuer behind it, with more lines for its TLS.
fn prepared(pki: &Pki, lines: &str) -> Prepared {
    let prepared = Proxy::prepare(&Options::to(backend()));
    pki.put(prepared.directory());
    prepared.edit("[[backend]]", &format!("{lines}\n[[backend]]"));
    prepared
}

/// Certificates that went out so, to clients that take them compressed.
fn sent(proxy: &Proxy, algorithm: &str) -> f64 {
    let sample = format!("sluice_certificates_compressed_total{{algorithm=\"{algorithm}\"}}");
    openmetrics::value(&proxy.metrics(), &sample).unwrap()
}

fn saved_bytes(proxy: &Proxy) -> f64 {
    openmetrics::value(&proxy.metrics(), "sluice_certificate_compression_saved_bytes_total").unwrap()
}

/// Expands, and counts how often.
#[derive(Debug)]
struct Counting {
    inner: &'static dyn CertDecompressor,
    count: AtomicUsize,
}

impl Counting {
    fn new(inner: &'static dyn CertDecompressor) -> &'static Self {
        Box::leak(Box::new(Self { inner, count: AtomicUsize::new(0) }))
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

impl CertDecompressor for Counting {
    fn decompress(&self, input: &[u8], output: &mut [u8]) -> Result<(), DecompressionFailed> {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.inner.decompress(input, output)
    }

    fn algorithm(&self) -> CertificateCompressionAlgorithm {
        self.inner.algorithm()
    }
}

/// What a server shows: certificates, and the OCSP response.
type Shown = (Vec<CertificateDer<'static>>, Vec<u8>);

/// Trusts everybody, and keeps what was shown last.
#[derive(Debug)]
struct Looking {
    provider: CryptoProvider,
    shown: Mutex<Option<Shown>>,
}

impl ServerCertVerifier for Looking {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        response: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificates = std::iter::once(leaf).chain(issuers).map(|certificate| certificate.clone().into_owned());
        *self.shown.lock().unwrap() = Some((certificates.collect(), response.to_vec()));
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// rustls, with these algorithms.
struct Client {
    config: Arc<ClientConfig>,
    looking: Arc<Looking>,
}

impl Client {
    fn new(decompressors: Vec<&'static dyn CertDecompressor>) -> Self {
        let looking = Arc::new(Looking { provider: ring::default_provider(), shown: Mutex::default() });
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().dangerous();
        let verifier = Arc::clone(&looking);
        let mut config = builder.with_custom_certificate_verifier(verifier).with_no_client_auth();
        config.cert_decompressors = decompressors;
        Self { config: Arc::new(config), looking }
    }

    /// A handshake, and whether it was full.
    fn connect(&self, proxy: &Proxy, name: &'static str) -> HandshakeKind {
        let mut tls = handshake(&self.config, proxy.address(), name);
        // The answer comes behind the tickets.
        tls.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        tls.read_to_end(&mut Vec::new()).unwrap();
        tls.conn.handshake_kind().unwrap()
    }

    /// What a full handshake shows.
    fn look(&self, proxy: &Proxy, name: &'static str) -> Shown {
        let mut fresh = (*self.config).clone();
        fresh.resumption = Resumption::disabled();
        drop(handshake(&Arc::new(fresh), proxy.address(), name));
        self.looking.shown.lock().unwrap().take().unwrap()
    }
}

fn handshake(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &'static str,
) -> StreamOwned<ClientConnection, TcpStream> {
    let connection = ClientConnection::new(Arc::clone(config), name.try_into().unwrap()).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut tls = StreamOwned::new(connection, stream);
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock).unwrap();
    }
    tls
}

/// Looks until what is shown has been compressed.
fn compressed(proxy: &Proxy, inner: &'static dyn CertDecompressor, name: &'static str) -> (Shown, &'static Counting) {
    let counting = Counting::new(inner);
    let client = Client::new(vec![counting]);
    let look = || {
        let before = counting.count();
        let shown = client.look(proxy, name);
        (counting.count() > before).then_some(shown)
    };
    (wait_until("the certificate comes compressed", look, || proxy.log().text() + &proxy.metrics()), counting)
}

#[test]
fn certificate_is_compressed_with_each_algorithm_for_clients_that_take_it() {
    let pki = Pki::new(None);
    let proxy = prepared(&pki, "certificate_compression = \"required\"").run();
    let plain = Client::new(Vec::new()).look(&proxy, "localhost");
    assert_eq!(plain.0.len(), 2, "the certificate and its issuer");
    for (inner, name) in [(BROTLI_DECOMPRESSOR, "brotli"), (ZLIB_DECOMPRESSOR, "zlib")] {
        let (shown, counting) = compressed(&proxy, inner, "localhost");
        assert!(shown == plain, "{name}");
        // Each one after it is, too.
        let (client, before) = (Client::new(vec![counting]), sent(&proxy, name));
        for _ in 0..5 {
            assert!(client.look(&proxy, "localhost") == plain, "{name}");
        }
        assert_eq!(counting.count(), 6, "{name}");
        let is_counted = || (sent(&proxy, name) == before + 5.0).then_some(());
        wait_until("they are counted", is_counted, || proxy.metrics());
    }
    assert!(saved_bytes(&proxy) > 12.0 * 100.0, "{}", proxy.metrics());
    // Brotli goes first, whatever the client's order.
    let (brotli, zlib) = (Counting::new(BROTLI_DECOMPRESSOR), Counting::new(ZLIB_DECOMPRESSOR));
    Client::new(vec![zlib, brotli]).look(&proxy, "localhost");
    assert_eq!((brotli.count(), zlib.count()), (1, 0));
}

#[test]
fn each_of_several_certificates_is_compressed_by_itself() {
    let pki = Pki::new(None);
    let prepared = prepared(&pki, "");
    let profile = Profile::client("other").purpose(Purpose::Server).dns("other.example");
    let other = Pki::of(pki.authority_again(), &profile);
    other.put_as(prepared.directory(), "other");
    prepared.edit("key = \"edge.key\" }", "key = \"edge.key\" }, { chain = \"other.crt\", key = \"other.key\" }");
    let proxy = prepared.run();
    for name in ["localhost", "other.example"] {
        let plain = Client::new(Vec::new()).look(&proxy, name);
        assert!(compressed(&proxy, BROTLI_DECOMPRESSOR, name).0 == plain, "{name}");
        assert!(compressed(&proxy, ZLIB_DECOMPRESSOR, name).0 == plain, "{name}");
    }
    let [one, another] = ["localhost", "other.example"].map(|name| compressed(&proxy, BROTLI_DECOMPRESSOR, name).0);
    assert!(one.0[0] != another.0[0] && one.0[1] == another.0[1], "two certificates of one issuer");
}

#[test]
fn chain_of_many_kilobytes_is_compressed() {
    let pki = Pki::new(None);
    let prepared = prepared(&pki, "");
    let mut authority = Authority::root("Servers");
    let mut above = Vec::new();
    for level in 0..20 {
        authority = authority.intermediate(&format!("Level {level} of very many between the root and the server"));
        above.insert(0, authority.certificate.clone());
    }
    let mut credentials = authority.issue(&Profile::client("localhost").purpose(Purpose::Server).dns("localhost"));
    credentials.chain = above;
    let (chain, key) = credentials.write(prepared.directory(), "long");
    fs::rename(chain, prepared.directory().join("edge.crt")).unwrap();
    fs::rename(key, prepared.directory().join("edge.key")).unwrap();
    let proxy = prepared.run();
    let plain = Client::new(Vec::new()).look(&proxy, "localhost");
    let bytes: usize = plain.0.iter().map(|certificate| certificate.len()).sum();
    assert!(plain.0.len() == 21 && bytes > 8 * 1024, "{} certificates of {bytes} bytes", plain.0.len());
    assert!(compressed(&proxy, BROTLI_DECOMPRESSOR, "localhost").0 == plain);
    assert!(compressed(&proxy, ZLIB_DECOMPRESSOR, "localhost").0 == plain);
    let is_counted = || (saved_bytes(&proxy) > bytes as f64).then_some(());
    wait_until("two messages are each less than half as long", is_counted, || proxy.metrics());
}

#[test]
fn client_that_is_asked_for_its_hello_again_gets_the_certificate_compressed() {
    let pki = Pki::new(None);
    // rustls offers its key share for X25519.
    let proxy = prepared(&pki, "groups = [\"P-256\"]").run();
    let plain = Client::new(Vec::new()).look(&proxy, "localhost");
    assert!(compressed(&proxy, BROTLI_DECOMPRESSOR, "localhost").0 == plain);
}

#[test]
fn others_notice_nothing() {
    let pki = Pki::new(None);
    let proxy = prepared(&pki, "").run();
    let (plain, _) = compressed(&proxy, BROTLI_DECOMPRESSOR, "localhost");
    let counts = || ["brotli", "zlib", "none"].map(|algorithm| sent(&proxy, algorithm));
    let before = counts();
    assert!(Client::new(Vec::new()).look(&proxy, "localhost") == plain);
    for version in ["-tls1_2", "-tls1_3"] {
        assert!(ask_as_openssl(&pki, proxy.address(), &[version]).contains("Verify return code: 0 (ok)"), "{version}");
    }
    for priority in ["NORMAL:-VERS-ALL:+VERS-TLS1.2", "NORMAL:-VERS-ALL:+VERS-TLS1.3"] {
        assert!(ask_as_gnutls(&pki, proxy.address(), priority).0.contains("The certificate is trusted"), "{priority}");
    }
    // One that takes compression, but speaks TLS 1.2 in the end.
    let counting = Counting::new(BROTLI_DECOMPRESSOR);
    proxy.edit("certificates", "max_version = \"1.2\"\ncertificates");
    assert_eq!(proxy.reload().0, 200);
    for _ in 0..3 {
        assert!(Client::new(vec![counting]).look(&proxy, "localhost") == plain);
    }
    let handshakes = "sluice_handshakes_total{version=\"1.2\",kind=\"full\"}";
    let are_counted = || (openmetrics::value(&proxy.metrics(), handshakes) == Some(5.0)).then_some(());
    wait_until("the handshakes are counted", are_counted, || proxy.metrics());
    assert_eq!((counting.count(), counts()), (0, before));
}

#[test]
fn nothing_is_compressed_where_it_is_off() {
    let pki = Pki::new(None);
    let proxy = prepared(&pki, "certificate_compression = \"off\"").run();
    let counting = Counting::new(BROTLI_DECOMPRESSOR);
    let client = Client::new(vec![counting]);
    // Switched on it would be there by now.
    for _ in 0..10 {
        client.look(&proxy, "localhost");
        thread::park_timeout(Duration::from_millis(100));
    }
    assert_eq!(counting.count(), 0);
    assert_eq!(["brotli", "zlib", "none"].map(|algorithm| sent(&proxy, algorithm)), [0.0; 3]);
    proxy.edit("certificate_compression = \"off\"", "certificate_compression = \"auto\"");
    assert_eq!(proxy.reload().0, 200);
    compressed(&proxy, BROTLI_DECOMPRESSOR, "localhost");
}

#[test]
fn resumption_sends_no_certificate() {
    let pki = Pki::new(None);
    let proxy = prepared(&pki, "").run();
    compressed(&proxy, BROTLI_DECOMPRESSOR, "localhost");
    let counting = Counting::new(BROTLI_DECOMPRESSOR);
    let client = Client::new(vec![counting]);
    assert_eq!(client.connect(&proxy, "localhost"), HandshakeKind::Full);
    let before = sent(&proxy, "brotli");
    for _ in 0..3 {
        assert_eq!(client.connect(&proxy, "localhost"), HandshakeKind::Resumed);
    }
    let resumed = "sluice_handshakes_total{version=\"1.3\",kind=\"resumed\"}";
    let are_counted = || (openmetrics::value(&proxy.metrics(), resumed) == Some(3.0)).then_some(());
    wait_until("the resumptions are counted", are_counted, || proxy.metrics());
    assert_eq!((counting.count(), sent(&proxy, "brotli")), (1, before));
}

#[test]
fn response_is_in_what_is_compressed_and_a_new_one_replaces_it() {
    let pki = Pki::new(None);
    let prepared = prepared(&pki, "ocsp = \"file\"");
    let file = prepared.directory().join("edge.crt.ocsp");
    let first = pki.response(Signer::Issuer, Status::Good);
    fs::write(&file, &first).unwrap();
    let proxy = prepared.run();
    for inner in [BROTLI_DECOMPRESSOR, ZLIB_DECOMPRESSOR] {
        let (shown, _) = compressed(&proxy, inner, "localhost");
        assert!(shown.1 == first && shown.0.len() == 2);
    }
    // rustls always asks for a response; openssl asks, too, and has none of it compressed.
    assert!(ask_as_openssl(&pki, proxy.address(), &["-tls1_3"]).contains("Cert Status: good"));

    let second = pki.response(Signer::Delegate, Status::Good);
    assert!(second != first);
    let counting = Counting::new(BROTLI_DECOMPRESSOR);
    let client = Client::new(vec![counting]);
    fs::write(&file, &second).unwrap();
    let look = || {
        let before = counting.count();
        let (certificates, response) = client.look(&proxy, "localhost");
        assert!(response == first || response == second, "never without, and never anything else");
        assert_eq!(certificates.len(), 2);
        (response == second && counting.count() > before).then_some(())
    };
    wait_until("the new response comes compressed", look, || proxy.log().text());
}

#[test]
fn new_certificate_is_served_compressed_after_a_swap() {
    let pki = Pki::new(None);
    let proxy = prepared(&pki, "").run();
    let (former, _) = compressed(&proxy, BROTLI_DECOMPRESSOR, "localhost");
    let renewed = Pki::of(pki.authority_again(), &Pki::profile(None));
    renewed.put(proxy.directory());
    proxy.log().wait_for("certificate files changed: the new certificate goes in service");
    let counting = Counting::new(BROTLI_DECOMPRESSOR);
    let client = Client::new(vec![counting]);
    let look = || {
        let before = counting.count();
        let shown = client.look(&proxy, "localhost");
        (shown != former && counting.count() > before).then_some(shown)
    };
    let shown = wait_until("the new certificate comes compressed", look, || proxy.log().text());
    assert!(shown == Client::new(Vec::new()).look(&proxy, "localhost"));
}

#[test]
fn chromium_takes_the_compressed_certificate() {
    let pki = Pki::new(None);
    let proxy = prepared(&pki, "").run();
    compressed(&proxy, BROTLI_DECOMPRESSOR, "localhost");
    let before = sent(&proxy, "brotli");
    let mut browser = Browser::start_with(&["--ignore-certificate-errors"]);
    let url = format!("https://localhost:{}/", proxy.address().port());
    browser.show(&url, (400, 300), "light", "document.body.innerText === 'hello'");
    let is_counted = || (sent(&proxy, "brotli") > before).then_some(());
    wait_until("Chromium has got a compressed certificate", is_counted, || proxy.metrics());
}

/// Would compress the client's certificate, if the server said that it takes that.
#[derive(Debug)]
struct Eager(&'static AtomicUsize);

impl CertCompressor for Eager {
    fn compress(&self, _: Vec<u8>, _: CompressionLevel) -> Result<Vec<u8>, CompressionFailed> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Err(CompressionFailed)
    }

    fn algorithm(&self) -> CertificateCompressionAlgorithm {
        CertificateCompressionAlgorithm::Brotli
    }
}

/// rustls with a certificate; how often it would have compressed that is counted.
fn client_with_certificate(server_ca: &Path, chain: &Path, key: &Path) -> (Arc<ClientConfig>, &'static AtomicUsize) {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(server_ca).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let chain = CertificateDer::pem_file_iter(chain).unwrap().map(Result::unwrap).collect();
    let mut config = builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap();
    let count: &AtomicUsize = Box::leak(Box::default());
    config.cert_compressors = vec![Box::leak(Box::new(Eager(count)))];
    (Arc::new(config), count)
}

#[test]
fn clients_are_never_asked_for_compressed_certificates() {
    let pki = Pki::new(None);
    let prepared = prepared(&pki, "client_auth = { ca = \"clients.pem\" }");
    let clients = Authority::root("Clients");
    clients.write(prepared.directory(), "clients.pem");
    let (chain, key) = clients.issue(&Profile::client("client")).write(prepared.directory(), "client");
    let proxy = prepared.run();
    let (config, count) = client_with_certificate(&pki.issuer(), &chain, &key);
    drop(handshake(&config, proxy.address(), "localhost"));
    let accepted = "sluice_client_certificates_total{result=\"accepted\"}";
    let is_counted = || (openmetrics::value(&proxy.metrics(), accepted) == Some(1.0)).then_some(());
    wait_until("the client is let in", is_counted, || proxy.log().text());
    assert_eq!(count.load(Ordering::SeqCst), 0, "the CertificateRequest named Brotli");
}

#[test]
fn admin_endpoint_asks_for_no_compressed_certificates() {
    let pki = Pki::new(None);
    let clients = Authority::root("Operators");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let tls = "chain = \"edge.crt\"\nkey = \"edge.key\"\nclient_ca = \"operators.pem\"";
    let options = Options { admin: format!("address = \"{free}\"\n[admin.tls]\n{tls}"), ..Options::to(backend()) };
    let prepared = Proxy::prepare(&options);
    pki.put(prepared.directory());
    clients.write(prepared.directory(), "operators.pem");
    let (chain, key) = clients.issue(&Profile::client("operator")).write(prepared.directory(), "operator");
    let proxy = prepared.run();
    let (config, count) = client_with_certificate(&pki.issuer(), &chain, &key);
    let mut tls = handshake(&config, proxy.admin(), "localhost");
    tls.write_all(b"GET /livez HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    tls.read_exact(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.") && answer.ends_with(b"200"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(count.load(Ordering::SeqCst), 0, "the CertificateRequest named Brotli");
}

#[test]
fn syslog_client_offers_to_take_no_compressed_certificate() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let sections = format!(
        "[access_log]\noutput = \"syslog+tls:{address}\"\n[syslog]\nserver_name = \"localhost\"\nca = \"edge.crt\""
    );
    let proxy = Proxy::start(&Options { sections, ..Options::to(backend()) });
    assert!(proxy.curl(&["--output", "/dev/null"]).status().unwrap().success(), "something to be written");
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut header = [0; 9];
    stream.read_exact(&mut header).unwrap();
    let length = usize::from(u16::from_be_bytes([header[7], header[8]]));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    let hello = ClientHello::parse(&body).unwrap();
    assert!(hello.versions().any(|version| version == 0x0304), "it speaks TLS 1.3");
    assert!(hello.certificate_compressions().is_none(), "{:?}", hello.extension_types().collect::<Vec<_>>());
}
