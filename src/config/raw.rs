//! The file as it is written. The doc comments here are the descriptions of the JSON schema.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use crate::backend::ServerAddress;
use crate::proxy_protocol::Tlv;
use crate::telemetry::diagnostics::Format;
use crate::telemetry::output::Facility;
use crate::tls::client_auth::{AllowedIdentity, ExpiredCrl};
use crate::{admin, ktls, record, server, tls, worker};

use super::limit;
use super::scalar::{
    ByteCount, ClientAuthChoice, CpuChoice, Field, List, LogFilter, LogOutput, MixedClientAuth, ProcessLogOutput,
    ProxyProtocol, WorkerCount,
};

/// Configuration of Sluice. Unknown keys are refused. Relative paths start at the folder of the file.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Sluice configuration", extend("required" = ["listener", "backend"]))]
pub(super) struct File {
    /// The process.
    pub(super) server: Server,
    /// The worker threads.
    pub(super) workers: Workers,
    /// The administration endpoint.
    pub(super) admin: Admin,
    /// Session tickets.
    pub(super) tickets: Tickets,
    /// The log of the process.
    pub(super) log: Log,
    /// The log of connections.
    pub(super) access_log: AccessLog,
    /// The log of what operators do.
    pub(super) audit_log: AuditLog,
    /// What the logs do with a syslog collector.
    pub(super) syslog: Syslog,
    /// Where clients connect to; at least one.
    #[schemars(with = "Vec<Listener>")]
    pub(super) listener: Vec<Spanned<Listener>>,
    /// Where connections go; at least one.
    #[schemars(with = "Vec<Backend>")]
    pub(super) backend: Vec<Spanned<Backend>>,
}

/// The process.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Server {
    /// Memory that the process may have in RAM. Near it, large relay buffers are given up, then accepting; at it, the
    /// connections that have been idle longest are closed. Absent: three quarters of the limit of its cgroup, else no bound.
    #[schemars(transform = limit::MEMORY_MAX.describe())]
    pub(super) memory_max: Field<ByteCount>,
    /// Clients that `client_limits` tell apart at the same time, over all listeners. Beyond it clients are let in
    /// without these limits, and counted.
    #[schemars(transform = limit::TRACKED_CLIENTS_MAX.describe())]
    pub(super) tracked_clients_max: Field<u64>,
    /// User that the process becomes when it is started as root; absent: it stays who it is.
    pub(super) user: Field<String>,
    /// Group that it has as that user; absent: the user's own.
    pub(super) group: Field<String>,
    /// Whether files are confined by Landlock to those that the configuration names; `auto`: where the kernel can.
    pub(super) sandbox: Field<server::Sandbox>,
    /// Whether the kernel may write the memory of the process to a file when it crashes: keys are in it.
    pub(super) core_dumps: Field<server::CoreDumps>,
    /// How long a drain waits for open connections before it cuts them.
    #[schemars(transform = limit::DRAIN_TIMEOUT.describe())]
    pub(super) drain_timeout: Field<Duration>,
}

/// The worker threads, each pinned to one CPU.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Workers {
    /// Number of workers; `auto`: one per CPU of `cpus`.
    pub(super) count: Field<WorkerCount>,
    /// CPUs of the workers, a list such as `0-3,8`; `auto`: every CPU that the process may run on; `cores`: one of them
    /// for each core.
    pub(super) cpus: Field<CpuChoice>,
    /// Which worker gets a new connection; `hash`: any, by a hash of the addresses; `cpu`: that of the CPU on which the
    /// connection arrives.
    pub(super) steering: Field<worker::Steering>,
    /// I/O driver; `auto`: io_uring, or epoll with a warning where the kernel refuses a ring.
    pub(super) io: Field<worker::IoDriver>,
    /// Largest number of open client connections per worker; at the bound it stops accepting until one closes.
    #[schemars(transform = limit::CONNECTIONS_MAX.describe())]
    pub(super) connections_max: Field<u64>,
    /// Largest number of handshakes under way per worker; at the bound the one that has waited longest for its client
    /// gives way to a new connection.
    #[schemars(transform = limit::HANDSHAKES_MAX.describe())]
    pub(super) handshakes_max: Field<u64>,
    /// Memory that one worker uses for relay buffers at most.
    #[schemars(transform = limit::BUFFER_MEMORY.describe())]
    pub(super) buffer_memory: Field<ByteCount>,
}

