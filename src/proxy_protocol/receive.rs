//! Receiving the header of a load balancer in front.

use std::io;

use super::parse::{HEADER_BYTES_MAX, ParseError, Parsed, Received, parse};
use crate::sys::socket::Stream;
use crate::telemetry::ProxyHeader;

/// Why no header came.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The peer is not one whose headers are believed.
    #[error("a connection from an address that is not in listener.proxy_protocol_from")]
    Untrusted,
    /// The client that the header names has as many connections as it may, or opens them too fast.
    #[error("the client has as much as listener.client_limits allows")]
    ClientLimit,
    /// The peer sent something else.
    #[error("PROXY protocol: {0}")]
    Malformed(#[from] ParseError),
    /// The peer closed before the header was whole.
    #[error("closed before the PROXY protocol header was whole")]
    Closed,
    /// The peer's socket failed.
    #[error("receiving the PROXY protocol header: {0}")]
    Io(io::Error),
    /// The time for the header was over.
    #[error("no PROXY protocol header within the handshake timeout")]
    TimedOut,
}

impl ReceiveError {
    /// The name under which it is counted.
    pub fn result(&self) -> ProxyHeader {
        match self {
            Self::Untrusted => ProxyHeader::Untrusted,
            Self::ClientLimit => ProxyHeader::ClientLimit,
            Self::Malformed(_) => ProxyHeader::Malformed,
            Self::Closed | Self::Io(_) => ProxyHeader::Closed,
            Self::TimedOut => ProxyHeader::TimedOut,
        }
    }
}

/// Receives one header, and what came behind it: the first bytes of the client. There is no deadline here: the caller
/// drops the future when time is over.
///
/// Cancel safety: not safe to resume; dropped, it leaves the connection within its header, to be closed.
///
/// # Errors
/// Any of [`ReceiveError`] but `Untrusted`, `ClientLimit` and `TimedOut`, which are the caller's to find.
pub async fn receive(peer: &Stream) -> Result<(Received, Vec<u8>), ReceiveError> {
    let mut bytes = Vec::new();
    loop {
        peer.readable().await.map_err(ReceiveError::Io)?;
        receive_once(peer, &mut bytes)?;
        if let Parsed::Complete { len, header } = parse(&bytes)? {
            bytes.drain(..len);
            return Ok((header, bytes));
        }
    }
}

/// Reads once what is there. The buffer lives on the stack of this call, so a waiting connection does not hold it.
fn receive_once(peer: &Stream, bytes: &mut Vec<u8>) -> Result<(), ReceiveError> {
    // A header that is not whole is shorter than its bound, so there is always room.
    let mut buffer = [0; HEADER_BYTES_MAX];
    match peer.recv(&mut buffer) {
        Ok(0) => Err(ReceiveError::Closed),
        Ok(len) => {
            bytes.extend_from_slice(&buffer[..len]);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(ReceiveError::Io(error)),
    }
}
