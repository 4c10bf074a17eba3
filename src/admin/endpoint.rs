//! The HTTP endpoint on the control thread.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use openssl::ssl::{Ssl, SslAcceptor};
use openssl::x509::{X509NameEntryRef, X509Ref};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc::Sender;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio_openssl::SslStream;

use super::listen::{BindError, Socket, SocketFile, Twin};
use super::route::{self, Answer, Request, Source, Wanted};
use super::settings::{Address, Settings};
use crate::telemetry::Process;
use crate::telemetry::audit::AdminPeer;
use crate::telemetry::exposition::Exposition;

/// Admin connections at a time; one more ends the oldest, so that no set of slow clients keeps out the operator.
const CONNECTIONS_MAX: usize = 64;
/// Largest request line with headers; longer ones are answered with 431.
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Header fields per request; more are answered with 431.
const HEADERS_MAX: usize = 64;
/// Largest request body, which nothing here needs; longer ones are answered with 413.
const BODY_BYTES_MAX: usize = 4 * 1024;
/// From the begin of a connection to the last byte of the request header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// From the begin of a connection to the last byte of the answer. Each connection carries one request.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the answer to a reload waits for its outcome; then the client is told to look at the status.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(8);
/// How long accepting rests when descriptors or memory are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// A bound admin endpoint.
pub struct Endpoint {
    socket: Socket,
    address: Address,
    tls: Option<SslAcceptor>,
}

impl Endpoint {
    /// Listens where the settings say; a port of 0 is resolved. None where they name no address.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(settings: &Settings) -> Result<Option<Self>, BindError> {
        let Some(address) = &settings.address else { return Ok(None) };
        let tls = settings.tls.as_ref().map(|tls| tls.load()).transpose()?;
        let (socket, address) = Socket::bind(settings, address)?;
        Ok(Some(Self { socket, address, tls }))
    }

    /// Goes on with a socket that another process has bound to the address of the settings. The file of a unix socket is
    /// that process's until this one serves.
    ///
    /// # Errors
    /// [`BindError::Tls`].
    pub fn take_over(settings: &Settings, socket: OwnedFd) -> Result<Option<Self>, BindError> {
        let Some(address) = &settings.address else { return Ok(None) };
        let tls = settings.tls.as_ref().map(|tls| tls.load()).transpose()?;
        let socket = Socket::take_over(socket, address);
        Ok(Some(Self { socket, address: address.clone(), tls }))
    }

    /// Its socket once more, for a process that takes over.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn twin(&self) -> io::Result<Twin> {
        self.socket.twin()
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Serves until it is dropped; to be run on a tokio runtime. What clients ask for goes to `requests`.
    ///
    /// Cancel safety: safe; open connections are cut.
    ///
    /// # Errors
    /// When the runtime refuses the socket.
    pub async fn serve(self, process: Arc<Process>, requests: Sender<Request>) -> io::Result<()> {
        self.socket.own_file();
        let acceptor = Acceptor::new(self.socket)?;
        let exposition = Exposition::new(Arc::clone(&process));
        let is_loopback_http = self.tls.is_none() && matches!(self.address, Address::Tcp(_));
        let source = Arc::new(Source { process, exposition, is_loopback_http });
        let tls = self.tls.map(Arc::new);
        let mut connections = Connections::default();
        loop {
            match acceptor.accept().await {
                Ok((stream, peer)) => {
                    let exchange = exchange(stream, peer, tls.clone(), Arc::clone(&source), requests.clone());
                    connections.admit(tokio::spawn(exchange).abort_handle());
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting an admin connection failed: resting for {ACCEPT_PAUSE:?}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Endpoint").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The listening socket on the runtime.
enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener, #[allow(dead_code, reason = "removes the file when it is dropped")] SocketFile),
}

/// A stream of whichever kind.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Acceptor {
    fn new(socket: Socket) -> io::Result<Self> {
        Ok(match socket {
            Socket::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)?),
            Socket::Unix(listener, file) => Self::Unix(UnixListener::from_std(listener)?, file),
        })
    }

    /// Cancel safety: safe.
    async fn accept(&self) -> io::Result<(Box<dyn Duplex>, AdminPeer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((Box::new(stream), AdminPeer { address: address.to_string(), ..AdminPeer::default() }))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let credentials = stream.peer_cred().ok();
                let pid = credentials.and_then(|peer| peer.pid()).and_then(|pid| u32::try_from(pid).ok());
                let uid = credentials.map(|peer| peer.uid());
                Ok((Box::new(stream), AdminPeer { address: "unix".to_owned(), pid, uid, certificate: None }))
            }
        }
    }
}

