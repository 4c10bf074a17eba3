//! What one worker counts.

use std::sync::Arc;

use super::cell::{ByLabel, Counter, Gauge};
use super::label::{
    AcceptError, CertificateCompression, ClientCertificate, CloseReason, DialResult, Direction, FailureReason,
    KeepReason, Kind, ProxyHeader, RefusalReason, RelayPath, Version,
};
use super::stapling::StapleResult;
use super::ticket::TicketCounters;

/// The counters of one worker: written by it alone, read by the scrape.
///
/// Aligned so that two workers never write to one pair of cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerMetrics {
    /// Connections accepted.
    pub connections_accepted: Counter,
    /// Client connections open now.
    pub connections_open: Gauge,
    /// Connections ended, by why.
    pub connections_closed: ByLabel<CloseReason>,
    /// Failures of accept4.
    pub accept_errors: ByLabel<AcceptError>,
    /// Times that accepting paused because the worker had as many connections as it may.
    pub connection_limit_reached: Counter,
    /// Connections that were reset as soon as they were accepted, by why.
    pub connections_refused: ByLabel<RefusalReason>,
    /// Connections whose client found no place in the table of clients.
    pub clients_untracked: Counter,
    /// PROXY protocol headers that were due, by what became of them.
    pub proxy_headers: ByLabel<ProxyHeader>,
    /// Handshakes under way.
    pub handshakes_open: Gauge,
    /// Handshakes that wait for the CPU, as of the last tick.
    pub handshakes_waiting: Gauge,
    /// Times that accepting paused because too many handshakes waited for the CPU.
    pub handshake_backlogs: Counter,
    /// Handshakes completed.
    pub handshakes: ByLabel<Version, ByLabel<Kind>>,
    /// Handshakes failed, by why.
    pub handshakes_failed: ByLabel<FailureReason>,
    /// Certificates of clients that were asked for one, by what became of them.
    pub client_certificates: ByLabel<ClientCertificate>,
    /// Full handshakes whose client asked for an OCSP response, by whether it got one, where stapling is on.
    pub staples: ByLabel<StapleResult>,
    /// Certificates sent to clients that take them compressed, by how they went out.
    pub certificates_compressed: ByLabel<CertificateCompression>,
    /// Bytes that compression has made these shorter.
    pub certificate_compression_saved: Counter,
    /// Attempts to reach a server.
    pub dials: ByLabel<DialResult>,
    /// Payload bytes relayed.
    pub relay_bytes: ByLabel<Direction, ByLabel<RelayPath>>,
    /// KeyUpdates received.
    pub key_updates_received: Counter,
    /// KeyUpdates sent because a key had protected as much as it may, or because the client asked.
    pub key_updates_sent: Counter,
    /// TLS 1.2 renegotiations refused.
    pub renegotiations_refused: Counter,
    /// Directions handed over to kernel TLS.
    pub kernel_tls_promoted: ByLabel<Direction>,
    /// Directions that stayed in userspace to their end, by why.
    pub kernel_tls_kept: ByLabel<Direction, ByLabel<KeepReason>>,
    /// Keys of promoted directions that were replaced.
    pub kernel_tls_rekeyed: ByLabel<Direction>,
    /// Session tickets, counted by the callbacks on the worker's thread.
    pub tickets: Arc<TicketCounters>,
    /// Records of the access log that found the ring full.
    pub access_log_dropped: Counter,
    /// Panics in a connection, each contained.
    pub panics: Counter,
}
