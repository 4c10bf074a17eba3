//! One question to a responder, over plain HTTP: what it answers is signed (RFC 6960 appendix A).

use std::io;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::telemetry::OcspFetch;
use crate::tls::stapling::RESPONSE_BYTES_MAX;

/// How long an answer may take, names and connection included.
pub(super) const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a responder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Responder {
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl std::fmt::Display for Responder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("cannot be reached: {0}")]
    Unreachable(io::Error),
    #[error("broke off: {0}")]
    Broken(hyper::Error),
    #[error("did not answer within {FETCH_TIMEOUT:?}")]
    TimedOut,
    #[error("answered with HTTP status {0}")]
    Status(StatusCode),
    #[error("answered with more than {RESPONSE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("cannot be asked: {0}")]
    Request(hyper::http::Error),
}

impl FetchError {
    pub(super) fn label(&self) -> OcspFetch {
        match self {
            Self::Unreachable(_) | Self::Broken(_) | Self::Request(_) => OcspFetch::Unreachable,
            Self::TimedOut => OcspFetch::TimedOut,
            Self::Status(_) => OcspFetch::HttpStatus,
            Self::TooLarge => OcspFetch::TooLarge,
        }
    }
}

impl Responder {
    /// The responder at a URL; none where it is not plain HTTP, the only scheme that this is spoken over.
    pub(super) fn parse(url: &str) -> Option<Self> {
        let url: Uri = url.parse().ok()?;
        if url.scheme_str() != Some("http") {
            return None;
        }
        let host = url.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let path = url.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let authority = url.authority()?.as_str();
        // RFC 9110 section 4.2.4: what stands before an @ is for nobody.
        let authority = authority.rsplit('@').next().unwrap_or(authority).to_owned();
        Some(Self { host, port: url.port_u16().unwrap_or(80), authority, path })
    }

    /// Asks, and gives the body of the answer, which is yet to be looked at.
    pub(super) async fn ask(&self, request: Vec<u8>) -> Result<Vec<u8>, FetchError> {
        tokio::time::timeout(FETCH_TIMEOUT, self.exchange(request)).await.unwrap_or(Err(FetchError::TimedOut))
    }

    async fn exchange(&self, request: Vec<u8>) -> Result<Vec<u8>, FetchError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(FetchError::Unreachable)?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(FetchError::Broken)?;
        let request = Request::post(&self.path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/ocsp-request")
            .header(ACCEPT, "application/ocsp-response")
            .header(CONNECTION, "close")
            .body(Full::<Bytes>::from(request))
            .map_err(FetchError::Request)?;
        let exchange = async move {
            let response = sender.send_request(request).await.map_err(FetchError::Broken)?;
            if response.status() != StatusCode::OK {
                return Err(FetchError::Status(response.status()));
            }
            let body = Limited::new(response.into_body(), RESPONSE_BYTES_MAX).collect().await;
            body.map(|body| body.to_bytes().to_vec()).map_err(|error| match error.downcast::<hyper::Error>() {
                Ok(error) => FetchError::Broken(*error),
                Err(error) => {
                    debug_assert!(error.is::<LengthLimitError>());
                    FetchError::TooLarge
                }
            })
        };
        // The connection ends when its sender is gone; how it does is no matter once there is an answer.
        let (answer, _) = tokio::join!(exchange, connection);
        answer
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn responder_is_read_from_its_url() {
        let parse = |url| Responder::parse(url).unwrap();
        let plain = parse("http://ocsp.example.com");
        assert_eq!((plain.host.as_str(), plain.port, plain.path.as_str()), ("ocsp.example.com", 80, "/"));
        let full = parse("http://[::1]:8080/a/b?c=d");
        assert_eq!((full.host.as_str(), full.port, full.path.as_str()), ("::1", 8080, "/a/b?c=d"));
        assert_eq!(full.authority, "[::1]:8080");
        assert_eq!(parse("http://user:secret@a.example:81/").authority, "a.example:81");
    }

    #[test]
    fn url_of_another_scheme_is_none() {
        for url in ["https://ocsp.example.com", "ldap://x/", "ocsp.example.com", "", "http://", "http:///x", "\u{1}"] {
            assert_eq!(Responder::parse(url), None, "{url}");
        }
    }
}