/// The open connections, oldest first; dropped, they are cut.
#[derive(Default)]
struct Connections(VecDeque<AbortHandle>);

impl Connections {
    fn admit(&mut self, connection: AbortHandle) {
        self.0.retain(|connection| !connection.is_finished());
        if self.0.len() >= CONNECTIONS_MAX
            && let Some(oldest) = self.0.pop_front()
        {
            tracing::warn!("more than {CONNECTIONS_MAX} admin connections: cutting the oldest");
            oldest.abort();
        }
        self.0.push_back(connection);
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

/// One connection: one request and its answer, within [`EXCHANGE_TIMEOUT`] in all.
async fn exchange(
    stream: Box<dyn Duplex>,
    mut peer: AdminPeer,
    tls: Option<Arc<SslAcceptor>>,
    source: Arc<Source>,
    requests: Sender<Request>,
) {
    let connection = async {
        match tls {
            Some(acceptor) => {
                let stream = handshake(stream, &acceptor).await?;
                peer.certificate = stream.ssl().peer_certificate().map(|certificate| subject(&certificate));
                serve_http(stream, &peer, &source, &requests).await
            }
            None => serve_http(stream, &peer, &source, &requests).await,
        }
    };
    match tokio::time::timeout(EXCHANGE_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin connection failed"),
        Err(_) => tracing::debug!("admin client was not done after {EXCHANGE_TIMEOUT:?}"),
    }
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

async fn handshake(stream: Box<dyn Duplex>, acceptor: &SslAcceptor) -> Result<SslStream<Box<dyn Duplex>>, Failed> {
    let mut stream = SslStream::new(Ssl::new(acceptor.context())?, stream)?;
    Pin::new(&mut stream).accept().await?;
    Ok(stream)
}

/// The subject of a certificate, such as `CN=alice, O=Example`.
fn subject(certificate: &X509Ref) -> String {
    let part = |entry: &X509NameEntryRef| {
        let key = entry.object().nid().short_name().unwrap_or("?").to_owned();
        let value = entry.data().to_string().unwrap_or_else(|_| "?".to_owned());
        format!("{key}={value}")
    };
    certificate.subject_name().entries().map(part).collect::<Vec<_>>().join(", ")
}

async fn serve_http(
    stream: impl Duplex,
    peer: &AdminPeer,
    source: &Source,
    requests: &Sender<Request>,
) -> Result<(), Failed> {
    let service = service_fn(|request| respond(request, peer, source, requests));
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_headers(HEADERS_MAX)
        .max_header_size(HEADER_BYTES_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    Ok(connection.await?)
}

async fn respond(
    request: hyper::Request<Incoming>,
    peer: &AdminPeer,
    source: &Source,
    requests: &Sender<Request>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let answer = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(_) => route::answer(&head.method, head.uri.path(), &head.headers, source),
        Err(_) => Answer::text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long or was cut off"),
    };
    let answer = match answer.wanted {
        None => answer,
        Some(wanted) => grant(wanted, answer, peer, requests).await,
    };
    Ok(response(answer))
}

/// Passes on to the control thread what the client wants, and gives the answer: `otherwise` where none came in time.
async fn grant(wanted: Wanted, otherwise: Answer, peer: &AdminPeer, requests: &Sender<Request>) -> Answer {
    tracing::info!(request = ?wanted, peer = %peer.address, uid = peer.uid, "admin request");
    match wanted {
        Wanted::Drain => {
            let _ = requests.send(Request::Drain(peer.clone())).await;
            otherwise
        }
        Wanted::Reload => {
            let (sender, outcome) = oneshot::channel();
            let _ = requests.send(Request::Reload(peer.clone(), sender)).await;
            match tokio::time::timeout(RELOAD_TIMEOUT, outcome).await {
                Ok(Ok(outcome)) => Answer::reloaded(&outcome),
                Ok(Err(_)) | Err(_) => otherwise,
            }
        }
    }
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(methods) = answer.allow {
        headers.insert(ALLOW, HeaderValue::from_static(methods));
    }
    if let Some(policy) = answer.content_policy {
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    }
    response
}
