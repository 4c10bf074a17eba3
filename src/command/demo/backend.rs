//! The demo's built-in backend: a small HTTP server on a loopback port of its own.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use openssl::sha::Sha256;

/// Largest body that `GET /bytes/N` makes up.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long a client may take over the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Starts the backend on its own thread, which ends with the process.
pub(super) fn start() -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("demo-backend".into()).spawn(move || runtime.block_on(serve(listener)))?;
    Ok(address)
}

async fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            let service = hyper::service::service_fn(answer);
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            // A client that goes away in the middle is its own affair.
            let _ = connection.await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let response = match (request.method(), path.strip_prefix("/bytes/")) {
        (&Method::GET, Some(len)) => match len.parse() {
            Ok(len) if len <= BODY_BYTES_MAX => Response::new(Full::from(pattern(len))),
            _ => status(StatusCode::BAD_REQUEST),
        },
        (&Method::POST, None) if path == "/digest" => digest(request.into_body()).await,
        (&Method::GET, None) if path == "/" => Response::new(Full::from("Hello from the backend behind Sluice.\n")),
        _ => status(StatusCode::NOT_FOUND),
    };
    Ok(response)
}

/// The SHA-256 of the request's body, in hex.
async fn digest(mut body: Incoming) -> Response<Full<Bytes>> {
    let mut hasher = Sha256::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return status(StatusCode::BAD_REQUEST) };
        if let Some(data) = frame.data_ref() {
            hasher.update(data);
        }
    }
    Response::new(Full::from(super::hex(&hasher.finish())))
}

fn status(code: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{code}\n")));
    *response.status_mut() = code;
    response
}

/// Bytes that no shift or repetition of records leaves unchanged.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    let word = |index: usize| (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(word).collect();
    bytes.truncate(len);
    bytes
}
