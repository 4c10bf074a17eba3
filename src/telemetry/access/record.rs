//! One connection as the access log tells it.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::telemetry::cell::Label;
use crate::telemetry::label::{CloseReason, Direction, FailureReason, Version};

/// What is known about a connection when it has ended.
#[derive(Debug)]
pub struct Record {
    /// Tells it from every other connection: hexadecimal digits.
    pub id: [u8; 32],
    /// When it was accepted.
    pub started: SystemTime,
    /// The listener's name.
    pub listener: String,
    /// The client.
    pub client: SocketAddr,
    /// What the client offered; none where it sent no ClientHello.
    pub hello: Option<Hello>,
    /// What was negotiated; none where the handshake failed.
    pub session: Option<Session>,
    /// Why the handshake failed, if it did.
    pub failure: Option<HandshakeFailure>,
    /// The backend's name, once one was chosen.
    pub backend: Option<String>,
    /// The server that took the connection.
    pub server: Option<String>,
    /// What each direction carried.
    pub moved: [Moved; 2],
    /// From accept to the end of the handshake.
    pub handshake: Option<Duration>,
    /// From there to the connection to a server.
    pub connect: Option<Duration>,
    /// From accept to close.
    pub total: Duration,
    /// Why it ended.
    pub reason: CloseReason,
}

/// What a client offered.
#[derive(Debug)]
pub struct Hello {
    /// The name that it asked for, in its own spelling.
    pub server_name: Option<String>,
    /// The versions on offer, as code points.
    pub versions: Vec<u16>,
    /// The JA4 fingerprint.
    pub ja4: String,
}

/// What was negotiated.
#[derive(Debug)]
pub struct Session {
    /// The version.
    pub version: Version,
    /// The suite.
    pub suite: &'static str,
    /// The key-exchange group.
    pub group: Option<String>,
    /// Whether a ticket was used.
    pub is_resumed: bool,
    /// The ALPN protocol.
    pub alpn: Option<Vec<u8>>,
}

/// Why a handshake failed.
#[derive(Debug)]
pub struct HandshakeFailure {
    /// As counted.
    pub reason: FailureReason,
    /// In words.
    pub error: String,
    /// The alert that the client got.
    pub alert_sent: Option<String>,
    /// The alert that the client sent.
    pub alert_received: Option<String>,
}

/// What one direction carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Payload bytes.
    pub bytes: u64,
    /// Whether the kernel protected records at the end.
    pub is_in_kernel: bool,
}

impl Record {
    /// The record as one line of JSON, without a line break.
    pub fn to_line(&self) -> Vec<u8> {
        // A structure of strings and numbers; only a map with keys that are no strings could fail.
        serde_json::to_vec(&Line::of(self)).unwrap_or_default()
    }
}

/// The line. Keys that do not apply are left out.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    id: Cow<'a, str>,
    listener: &'a str,
    client: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    suite: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resumed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alpn: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ja4: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_to_backend: Option<Way>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend_to_client: Option<Way>,
    #[serde(skip_serializing_if = "Option::is_none")]
    handshake_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_seconds: Option<f64>,
    total_seconds: f64,
    close_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Failure<'a>>,
}

#[derive(Serialize)]
struct Way {
    bytes: u64,
    engine: &'static str,
}

#[derive(Serialize)]
struct Failure<'a> {
    reason: &'static str,
    error: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    versions: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alert_sent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alert_received: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn of(record: &'a Record) -> Self {
        let (hello, session) = (record.hello.as_ref(), record.session.as_ref());
        let way = |direction: Direction| {
            let Moved { bytes, is_in_kernel } = record.moved[direction.index()];
            session.map(|_| Way { bytes, engine: if is_in_kernel { "kernel" } else { "userspace" } })
        };
        Self {
            time: humantime::format_rfc3339_millis(record.started).to_string(),
            id: String::from_utf8_lossy(&record.id),
            listener: &record.listener,
            client: record.client,
            server_name: hello.and_then(|hello| hello.server_name.as_deref()),
            version: session.map(|session| session.version.label()),
            suite: session.map(|session| session.suite),
            group: session.and_then(|session| session.group.as_deref()),
            resumed: session.map(|session| session.is_resumed),
            alpn: session.and_then(|session| session.alpn.as_deref()).map(printable),
            ja4: hello.map(|hello| hello.ja4.as_str()),
            backend: record.backend.as_deref(),
            server: record.server.as_deref(),
            client_to_backend: way(Direction::ClientToBackend),
            backend_to_client: way(Direction::BackendToClient),
            handshake_seconds: record.handshake.map(seconds),
            connect_seconds: record.connect.map(seconds),
            total_seconds: seconds(record.total),
            close_reason: record.reason.label(),
            failure: record.failure.as_ref().map(|failure| Failure {
                reason: failure.reason.label(),
                error: &failure.error,
                versions: hello.map(|hello| version_names(&hello.versions)).unwrap_or_default(),
                alert_sent: failure.alert_sent.as_deref(),
                alert_received: failure.alert_received.as_deref(),
            }),
        }
    }
}