/// The administration endpoint.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Admin {
    /// Where it listens: an address and a port, or `unix:` and the path of a socket; absent: no endpoint.
    pub(super) address: Field<admin::Address>,
    /// Permissions of the unix socket: `0600` for the user of the process, `0660` for its group too.
    pub(super) socket_mode: Field<admin::SocketMode>,
    /// TLS with client certificates; required where the address is no loopback address.
    #[schemars(with = "AdminTls")]
    pub(super) tls: Option<Spanned<AdminTls>>,
}

/// TLS of the administration endpoint: TLS 1.3, and every client shows a certificate.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["chain", "key", "client_ca"]))]
pub(super) struct AdminTls {
    /// PEM file: the certificate, then its intermediates.
    pub(super) chain: Field<PathBuf>,
    /// PEM file: the private key, not encrypted.
    pub(super) key: Field<PathBuf>,
    /// PEM file: the authorities whose client certificates are let in.
    pub(super) client_ca: Field<PathBuf>,
}

/// The log of the process: start, warnings, failed handshakes.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Log {
    /// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`, `off`), or `module=level` pairs separated by
    /// commas. `--log-level` and `$SLUICE_LOG` go before it.
    pub(super) level: Field<LogFilter>,
    /// What a line looks like: words, or a JSON object. `--log-format` goes before it.
    pub(super) format: Field<Format>,
    /// Where it goes, as with `access_log.output`.
    pub(super) output: Field<ProcessLogOutput>,
}

/// The log of connections: one line of JSON for each that has ended.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AccessLog {
    /// Where it goes: `off`, `stdout`, `stderr`, `file:` and a path, `journald`, or `syslog+unix:`, `syslog+udp:`,
    /// `syslog+tcp:`, `syslog+tls:` and an address.
    pub(super) output: Field<LogOutput>,
    /// Every how manieth connection of a worker is logged.
    #[schemars(transform = limit::ACCESS_LOG_SAMPLE.describe())]
    pub(super) sample: Field<u64>,
}

/// The log of what operators do: a chain of records that `sluice audit verify` checks.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AuditLog {
    /// File of the chain; absent: no file.
    pub(super) file: Field<PathBuf>,
    /// Where a copy of each record goes, as with `access_log.output`.
    pub(super) output: Field<LogOutput>,
}

/// What the logs do with a syslog collector.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Syslog {
    /// Facility of the messages.
    pub(super) facility: Field<Facility>,
    /// PEM file: the authorities of the collector of `syslog+tls:`; absent: those of the system.
    pub(super) ca: Field<PathBuf>,
    /// The name that the collector's certificate must have; absent: its address.
    pub(super) server_name: Field<String>,
    /// PEM file: the certificate that is shown to the collector; absent: none.
    pub(super) chain: Field<PathBuf>,
    /// PEM file: its key, not encrypted.
    pub(super) key: Field<PathBuf>,
}

/// Session tickets.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Tickets {
    /// File of the ticket key ring; absent: `keys`, or without those a ring in memory, for this process.
    pub(super) ring: Field<PathBuf>,
    /// Ticket key files in nginx's format, 80 or 48 bytes. Beside a ring they only open; without one the first of them
    /// seals.
    pub(super) keys: List<PathBuf>,
    /// How long after its full handshake a session may be resumed; `0s`: no tickets are issued.
    #[schemars(transform = limit::TICKET_LIFETIME.describe())]
    pub(super) lifetime: Field<Duration>,
    /// Tickets issued per TLS 1.3 handshake.
    #[schemars(transform = limit::TICKET_COUNT.describe())]
    pub(super) count: Field<u64>,
}

