//! The HTTP endpoint on the control thread.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::Sender;
use tokio::task::AbortHandle;

use super::route::{self, Answer, Request, Source};
use crate::telemetry::Process;
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
/// How long accepting rests when descriptors or memory are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// A bound admin endpoint.
#[derive(Debug)]
pub struct Endpoint {
    listener: std::net::TcpListener,
    address: SocketAddr,
}

/// Why the admin endpoint could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Configuration: anyone could reach it.
    #[error("admin address {0} is not a loopback address; use 127.0.0.1 or [::1] (admin.address)")]
    NotLoopback(SocketAddr),
    /// The machine: the address is taken.
    #[error("admin endpoint cannot listen on {address}: {source} (admin.address)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What bind(2) or listen(2) said.
        source: io::Error,
    },
}

impl Endpoint {
    /// Listens on `address`, which must be a loopback address; a port of 0 is resolved.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        if !address.ip().is_loopback() {
            return Err(BindError::NotLoopback(address));
        }
        let error = |source| BindError::Listen { address, source };
        let listener = std::net::TcpListener::bind(address).map_err(error)?;
        listener.set_nonblocking(true).map_err(error)?;
        let address = listener.local_addr().map_err(error)?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until it is dropped; to be run on a tokio runtime. What clients ask for goes to `requests`.
    ///
    /// Cancel safety: safe; open connections are cut.
    ///
    /// # Errors
    /// When the runtime refuses the socket.
    pub async fn serve(self, process: Arc<Process>, requests: Sender<Request>) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let exposition = Exposition::new(Arc::clone(&process));
        let source = Arc::new(Source { process, exposition });
        let mut connections = Connections::default();
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let exchange = exchange(stream, Arc::clone(&source), requests.clone());
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

/// One connection: one request and its answer.
async fn exchange(stream: TcpStream, source: Arc<Source>, requests: Sender<Request>) {
    let service = service_fn(|request| respond(request, &source, &requests));
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_headers(HEADERS_MAX)
        .max_header_size(HEADER_BYTES_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(EXCHANGE_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin connection failed"),
        Err(_) => tracing::debug!("admin client was not done after {EXCHANGE_TIMEOUT:?}"),
    }
}

async fn respond(
    request: hyper::Request<Incoming>,
    source: &Source,
    requests: &Sender<Request>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let answer = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(_) => route::answer(&head.method, head.uri.path(), &head.headers, source),
        Err(_) => Answer::text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long or was cut off"),
    };
    if let Some(request) = answer.request {
        tracing::info!(?request, "admin request");
        // A full queue holds the same request already.
        let _ = requests.try_send(request);
    }
    Ok(response(answer))
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
    response
}
