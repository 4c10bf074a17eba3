//! A single connection through a proxy before each run: does it answer, how many tickets does it hand out, does a
//! session resume? A run against a proxy that does not answer would only measure errors.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use openssl::ssl::{
    Ssl, SslConnector, SslContext, SslMethod, SslSession, SslSessionCacheMode, SslStream, SslVerifyMode,
};

use super::certificate::SERVER_NAME;
use super::schema::Probe;
use crate::plan::TlsVersion;
use crate::sys;

/// As [`probe`], again and again until it works, at most [`FIRST_ANSWER_WAIT_MAX`].
///
/// A listening socket does not yet make a proxy: Hitch binds its address once as a test, and what connects then is
/// reset.
pub fn probe_until_it_answers(address: SocketAddr, root: &Path, version: TlsVersion) -> anyhow::Result<Probe> {
    let deadline = Instant::now() + FIRST_ANSWER_WAIT_MAX;
    loop {
        match probe(address, root, version) {
            Err(_) if Instant::now() < deadline => thread::sleep(RETRY_INTERVAL),
            outcome => return outcome,
        }
    }
}

/// Asks for one byte through the proxy at `address` twice, the second time with the session of the first.
pub fn probe(address: SocketAddr, root: &Path, version: TlsVersion) -> anyhow::Result<Probe> {
    let sessions = Arc::new(Mutex::new(Vec::new()));
    let context = context(root, version, &sessions)?;
    ask(address, &context, None).context("the first connection through it")?;
    let mut received = std::mem::take(&mut *sessions.lock().unwrap_or_else(PoisonError::into_inner));
    let tickets = (version == TlsVersion::Tls13).then_some(received.len());
    let resumes = match received.pop() {
        Some(session) => ask(address, &context, Some(&session)).context("the second connection through it")?,
        None => false,
    };
    Ok(Probe { tickets, resumes })
}

type Sessions = Arc<Mutex<Vec<SslSession>>>;

fn context(root: &Path, version: TlsVersion, sessions: &Sessions) -> anyhow::Result<SslContext> {
    let mut builder = SslConnector::builder(SslMethod::tls_client())?;
    let version = match version {
        TlsVersion::Tls12 => openssl::ssl::SslVersion::TLS1_2,
        TlsVersion::Tls13 => openssl::ssl::SslVersion::TLS1_3,
    };
    builder.set_options(sys::NO_RX_CERTIFICATE_COMPRESSION);
    builder.set_min_proto_version(Some(version))?;
    builder.set_max_proto_version(Some(version))?;
    builder.set_ca_file(root).with_context(|| format!("cannot read {}", root.display()))?;
    builder.set_verify(SslVerifyMode::PEER);
    builder.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
    let sessions = Arc::clone(sessions);
    builder.set_new_session_callback(move |_, session| {
        sessions.lock().unwrap_or_else(PoisonError::into_inner).push(session);
    });
    Ok(builder.build().into_context())
}

/// One request and its whole answer; whether the session resumed.
fn ask(address: SocketAddr, context: &SslContext, session: Option<&SslSession>) -> anyhow::Result<bool> {
    let socket = TcpStream::connect_timeout(&address, WAIT_MAX).context("connect")?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(WAIT_MAX))?;
    socket.set_write_timeout(Some(WAIT_MAX))?;
    let mut ssl = Ssl::new(context)?;
    ssl.set_hostname(SERVER_NAME)?;
    ssl.param_mut().set_host(SERVER_NAME)?;
    if let Some(session) = session {
        sys::offer_session(&mut ssl, session)?;
    }
    let mut stream = SslStream::new(ssl, socket)?;
    stream.connect().map_err(|error| anyhow::anyhow!("handshake: {error}"))?;
    let request = format!("GET /bytes/1 HTTP/1.1\r\nHost: {SERVER_NAME}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).context("request")?;
    let mut answer = Vec::new();
    let read = (&mut stream).take(ANSWER_BYTES_MAX).read_to_end(&mut answer);
    // Some proxies close without close_notify after `Connection: close`: the status line is what matters here.
    if let (Err(error), true) = (read, answer.is_empty()) {
        return Err(error).context("answer");
    }
    let status = answer.get(..answer.len().min(STATUS_BYTES)).unwrap_or_default();
    if !status.starts_with(b"HTTP/1.1 200") {
        bail!("it answered {:?} instead of HTTP/1.1 200", String::from_utf8_lossy(status));
    }
    let resumed = stream.ssl().session_reused();
    // Without it OpenSSL takes the connection for broken and spoils its sessions. Failing to send it changes nothing.
    let _ = stream.shutdown();
    Ok(resumed)
}

/// How long a proxy that was just started may refuse or reset connections.
const FIRST_ANSWER_WAIT_MAX: Duration = Duration::from_secs(2);
/// How often it is asked meanwhile.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// Longest wait for each step.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// The answer is a head and one byte.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// How much of an answer goes into an error message.
const STATUS_BYTES: usize = 32;
