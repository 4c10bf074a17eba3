//! One careful connection before a run: it finds out what is negotiated, and says in words what is wrong with a
//! target that cannot be loaded.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use openssl::ssl::{HandshakeError, SslStream};
use openssl::x509::X509VerifyResult;

use crate::engine::client_tls::{Client, Sessions, negotiated};
use crate::engine::connection;
use crate::plan::Plan;
use crate::result::Negotiated;
use crate::run::RunError;

/// Connects once. `None` for a target without TLS.
pub fn probe(plan: &Plan) -> Result<Option<Negotiated>, RunError> {
    let client = match &plan.tls {
        Some(tls) => {
            Some(Client::new(tls, plan.host(), Sessions::Drop).map_err(|error| RunError::Plan(error.to_string()))?)
        }
        None => None,
    };
    let tcp = TcpStream::connect_timeout(&plan.address, plan.timeout).map_err(|error| unreachable(plan, &error))?;
    tcp.set_nodelay(true).and_then(|()| tcp.set_read_timeout(Some(plan.timeout))).map_err(local)?;
    let Some(client) = client else { return Ok(None) };
    let (ssl, _) = client.start(None).map_err(|error| RunError::Plan(error.to_string()))?;
    match ssl.connect(tcp) {
        Ok(mut stream) => {
            let negotiated = negotiated(stream.ssl());
            if let Some(reason) = alert(&mut stream) {
                return Err(RunError::Handshake { target: plan.target.clone(), reason });
            }
            say_goodbye(&mut stream);
            Ok(Some(negotiated))
        }
        Err(error) => Err(refusal(plan, &error)),
    }
}

/// The target's alert, if it has one to send: in TLS 1.3 it refuses a missing client certificate only after the client
/// has finished. A goodbye would meet a connection that the target has given up, and the reset would take the alert
/// away; so listen first.
fn alert(stream: &mut SslStream<TcpStream>) -> Option<String> {
    stream.get_ref().set_read_timeout(Some(ALERT_TIMEOUT)).ok()?;
    let mut scrap = [0; 4096];
    loop {
        match stream.ssl_read(&mut scrap) {
            Ok(1..) => {}
            Ok(0) => return None,
            Err(error) => return connection::is_alert(&error).then(|| error.to_string()),
        }
    }
}

fn say_goodbye(stream: &mut SslStream<TcpStream>) {
    // What was to be found out is known; the target may close as it likes.
    let _ = stream.shutdown();
    let _ = stream.get_ref().shutdown(std::net::Shutdown::Write);
    let _ = stream.get_ref().set_read_timeout(Some(GOODBYE_TIMEOUT));
    let mut scrap = [0; 4096];
    while let Ok(1..) = stream.ssl_read(&mut scrap) {}
}

fn unreachable(plan: &Plan, error: &io::Error) -> RunError {
    let reason = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused; does anything listen there?".to_owned(),
        io::ErrorKind::TimedOut => {
            format!("no answer to a connect within {:?} (--timeout)", plan.timeout)
        }
        _ => error.to_string(),
    };
    RunError::Unreachable { target: plan.target.clone(), reason }
}

fn refusal(plan: &Plan, error: &HandshakeError<TcpStream>) -> RunError {
    let target = plan.target.clone();
    match error {
        HandshakeError::SetupFailure(stack) => RunError::Plan(stack.to_string()),
        HandshakeError::WouldBlock(_) => RunError::Handshake {
            target,
            reason: format!("no answer within {:?} (--timeout); does it speak TLS?", plan.timeout),
        },
        HandshakeError::Failure(stream) => {
            let verdict = stream.ssl().verify_result();
            let reason = if verdict == X509VerifyResult::OK {
                stream.error().to_string()
            } else {
                format!("certificate refused: {}; give its CA with --ca FILE, or --insecure", verdict.error_string())
            };
            RunError::Handshake { target, reason }
        }
    }
}

fn local(source: io::Error) -> RunError {
    RunError::Local { what: "setting socket options", source }
}

/// How long the probe listens for an alert.
const ALERT_TIMEOUT: Duration = Duration::from_millis(100);
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);
