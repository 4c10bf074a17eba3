//! Opening protected records: one [`Opener`] per connection and direction.

use std::ops::Range;

use super::alert::AlertDescription;
use super::cipher::Purpose;
use super::context::ContextLoan;
use super::header::{ContentType, HEADER_LEN, protected_length};
use super::limit::PLAINTEXT_LEN_MAX;
use super::protect::{CryptoError, EXPLICIT_NONCE_LEN, explicit_nonce, sequence_nonce, tls12_aad};
use super::seal::check_rekey;
use super::suite::{Aead, ProtocolVersion, TrafficKeys};

/// Opens the records of one direction, in place.
pub struct Opener {
    context: ContextLoan,
    keys: TrafficKeys,
    payload_len_max: usize,
}

/// What a record held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Never [`ContentType::ChangeCipherSpec`].
    pub content_type: ContentType,
    /// Where the payload lies in the record; padding is left out.
    pub payload: Range<usize>,
}

impl Opener {
    /// An opener that goes on where `keys` stand.
    ///
    /// # Errors
    /// When a key has the wrong length, or it is refused.
    pub fn new(keys: TrafficKeys) -> Result<Self, CryptoError> {
        let context = ContextLoan::new(Purpose::Open, &keys)?;
        Ok(Self { context, keys, payload_len_max: PLAINTEXT_LEN_MAX })
    }

    /// Lowers the payload that a record may have to the negotiated `max_fragment_length` (RFC 6066 section 4).
    #[must_use]
    pub fn with_fragment_len(mut self, fragment_len: usize) -> Self {
        self.payload_len_max = fragment_len.clamp(1, PLAINTEXT_LEN_MAX);
        self
    }

    /// Opens exactly one record, header included, in place.
    ///
    /// # Errors
    /// When the record is not what may come next; the connection then ends with [`OpenError::alert`]. `record` holds
    /// nothing that may be used.
    pub fn open(&mut self, record: &mut [u8]) -> Result<Opened, OpenError> {
        let Some((header, fragment)) = record.split_first_chunk_mut::<HEADER_LEN>() else {
            return Err(OpenError::NotOneRecord { got: record.len(), announced: HEADER_LEN });
        };
        let length = protected_length(self.keys.version, self.keys.aead, header)?;
        if fragment.len() != length {
            return Err(OpenError::NotOneRecord { got: fragment.len(), announced: length });
        }
        if self.keys.sequence == u64::MAX {
            return Err(OpenError::SequenceExhausted);
        }
        match self.keys.version {
            ProtocolVersion::Tls13 => self.open_tls13(header, fragment),
            ProtocolVersion::Tls12 => self.open_tls12(header, fragment),
        }
    }

    fn open_tls13(&mut self, header: &[u8; HEADER_LEN], fragment: &mut [u8]) -> Result<Opened, OpenError> {
        let nonce = sequence_nonce(&self.keys.iv, self.keys.sequence);
        let (text, tag) = fragment.split_at_mut(fragment.len() - self.keys.aead.tag_len());
        self.context.with(&self.keys, |cipher| cipher.open(&nonce, header, text, tag))??;
        self.keys.sequence += 1;
        // RFC 8446 section 5.4: padding counts for the limit, and 2^14 + 1 bytes are all that content, type and padding
        // may take together.
        if text.len() > self.payload_len_max + 1 {
            return Err(OpenError::PayloadTooLong { got: text.len() - 1, max: self.payload_len_max });
        }
        // RFC 8446 section 5.4: the content type is the last byte that is not zero; without one the record ends the
        // connection with unexpected_message.
        let Some(payload_len) = text.iter().rposition(|&byte| byte != 0) else {
            return Err(OpenError::OnlyPadding);
        };
        let content_type = open_type(text[payload_len])?;
        Ok(Opened { content_type, payload: HEADER_LEN..HEADER_LEN + payload_len })
    }

