//! The demo's self-check: a client of its own goes through the socket and compares every byte.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use openssl::ssl::{SslConnector, SslMethod, SslStream, SslVersion};

use super::backend::pattern;
use super::hex;
use crate::sys::ssl::NO_RX_CERTIFICATE_COMPRESSION;

/// Bytes sent each way and version.
const BODY_LEN: usize = 4 * 1024 * 1024;
/// How long the proxy may leave the client waiting.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a check failed at.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    #[error("connect: {0}")]
    Io(#[from] io::Error),
    #[error("OpenSSL: {0}")]
    OpenSsl(#[from] openssl::error::ErrorStack),
    #[error("handshake: {0}")]
    Handshake(String),
    #[error("{what}: {got} bytes came back that are not the {expected} that were due")]
    Body { what: &'static str, got: usize, expected: usize },
    #[error("the answer is not HTTP: {0:?}")]
    Http(String),
}

/// What was negotiated.
pub(super) struct Negotiated {
    pub(super) version: &'static str,
    pub(super) suite: String,
    pub(super) group: String,
}

/// Downloads and uploads over one version of TLS.
pub(super) fn check(address: SocketAddr, authority: &Path, version: SslVersion) -> Result<Negotiated, CheckError> {
    let mut stream = connect(address, authority, version)?;
    let negotiated = Negotiated {
        version: stream.ssl().version_str(),
        suite: stream.ssl().current_cipher().and_then(|cipher| cipher.standard_name()).unwrap_or("?").to_owned(),
        group: crate::sys::ssl::group_name(stream.ssl()).unwrap_or("?").to_owned(),
    };
    let body = pattern(BODY_LEN);
    let download = exchange(&mut stream, &format!("GET /bytes/{BODY_LEN} HTTP/1.1\r\nHost: localhost\r\n\r\n"), &[])?;
    compare("download", &download, &body)?;
    let head = format!("POST /digest HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BODY_LEN}\r\n\r\n");
    let digest = exchange(&mut stream, &head, &body)?;
    compare("digest of the upload", &digest, hex(&openssl::sha::sha256(&body)).as_bytes())?;
    let _ = stream.shutdown();
    Ok(negotiated)
}

fn connect(address: SocketAddr, authority: &Path, version: SslVersion) -> Result<SslStream<TcpStream>, CheckError> {
    let mut connector = SslConnector::builder(SslMethod::tls_client())?;
    connector.set_ca_file(authority)?;
    connector.set_options(NO_RX_CERTIFICATE_COMPRESSION);
    connector.set_min_proto_version(Some(version))?;
    connector.set_max_proto_version(Some(version))?;
    let tcp = TcpStream::connect_timeout(&address, PATIENCE)?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_write_timeout(Some(PATIENCE))?;
    connector.build().connect("localhost", tcp).map_err(|error| CheckError::Handshake(error.to_string()))
}

/// Sends a request and returns the body of the answer.
fn exchange(stream: &mut SslStream<TcpStream>, head: &str, body: &[u8]) -> Result<Vec<u8>, CheckError> {
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        if let Some((head_len, body_len)) = content_length(&answer)
            && answer.len() >= head_len + body_len
        {
            return Ok(answer.split_off(head_len));
        }
        match stream.read(&mut chunk)? {
            0 => return Err(CheckError::Http(String::from_utf8_lossy(&answer).chars().take(80).collect())),
            len => answer.extend_from_slice(&chunk[..len]),
        }
    }
}

/// Length of the head, and of the body that it announces; none while the head is not whole.
fn content_length(answer: &[u8]) -> Option<(usize, usize)> {
    let head_len = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&answer[..head_len]).ok()?.to_ascii_lowercase();
    let value = head.lines().find_map(|line| line.strip_prefix("content-length:"))?;
    Some((head_len, value.trim().parse().ok()?))
}

fn compare(what: &'static str, got: &[u8], expected: &[u8]) -> Result<(), CheckError> {
    if got == expected {
        return Ok(());
    }
    Err(CheckError::Body { what, got: got.len(), expected: expected.len() })
}
