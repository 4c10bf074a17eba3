//! The five bytes in front of every record, and cutting a stream of ciphertext into records.

use super::alert::AlertDescription;
use super::limit::{PLAINTEXT_LEN_MAX, TLS12_EXPANSION_MAX, TLS13_EXPANSION_MAX};
use super::open::OpenError;
use super::suite::{Aead, ProtocolVersion};

/// Length of a record header in bytes.
pub const HEADER_LEN: usize = 5;

/// The `legacy_record_version` of every protected record, in both versions (RFC 8446 section 5.2).
pub const RECORD_VERSION: u16 = 0x0303;

/// What a record carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ContentType {
    /// `change_cipher_spec`.
    ChangeCipherSpec = 20,
    /// `alert`.
    Alert = 21,
    /// `handshake`.
    Handshake = 22,
    /// `application_data`.
    ApplicationData = 23,
}

impl ContentType {
    /// The content type with this code.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            20 => Some(Self::ChangeCipherSpec),
            21 => Some(Self::Alert),
            22 => Some(Self::Handshake),
            23 => Some(Self::ApplicationData),
            _ => None,
        }
    }
}

/// A record header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The outer content type: in protected TLS 1.3 records always [`ContentType::ApplicationData`].
    pub content_type: ContentType,
    /// The version field: 0x0303, except in early handshake records, where 0x0301 and others occur.
    pub legacy_version: u16,
    /// Bytes that follow the header.
    pub length: u16,
}

impl RecordHeader {
    /// Reads a header by the rules that hold in every phase of a connection; [`frame_protected`] is stricter.
    ///
    /// # Errors
    /// When the bytes do not start a TLS record.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, HeaderError> {
        let &[content_type, major, minor, high, low] = bytes;
        let content_type =
            ContentType::from_code(content_type).ok_or(HeaderError::ContentType { got: content_type })?;
        let legacy_version = u16::from_be_bytes([major, minor]);
        if major != 3 {
            return Err(HeaderError::Version { got: legacy_version });
        }
        let length = u16::from_be_bytes([high, low]);
        if usize::from(length) > PLAINTEXT_LEN_MAX + TLS12_EXPANSION_MAX {
            return Err(HeaderError::Length { got: length });
        }
        Ok(Self { content_type, legacy_version, length })
    }

    /// Length of the whole record in bytes, header included.
    pub const fn record_len(&self) -> usize {
        HEADER_LEN + self.length as usize
    }

    /// The header as it goes onto the wire.
    pub const fn encode(self) -> [u8; HEADER_LEN] {
        let [major, minor] = self.legacy_version.to_be_bytes();
        let [high, low] = self.length.to_be_bytes();
        [self.content_type as u8, major, minor, high, low]
    }
}

/// Why five bytes are not a record header. Always the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// No such content type.
    #[error("peer sent content type {got}; 20 to 23 exist")]
    ContentType {
        /// The first byte.
        got: u8,
    },
    /// Not a version of TLS.
    #[error("peer sent record version {got:#06x}; TLS records have 0x03 first")]
    Version {
        /// The version field.
        got: u16,
    },
    /// Longer than any TLS record.
    #[error("peer announced a record of {got} bytes; the limit is {limit}", limit = PLAINTEXT_LEN_MAX + TLS12_EXPANSION_MAX)]
    Length {
        /// The length field.
        got: u16,
    },
}

impl HeaderError {
    /// The alert that answers this error.
    pub const fn alert(self) -> AlertDescription {
        match self {
            Self::ContentType { .. } => AlertDescription::UnexpectedMessage,
            Self::Version { .. } => AlertDescription::ProtocolVersion,
            Self::Length { .. } => AlertDescription::RecordOverflow,
        }
    }
}

/// What the start of a buffer of ciphertext holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Less than one record.
    Incomplete {
        /// Bytes that the buffer must hold in total before there can be a whole record: 5 while the header is
        /// incomplete, afterwards the length of the record.
        needed: usize,
    },
    /// At least one record.
    Complete {
        /// Length of the first record in bytes, header included.
        len: usize,
    },
}

/// Looks at the start of a buffer of ciphertext: how many bytes the first protected record takes.
///
/// A wrong first byte is reported at once and not only when the header is complete, so that a peer cannot make us wait
/// for a record that could never be accepted.
///
/// # Errors
/// When no valid protected record starts with these bytes, whatever may follow.
pub fn frame_protected(version: ProtocolVersion, aead: Aead, buffer: &[u8]) -> Result<Framing, OpenError> {
    if let Some(&content_type) = buffer.first() {
        check_protected_type(version, content_type)?;
    }
    let Some(header) = buffer.first_chunk::<HEADER_LEN>() else {
        return Ok(Framing::Incomplete { needed: HEADER_LEN });
    };
    let len = HEADER_LEN + protected_length(version, aead, header)?;
    if buffer.len() < len { Ok(Framing::Incomplete { needed: len }) } else { Ok(Framing::Complete { len }) }
}