/// An address, what it speaks and where its connections go.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name", "address", "backend", "tls"]))]
pub(super) struct Listener {
    /// Name in logs and metrics: letters, digits, `.`, `_` and `-`.
    pub(super) name: Field<String>,
    /// IP address and port to listen on; `[::]` takes IPv6 only.
    pub(super) address: Field<SocketAddr>,
    /// Name of the backend.
    pub(super) backend: Field<String>,
    /// Largest number of open client connections of this listener per worker; at the bound it stops accepting until one
    /// closes. Absent: `workers.connections_max` alone.
    #[schemars(transform = limit::LISTENER_CONNECTIONS_MAX.describe())]
    pub(super) connections_max: Field<u64>,
    /// When the kernel takes over record protection: `auto` for bulky directions, `always` at once, `required` as
    /// `auto` but refusing to start without it.
    pub(super) kernel_tls: Field<ktls::Mode>,
    /// Bytes that a direction carries before `auto` and `required` hand it over.
    #[schemars(transform = limit::KERNEL_TLS_AFTER.describe())]
    pub(super) kernel_tls_after: Field<ByteCount>,
    /// How bulk moves once the kernel protects it: `splice` through a pipe, `copy` through a buffer, `auto` by what
    /// measures cheaper in each direction.
    pub(super) kernel_tls_bulk: Field<ktls::Bulk>,
    /// Kernels with published bugs that a TLS peer can set off: `refuse` keeps record protection in userspace there,
    /// `accept` uses kernel TLS all the same, for kernels that carry the fixes under an older number.
    pub(super) kernel_tls_known_bugs: Field<ktls::KnownBugs>,
    /// Records that one AES-GCM key protects before Sluice replaces it (TLS 1.3) or closes the connection (TLS 1.2, and
    /// where a kernel holds the key and cannot replace it). Lower it for tests; the default is all that the RFC allows.
    #[schemars(transform = limit::RECORDS_PER_KEY.describe())]
    pub(super) records_per_key: Field<u64>,
    /// From accept to the end of the handshake.
    #[schemars(transform = limit::HANDSHAKE_TIMEOUT.describe())]
    pub(super) handshake_timeout: Field<Duration>,
    /// Without a byte in either direction.
    #[schemars(transform = limit::IDLE_TIMEOUT.describe())]
    pub(super) idle_timeout: Field<Duration>,
    /// Without a record's worth of data taken by a side that data waits for: the client or the backend has stopped
    /// reading.
    #[schemars(transform = limit::STALL_TIMEOUT.describe())]
    pub(super) stall_timeout: Field<Duration>,
    /// From the close of one direction to the end of the connection.
    #[schemars(transform = limit::CLOSE_TIMEOUT.describe())]
    pub(super) close_timeout: Field<Duration>,
    /// What one client of the listener may have.
    #[schemars(with = "ClientLimits")]
    pub(super) client_limits: Option<Spanned<ClientLimits>>,
    /// Networks of load balancers in front: their connections must begin with a PROXY protocol header (version 1 or 2),
    /// and connections from anywhere else are refused. Absent: no header is expected.
    pub(super) proxy_protocol_from: List<IpNet>,
    /// TLS of the listener.
    #[schemars(with = "Tls")]
    pub(super) tls: Option<Spanned<Tls>>,
    /// Names that are served otherwise than the rest.
    #[schemars(with = "Vec<ServerName>")]
    pub(super) server_name: Vec<Spanned<ServerName>>,
}

/// Names of a listener that have settings of their own.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["names"]))]
pub(super) struct ServerName {
    /// Host names, and patterns such as `*.example.org` for exactly one more label.
    pub(super) names: List<String>,
    /// Name of the backend; absent: that of the listener.
    pub(super) backend: Field<String>,
    /// Certificates of the clients that ask for these names; absent: as the listener has it.
    #[schemars(with = "ClientAuth")]
    pub(super) client_auth: Option<Spanned<ClientAuth>>,
}

/// What one client of a listener may have, over all workers. Beyond it connections are reset as soon as they are
/// accepted. A client is an address, or all addresses with the same first bits.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ClientLimits {
    /// Connections open at the same time. Absent: any number.
    #[schemars(transform = limit::CLIENT_CONNECTIONS_MAX.describe())]
    pub(super) connections_max: Field<u64>,
    /// New connections per second in the long run. Absent: any number.
    #[schemars(transform = limit::CLIENT_CONNECTION_RATE.describe())]
    pub(super) connection_rate: Field<u64>,
    /// New connections at once after a pause. Absent: as many as `connection_rate`.
    #[schemars(transform = limit::CLIENT_CONNECTION_BURST.describe())]
    pub(super) connection_burst: Field<u64>,
    /// Bits of an IPv4 address that tell clients apart.
    #[schemars(transform = limit::IPV4_PREFIX.describe())]
    pub(super) ipv4_prefix: Field<u64>,
    /// Bits of an IPv6 address that tell clients apart: a /64 is one household or one machine.
    #[schemars(transform = limit::IPV6_PREFIX.describe())]
    pub(super) ipv6_prefix: Field<u64>,
    /// Networks without limits, such as those of load balancers and health checks.
    pub(super) exempt: List<IpNet>,
}

