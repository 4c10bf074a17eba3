//! Which answer a request gets; no I/O.

use std::net::IpAddr;

use hyper::header::{HOST, HeaderMap, ORIGIN};
use hyper::{Method, StatusCode};

use super::{configuration, page, status};
use crate::telemetry::exposition::{self, Exposition};
use crate::telemetry::{Phase, Process, WorkerState};

/// What an admin client asks the control thread to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Stop accepting, let open connections end, then exit.
    Drain,
}

/// The answer to one HTTP request, and what follows from it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) allow: Option<&'static str>,
    /// Content-Security-Policy.
    pub(super) content_policy: Option<&'static str>,
    pub(super) body: String,
    pub(super) request: Option<Request>,
}

/// What the answers are made from.
pub(super) struct Source {
    pub(super) process: std::sync::Arc<Process>,
    pub(super) exposition: Exposition,
    /// Any program of this machine can connect, a browser among them.
    pub(super) is_loopback_http: bool,
}

/// Answers a request whose body was within bounds.
pub(super) fn answer(method: &Method, path: &str, headers: &HeaderMap, source: &Source) -> Answer {
    let reads = method == Method::GET || method == Method::HEAD;
    if source.is_loopback_http && !is_named_locally(headers) {
        return Answer::text(StatusCode::MISDIRECTED_REQUEST, "ask for 127.0.0.1, [::1] or localhost");
    }
    match path {
        "/" | "/metrics" | "/livez" | "/readyz" | "/status" | "/config" if !reads => not_allowed("GET, HEAD"),
        "/" => page(),
        "/metrics" => metrics(source),
        "/livez" => liveness(&source.process),
        "/readyz" => readiness(&source.process),
        "/status" => Answer::json(status::render(&source.process)),
        "/config" => Answer::json(configuration::render(&source.process)),
        "/drain" if method != Method::POST => not_allowed("POST"),
        // A web page that the operator looks at can make the browser post here, but not without naming its origin.
        "/drain" if headers.contains_key(ORIGIN) => {
            Answer::text(StatusCode::FORBIDDEN, "requests from web pages are refused")
        }
        "/drain" => {
            Answer { request: Some(Request::Drain), ..Answer::text(StatusCode::ACCEPTED, Phase::Draining.name()) }
        }
        _ => Answer::text(StatusCode::NOT_FOUND, "not found"),
    }
}

impl Answer {
    /// A line of text.
    pub(super) fn text(status: StatusCode, line: &str) -> Self {
        let content_type = "text/plain; charset=utf-8";
        Self { status, content_type, allow: None, content_policy: None, body: format!("{line}\n"), request: None }
    }

    fn json(body: String) -> Self {
        Self { content_type: "application/json", body, ..Self::text(StatusCode::OK, "") }
    }
}