    fn open_tls12(&mut self, header: &[u8; HEADER_LEN], fragment: &mut [u8]) -> Result<Opened, OpenError> {
        let explicit_len = self.keys.aead.explicit_nonce_len(ProtocolVersion::Tls12);
        let nonce = match fragment.first_chunk::<EXPLICIT_NONCE_LEN>() {
            Some(explicit) if explicit_len == EXPLICIT_NONCE_LEN => explicit_nonce(&self.keys.iv, *explicit),
            _ => sequence_nonce(&self.keys.iv, self.keys.sequence),
        };
        let (_, sealed) = fragment.split_at_mut(explicit_len);
        let (text, tag) = sealed.split_at_mut(sealed.len() - self.keys.aead.tag_len());
        if text.len() > self.payload_len_max {
            return Err(OpenError::PayloadTooLong { got: text.len(), max: self.payload_len_max });
        }
        let aad = tls12_aad(self.keys.sequence, header[0], text.len());
        self.context.with(&self.keys, |cipher| cipher.open(&nonce, &aad, text, tag))??;
        self.keys.sequence += 1;
        let start = HEADER_LEN + explicit_len;
        Ok(Opened { content_type: open_type(header[0])?, payload: start..start + text.len() })
    }

    /// Goes on with the keys of the next generation, after a KeyUpdate of the peer.
    ///
    /// # Errors
    /// When `keys` are of another suite or of TLS 1.2, which has no KeyUpdate, or they are refused.
    pub fn rekey(&mut self, keys: TrafficKeys) -> Result<(), CryptoError> {
        check_rekey(&self.keys, &keys)?;
        self.context.rekey(&keys)?;
        self.keys = keys;
        Ok(())
    }

    /// Keys, IV and the sequence number of the next record, for the other engine.
    pub fn into_keys(self) -> TrafficKeys {
        self.keys
    }

    /// Sequence number of the next record.
    pub const fn sequence(&self) -> u64 {
        self.keys.sequence
    }

    /// The protocol version.
    pub const fn version(&self) -> ProtocolVersion {
        self.keys.version
    }

    /// The algorithm.
    pub const fn aead(&self) -> Aead {
        self.keys.aead
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opener({:?} {:?} sequence={})", self.keys.version, self.keys.aead, self.keys.sequence)
    }
}

