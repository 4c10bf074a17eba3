//! Targets for the tests: a blocking OpenSSL server with a thread per connection that counts what it serves.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::{SslAcceptor, SslMethod, SslOptions, SslSessionCacheMode, SslStream, SslVerifyMode, SslVersion};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};
use sluice_loadtest::plan::{Plan, TlsPlan, Trust};
use sluice_loadtest::result::{RunResult, Scenario};
use sluice_loadtest::run::{self, Quiet};

/// What a target does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Behaviour {
    pub tickets: Tickets,
    /// The request with this number (from 1) stops the whole target for so long.
    pub stall: Option<(u64, Duration)>,
    pub answer: Answer,
    pub client_certificate: ClientCertificate,
    /// Closes every connection after so many requests, as it announces.
    pub requests_per_connection: Option<u64>,
    pub close: Close,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Close {
    /// As soon as the client has said its close_notify.
    #[default]
    Notified,
    /// Like [`Close::Notified`], but behind the 20th handshake longer than the client has patience for.
    LateOnce,
    /// Only when the client has closed TCP.
    Fin,
    /// When the client has answered the target's close_notify.
    Answer,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tickets {
    #[default]
    Issue,
    Refuse,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    #[default]
    Whole,
    /// Half of the announced body, then a close.
    Half,
    /// 503.
    Unavailable,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificate {
    #[default]
    NotAsked,
    Required,
}

/// What a target served.
#[derive(Debug, Default)]
pub struct Served {
    pub handshakes: AtomicU64,
    pub resumed: AtomicU64,
    pub requests: AtomicU64,
}

/// A TLS server on a free port that lives until the test process ends.
pub struct Target {
    pub address: SocketAddr,
    pub served: Arc<Served>,
    pub ca: PathBuf,
    _directory: tempfile::TempDir,
}

impl Target {
    pub fn start(behaviour: Behaviour) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity::make(EcOrRsa::Ec);
        let ca = identity.write(directory.path());
        let acceptor = Arc::new(acceptor(&behaviour, &[identity, Identity::make(EcOrRsa::Rsa)]));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let served = Arc::new(Served::default());
        let shared = Arc::new(Shared { behaviour, served: Arc::clone(&served), world: Mutex::new(()) });
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (acceptor, shared) = (Arc::clone(&acceptor), Arc::clone(&shared));
                std::thread::spawn(move || serve(&acceptor, stream.unwrap(), &shared));
            }
        });
        Self { address, served, ca, _directory: directory }
    }

    pub fn plan(&self, scenario: Scenario) -> Plan {
        let mut plan = Plan::new(scenario, self.address);
        plan.tls = Some(TlsPlan { trust: Trust::Ca(self.ca.clone()), ..TlsPlan::default() });
        plan.connections = 4;
        plan.duration = Duration::from_secs(1);
        plan
    }

    pub fn handshakes(&self) -> u64 {
        self.served.handshakes.load(SeqCst)
    }

    pub fn requests(&self) -> u64 {
        self.served.requests.load(SeqCst)
    }
}

struct Shared {
    behaviour: Behaviour,
    served: Arc<Served>,
    world: Mutex<()>,
}

fn serve(acceptor: &SslAcceptor, stream: TcpStream, shared: &Shared) {
    stream.set_nodelay(true).unwrap();
    // A client that gives up is what some tests are about.
    let Ok(mut stream) = acceptor.accept(stream) else { return };
    let handshake = shared.served.handshakes.fetch_add(1, SeqCst) + 1;
    shared.served.resumed.fetch_add(u64::from(stream.ssl().session_reused()), SeqCst);
    let mut count = 0;
    while let Some((path, closes, body)) = read_request(&mut stream) {
        count += 1;
        let last = closes || shared.behaviour.requests_per_connection == Some(count);
        pass_through_the_world(shared);
        if answer(&mut stream, shared.behaviour.answer, &path, body, last).is_none() || last {
            break;
        }
    }
    if shared.behaviour.close == Close::LateOnce && handshake == 20 {
        std::thread::sleep(Duration::from_millis(800)); // the lateness itself
    }
    let _ = stream.shutdown();
    if shared.behaviour.close == Close::Answer {
        // Fails when the client just goes, which makes it slow and not wrong: see the test.
        let _ = stream.shutdown();
    }
    if shared.behaviour.close == Close::Fin {
        let _ = std::io::copy(&mut stream.get_ref(), &mut std::io::sink());
    }
}

/// Every request holds the world for a moment; the stalling one holds it for long.
fn pass_through_the_world(shared: &Shared) {
    let guard = shared.world.lock().unwrap();
    let number = shared.served.requests.fetch_add(1, SeqCst) + 1;
    if let Some((at, length)) = shared.behaviour.stall
        && number == at
    {
        std::thread::sleep(length); // the stall itself
    }
    drop(guard);
}

