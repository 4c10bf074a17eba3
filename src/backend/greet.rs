//! What a server is told before the first byte of the client.

use std::io;
use std::pin::pin;
use std::time::Duration;

use crate::sys::socket::Stream;
use crate::timer::Watch;

/// Sends `header` to a server that was just connected to, all of it, within `timeout`. The socket takes it at once unless
/// its send buffer is smaller than the header.
///
/// Cancel safety: not safe to resume; dropped, it leaves a part of the header sent, and the connection to be reset.
///
/// # Errors
/// What the socket said, or `TimedOut`.
pub async fn greet(server: &Stream, header: &[u8], timeout: Duration, watch: &Watch) -> io::Result<()> {
    watch.restart(timeout);
    watch.guard(pin!(send_all(server, header))).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn send_all(server: &Stream, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match server.send(rest) {
            Ok(sent) => rest = &rest[sent..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => server.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
