//! Alerts (RFC 8446 section 6, RFC 5246 section 7.2).

use std::fmt;

/// How grave the sender says the alert is. TLS 1.3 ignores it (RFC 8446 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AlertLevel {
    /// The connection may go on.
    Warning = 1,
    /// The connection has ended.
    Fatal = 2,
}

/// An alert message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Alert {
    /// The level.
    pub level: AlertLevel,
    /// What happened.
    pub description: AlertDescription,
}

impl Alert {
    /// The announcement that the sender sends no more (RFC 8446 section 6.1).
    pub const CLOSE_NOTIFY: Self = Self::warning(AlertDescription::CloseNotify);

    /// An alert that ends the connection.
    pub const fn fatal(description: AlertDescription) -> Self {
        Self { level: AlertLevel::Fatal, description }
    }

    /// An alert that does not end the connection.
    pub const fn warning(description: AlertDescription) -> Self {
        Self { level: AlertLevel::Warning, description }
    }

    /// Reads the content of an alert record.
    ///
    /// RFC 8446 section 5.1: an alert is never split over records, and a record never holds two. TLS 1.2 would allow
    /// both; no stack does it, and OpenSSL refuses it too.
    ///
    /// # Errors
    /// When there are not exactly two bytes, or the level does not exist.
    pub fn parse(bytes: &[u8]) -> Result<Self, AlertError> {
        let &[level, description] = bytes else { return Err(AlertError::Length { got: bytes.len() }) };
        let level = match level {
            1 => AlertLevel::Warning,
            2 => AlertLevel::Fatal,
            got => return Err(AlertError::Level { got }),
        };
        Ok(Self { level, description: AlertDescription::from_code(description) })
    }

    /// The alert as it goes into a record.
    pub const fn encode(self) -> [u8; 2] {
        [self.level as u8, self.description.code()]
    }
}

/// Why the content of an alert record is not an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AlertError {
    /// Peer's fault: an alert has two bytes.
    #[error("peer sent an alert of {got} bytes; an alert has 2")]
    Length {
        /// Bytes in the record.
        got: usize,
    },
    /// Peer's fault: no such level.
    #[error("peer sent an alert with level {got}; 1 and 2 exist")]
    Level {
        /// The level byte.
        got: u8,
    },
}

impl AlertError {
    /// The alert that answers this error.
    pub const fn alert(self) -> AlertDescription {
        match self {
            Self::Length { .. } => AlertDescription::DecodeError,
            Self::Level { .. } => AlertDescription::IllegalParameter,
        }
    }
}

macro_rules! descriptions {
    ($($variant:ident = $code:literal, $name:literal;)*) => {
        /// What an alert says; `Display` prints the RFC's name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum AlertDescription {
            $(#[doc = concat!("`", $name, "` (", $code, ").")] $variant,)*
            /// A code that neither RFC knows. RFC 8446 section 6.2: treated as an error alert.
            Unknown(u8),
        }

        impl AlertDescription {
            /// The description with this code.
            pub const fn from_code(code: u8) -> Self {
                match code {
                    $($code => Self::$variant,)*
                    other => Self::Unknown(other),
                }
            }

            /// The code on the wire.
            pub const fn code(self) -> u8 {
                match self {
                    $(Self::$variant => $code,)*
                    Self::Unknown(code) => code,
                }
            }

            /// The RFC's name, a closed set fit for metric labels.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Unknown(_) => "unknown",
                }
            }
        }
    };
}

descriptions! {
    CloseNotify = 0, "close_notify";
    UnexpectedMessage = 10, "unexpected_message";
    BadRecordMac = 20, "bad_record_mac";
    DecryptionFailed = 21, "decryption_failed";
    RecordOverflow = 22, "record_overflow";
    DecompressionFailure = 30, "decompression_failure";
    HandshakeFailure = 40, "handshake_failure";
    NoCertificate = 41, "no_certificate";
    BadCertificate = 42, "bad_certificate";
    UnsupportedCertificate = 43, "unsupported_certificate";
    CertificateRevoked = 44, "certificate_revoked";
    CertificateExpired = 45, "certificate_expired";
    CertificateUnknown = 46, "certificate_unknown";
    IllegalParameter = 47, "illegal_parameter";
    UnknownCa = 48, "unknown_ca";
    AccessDenied = 49, "access_denied";
    DecodeError = 50, "decode_error";
    DecryptError = 51, "decrypt_error";
    ExportRestriction = 60, "export_restriction";
    ProtocolVersion = 70, "protocol_version";
    InsufficientSecurity = 71, "insufficient_security";
    InternalError = 80, "internal_error";
    InappropriateFallback = 86, "inappropriate_fallback";
    UserCanceled = 90, "user_canceled";
    NoRenegotiation = 100, "no_renegotiation";
    MissingExtension = 109, "missing_extension";
    UnsupportedExtension = 110, "unsupported_extension";
    CertificateUnobtainable = 111, "certificate_unobtainable";
    UnrecognizedName = 112, "unrecognized_name";
    BadCertificateStatusResponse = 113, "bad_certificate_status_response";
    BadCertificateHashValue = 114, "bad_certificate_hash_value";
    UnknownPskIdentity = 115, "unknown_psk_identity";
    CertificateRequired = 116, "certificate_required";
    GeneralError = 117, "general_error";
    NoApplicationProtocol = 120, "no_application_protocol";
}

impl fmt::Display for AlertDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(code) => write!(f, "unknown({code})"),
            known => f.write_str(known.label()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn alert_of_every_code_survives_a_round_trip() {
        for code in 0..=u8::MAX {
            for level in [AlertLevel::Warning, AlertLevel::Fatal] {
                let alert = Alert { level, description: AlertDescription::from_code(code) };
                assert_eq!(alert.encode(), [level as u8, code]);
                assert_eq!(Alert::parse(&alert.encode()), Ok(alert));
            }
        }
    }

    #[test]
    fn alert_of_wrong_length_is_a_decode_error() {
        for bytes in [&[][..], &[1], &[1, 0, 0], &[1, 0, 1, 0]] {
            let error = Alert::parse(bytes).expect_err("only two bytes are an alert");
            assert_eq!(error, AlertError::Length { got: bytes.len() });
            assert_eq!(error.alert(), AlertDescription::DecodeError);
        }
    }

    #[test]
    fn alert_of_unknown_level_is_an_illegal_parameter() {
        for level in [0, 3, 255] {
            let error = Alert::parse(&[level, 0]).expect_err("levels are 1 and 2");
            assert_eq!(error.alert(), AlertDescription::IllegalParameter);
        }
    }

    #[test]
    fn alert_description_prints_the_name_of_the_rfc() {
        assert_eq!(AlertDescription::BadRecordMac.to_string(), "bad_record_mac");
        assert_eq!(AlertDescription::from_code(99).to_string(), "unknown(99)");
        assert_eq!(AlertDescription::from_code(99).label(), "unknown");
    }
}