/// Whether the client calls us by an address or as localhost. A web page whose name is made to point here (DNS
/// rebinding) could otherwise read the answers as if they were its own.
fn is_named_locally(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

fn page() -> Answer {
    Answer {
        content_type: "text/html; charset=utf-8",
        content_policy: Some(page::content_policy()),
        body: page::html().to_owned(),
        ..Answer::text(StatusCode::OK, "")
    }
}

fn not_allowed(methods: &'static str) -> Answer {
    let answer = Answer::text(StatusCode::METHOD_NOT_ALLOWED, &format!("method not allowed; allowed: {methods}"));
    Answer { allow: Some(methods), ..answer }
}

fn metrics(source: &Source) -> Answer {
    match source.exposition.encode() {
        Ok(body) => Answer { content_type: exposition::CONTENT_TYPE, body, ..Answer::text(StatusCode::OK, "") },
        Err(_) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be encoded"),
    }
}

fn liveness(process: &Process) -> Answer {
    match process.worker_count(WorkerState::Failed) {
        0 => Answer::text(StatusCode::OK, "ok"),
        failed => {
            let line = format!("{failed} of {} workers failed; restart the process", process.workers.len());
            Answer::text(StatusCode::SERVICE_UNAVAILABLE, &line)
        }
    }
}

fn readiness(process: &Process) -> Answer {
    match process.phase.get() {
        Phase::Serving if process.worker_count(WorkerState::Running) > 0 => Answer::text(StatusCode::OK, "ok"),
        Phase::Serving => Answer::text(StatusCode::SERVICE_UNAVAILABLE, "no worker runs"),
        phase => Answer::text(StatusCode::SERVICE_UNAVAILABLE, phase.name()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn source() -> Source {
        let process = Arc::new(Process::sample(2));
        Source { exposition: Exposition::new(Arc::clone(&process)), process, is_loopback_http: true }
    }

    fn ask(method: Method, path: &str, source: &Source) -> Answer {
        answer(&method, path, &HeaderMap::new(), source)
    }

    #[test]
    fn unknown_path_is_not_found_whatever_the_method() {
        for path in ["/index.html", "/metrics/", "/metrics2", "/config/", "/reload", "//metrics", "*"] {
            for method in [Method::GET, Method::POST, Method::DELETE] {
                assert_eq!(ask(method, path, &source()).status, StatusCode::NOT_FOUND, "{path}");
            }
        }
    }

    #[test]
    fn wrong_method_names_the_right_ones_and_does_nothing() {
        for path in ["/", "/metrics", "/livez", "/readyz", "/status", "/config"] {
            let answer = ask(Method::POST, path, &source());
            assert_eq!((answer.status, answer.allow), (StatusCode::METHOD_NOT_ALLOWED, Some("GET, HEAD")));
        }
        let answer = ask(Method::GET, "/drain", &source());
        assert_eq!((answer.status, answer.allow), (StatusCode::METHOD_NOT_ALLOWED, Some("POST")));
        assert_eq!(answer.request, None);
    }

    #[test]
    fn request_under_a_foreign_name_is_refused_on_loopback() {
        let ask_as = |host: &str, source: &Source| {
            answer(&Method::GET, "/status", &HeaderMap::from_iter([(HOST, host.parse().unwrap())]), source).status
        };
        for host in ["127.0.0.1:9180", "127.0.0.1", "[::1]:9180", "localhost:9180", "LOCALHOST"] {
            assert_eq!(ask_as(host, &source()), StatusCode::OK, "{host}");
        }
        for host in ["evil.example:9180", "127.0.0.1.evil.example", "localhost.evil.example", "", "[evil]"] {
            assert_eq!(ask_as(host, &source()), StatusCode::MISDIRECTED_REQUEST, "{host}");
            let socket = Source { is_loopback_http: false, ..source() };
            assert_eq!(ask_as(host, &socket), StatusCode::OK, "{host}");
        }
    }

    #[test]
    fn drain_from_a_web_page_is_refused() {
        let headers = HeaderMap::from_iter([(ORIGIN, "http://127.0.0.1:9180".parse().unwrap())]);
        let answer = answer(&Method::POST, "/drain", &headers, &source());
        assert_eq!((answer.status, answer.request), (StatusCode::FORBIDDEN, None));
        let answer = ask(Method::POST, "/drain", &source());
        assert_eq!((answer.status, answer.request), (StatusCode::ACCEPTED, Some(Request::Drain)));
    }

    #[test]
    fn failed_worker_ends_liveness_but_not_readiness() {
        let source = source();
        source.process.workers[0].state.set(WorkerState::Failed);
        let answer = ask(Method::GET, "/livez", &source);
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.body.starts_with("1 of 2 workers failed"), "{}", answer.body);
        assert_eq!(ask(Method::GET, "/readyz", &source).status, StatusCode::OK);
        source.process.workers[1].state.set(WorkerState::Failed);
        assert_eq!(ask(Method::GET, "/readyz", &source).status, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn drain_ends_readiness_but_not_liveness() {
        let source = source();
        assert_eq!(ask(Method::GET, "/readyz", &source).status, StatusCode::OK);
        source.process.phase.set(Phase::Draining);
        source.process.workers[0].state.set(WorkerState::Drained);
        let answer = ask(Method::GET, "/readyz", &source);
        assert_eq!((answer.status, answer.body.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "draining\n"));
        assert_eq!(ask(Method::GET, "/livez", &source).status, StatusCode::OK);
    }
}
