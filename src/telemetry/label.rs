//! Every label with its closed set of values.

use crate::label_enum;
use crate::record::ProtocolVersion;

label_enum! {
    /// Why a connection ended.
    pub enum CloseReason as "reason" {
        /// The client closed first, with close_notify.
        ClientClosed = "client_closed",
        /// The backend closed first.
        BackendClosed = "backend_closed",
        /// The client closed without close_notify while the backend was still open.
        ClientTruncated = "client_truncated",
        /// The client's socket failed: reset, or gone.
        ClientFailed = "client_failed",
        /// The backend's socket failed.
        BackendFailed = "backend_failed",
        /// No server of the backend could be reached.
        BackendUnavailable = "backend_unavailable",
        /// The client sent a fatal alert.
        AlertReceived = "alert_received",
        /// A record was forged, damaged or malformed.
        BadRecord = "bad_record",
        /// The client broke a rule of the protocol after the handshake.
        ProtocolViolation = "protocol_violation",
        /// No byte in either direction for the idle time-out.
        IdleTimeout = "idle_timeout",
        /// It was idle, and memory was short.
        MemoryShort = "memory_short",
        /// The client took nothing of what waited for it for the stall time-out.
        ClientStalled = "client_stalled",
        /// The backend took nothing of what waited for it for the stall time-out.
        BackendStalled = "backend_stalled",
        /// The client did not answer our close in time.
        CloseTimeout = "close_timeout",
        /// TLS 1.2: the key has protected as much as it may.
        RecordLimit = "record_limit",
        /// A KeyUpdate that the kernel, which holds the keys, cannot follow (before Linux 6.14).
        RekeyUnsupported = "rekey_unsupported",
        /// A PROXY protocol header was due, and did not come, or came from somebody who may not send one.
        ProxyHeaderRefused = "proxy_header_refused",
        /// The handshake did not complete.
        HandshakeFailed = "handshake_failed",
        /// The process is going down.
        Drained = "drained",
        /// A bug here, contained.
        Internal = "internal",
    }
}

label_enum! {
    /// What became of the PROXY protocol header that a connection had to begin with.
    pub enum ProxyHeader as "result" {
        /// Taken.
        Accepted = "accepted",
        /// The sender is not one whose headers are believed.
        Untrusted = "untrusted",
        /// Taken, but the client that it names has as much as its limits allow.
        ClientLimit = "client_limit",
        /// Bytes that are no header.
        Malformed = "malformed",
        /// Closed or reset before the header was whole.
        Closed = "closed",
        /// The deadline passed.
        TimedOut = "timed_out",
    }
}

label_enum! {
    /// Why a handshake failed, as counted.
    pub enum FailureReason as "reason" {
        /// A request in plain HTTP.
        PlainHttp = "plain_http",
        /// An SSL 2.0 hello.
        Sslv2Hello = "sslv2_hello",
        /// Bytes that are no TLS.
        NotTls = "not_tls",
        /// A record or a handshake longer than allowed.
        TooLong = "too_long",
        /// The client's alert.
        AlertReceived = "alert_received",
        /// No version in common.
        Version = "version",
        /// No suite, group or signature algorithm in common.
        NothingInCommon = "nothing_in_common",
        /// No ALPN protocol in common.
        Alpn = "alpn",
        /// The client's certificate is missing or was refused.
        ClientCertificate = "client_certificate",
        /// No certificate for the server_name, or none asked for, where the listener refuses that.
        ServerName = "server_name",
        /// Any other violation of the protocol.
        Protocol = "protocol",
        /// Closed before the first byte.
        ClosedSilently = "closed_silently",
        /// Closed or reset midway.
        Closed = "closed",
        /// The deadline passed.
        TimedOut = "timed_out",
        /// It had waited longest for its client when there were too many.
        GaveWay = "gave_way",
        /// Trouble on our side.
        Internal = "internal",
    }
}

label_enum! {
    /// What became of the certificate of a client that was asked for one.
    pub enum ClientCertificate as "result" {
        /// It counts.
        Accepted = "accepted",
        /// It counts, going by a revocation list that is past its next update.
        AcceptedCrlExpired = "accepted_crl_expired",
        /// It counted in the handshake that the resumed session stems from, and has not expired.
        Resumed = "resumed",
        /// There is none, and none is needed.
        Absent = "absent",
        /// There is none, and one is needed.
        Missing = "missing",
        /// It has expired, or one above it has.
        Expired = "expired",
        /// It is not valid yet, or one above it is not.
        NotYetValid = "not_yet_valid",
        /// A revocation list names it, or one above it.
        Revoked = "revoked",
        /// No authority that counts stands above it.
        UnknownCa = "unknown_ca",
        /// More stands between it and its authority than is allowed.
        ChainTooLong = "chain_too_long",
        /// It was issued by a certificate that may not issue any.
        NotACa = "not_a_ca",
        /// It is not for clients.
        Purpose = "purpose",
        /// It has a name that its authority may not certify.
        NameConstraints = "name_constraints",
        /// It is not signed by whom it names.
        Signature = "signature",
        /// Its key, or one above it, or a signature is too weak.
        Weak = "weak",
        /// There is no revocation list about it, or about one above it.
        CrlMissing = "crl_missing",
        /// The revocation list about it is past its next update.
        CrlExpired = "crl_expired",
        /// The revocation list about it is not valid yet, damaged, or of somebody else.
        CrlUnusable = "crl_unusable",
        /// It is not among the allowed identities.
        NotAllowed = "not_allowed",
        /// It is larger than a certificate may be.
        TooLarge = "too_large",
        /// Any other fault.
        Other = "other",
    }
}