/// TLS versions by their names; what has none by its code point.
pub fn version_names(codes: &[u16]) -> Vec<String> {
    let name = |code: &u16| match code {
        0x0300 => "SSL 3.0".to_owned(),
        0x0301 => "1.0".to_owned(),
        0x0302 => "1.1".to_owned(),
        0x0303 => "1.2".to_owned(),
        0x0304 => "1.3".to_owned(),
        other => format!("{other:#06x}"),
    };
    codes.iter().take(VERSIONS_SHOWN_MAX).map(name).collect()
}

/// Offered versions that are shown: an honest client has four.
const VERSIONS_SHOWN_MAX: usize = 8;

/// A client may put any byte into an ALPN protocol.
fn printable(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// To the microsecond.
fn seconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e6
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
pub(super) mod tests {
    use super::*;

    /// A connection that failed with an alert.
    pub(in crate::telemetry) fn sample(id: usize) -> Record {
        Record {
            id: format!("{id:032x}").into_bytes().try_into().unwrap(),
            started: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            listener: "edge".to_owned(),
            client: "[2001:db8::1]:50000".parse().unwrap(),
            hello: Some(Hello {
                server_name: Some("a\"\n.example".to_owned()),
                versions: vec![0x0302, 0x0303, 0x7f1c],
                ja4: "t12d0204h2_0123456789ab_ba9876543210".to_owned(),
            }),
            session: None,
            failure: Some(HandshakeFailure {
                reason: FailureReason::Version,
                error: "no protocol version in common".to_owned(),
                alert_sent: Some("protocol_version".to_owned()),
                alert_received: None,
            }),
            backend: None,
            server: None,
            moved: [Moved::default(); 2],
            handshake: None,
            connect: None,
            total: Duration::from_micros(1500),
            reason: CloseReason::HandshakeFailed,
        }
    }

    #[test]
    fn failed_handshake_is_one_line_with_what_the_client_offered() {
        let line = sample(7).to_line();
        assert!(!line.contains(&b'\n'));
        let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
        let expected = serde_json::json!({
            "time": "2023-11-14T22:13:20.123Z",
            "id": "00000000000000000000000000000007",
            "listener": "edge",
            "client": "[2001:db8::1]:50000",
            "server_name": "a\"\n.example",
            "ja4": "t12d0204h2_0123456789ab_ba9876543210",
            "total_seconds": 0.0015,
            "close_reason": "handshake_failed",
            "failure": {
                "reason": "version",
                "error": "no protocol version in common",
                "versions": ["1.1", "1.2", "0x7f1c"],
                "alert_sent": "protocol_version",
            },
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn relayed_connection_tells_engine_and_bytes_of_each_direction() {
        let mut record = sample(1);
        record.failure = None;
        record.session = Some(Session {
            version: Version::Tls13,
            suite: "TLS_AES_128_GCM_SHA256",
            group: Some("X25519MLKEM768".to_owned()),
            is_resumed: true,
            alpn: Some(b"h2\xff".to_vec()),
        });
        record.moved[Direction::BackendToClient.index()] = Moved { bytes: 9, is_in_kernel: true };
        record.reason = CloseReason::BackendClosed;
        let line: serde_json::Value = serde_json::from_slice(&record.to_line()).unwrap();
        assert_eq!(line["backend_to_client"], serde_json::json!({ "bytes": 9, "engine": "kernel" }));
        assert_eq!(line["client_to_backend"], serde_json::json!({ "bytes": 0, "engine": "userspace" }));
        assert_eq!((&line["version"], &line["resumed"]), (&"1.3".into(), &true.into()));
        assert_eq!(line["alpn"], "h2\\xff");
        assert!(line.get("failure").is_none());
    }
}
