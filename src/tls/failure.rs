//! Why a handshake failed: whose fault it was, the alert that the client gets, and the name under which it is counted.

use std::io;

use openssl::error::ErrorStack;
use openssl::ssl;

use super::client_auth::CertificateRefusal;
use crate::record::{AlertDescription, CryptoError};
use crate::telemetry::{ClientCertificate, FailureReason};

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The client: a request in plain HTTP on the TLS port.
    #[error("client sent plain HTTP to the TLS port")]
    PlainHttp,
    /// The client: an SSL 2.0 hello (RFC 6176 forbids it).
    #[error("client sent an SSL 2.0 hello")]
    Sslv2Hello,
    /// The client: the first bytes are no TLS record.
    #[error("client sent no TLS record: first byte {0:#04x}")]
    NotTls(u8),
    /// The client: a record header with a version that is no TLS.
    #[error("client sent a record with version {0:#06x}")]
    RecordVersion(u16),
    /// The client: a record longer than the protocol allows.
    #[error("client sent a record of {0} bytes; at most {RECORD_LEN_MAX} are allowed")]
    RecordOverflow(usize),
    /// The client: more handshake than anybody needs.
    #[error("client sent more than {} bytes of handshake", super::handshake::HANDSHAKE_BYTES_MAX)]
    TooLong,
    /// Here: so many handshakes were under way that this one, which had waited longest for its client, had to give way.
    #[error("handshake gave way to a new one: it had waited longest for its client (workers.handshakes_max)")]
    GaveWay,
    /// The client gave up with an alert.
    #[error("client sent alert {}", AlertDescription::from_code(*.0))]
    AlertReceived(u8),
    /// The client offers no version that the policy allows.
    #[error("no protocol version in common: {0}")]
    NoCommonVersion(String),
    /// The client offers no suite, group or signature algorithm that the policy allows.
    #[error("no suite, group or signature algorithm in common: {0}")]
    NothingInCommon(String),
    /// The client offers ALPN protocols, and none that the listener speaks.
    #[error("no ALPN protocol in common")]
    NoCommonAlpn,
    /// The client has no certificate, and needs one.
    #[error("client sent no certificate")]
    ClientCertificateMissing,
    /// The client's certificate does not count.
    #[error("client certificate refused: {0}")]
    ClientCertificate(Box<CertificateRefusal>),
    /// The client asks for a name that no certificate has, where the listener refuses that.
    #[error("no certificate for server_name {0:?}")]
    UnknownServerName(String),
    /// The client asks for no name, where the listener refuses that.
    #[error("client asked for no server_name")]
    NoServerName,
    /// The client: its second ClientHello is not the first one again (RFC 8446 section 4.1.2). By the server_name of the
    /// first one it was decided what it has to prove, and where its connection goes.
    #[error("client's second ClientHello {0}")]
    SecondClientHello(&'static str),
    /// The client broke the protocol.
    #[error("protocol violation: {0}")]
    Protocol(String, Option<AlertDescription>),
    /// The client closed before it sent anything, like a port scan or a health check.
    #[error("client closed before it sent anything")]
    ClosedSilently,
    /// The client closed in the middle of the handshake.
    #[error("client closed during the handshake")]
    Closed,
    /// The client's socket failed.
    #[error("client: {0}")]
    Io(io::Error),
    /// The time for the handshake was over.
    #[error("handshake timed out")]
    TimedOut,
    /// Here: the library refused, most likely for want of memory.
    #[error("OpenSSL: {0}")]
    Library(ErrorStack),
    /// Here: no keys came out of the handshake.
    #[error("keys: {0}")]
    Keys(CryptoError),
    /// Here: a bug.
    #[error("{0}")]
    Internal(&'static str),
}

/// The longest record a handshake may contain: 2^14 bytes and what protection may add (RFC 8446 section 5.2, and
/// RFC 5246 section 6.2.3 is 1792 bytes more generous, which no AEAD suite needs).
const RECORD_LEN_MAX: usize = (1 << 14) + 256;

impl Failure {
    /// The name under which it is counted.
    pub fn reason(&self) -> FailureReason {
        match self {
            Self::PlainHttp => FailureReason::PlainHttp,
            Self::Sslv2Hello => FailureReason::Sslv2Hello,
            Self::NotTls(_) | Self::RecordVersion(_) => FailureReason::NotTls,
            Self::RecordOverflow(_) | Self::TooLong => FailureReason::TooLong,
            Self::AlertReceived(_) => FailureReason::AlertReceived,
            Self::NoCommonVersion(_) => FailureReason::Version,
            Self::NothingInCommon(_) => FailureReason::NothingInCommon,
            Self::NoCommonAlpn => FailureReason::Alpn,
            Self::ClientCertificateMissing | Self::ClientCertificate(_) => FailureReason::ClientCertificate,
            Self::UnknownServerName(_) | Self::NoServerName => FailureReason::ServerName,
            Self::SecondClientHello(_) | Self::Protocol(..) => FailureReason::Protocol,
            Self::ClosedSilently => FailureReason::ClosedSilently,
            Self::Closed | Self::Io(_) => FailureReason::Closed,
            Self::TimedOut => FailureReason::TimedOut,
            Self::GaveWay => FailureReason::GaveWay,
            Self::Library(_) | Self::Keys(_) | Self::Internal(_) => FailureReason::Internal,
        }
    }

    /// What became of the client's certificate, where the failure is about that.
    pub fn client_certificate(&self) -> Option<ClientCertificate> {
        match self {
            Self::ClientCertificateMissing => Some(ClientCertificate::Missing),
            Self::ClientCertificate(refusal) => Some(refusal.reason),
            _ => None,
        }
    }

    /// The alert for a failure that OpenSSL did not find itself; what it finds it answers itself.
    pub fn own_alert(&self) -> Option<AlertDescription> {
        match self {
            Self::Sslv2Hello | Self::RecordVersion(_) => Some(AlertDescription::ProtocolVersion),
            // RFC 8446 section 5: an unexpected record type ends the connection with unexpected_message.
            Self::NotTls(_) => Some(AlertDescription::UnexpectedMessage),
            Self::RecordOverflow(_) => Some(AlertDescription::RecordOverflow),
            Self::TooLong => Some(AlertDescription::HandshakeFailure),
            Self::SecondClientHello(_) => Some(AlertDescription::IllegalParameter),
            // RFC 6066 section 3.
            Self::UnknownServerName(_) => Some(AlertDescription::UnrecognizedName),
            // RFC 8446 section 9.2: what a server that demands the extension answers where it is missing.
            Self::NoServerName => Some(AlertDescription::MissingExtension),
            // An alert means nothing to an HTTP client.
            _ => None,
        }
    }

    /// The alert that the client was sent, where it is known: what OpenSSL says under the handshake's keys is not.
    pub fn alert_sent(&self) -> Option<AlertDescription> {
        match self {
            Self::NoCommonVersion(_) => Some(AlertDescription::ProtocolVersion),
            Self::NothingInCommon(_) => Some(AlertDescription::HandshakeFailure),
            Self::NoCommonAlpn => Some(AlertDescription::NoApplicationProtocol),
            Self::Protocol(_, alert) => *alert,
            _ => self.own_alert(),
        }
    }

    /// The alert that the client sent.
    pub fn alert_received(&self) -> Option<AlertDescription> {
        match self {
            Self::AlertReceived(code) => Some(AlertDescription::from_code(*code)),
            _ => None,
        }
    }

    /// Takes note of the alert that OpenSSL has written, the last record of `output`, where it is in clear.
    pub(super) fn note_alert(&mut self, output: &[u8]) {
        if let (Self::Protocol(_, alert), Some([0x15, 3, _, 0, 2, _, code])) = (self, output.last_chunk::<7>()) {
            *alert = Some(AlertDescription::from_code(*code));
        }
    }

    /// Whether the client was sent an alert that it should get the time to read.
    pub fn has_alert(&self) -> bool {
        let found_by_openssl = matches!(
            self,
            Self::NoCommonVersion(_)
                | Self::NothingInCommon(_)
                | Self::NoCommonAlpn
                | Self::ClientCertificateMissing
                | Self::ClientCertificate(_)
                | Self::Protocol(..)
        );
        found_by_openssl || self.own_alert().is_some()
    }

    /// Looks at the first bytes of a connection, as many as there are, for what cannot become a TLS handshake.
    ///
    /// # Errors
    /// [`Failure::PlainHttp`], [`Failure::Sslv2Hello`] or [`Failure::NotTls`].
    pub(super) fn check_first_bytes(bytes: &[u8]) -> Result<(), Self> {
        const HTTP_METHODS: &[&[u8]] =
            &[b"GET ", b"POST", b"HEAD", b"PUT ", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC", b"PRI "];
        match bytes {
            [] | [HANDSHAKE, ..] => Ok(()),
            [_, _, rest @ ..] if bytes[0] & 0x80 != 0 && rest.first().is_none_or(|kind| *kind == 1) => {
                // The length of an SSL 2.0 record, then a CLIENT-HELLO: wait for the type before calling it one.
                if rest.is_empty() { Ok(()) } else { Err(Self::Sslv2Hello) }
            }
            [first] if first & 0x80 != 0 => Ok(()),
            _ if HTTP_METHODS.iter().any(|method| bytes.starts_with(method)) => Err(Self::PlainHttp),
            _ if bytes.len() < 4 && HTTP_METHODS.iter().any(|method| method.starts_with(bytes)) => Ok(()),
            _ => Err(Self::NotTls(bytes[0])),
        }
    }

    /// Checks a record header within the handshake and returns the length of the record's body.
    ///
    /// # Errors
    /// [`Failure::NotTls`], [`Failure::RecordVersion`] or [`Failure::RecordOverflow`].
    pub(super) fn check_handshake_header(header: &[u8; 5]) -> Result<usize, Self> {
        let [content_type, major, minor, high, low] = *header;
        if !(20..=23).contains(&content_type) {
            return Err(Self::NotTls(content_type));
        }
        if major != 3 {
            return Err(Self::RecordVersion(u16::from_be_bytes([major, minor])));
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > RECORD_LEN_MAX { Err(Self::RecordOverflow(length)) } else { Ok(length) }
    }

    /// Sorts what OpenSSL found.
    pub(super) fn from_openssl(error: &ssl::Error) -> Self {
        /// OpenSSL reports a received alert as this plus its number (SSL_AD_REASON_OFFSET).
        const ALERT_RECEIVED: i32 = 1000;
        let Some(first) = error.ssl_error().and_then(|stack| stack.errors().first()) else {
            return Self::Protocol(error.to_string(), None);
        };
        let text = first.reason().unwrap_or("unknown reason").to_owned();
        match first.reason_code() {
            code if (ALERT_RECEIVED..ALERT_RECEIVED + 256).contains(&code) => {
                Self::AlertReceived(u8::try_from(code - ALERT_RECEIVED).unwrap_or_default())
            }
            SSL_R_UNSUPPORTED_PROTOCOL | SSL_R_VERSION_TOO_LOW | SSL_R_UNKNOWN_PROTOCOL => Self::NoCommonVersion(text),
            SSL_R_NO_SHARED_CIPHER
            | SSL_R_NO_SUITABLE_KEY_SHARE
            | SSL_R_NO_SUITABLE_GROUPS
            | SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM
            | SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS => Self::NothingInCommon(text),
            SSL_R_NO_APPLICATION_PROTOCOL => Self::NoCommonAlpn,
            SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE => Self::ClientCertificateMissing,
            _ => Self::Protocol(text, None),
        }
    }

    pub(super) fn library(error: ErrorStack) -> Self {
        Self::Library(error)
    }

    pub(super) fn keys(error: CryptoError) -> Self {
        Self::Keys(error)
    }
}

const HANDSHAKE: u8 = 22;
const SSL_R_NO_SUITABLE_KEY_SHARE: i32 = 101;
const SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM: i32 = 118;
const SSL_R_NO_SHARED_CIPHER: i32 = 193;
const SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE: i32 = 199;
const SSL_R_NO_APPLICATION_PROTOCOL: i32 = 235;
const SSL_R_UNKNOWN_PROTOCOL: i32 = 252;
const SSL_R_UNSUPPORTED_PROTOCOL: i32 = 258;
const SSL_R_NO_SUITABLE_GROUPS: i32 = 295;
const SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS: i32 = 376;
const SSL_R_VERSION_TOO_LOW: i32 = 396;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::*;

    fn reason(bytes: &[u8]) -> Option<FailureReason> {
        Failure::check_first_bytes(bytes).err().map(|failure| failure.reason())
    }

    #[test]
    fn first_bytes_of_a_handshake_record_pass() {
        assert_eq!(reason(&[]), None);
        assert_eq!(reason(&[22]), None);
        assert_eq!(reason(&[22, 3, 1, 2, 0]), None);
    }

    #[test]
    fn plain_http_is_told_from_garbage_as_soon_as_it_can_be() {
        assert_eq!(reason(b"GE"), None);
        assert_eq!(reason(b"GET / HTTP/1.1"), Some(FailureReason::PlainHttp));
        assert_eq!(reason(b"GEX"), Some(FailureReason::NotTls));
        assert_eq!(reason(&[0]), Some(FailureReason::NotTls));
    }

    #[test]
    fn sslv2_hello_is_recognised_once_its_type_is_there() {
        assert_eq!(reason(&[0x80]), None);
        assert_eq!(reason(&[0x80, 0x2e]), None);
        assert_eq!(reason(&[0x80, 0x2e, 1]), Some(FailureReason::Sslv2Hello));
        assert_eq!(reason(&[0x80, 0x2e, 9]), Some(FailureReason::NotTls));
    }

    #[test]
    fn record_header_of_a_handshake_is_bounded() {
        assert_eq!(Failure::check_handshake_header(&[22, 3, 1, 0x40, 0]).unwrap(), 16384);
        assert!(matches!(Failure::check_handshake_header(&[22, 3, 1, 0x41, 1]), Err(Failure::RecordOverflow(16641))));
        assert!(matches!(Failure::check_handshake_header(&[22, 4, 1, 0, 1]), Err(Failure::RecordVersion(0x0401))));
        assert!(matches!(Failure::check_handshake_header(&[24, 3, 1, 0, 1]), Err(Failure::NotTls(24))));
    }
}