label_enum! {
    /// How a certificate went out to a client that takes it compressed.
    pub enum CertificateCompression as "algorithm" {
        /// Compressed with Brotli.
        Brotli = "brotli",
        /// Compressed with zlib.
        Zlib = "zlib",
        /// As it is: not compressed yet, or no shorter if it were.
        None = "none",
    }
}

label_enum! {
    /// A log.
    pub enum LogName as "log" {
        /// The log of the process itself.
        Process = "process",
        /// The access log.
        Access = "access",
        /// The audit log.
        Audit = "audit",
    }
}

label_enum! {
    /// What became of a line of a log.
    pub enum LogResult as "result" {
        /// The output has taken it.
        Written = "written",
        /// The output took too long, was full or failed.
        Lost = "lost",
    }
}

label_enum! {
    /// Which way bytes went.
    pub enum Direction as "direction" {
        /// From the client to the backend.
        ClientToBackend = "client_to_backend",
        /// From the backend to the client.
        BackendToClient = "backend_to_client",
    }
}

label_enum! {
    /// Who protected the records, and how the bytes moved.
    pub enum RelayPath as "path" {
        /// Our own record layer.
        Userspace = "userspace",
        /// Kernel TLS, through a buffer.
        KernelCopy = "kernel_copy",
        /// Kernel TLS, through a pipe.
        KernelSplice = "kernel_splice",
    }
}

label_enum! {
    /// The negotiated version.
    pub enum Version as "version" {
        /// TLS 1.2.
        Tls12 = "1.2",
        /// TLS 1.3.
        Tls13 = "1.3",
    }
}

impl From<ProtocolVersion> for Version {
    fn from(version: ProtocolVersion) -> Self {
        match version {
            ProtocolVersion::Tls12 => Self::Tls12,
            ProtocolVersion::Tls13 => Self::Tls13,
        }
    }
}

label_enum! {
    /// Full handshake or resumption.
    pub enum Kind as "kind" {
        /// With certificate.
        Full = "full",
        /// With a ticket.
        Resumed = "resumed",
    }
}

label_enum! {
    /// Why a connection could not be accepted.
    pub enum AcceptError as "error" {
        /// The process or the machine is out of descriptors (EMFILE, ENFILE).
        Descriptors = "descriptors",
        /// The kernel is out of memory (ENOBUFS, ENOMEM).
        Memory = "memory",
        /// The connection failed before it was accepted.
        Aborted = "aborted",
        /// Anything else.
        Other = "other",
    }
}

label_enum! {
    /// Why a connection was reset as soon as it was accepted.
    pub enum RefusalReason as "reason" {
        /// Its client has as many connections as it may.
        ClientConnections = "client_connections",
        /// Its client has opened connections faster than it may.
        ClientRate = "client_rate",
    }
}

label_enum! {
    /// How an attempt to reach a server ended.
    pub enum DialResult as "result" {
        /// Connected.
        Connected = "connected",
        /// Refused, or no such socket.
        Refused = "refused",
        /// No answer within the time-out.
        TimedOut = "timed_out",
        /// Anything else.
        Failed = "failed",
    }
}

label_enum! {
    /// Why a direction is kept in userspace.
    pub enum KeepReason as "reason" {
        /// The listener's setting is `off`.
        PolicyOff = "policy_off",
        /// The kernel has no TLS.
        NoKernelTls = "no_kernel_tls",
        /// The kernel has a published bug, and the setting refuses such kernels.
        KnownBug = "known_bug",
        /// The kernel does not protect this direction with the negotiated version and algorithm.
        Suite = "suite",
        /// The kernel lacks the CPU's driver for this algorithm, so that userspace is cheaper, and the setting is `auto`.
        SlowCipher = "slow_cipher",
        /// The client negotiated a `max_fragment_length` that the kernel cannot keep.
        MaxFragmentLength = "max_fragment_length",
        /// It has not proved bulky; may change.
        TooSmall = "too_small",
        /// The connection was no longer established when kernel TLS was to be attached.
        NotEstablished = "not_established",
        /// The kernel had no memory.
        OutOfMemory = "out_of_memory",
        /// The kernel refused for another reason.
        SetsockoptFailed = "setsockopt_failed",
    }
}
