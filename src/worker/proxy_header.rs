//! The two PROXY protocol headers of a connection: the one that a load balancer in front sends, and the one for the
//! server behind.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;

use super::context::{Listener, WorkerContext};
use crate::guard::Seat;
use crate::proxy_protocol::{
    ClientCertificate, Endpoints, Header, ReceiveError, Received, Send, Tls, Tlv, Version, encode_v1, encode_v2,
    receive,
};
use crate::sys::socket::Stream;
use crate::telemetry::{Label, ProxyHeader};
use crate::timer::Watch;
use crate::tls::{Established, HandshakeKind, client_auth};

/// A connection that had to begin with a header did not, or came from where no headers are believed; counted and logged.
#[derive(Debug)]
pub(super) struct ProxyHeaderRefused;

/// Who the client of a connection is.
pub(super) struct Introduction {
    /// Its address.
    pub(super) client: SocketAddr,
    /// What the header said.
    pub(super) received: Received,
    /// The first bytes of the client, which came behind the header.
    pub(super) early: Vec<u8>,
    /// Its seat under the limits of the listener, where a header named it; kept as long as the connection.
    pub(super) seat: Option<Seat>,
}

/// Receives the header of the load balancer at `peer`, where the listener expects one.
///
/// # Errors
/// [`ProxyHeaderRefused`]; the connection is to be closed.
pub(super) async fn expect(
    stream: &Stream,
    peer: SocketAddr,
    listener: &Listener,
    worker: &WorkerContext,
    watch: &Watch,
) -> Result<Introduction, ProxyHeaderRefused> {
    let Some(trusted) = &listener.proxy_protocol_from else {
        return Ok(Introduction { client: peer, received: Received::default(), early: Vec::new(), seat: None });
    };
    let result = if trusted.contains(peer.ip()) {
        watch.guard(pin!(receive(stream))).await.unwrap_or(Err(ReceiveError::TimedOut))
    } else {
        Err(ReceiveError::Untrusted)
    };
    let admitted = result.and_then(|(received, early)| {
        let client = received.endpoints.map_or(peer, |endpoints| endpoints.source);
        let seat = listener.admit(client.ip(), &worker.metrics).map_err(|_| ReceiveError::ClientLimit)?;
        Ok(Introduction { client, received, early, seat })
    });
    let counted = admitted.as_ref().err().map_or(ProxyHeader::Accepted, ReceiveError::result);
    worker.metrics.proxy_headers.of(counted).increment();
    admitted.map_err(|error| {
        if let Some(suppressed) = worker.failure_log.pass_at(worker.wheel.seconds()) {
            let reason = counted.label();
            tracing::info!(listener = listener.name, %peer, reason, %error, suppressed, "PROXY protocol header refused");
        }
        ProxyHeaderRefused
    })
}

/// The header for the server: what the load balancer in front said, or the addresses of the connection itself. Empty
/// where none is to be sent.
///
/// # Errors
/// When the connection has lost its addresses, because the client is gone, or memory is short.
pub(super) fn compose(
    send: Option<Send>,
    received: &Received,
    stream: &Stream,
    peer: SocketAddr,
    server_name: Option<&str>,
    established: &Established,
    own_id: &dyn Fn() -> [u8; 32],
) -> io::Result<Vec<u8>> {
    let Some(send) = send else { return Ok(Vec::new()) };
    let endpoints = match received.endpoints {
        Some(endpoints) => endpoints,
        None => Endpoints { source: peer, destination: stream.local_address()? },
    };
    if send.version == Version::V1 {
        return Ok(encode_v1(&endpoints));
    }
    let own_id = own_id();
    let facts = &established.facts;
    let key_alg = facts.certificate_key();
    let certificate = facts.client_certificate();
    let common_name = certificate.as_deref().and_then(client_auth::common_name);
    let der = match &certificate {
        Some(certificate) if send.tlvs.contains(Tlv::ClientCert) => certificate.to_der()?,
        _ => Vec::new(),
    };
    let client = certificate.is_some().then(|| ClientCertificate {
        common_name: common_name.as_deref(),
        der: &der,
        is_fresh: established.kind == HandshakeKind::Full,
    });
    let tls = Tls {
        version: facts.version(),
        cipher: facts.cipher(),
        sig_alg: facts.certificate_signature(),
        key_alg: key_alg.as_deref(),
        group: established.group.as_deref(),
        sig_scheme: facts.signature_scheme(),
        client,
    };
    let header = Header {
        endpoints,
        alpn: established.alpn.as_deref(),
        authority: server_name,
        unique_id: received.unique_id.as_deref().unwrap_or(&own_id),
        tls,
    };
    Ok(encode_v2(&header, send.tlvs))
}

/// Makes the identifiers of a worker's connections: no two are ever alike, in no worker and on no machine.
pub(super) struct UniqueIds {
    prefix: u64,
    next: Cell<u64>,
}

impl UniqueIds {
    /// Identifiers that begin with `prefix`, a random number.
    pub(super) fn new(prefix: u64) -> Self {
        Self { prefix, next: Cell::new(0) }
    }

    /// The next one: 32 hexadecimal digits, so that logs can show it as it is.
    pub(super) fn next(&self) -> [u8; 32] {
        let number = self.next.replace(self.next.get().wrapping_add(1));
        let value = u128::from(self.prefix) << 64 | u128::from(number);
        std::array::from_fn(|at| b"0123456789abcdef"[(value >> (124 - 4 * at)) as usize & 0xf])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unique_ids_are_digits_and_differ() {
        let ids = UniqueIds::new(0x0123_4567_89ab_cdef);
        assert_eq!(&ids.next(), b"0123456789abcdef0000000000000000");
        assert_eq!(&ids.next(), b"0123456789abcdef0000000000000001");
    }
}
