//! Connecting to a server.

use std::io;
use std::os::fd::OwnedFd;
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
        Connecting::InProgress(socket) => finish(socket).await,
    }
}

/// Waits until the connect is over, and says how it ended.
async fn finish(socket: OwnedFd) -> io::Result<Stream> {
    let stream = Stream::new(socket)?;
    stream.writable().await?;
    // Not by SO_ERROR: a server that answered and reset at once was connected, and its answer is to be read first.
    stream.is_at_end()?;
    Ok(stream)
}

fn sort(error: &io::Error) -> DialResult {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => DialResult::Refused,
        io::ErrorKind::TimedOut => DialResult::TimedOut,
        _ => DialResult::Failed,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::*;
    use std::future::Future;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use socket2::SockRef;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        monoio::RuntimeBuilder::<monoio::LegacyDriver>::new().build().unwrap().block_on(future)
    }

    /// A connection to a server that has said `answer` and reset it.
    fn reset_behind(answer: &[u8]) -> OwnedFd {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nonblocking(true).unwrap();
        let mut server = listener.accept().unwrap().0;
        server.write_all(answer).unwrap();
        SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
        client.into()
    }

    #[test]
    fn answer_that_a_reset_follows_at_once_is_read_before_it() {
        block_on(async {
            let stream = finish(reset_behind(b"answer")).await.unwrap();
            let mut buffer = [0; 16];
            let len = stream.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], b"answer");
            assert_eq!(stream.recv(&mut buffer).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        });
    }

    #[test]
    fn server_that_resets_without_an_answer_is_told_from_one_that_refuses() {
        block_on(async {
            assert_eq!(finish(reset_behind(b"")).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let refused = connect(&closed.into(), HandshakeAck::AtOnce).await;
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        });
    }
}