/// TLS of one listener.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Tls {
    /// Versions and suites: `intermediate` speaks TLS 1.2 and 1.3, `modern` TLS 1.3 only.
    pub(super) policy: Field<tls::Policy>,
    /// The lowest version; absent: that of the policy.
    pub(super) min_version: Field<record::ProtocolVersion>,
    /// The highest version; absent: 1.3.
    pub(super) max_version: Field<record::ProtocolVersion>,
    /// Cipher suites in order of preference, by their IANA or OpenSSL names; absent: those of the policy.
    pub(super) suites: List<String>,
    /// Key-exchange groups in order of preference; absent: those of the policy.
    pub(super) groups: List<tls::Group>,
    /// Signatures in order of preference, by their IANA names; absent: those of the policy.
    pub(super) signature_algorithms: List<tls::SignatureAlgorithm>,
    /// The certificates; the first is for clients that ask for no name or for an unknown one.
    #[schemars(with = "Vec<Certificate>")]
    pub(super) certificates: Option<Spanned<Vec<Spanned<Certificate>>>>,
    /// Folder of more certificates: `NAME.crt` or `NAME.pem` with `NAME.key`, PEM with both, `NAME.p12`.
    pub(super) certificate_directory: Field<PathBuf>,
    /// Whether certificates are sent compressed (RFC 8879) to TLS 1.3 clients that take it, with Brotli or zlib: `auto` where
    /// the program has its own OpenSSL, `required` or not at all.
    pub(super) certificate_compression: Field<tls::compression::CompressionMode>,
    /// OCSP responses that are sent along with the certificates: `file` from `edge.crt.ocsp` beside `edge.crt`, DER;
    /// `fetch` from the responder that the certificate names.
    pub(super) ocsp: Field<tls::stapling::OcspMode>,
    /// Clients that ask for no name, or for one that no certificate has: `default` gives them the first certificate,
    /// `refuse` an alert.
    pub(super) unknown_server_name: Field<tls::UnknownServerName>,
    /// ALPN protocols in order of preference; absent: the extension is not answered.
    pub(super) alpn: List<String>,
    /// Certificates of clients; absent: none are asked for.
    #[schemars(with = "ClientAuth")]
    pub(super) client_auth: Option<Spanned<ClientAuth>>,
}

/// Which certificates of clients are asked for, and which count.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ClientAuth {
    /// `required`: a client without a certificate is refused; `optional`: it is let in, and one with a certificate that
    /// does not count is refused; `off`: nobody is asked.
    pub(super) mode: Field<ClientAuthChoice>,
    /// PEM file: the authorities whose certificates count; clients are told their names. Must be there unless `mode` is
    /// `off`.
    pub(super) ca: Field<PathBuf>,
    /// Intermediate certificates between that of a client and an authority at most.
    #[schemars(transform = limit::CLIENT_AUTH_DEPTH.describe())]
    pub(super) depth: Field<u64>,
    /// Files with revocation lists, PEM or DER. With any, each authority of a chain needs one. Absent: revocation is not
    /// looked at.
    pub(super) crl: List<PathBuf>,
    /// What a revocation list means after its next update was due: `refuse`: every certificate that it is about is
    /// refused; `warn`: what it says, and each certificate that is let in by it is counted.
    pub(super) expired_crl: Field<ExpiredCrl>,
    /// Identities that are let in, each proved by the certificate: `cn:`, `dns:`, `uri:` or `spki:sha256:`. Absent:
    /// whoever has a certificate that counts.
    pub(super) allowed: List<AllowedIdentity>,
}

/// A certificate and its key: `chain` and `key`, or `pkcs12`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Certificate {
    /// PEM file: the certificate, then its intermediates.
    pub(super) chain: Field<PathBuf>,
    /// PEM file: the private key; may be the same file.
    pub(super) key: Field<PathBuf>,
    /// PKCS #12 file with certificate, intermediates and key.
    pub(super) pkcs12: Field<PathBuf>,
    /// File with the passphrase of the key as its first line.
    pub(super) passphrase_file: Field<PathBuf>,
}

/// A group of equal servers.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name", "servers"]))]
pub(super) struct Backend {
    /// Name that listeners refer to: letters, digits, `.`, `_` and `-`.
    pub(super) name: Field<String>,
    /// Servers, tried in round robin: IP address and port, or `unix:` and the path of a socket.
    pub(super) servers: List<ServerAddress>,
    /// How long one connection attempt may take before the next server is tried.
    #[schemars(transform = limit::CONNECT_TIMEOUT.describe())]
    pub(super) connect_timeout: Field<Duration>,
    /// PROXY protocol header towards the servers, in front of the first byte: who the client is.
    pub(super) proxy_protocol: Field<ProxyProtocol>,
    /// What a `v2` header says beside the addresses; absent: everything but `crc32c` and `client_cert`. What is known
    /// of TLS needs `ssl`, which is sent along.
    pub(super) proxy_protocol_tlvs: List<Tlv>,
    /// Servers that are reached both through a name that needs a client certificate and through one that does not, or
    /// through names that need different ones: `refuse` refuses the configuration, since a client that is let in for one
    /// name can ask the server for the other; `accept` where the servers themselves see to it, by the PROXY protocol header.
    pub(super) mixed_client_auth: Field<MixedClientAuth>,
}
