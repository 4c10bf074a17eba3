//! Connecting to a server.

use std::io;
use std::pin::pin;
use std::time::Duration;

use socket2::SockAddr;

use super::choose::Servers;
use super::settings::ServerAddress;
use crate::sys::socket::{self, Connecting, HandshakeAck, Stream};
use crate::telemetry::{DialResult, WorkerMetrics};
use crate::timer::Watch;

/// No connection to the backend came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialError {
    /// No server could be reached.
    Unavailable,
    /// No server could be reached but one that took the connection and reset it at once.
    Reset,
}

/// Connects to the first server that answers, beginning with the one whose turn it is; each gets `connect_timeout`.
/// Says which one it is.
///
/// Cancel safety: safe; a connection attempt in progress is given up.
///
/// # Errors
/// [`DialError`] when each server was tried; each failure has been counted and logged.
pub async fn dial<'a>(
    servers: &'a Servers,
    connect_timeout: Duration,
    ack: HandshakeAck,
    watch: &Watch,
    metrics: &WorkerMetrics,
) -> Result<(Stream, &'a ServerAddress), DialError> {
    let mut outcome = DialError::Unavailable;
    for (server, address) in servers.in_turn() {
        watch.restart(connect_timeout);
        let (result, error) = match watch.guard(pin!(connect(address, ack))).await {
            Ok(Ok(stream)) => {
                metrics.dials.of(DialResult::Connected).increment();
                return Ok((stream, server));
            }
            Ok(Err(error)) => (sort(&error), error),
            Err(_) => (DialResult::TimedOut, io::ErrorKind::TimedOut.into()),
        };
        if error.kind() == io::ErrorKind::ConnectionReset {
            outcome = DialError::Reset;
        }
        metrics.dials.of(result).increment();
        tracing::warn!(backend = servers.name(), %server, %error, "server could not be reached");
    }
    Err(outcome)
}

async fn connect(address: &SockAddr, ack: HandshakeAck) -> io::Result<Stream> {
    match socket::connect(address, ack)? {
        Connecting::Connected(socket) => Stream::new(socket),
        Connecting::InProgress(socket) => {
            let stream = Stream::new(socket)?;
            stream.writable().await?;
            // Not by SO_ERROR: a server that answered and reset at once was connected, and its answer is to be read first.
            stream.is_at_end()?;
            Ok(stream)
        }
    }
}

fn sort(error: &io::Error) -> DialResult {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => DialResult::Refused,
        io::ErrorKind::TimedOut => DialResult::TimedOut,
        _ => DialResult::Failed,
    }
}