/// The length field of a header of a protected record, checked against its bounds.
pub(super) fn protected_length(
    version: ProtocolVersion,
    aead: Aead,
    header: &[u8; HEADER_LEN],
) -> Result<usize, OpenError> {
    let &[content_type, major, minor, high, low] = header;
    check_protected_type(version, content_type)?;
    let record_version = u16::from_be_bytes([major, minor]);
    if record_version != RECORD_VERSION {
        return Err(OpenError::Version { got: record_version });
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    let max = match version {
        // RFC 8446 section 5.2: more than 2^14 + 256 bytes must end in record_overflow.
        ProtocolVersion::Tls13 => PLAINTEXT_LEN_MAX + TLS13_EXPANSION_MAX,
        ProtocolVersion::Tls12 => PLAINTEXT_LEN_MAX + aead.expansion_len(version),
    };
    if length > max {
        return Err(OpenError::RecordTooLong { got: length, max });
    }
    let min = aead.explicit_nonce_len(version) + aead.tag_len();
    if length < min {
        return Err(OpenError::RecordTooShort { got: length, min });
    }
    Ok(length)
}

fn check_protected_type(version: ProtocolVersion, got: u8) -> Result<(), OpenError> {
    let expected = match version {
        // RFC 8446 section 5.2: the outer type of a protected record is application_data. A change_cipher_spec for
        // middleboxes is allowed until the handshake ends, and not any more here (section 5).
        ProtocolVersion::Tls13 => got == ContentType::ApplicationData as u8,
        ProtocolVersion::Tls12 => ContentType::from_code(got).is_some(),
    };
    if expected { Ok(()) } else { Err(OpenError::ContentType { got }) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::*;
    use crate::record::CipherSuite;
    use crate::record::testing::pair;

    #[test]
    fn header_survives_a_round_trip() {
        for content_type in 20..=23 {
            for length in [0, 1, 255, 256, 16384, 18432_u16] {
                let bytes = [content_type, 3, 1, length.to_be_bytes()[0], length.to_be_bytes()[1]];
                let header = RecordHeader::parse(&bytes).unwrap();
                assert_eq!(header.encode(), bytes);
                assert_eq!(header.record_len(), 5 + usize::from(length));
            }
        }
    }

    #[test]
    fn header_that_is_not_of_tls_is_refused_with_the_right_alert() {
        let cases = [
            ([19, 3, 3, 0, 1], AlertDescription::UnexpectedMessage),
            ([24, 3, 3, 0, 1], AlertDescription::UnexpectedMessage),
            (*b"GET /", AlertDescription::UnexpectedMessage),
            ([22, 2, 0, 0, 1], AlertDescription::ProtocolVersion),
            ([22, 3, 1, 0x48, 1], AlertDescription::RecordOverflow),
            ([22, 3, 1, 0xff, 0xff], AlertDescription::RecordOverflow),
        ];
        for (bytes, alert) in cases {
            assert_eq!(RecordHeader::parse(&bytes).unwrap_err().alert(), alert, "{bytes:?}");
        }
    }

    #[test]
    fn framing_of_records_split_at_every_byte_asks_for_exactly_what_is_missing() {
        for suite in CipherSuite::all() {
            let (mut sealer, _) = pair(suite);
            let mut stream = Vec::new();
            sealer.seal_control(ContentType::ApplicationData, b"split me", &mut stream).unwrap();
            let first = stream.len();
            sealer.seal_control(ContentType::Alert, &[1, 0], &mut stream).unwrap();
            for split in 0..=stream.len() {
                let framing = frame_protected(suite.version, suite.aead, &stream[..split]).unwrap();
                let expected = match split {
                    0..HEADER_LEN => Framing::Incomplete { needed: HEADER_LEN },
                    _ if split < first => Framing::Incomplete { needed: first },
                    _ => Framing::Complete { len: first },
                };
                assert_eq!(framing, expected, "{} split at {split}", suite.name);
            }
        }
    }

    #[test]
    fn framing_accepts_lengths_up_to_the_bounds_and_no_further() {
        for suite in CipherSuite::all() {
            let min = suite.aead.explicit_nonce_len(suite.version) + 16;
            let max = match suite.version {
                ProtocolVersion::Tls13 => 16384 + 256,
                ProtocolVersion::Tls12 => 16384 + min,
            };
            let frame = |length: usize| {
                let [high, low] = (length as u16).to_be_bytes();
                frame_protected(suite.version, suite.aead, &[23, 3, 3, high, low])
            };
            for length in [min, max] {
                assert_eq!(frame(length).unwrap(), Framing::Incomplete { needed: 5 + length }, "{}", suite.name);
            }
            assert_eq!(frame(max + 1).unwrap_err().alert(), AlertDescription::RecordOverflow);
            assert_eq!(frame(0xffff).unwrap_err().alert(), AlertDescription::RecordOverflow);
            assert_eq!(frame(min - 1).unwrap_err().alert(), AlertDescription::BadRecordMac);
            assert_eq!(frame(0).unwrap_err().alert(), AlertDescription::BadRecordMac);
        }
    }

    #[test]
    fn framing_refuses_a_foreign_type_at_its_first_byte() {
        for suite in CipherSuite::all() {
            for content_type in 0..=u8::MAX {
                let allowed = match suite.version {
                    ProtocolVersion::Tls13 => content_type == 23,
                    ProtocolVersion::Tls12 => (20..=23).contains(&content_type),
                };
                match frame_protected(suite.version, suite.aead, &[content_type]) {
                    Ok(framing) => {
                        assert!(allowed, "{content_type}");
                        assert_eq!(framing, Framing::Incomplete { needed: HEADER_LEN });
                    }
                    Err(error) => {
                        assert!(!allowed, "{content_type}");
                        assert_eq!(error.alert(), AlertDescription::UnexpectedMessage);
                    }
                }
            }
        }
    }

    #[test]
    fn framing_refuses_another_record_version() {
        for (major, minor) in [(3, 1), (3, 4), (0, 3), (254, 253)] {
            for version in [ProtocolVersion::Tls12, ProtocolVersion::Tls13] {
                let error = frame_protected(version, Aead::Aes128Gcm, &[23, major, minor, 0, 64]).unwrap_err();
                assert_eq!(error.alert(), AlertDescription::ProtocolVersion);
            }
        }
    }
}
