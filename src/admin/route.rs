//! Which answer a request gets; no I/O.

use std::net::IpAddr;

use hyper::header::{HOST, HeaderMap, ORIGIN};
use hyper::{Method, StatusCode};
use tokio::sync::oneshot;

use super::{configuration, page, status};
use crate::telemetry::audit::AdminPeer;
use crate::telemetry::exposition::{self, Exposition};
use crate::telemetry::{Phase, Process, WorkerState};

/// What an admin client asks the control thread to do.
#[derive(Debug)]
pub enum Request {
    /// Stop accepting, let open connections end, then exit.
    Drain(AdminPeer),
    /// Read the configuration anew, and say what came of it.
    Reload(AdminPeer, oneshot::Sender<Reloaded>),
}

/// What came of a reload.
#[derive(Clone, Debug)]
pub enum Reloaded {
    /// The configuration is in service.
    Applied {
        /// Its number.
        generation: u64,
        /// What the operator should look at, one line each.
        warnings: Vec<String>,
    },
    /// The configuration has errors; the former one stays in service.
    Refused {
        /// The errors, one line each.
        lines: Vec<String>,
        /// The errors with the lines of the file.
        rendered: String,
    },
    /// Something else stood in the way; the former configuration stays in service.
    Failed {
        /// What.
        reason: String,
    },
}

/// What the control thread is to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Drain,
    Reload,
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
    pub(super) wanted: Option<Wanted>,
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
        "/drain" | "/reload" if method != Method::POST => not_allowed("POST"),
        // A web page that the operator looks at can make the browser post here, but not without naming its origin.
        "/drain" | "/reload" if headers.contains_key(ORIGIN) => {
            Answer::text(StatusCode::FORBIDDEN, "requests from web pages are refused")
        }
        "/drain" => {
            Answer { wanted: Some(Wanted::Drain), ..Answer::text(StatusCode::ACCEPTED, Phase::Draining.name()) }
        }
        // The answer of one that nobody waits for any longer.
        "/reload" => Answer {
            wanted: Some(Wanted::Reload),
            ..Answer::text(StatusCode::ACCEPTED, "the reload takes long: /status tells how it ends")
        },
        _ => Answer::text(StatusCode::NOT_FOUND, "not found"),
    }
}

impl Answer {
    /// A line of text.
    pub(super) fn text(status: StatusCode, line: &str) -> Self {
        let content_type = "text/plain; charset=utf-8";
        Self { status, content_type, allow: None, content_policy: None, body: format!("{line}\n"), wanted: None }
    }

    /// What came of a reload, for people to read.
    pub(super) fn reloaded(outcome: &Reloaded) -> Self {
        match outcome {
            Reloaded::Applied { generation, warnings } => {
                let warnings: String = warnings.iter().map(|warning| format!("\nwarning: {warning}")).collect();
                Self::text(StatusCode::OK, &format!("reloaded: generation {generation}{warnings}"))
            }
            Reloaded::Refused { rendered, .. } => {
                let rendered = rendered.trim_end();
                let line = format!("{rendered}\nreload refused: the former configuration stays in service");
                Self::text(StatusCode::UNPROCESSABLE_ENTITY, &line)
            }
            Reloaded::Failed { reason } => {
                let line = format!("{reason}\nreload failed: the former configuration stays in service");
                Self::text(StatusCode::SERVICE_UNAVAILABLE, &line)
            }
        }
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
    let all = process.workers.len();
    match (process.worker_count(WorkerState::Failed), process.worker_count(WorkerState::Stalled)) {
        (0, 0) => Answer::text(StatusCode::OK, "ok"),
        (0, stalled) => {
            let line = format!("{stalled} of {all} workers stand still; restart the process if they stay so");
            Answer::text(StatusCode::SERVICE_UNAVAILABLE, &line)
        }
        (failed, _) => {
            let line = format!("{failed} of {all} workers failed; restart the process");
            Answer::text(StatusCode::SERVICE_UNAVAILABLE, &line)
        }
    }
}

fn readiness(process: &Process) -> Answer {
    match process.phase.get() {
        Phase::Serving if process.worker_count(WorkerState::Starting) > 0 => {
            Answer::text(StatusCode::SERVICE_UNAVAILABLE, "starting")
        }
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
        for path in ["/index.html", "/metrics/", "/metrics2", "/config/", "//metrics", "*"] {
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
        for path in ["/drain", "/reload"] {
            let answer = ask(Method::GET, path, &source());
            assert_eq!((answer.status, answer.allow), (StatusCode::METHOD_NOT_ALLOWED, Some("POST")));
            assert_eq!(answer.wanted, None);
        }
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
    fn drain_and_reload_from_a_web_page_are_refused() {
        let headers = HeaderMap::from_iter([(ORIGIN, "http://127.0.0.1:9180".parse().unwrap())]);
        for (path, wanted) in [("/drain", Wanted::Drain), ("/reload", Wanted::Reload)] {
            let refused = answer(&Method::POST, path, &headers, &source());
            assert_eq!((refused.status, refused.wanted), (StatusCode::FORBIDDEN, None));
            let granted = ask(Method::POST, path, &source());
            assert_eq!((granted.status, granted.wanted), (StatusCode::ACCEPTED, Some(wanted)));
        }
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
    fn stalled_worker_ends_liveness_and_the_last_one_readiness() {
        let source = source();
        source.process.workers[0].state.set(WorkerState::Stalled);
        let answer = ask(Method::GET, "/livez", &source);
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.body.starts_with("1 of 2 workers stand still"), "{}", answer.body);
        assert_eq!(ask(Method::GET, "/readyz", &source).status, StatusCode::OK);
        source.process.workers[1].state.set(WorkerState::Stalled);
        assert_eq!(ask(Method::GET, "/readyz", &source).status, StatusCode::SERVICE_UNAVAILABLE);
        source.process.workers.iter().for_each(|worker| worker.state.set(WorkerState::Running));
        assert_eq!(ask(Method::GET, "/livez", &source).status, StatusCode::OK);
    }

    #[test]
    fn readiness_waits_for_every_worker() {
        let source = source();
        source.process.workers[1].state.set(WorkerState::Starting);
        let answer = ask(Method::GET, "/readyz", &source);
        assert_eq!((answer.status, answer.body.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "starting\n"));
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