/// Path, whether it is the last, and the length of the body.
fn read_request(stream: &mut SslStream<TcpStream>) -> Option<(String, bool, u64)> {
    let mut reader = BufReader::with_capacity(1, &mut *stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        lines.push(line.trim().to_ascii_lowercase());
    }
    let length = lines.iter().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    let body = std::io::copy(&mut reader.take(length), &mut std::io::sink()).ok()?;
    let closes = lines.iter().any(|line| line == "connection: close");
    Some((lines[0].split(' ').nth(1).unwrap().to_owned(), closes, body))
}

fn answer(stream: &mut SslStream<TcpStream>, answer: Answer, path: &str, body: u64, last: bool) -> Option<()> {
    let connection = if last { "Connection: close\r\n" } else { "" };
    if answer == Answer::Unavailable {
        return stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").ok();
    }
    let text = match path.strip_prefix("/bytes/") {
        Some(count) => vec![b'x'; count.parse().unwrap()],
        None => body.to_string().into_bytes(),
    };
    let mut message = format!("HTTP/1.1 200 OK\r\n{connection}Content-Length: {}\r\n\r\n", text.len()).into_bytes();
    message.extend_from_slice(if answer == Answer::Half { &text[..text.len() / 2] } else { &text });
    stream.write_all(&message).ok()?;
    (answer == Answer::Whole).then_some(())
}

#[derive(Clone, Copy)]
pub enum EcOrRsa {
    Ec,
    Rsa,
}

/// A self-signed certificate for `localhost` and 127.0.0.1.
pub struct Identity {
    pub certificate: X509,
    pub key: PKey<Private>,
}

impl Identity {
    pub fn make(kind: EcOrRsa) -> Self {
        let key = match kind {
            EcOrRsa::Ec => {
                let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
                PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
            }
            EcOrRsa::Rsa => PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap(),
        };
        let mut name = X509NameBuilder::new().unwrap();
        name.append_entry_by_text("CN", "localhost").unwrap();
        let name = name.build();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        builder.set_serial_number(&BigNum::from_u32(7).unwrap().to_asn1_integer().unwrap()).unwrap();
        builder.set_subject_name(&name).unwrap();
        builder.set_issuer_name(&name).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
        let names =
            SubjectAlternativeName::new().dns("localhost").ip("127.0.0.1").build(&builder.x509v3_context(None, None));
        builder.append_extension(names.unwrap()).unwrap();
        builder.append_extension(BasicConstraints::new().ca().build().unwrap()).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        Self { certificate: builder.build(), key }
    }

    /// Writes `cert.pem` and `key.pem`; gives the path of the first.
    pub fn write(&self, directory: &Path) -> PathBuf {
        let path = directory.join("cert.pem");
        std::fs::write(&path, self.certificate.to_pem().unwrap()).unwrap();
        std::fs::write(directory.join("key.pem"), self.key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        path
    }
}

fn acceptor(behaviour: &Behaviour, identities: &[Identity]) -> SslAcceptor {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    builder.set_min_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    builder.set_max_proto_version(Some(SslVersion::TLS1_3)).unwrap();
    builder.set_session_id_context(b"test").unwrap();
    builder.set_groups_list("X25519:P-256").unwrap();
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    for identity in identities {
        builder.set_private_key(&identity.key).unwrap();
        builder.set_certificate(&identity.certificate).unwrap();
    }
    if behaviour.tickets == Tickets::Refuse {
        builder.set_options(SslOptions::NO_TICKET);
        builder.set_num_tickets(0).unwrap();
    }
    if behaviour.client_certificate == ClientCertificate::Required {
        builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    }
    builder.build()
}

/// Runs the plan in this process.
pub fn run(plan: &Plan) -> RunResult {
    run::run(plan, &Quiet).unwrap()
}

/// Runs the program to its end.
pub fn sluice_load(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluice-load")).args(arguments).output().unwrap()
}

/// Waits until `condition` holds; fails with `what` after ten seconds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come about within 10 s");
        std::thread::yield_now();
    }
}

/// Reads from `stream` until `text` has come.
pub fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut all = Vec::new();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    while !String::from_utf8_lossy(&all).contains(text) {
        let mut byte = [0];
        assert_eq!(
            stream.read(&mut byte).unwrap(),
            1,
            "the end came before {text:?}: {}",
            String::from_utf8_lossy(&all)
        );
        all.push(byte[0]);
    }
    String::from_utf8(all).unwrap()
}