/// Why a record was refused.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Peer's fault: a content type that has no place after the handshake.
    #[error("peer sent content type {got} after the handshake")]
    ContentType {
        /// The content type, of the header or of the inner plaintext.
        got: u8,
    },
    /// Peer's fault: the version field of a protected record is always 0x0303.
    #[error("peer sent record version {got:#06x}; protected records have 0x0303")]
    Version {
        /// The version field.
        got: u16,
    },
    /// Peer's fault: the header announces more than a record may have.
    #[error("peer announced a record of {got} bytes; the limit is {max}")]
    RecordTooLong {
        /// Bytes announced.
        got: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Peer's fault: the header announces less than the tag takes.
    #[error("peer announced a record of {got} bytes; nonce and tag take {min}")]
    RecordTooShort {
        /// Bytes announced.
        got: usize,
        /// Bytes of nonce and tag.
        min: usize,
    },
    /// Peer's fault, or somebody's on the way: the record was forged, damaged, dropped, repeated or reordered.
    #[error("record failed authentication")]
    BadRecordMac,
    /// Peer's fault: a TLS 1.3 record without a content type.
    #[error("peer sent a record of padding alone")]
    OnlyPadding,
    /// Peer's fault: more payload than a record may have.
    #[error("peer sent a payload of {got} bytes in one record; the limit is {max}")]
    PayloadTooLong {
        /// Bytes of payload and padding.
        got: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Nobody's fault: 2^64 - 1 records were received under one key.
    #[error("the sequence number is used up; the peer sent no KeyUpdate")]
    SequenceExhausted,
    /// Bug: the caller did not hand in exactly one record.
    #[error("buffer holds {got} bytes behind the header, which announces {announced}")]
    NotOneRecord {
        /// Bytes handed in.
        got: usize,
        /// Bytes announced.
        announced: usize,
    },
    /// Local fault.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

impl OpenError {
    /// The alert that answers this error.
    pub const fn alert(&self) -> AlertDescription {
        match self {
            Self::ContentType { .. } | Self::OnlyPadding => AlertDescription::UnexpectedMessage,
            Self::Version { .. } => AlertDescription::ProtocolVersion,
            Self::RecordTooLong { .. } | Self::PayloadTooLong { .. } => AlertDescription::RecordOverflow,
            // RFC 8446 section 5.2: what cannot be deprotected ends in bad_record_mac.
            Self::RecordTooShort { .. } | Self::BadRecordMac => AlertDescription::BadRecordMac,
            Self::SequenceExhausted | Self::NotOneRecord { .. } | Self::Crypto(_) => AlertDescription::InternalError,
        }
    }
}

/// The type of authenticated content. A change_cipher_spec that is protected has no place in TLS 1.3 (RFC 8446 section
/// 5), and in TLS 1.2 only in a renegotiation, which is refused.
fn open_type(code: u8) -> Result<ContentType, OpenError> {
    match ContentType::from_code(code) {
        None | Some(ContentType::ChangeCipherSpec) => Err(OpenError::ContentType { got: code }),
        Some(content_type) => Ok(content_type),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::*;
    use crate::record::cipher::Cipher;
    use crate::record::testing::{hex, keys, pair, suite};
    use crate::record::{CipherSuite, Sealer, TrafficSecret};

    fn sealed(sealer: &mut Sealer, content_type: ContentType, payload: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        sealer.seal_control(content_type, payload, &mut record).unwrap();
        record
    }

    /// Seals a TLS 1.3 inner plaintext that no correct sender makes.
    fn seal_inner(suite: &CipherSuite, inner: &[u8]) -> Vec<u8> {
        let keys = keys(suite);
        let header = super::super::protect::header(23, inner.len() + 16);
        let (mut text, mut tag) = (inner.to_vec(), [0; 16]);
        let mut cipher = Cipher::new(Purpose::Seal, &keys).unwrap();
        cipher.seal(&sequence_nonce(&keys.iv, 0), &header, &mut text, &mut tag).unwrap();
        [header.as_slice(), &text, &tag].concat()
    }

    fn tls13_suites() -> impl Iterator<Item = &'static CipherSuite> {
        CipherSuite::all().iter().filter(|suite| suite.version == ProtocolVersion::Tls13)
    }

    #[test]
    fn opener_reads_the_records_of_rfc_8448() {
        let suite = suite(0x1301);
        let secret = hex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643");
        let mut keys = TrafficSecret::new(suite, &secret).unwrap().keys(suite).unwrap();
        // Record 0 carries the ticket.
        keys.sequence = 1;
        let mut opener = Opener::new(keys).unwrap();
        let mut data =
            hex("17030300 432e937e 11ef4ac7 40e538ad 36005fc4 a46932fc 3225d05f 82aa1b36 e30efaf9 7d90e6df \
                            fc602dcb 501a59a8 fcc49c4b f2e5f0a2 1c0047c2 abf33254 0dd032e1 67c2955d");
        let opened = opener.open(&mut data).unwrap();
        assert_eq!(opened.content_type, ContentType::ApplicationData);
        assert_eq!(data[opened.payload], (0..50).collect::<Vec<u8>>());
        let mut alert = hex("17030300 13b58fd6 7166ebf5 99d24720 cfbe7efa 7a8864a9");
        let opened = opener.open(&mut alert).unwrap();
        assert_eq!(opened.content_type, ContentType::Alert);
        assert_eq!(alert[opened.payload], [1, 0]);
    }

    #[test]
    fn record_of_every_type_and_edge_length_survives_a_round_trip() {
        for suite in CipherSuite::all() {
            let (mut sealer, mut opener) = pair(suite);
            for len in [0, 1, 2, 15, 16, 17, 255, 256, 1400, 16383, 16384] {
                for content_type in [ContentType::Alert, ContentType::Handshake, ContentType::ApplicationData] {
                    let payload: Vec<u8> = (0..len).map(|at| (at * 7) as u8).collect();
                    let mut record = sealed(&mut sealer, content_type, &payload);
                    assert_eq!(record.len(), len + 5 + suite.aead.expansion_len(suite.version));
                    let opened = opener.open(&mut record).unwrap();
                    assert_eq!(opened.content_type, content_type);
                    assert_eq!(record[opened.payload], payload);
                }
            }
        }
    }

    #[test]
    fn record_with_any_byte_forged_is_refused() {
        for suite in CipherSuite::all() {
            for payload in [&b"pay 100 to mallory"[..], b""] {
                let (mut sealer, mut opener) = pair(suite);
                let good = sealed(&mut sealer, ContentType::ApplicationData, payload);
                for at in 0..good.len() {
                    for bit in 0..8 {
                        let mut forged = good.clone();
                        forged[at] ^= 1 << bit;
                        let error = opener.open(&mut forged).expect_err("forged");
                        if at >= HEADER_LEN {
                            assert!(matches!(error, OpenError::BadRecordMac), "{} byte {at}: {error}", suite.name);
                        }
                    }
                }
                assert_eq!(opener.sequence(), 0, "a refused record takes no sequence number");
                let mut record = good.clone();
                assert!(opener.open(&mut record).is_ok(), "the record itself is still the next one");
            }
        }
    }

    #[test]
    fn empty_record_without_a_valid_tag_is_refused() {
        for suite in CipherSuite::all() {
            let (_, mut opener) = pair(suite);
            let len = suite.aead.explicit_nonce_len(suite.version) + 16;
            for fill in [0, 0xff] {
                let mut record = super::super::protect::header(23, len).to_vec();
                record.resize(5 + len, fill);
                assert!(matches!(opener.open(&mut record), Err(OpenError::BadRecordMac)));
            }
        }
    }

    #[test]
    fn truncated_record_is_refused() {
        for suite in CipherSuite::all() {
            let (mut sealer, mut opener) = pair(suite);
            let good = sealed(&mut sealer, ContentType::ApplicationData, b"truncate me");
            for len in 0..good.len() {
                let error = opener.open(&mut good[..len].to_vec()).unwrap_err();
                assert!(matches!(error, OpenError::NotOneRecord { .. }));
                // The same with a header that hides the loss.
                if len >= HEADER_LEN {
                    let mut short = good[..len].to_vec();
                    short[3..5].copy_from_slice(&((len - HEADER_LEN) as u16).to_be_bytes());
                    assert_eq!(opener.open(&mut short).unwrap_err().alert(), AlertDescription::BadRecordMac);
                }
            }
            let mut long = good.clone();
            long.push(0);
            assert!(matches!(opener.open(&mut long), Err(OpenError::NotOneRecord { .. })));
        }
    }

    #[test]
    fn replayed_reordered_and_dropped_records_are_refused() {
        for suite in CipherSuite::all() {
            let (mut sealer, mut opener) = pair(suite);
            let records: Vec<_> =
                (0..3_u8).map(|at| sealed(&mut sealer, ContentType::ApplicationData, &[at; 20])).collect();
            let bad = |opener: &mut Opener, record: &[u8]| {
                assert!(matches!(opener.open(&mut record.to_vec()), Err(OpenError::BadRecordMac)), "{}", suite.name);
            };
            bad(&mut opener, &records[1]);
            opener.open(&mut records[0].clone()).unwrap();
            bad(&mut opener, &records[0]);
            bad(&mut opener, &records[2]);
            opener.open(&mut records[1].clone()).unwrap();
            opener.open(&mut records[2].clone()).unwrap();
        }
    }

    #[test]
    fn record_of_the_other_direction_is_refused() {
        for suite in CipherSuite::all() {
            let mut other = keys(suite);
            other.iv = [0x2b; 12];
            other.key = crate::record::KeyMaterial::new(&[0x18; 32][..suite.aead.key_len()]);
            let mut record = sealed(&mut Sealer::new(other).unwrap(), ContentType::ApplicationData, b"reflected");
            let (_, mut opener) = pair(suite);
            assert!(matches!(opener.open(&mut record), Err(OpenError::BadRecordMac)));
        }
    }

    #[test]
    fn padding_of_tls13_is_stripped() {
        for suite in tls13_suites() {
            for (payload, padding) in [(0, 0), (0, 1), (1, 255), (100, 1000), (16384, 0), (0, 16384), (8000, 8384)] {
                let mut inner = vec![0xee; payload];
                inner.push(23);
                inner.resize(payload + 1 + padding, 0);
                let mut record = seal_inner(suite, &inner);
                let opened = Opener::new(keys(suite)).unwrap().open(&mut record).unwrap();
                assert_eq!(opened, Opened { content_type: ContentType::ApplicationData, payload: 5..5 + payload });
            }
        }
    }

    #[test]
    fn payload_that_ends_in_zeros_keeps_them() {
        for suite in CipherSuite::all() {
            let (mut sealer, mut opener) = pair(suite);
            let mut record = sealed(&mut sealer, ContentType::ApplicationData, &[0; 64]);
            let opened = opener.open(&mut record).unwrap();
            assert_eq!(record[opened.payload], [0; 64]);
        }
    }

    #[test]
    fn record_without_a_content_type_is_an_unexpected_message() {
        for suite in tls13_suites() {
            for zeros in [0, 1, 16385] {
                let mut record = seal_inner(suite, &vec![0; zeros]);
                let error = Opener::new(keys(suite)).unwrap().open(&mut record).unwrap_err();
                assert!(matches!(error, OpenError::OnlyPadding));
                assert_eq!(error.alert(), AlertDescription::UnexpectedMessage);
            }
        }
    }

    #[test]
    fn inner_plaintext_above_the_limit_is_a_record_overflow() {
        for suite in tls13_suites() {
            for (payload, padding) in [(16385, 0), (16384, 1), (0, 16385), (16385, 238)] {
                let mut inner = vec![0xee; payload];
                inner.push(23);
                inner.resize(payload + 1 + padding, 0);
                let error = Opener::new(keys(suite)).unwrap().open(&mut seal_inner(suite, &inner)).unwrap_err();
                assert_eq!(error.alert(), AlertDescription::RecordOverflow, "{payload} {padding}");
            }
        }
    }

    #[test]
    fn content_type_without_a_place_is_an_unexpected_message() {
        for suite in tls13_suites() {
            for content_type in (1..=u8::MAX).filter(|code| !(21..=23).contains(code)) {
                let mut record = seal_inner(suite, &[b'x', content_type]);
                let error = Opener::new(keys(suite)).unwrap().open(&mut record).unwrap_err();
                assert!(matches!(error, OpenError::ContentType { got } if got == content_type));
                assert_eq!(error.alert(), AlertDescription::UnexpectedMessage);
            }
        }
    }

    #[test]
    fn change_cipher_spec_after_the_handshake_is_an_unexpected_message() {
        for suite in CipherSuite::all() {
            let (mut sealer, mut opener) = pair(suite);
            let mut protected = sealed(&mut sealer, ContentType::ChangeCipherSpec, &[1]);
            assert_eq!(opener.open(&mut protected).unwrap_err().alert(), AlertDescription::UnexpectedMessage);
        }
        let (_, mut opener) = pair(suite(0x1301));
        let error = opener.open(&mut [20, 3, 3, 0, 1, 1]).unwrap_err();
        assert_eq!(error.alert(), AlertDescription::UnexpectedMessage);
    }

    #[test]
    fn negotiated_fragment_length_bounds_what_is_accepted() {
        for suite in CipherSuite::all() {
            for (len, accepted) in [(512, true), (513, false)] {
                let (mut sealer, opener) = pair(suite);
                let mut record = sealed(&mut sealer, ContentType::ApplicationData, &vec![1; len]);
                let opened = opener.with_fragment_len(512).open(&mut record);
                assert_eq!(opened.is_ok(), accepted);
                if let Err(error) = opened {
                    assert_eq!(error.alert(), AlertDescription::RecordOverflow);
                }
            }
        }
    }

    #[test]
    fn opener_without_sequence_numbers_left_refuses() {
        let suite = suite(0x1303);
        let mut last = keys(suite);
        last.sequence = u64::MAX;
        let mut record = vec![0; 40];
        record[..5].copy_from_slice(&super::super::protect::header(23, 35));
        let error = Opener::new(last).unwrap().open(&mut record).unwrap_err();
        assert!(matches!(error, OpenError::SequenceExhausted));
    }

    #[test]
    fn rekeyed_direction_goes_on_with_the_next_generation_alone() {
        for suite in tls13_suites() {
            let first = TrafficSecret::new(suite, &vec![9; suite.digest().output_len()]).unwrap();
            let second = first.next_generation().unwrap();
            let mut sealer = Sealer::new(first.keys(suite).unwrap()).unwrap();
            let mut opener = Opener::new(first.keys(suite).unwrap()).unwrap();
            opener.open(&mut sealed(&mut sealer, ContentType::ApplicationData, b"old")).unwrap();
            let old = sealed(&mut sealer, ContentType::ApplicationData, b"old");
            sealer.rekey(second.keys(suite).unwrap()).unwrap();
            opener.rekey(second.keys(suite).unwrap()).unwrap();
            assert!(matches!(opener.open(&mut old.clone()), Err(OpenError::BadRecordMac)));
            opener.open(&mut sealed(&mut sealer, ContentType::ApplicationData, b"new")).unwrap();
            assert_eq!((sealer.sequence(), opener.sequence()), (1, 1));
        }
    }
}
