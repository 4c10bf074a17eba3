//! Protecting records: one [`Sealer`] per connection and direction.

use super::cipher::Purpose;
use super::context::ContextLoan;
use super::header::{ContentType, HEADER_LEN};
use super::limit::{CONTROL_RECORDS_RESERVE, PLAINTEXT_LEN_MAX, records_max};
use super::protect::{
    CryptoError, EXPLICIT_NONCE_LEN, NONCE_LEN, explicit_nonce, header, outer_type, sequence_nonce, tls12_aad,
};
use super::suite::{Aead, ProtocolVersion, TrafficKeys};

/// Protects the records of one direction, in place.
///
/// The caller leaves [`prefix_len`](Self::prefix_len) bytes before and [`suffix_len`](Self::suffix_len) bytes behind
/// the payload, so that data is sealed where it was received.
pub struct Sealer {
    context: ContextLoan,
    keys: TrafficKeys,
    record_limit: u64,
    payload_len_max: usize,
}

impl Sealer {
    /// A sealer that goes on where `keys` stand.
    ///
    /// # Errors
    /// When a key has the wrong length, or it is refused.
    pub fn new(keys: TrafficKeys) -> Result<Self, CryptoError> {
        let context = ContextLoan::new(Purpose::Seal, &keys)?;
        let record_limit = records_max(keys.aead);
        Ok(Self { context, keys, record_limit, payload_len_max: PLAINTEXT_LEN_MAX })
    }

    /// Lowers the number of records that one key may protect, which is otherwise that of the algorithm.
    #[must_use]
    pub fn with_record_limit(mut self, records: u64) -> Self {
        self.record_limit = records.min(records_max(self.keys.aead));
        self
    }

    /// Lowers the payload of a record to what the peer asked for with `max_fragment_length` (RFC 6066 section 4).
    #[must_use]
    pub fn with_fragment_len(mut self, fragment_len: usize) -> Self {
        // RFC 8446 section 5.4: a reduced limit counts the content type that TLS 1.3 puts behind the payload.
        let reduced = fragment_len < PLAINTEXT_LEN_MAX && self.keys.version == ProtocolVersion::Tls13;
        self.payload_len_max = fragment_len.saturating_sub(usize::from(reduced)).clamp(1, PLAINTEXT_LEN_MAX);
        self
    }

    /// Lowers the payload of a record to exactly so many bytes, for a sealer that goes on where another was.
    #[must_use]
    pub fn with_payload_len(mut self, payload_len: usize) -> Self {
        self.payload_len_max = payload_len.clamp(1, PLAINTEXT_LEN_MAX);
        self
    }

    /// Records that one key may protect.
    pub const fn record_limit(&self) -> u64 {
        self.record_limit
    }

    /// Bytes in front of the payload: the header, and in TLS 1.2 with AES-GCM the explicit nonce.
    pub const fn prefix_len(&self) -> usize {
        HEADER_LEN + self.keys.aead.explicit_nonce_len(self.keys.version)
    }

    /// Bytes behind the payload: the tag, and in TLS 1.3 the content type.
    pub const fn suffix_len(&self) -> usize {
        self.keys.aead.suffix_len(self.keys.version)
    }

    /// Most payload bytes in a record: 16384, unless the peer asked for smaller fragments.
    pub const fn payload_len_max(&self) -> usize {
        self.payload_len_max
    }

    /// Protects a record in place. `record` is prefix, payload and suffix; the payload is in place, the rest is
    /// written here.
    ///
    /// # Errors
    /// When the payload is too long (nothing was written), when the key has protected as many records as it may, or
    /// when the cipher fails. After an error of the cipher `record` holds nothing that may be sent.
    pub fn seal(&mut self, content_type: ContentType, record: &mut [u8]) -> Result<(), SealError> {
        let prefix_len = self.prefix_len();
        let suffix_len = self.suffix_len();
        let Some(payload_len) = record.len().checked_sub(prefix_len + suffix_len) else {
            return Err(SealError::RecordTooShort { got: record.len(), min: prefix_len + suffix_len });
        };
        if payload_len > self.payload_len_max {
            return Err(SealError::PayloadTooLong { got: payload_len, max: self.payload_len_max });
        }
        let sequence = self.take_sequence(content_type)?;

        let outer = outer_type(self.keys.version, content_type);
        let header = header(outer, record.len() - HEADER_LEN);
        record[..HEADER_LEN].copy_from_slice(&header);
        let nonce = self.next_nonce(sequence, record);
        let tag_at = record.len() - self.keys.aead.tag_len();
        let (rest, tag) = record.split_at_mut(tag_at);
        let text = &mut rest[prefix_len..];
        let version = self.keys.version;
        self.context.with(&self.keys, |cipher| match version {
            ProtocolVersion::Tls13 => {
                text[payload_len] = content_type as u8;
                cipher.seal(&nonce, &header, text, tag)
            }
            ProtocolVersion::Tls12 => cipher.seal(&nonce, &tls12_aad(sequence, outer, payload_len), text, tag),
        })??;
        Ok(())
    }

    /// Appends a record with `payload` to `out`: for alerts and handshake messages, where a copy does not matter.
    ///
    /// # Errors
    /// As [`seal`](Self::seal); `out` is then as it was.
    pub fn seal_control(
        &mut self,
        content_type: ContentType,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let start = out.len();
        out.resize(start + self.prefix_len(), 0);
        out.extend_from_slice(payload);
        out.resize(out.len() + self.suffix_len(), 0);
        let sealed = self.seal(content_type, &mut out[start..]);
        if sealed.is_err() {
            out.truncate(start);
        }
        sealed
    }

    /// Records of data that this key may still protect. At 0 TLS 1.3 sends a KeyUpdate and calls
    /// [`rekey`](Self::rekey), TLS 1.2 closes; a few control records stay possible.
    pub const fn records_left(&self) -> u64 {
        self.record_limit.saturating_sub(self.keys.sequence)
    }

    /// Goes on with the keys of the next generation, after the KeyUpdate that announces them was sealed.
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

    /// Takes a sequence number for good: it is spent even if the encryption fails, so that no nonce is used twice.
    fn take_sequence(&mut self, content_type: ContentType) -> Result<u64, SealError> {
        let limit = match content_type {
            ContentType::ApplicationData => self.record_limit,
            _ => self.record_limit.saturating_add(CONTROL_RECORDS_RESERVE),
        };
        let sequence = self.keys.sequence;
        if sequence >= limit {
            return Err(SealError::RecordLimit { limit });
        }
        self.keys.sequence = sequence + 1;
        Ok(sequence)
    }

    /// The nonce of this record; where the record carries it, it is written behind the header.
    fn next_nonce(&mut self, sequence: u64, record: &mut [u8]) -> [u8; NONCE_LEN] {
        if self.keys.aead.explicit_nonce_len(self.keys.version) == 0 {
            return sequence_nonce(&self.keys.iv, sequence);
        }
        let nonce = self.keys.iv;
        let explicit = &nonce[NONCE_LEN - EXPLICIT_NONCE_LEN..];
        record[HEADER_LEN..HEADER_LEN + EXPLICIT_NONCE_LEN].copy_from_slice(explicit);
        let mut next = [0; EXPLICIT_NONCE_LEN];
        next.copy_from_slice(explicit);
        // The counter may start anywhere, so that it may wrap; the record limit is far below its period.
        self.keys.iv = explicit_nonce(&nonce, u64::from_be_bytes(next).wrapping_add(1).to_be_bytes());
        nonce
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealer({:?} {:?} sequence={})", self.keys.version, self.keys.aead, self.keys.sequence)
    }
}

/// Why a record could not be protected. Never the peer's fault.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Bug: the payload exceeds the limit of a record.
    #[error("payload of {got} bytes exceeds the {max} of a record")]
    PayloadTooLong {
        /// Bytes handed in.
        got: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Bug: no room for header and tag.
    #[error("record buffer of {got} bytes has no room for the {min} of header and tag")]
    RecordTooShort {
        /// Bytes handed in.
        got: usize,
        /// Bytes that an empty record takes.
        min: usize,
    },
    /// The key has protected as many records as it may.
    #[error("the key has protected {limit} records and may protect no more; a KeyUpdate was due before")]
    RecordLimit {
        /// The limit.
        limit: u64,
    },
    /// Local fault.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// Whether `next` may follow `current` in a KeyUpdate.
pub(super) fn check_rekey(current: &TrafficKeys, next: &TrafficKeys) -> Result<(), CryptoError> {
    let fits =
        current.version == ProtocolVersion::Tls13 && current.version == next.version && current.aead == next.aead;
    if fits { Ok(()) } else { Err(CryptoError::WrongSuite { operation: "rekey" }) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::*;
    use crate::record::testing::{hex, keys, pair, suite};
    use crate::record::{CipherSuite, TrafficSecret};

    /// RFC 8448 section 3: the client's data record and alert, sealed by nobody else than the RFC.
    #[test]
    fn sealer_writes_the_records_of_rfc_8448() {
        let suite = suite(0x1301);
        let secret = hex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5");
        let mut sealer = Sealer::new(TrafficSecret::new(suite, &secret).unwrap().keys(suite).unwrap()).unwrap();
        let mut out = Vec::new();
        let data: Vec<u8> = (0..50).collect();
        sealer.seal_control(ContentType::ApplicationData, &data, &mut out).unwrap();
        sealer.seal_control(ContentType::Alert, &[1, 0], &mut out).unwrap();
        let expected =
            hex("17030300 43a23f70 54b62c94 d0affafe 8228ba55 cbefacea 42f914aa 66bcab3f 2b9819a8 a5b46b39 \
                            5bd54a9a 20441e2b 62974e1f 5a6292a2 977014bd 1e3deae6 3aeebb21 694915e4 \
                            17030300 13c98727 60655666 b74d7ff1 153efd6d b6d0b0e3");
        assert_eq!(out, expected);
    }

    #[test]
    fn sealer_refuses_a_payload_above_the_limit_and_writes_nothing() {
        for suite in CipherSuite::all() {
            let (mut sealer, mut opener) = pair(suite);
            let overhead = sealer.prefix_len() + sealer.suffix_len();
            let mut record = vec![0x5a; overhead + 16385];
            let error = sealer.seal(ContentType::ApplicationData, &mut record).unwrap_err();
            assert!(matches!(error, SealError::PayloadTooLong { got: 16385, max: 16384 }));
            assert!(record.iter().all(|&byte| byte == 0x5a));
            record.truncate(overhead + 16384);
            sealer.seal(ContentType::ApplicationData, &mut record).unwrap();
            assert_eq!(opener.open(&mut record).unwrap().payload.len(), 16384);
        }
    }

    #[test]
    fn sealer_refuses_a_buffer_without_room_for_header_and_tag() {
        for suite in CipherSuite::all() {
            let (mut sealer, _) = pair(suite);
            let overhead = sealer.prefix_len() + sealer.suffix_len();
            for len in 0..overhead {
                let error = sealer.seal(ContentType::ApplicationData, &mut vec![0; len]).unwrap_err();
                assert!(matches!(error, SealError::RecordTooShort { got, min } if got == len && min == overhead));
            }
            sealer.seal(ContentType::ApplicationData, &mut vec![0; overhead]).unwrap();
            assert_eq!(sealer.sequence(), 1, "refused records take no sequence number");
        }
    }

    #[test]
    fn sealer_at_the_record_limit_refuses_data_and_still_seals_control_records() {
        for suite in CipherSuite::all() {
            let mut sealer = Sealer::new(keys(suite)).unwrap().with_record_limit(3);
            let mut out = Vec::new();
            for left in [3, 2, 1] {
                assert_eq!(sealer.records_left(), left);
                sealer.seal_control(ContentType::ApplicationData, b"x", &mut out).unwrap();
            }
            assert_eq!(sealer.records_left(), 0);
            let before = out.clone();
            let error = sealer.seal_control(ContentType::ApplicationData, b"x", &mut out).unwrap_err();
            assert!(matches!(error, SealError::RecordLimit { limit: 3 }));
            assert_eq!(out, before, "a refused record leaves the output alone");
            for _reserve in 0..CONTROL_RECORDS_RESERVE {
                sealer.seal_control(ContentType::Handshake, &[24, 0, 0, 1, 0], &mut out).unwrap();
            }
            assert!(sealer.seal_control(ContentType::Alert, &[1, 0], &mut out).is_err());
        }
    }

    #[test]
    fn sealer_after_a_rekey_has_the_whole_record_limit_again() {
        let suite = suite(0x1301);
        let mut sealer = Sealer::new(keys(suite)).unwrap().with_record_limit(1);
        let mut out = Vec::new();
        sealer.seal_control(ContentType::ApplicationData, b"x", &mut out).unwrap();
        assert_eq!(sealer.records_left(), 0);
        sealer.rekey(keys(suite)).unwrap();
        assert_eq!((sealer.records_left(), sealer.sequence()), (1, 0));
    }

    #[test]
    fn record_limit_of_aes_gcm_is_that_of_rfc_9846() {
        let (aes, _) = pair(suite(0x1301));
        // 2^24.5, squared to stay in integers.
        let all = u128::from(aes.records_left() + CONTROL_RECORDS_RESERVE);
        assert!(all * all <= 1 << 49 && (all + 1) * (all + 1) > 1 << 49);
        let (chacha, _) = pair(suite(0x1303));
        assert_eq!(chacha.records_left(), u64::MAX - CONTROL_RECORDS_RESERVE);
        assert_eq!(aes.with_record_limit(u64::MAX).records_left() + CONTROL_RECORDS_RESERVE, all as u64);
    }

    #[test]
    fn sequence_number_never_wraps() {
        let suite = suite(0x1303);
        let mut last = keys(suite);
        last.sequence = u64::MAX - 1;
        let mut sealer = Sealer::new(last).unwrap();
        let mut out = Vec::new();
        sealer.seal_control(ContentType::Alert, &[1, 0], &mut out).unwrap();
        assert_eq!(sealer.sequence(), u64::MAX);
        let error = sealer.seal_control(ContentType::Alert, &[1, 0], &mut out).unwrap_err();
        assert!(matches!(error, SealError::RecordLimit { limit: u64::MAX }));
    }

    #[test]
    fn explicit_nonce_of_tls12_counts_on_from_the_keys_and_wraps() {
        let suite = suite(0xc02f);
        let mut start = keys(suite);
        start.iv[4..].copy_from_slice(&(u64::MAX - 1).to_be_bytes());
        start.sequence = 7;
        let mut sealer = Sealer::new(start).unwrap();
        for explicit in [u64::MAX - 1, u64::MAX, 0, 1] {
            let mut out = Vec::new();
            sealer.seal_control(ContentType::ApplicationData, b"x", &mut out).unwrap();
            assert_eq!(out[5..13], explicit.to_be_bytes());
        }
        let keys = sealer.into_keys();
        assert_eq!(keys.sequence, 11);
        assert_eq!(keys.iv[..4], [0x2a; 4]);
        assert_eq!(keys.iv[4..], 2_u64.to_be_bytes());
    }

    #[test]
    fn keys_handed_over_between_records_go_on_without_a_gap() {
        for suite in CipherSuite::all() {
            let (mut sealer, mut opener) = pair(suite);
            for _hand_over in 0..3 {
                let mut record = Vec::new();
                sealer.seal_control(ContentType::ApplicationData, b"payload", &mut record).unwrap();
                let opened = opener.open(&mut record).unwrap();
                assert_eq!(&record[opened.payload], b"payload");
                sealer = Sealer::new(sealer.into_keys()).unwrap();
                opener = crate::record::Opener::new(opener.into_keys()).unwrap();
            }
            assert_eq!((sealer.sequence(), opener.sequence()), (3, 3));
        }
    }

    #[test]
    fn rekey_of_tls12_or_to_another_suite_is_refused() {
        let (mut tls12, mut opener) = pair(suite(0xc02f));
        assert!(matches!(tls12.rekey(keys(suite(0xc02f))), Err(CryptoError::WrongSuite { .. })));
        assert!(matches!(opener.rekey(keys(suite(0xc02f))), Err(CryptoError::WrongSuite { .. })));
        let (mut tls13, mut opener) = pair(suite(0x1301));
        for other in [0x1302, 0x1303, 0xc02f] {
            assert!(tls13.rekey(keys(suite(other))).is_err());
            assert!(opener.rekey(keys(suite(other))).is_err());
        }
    }

    #[test]
    fn key_of_wrong_length_is_refused() {
        for suite in CipherSuite::all() {
            for len in [0, 15, 17, 31].into_iter().chain([if suite.aead.key_len() == 16 { 32 } else { 16 }]) {
                let mut wrong = keys(suite);
                wrong.key = crate::record::KeyMaterial::new(&[0; 32][..len]);
                assert!(matches!(Sealer::new(wrong), Err(CryptoError::KeyLength { got, .. }) if got == len));
            }
        }
    }

    #[test]
    fn fragment_length_bounds_the_payload_with_its_content_type() {
        for (code, max) in [(0x1301, 511), (0xc02f, 512)] {
            let sealer = Sealer::new(keys(suite(code))).unwrap().with_fragment_len(512);
            assert_eq!(sealer.payload_len_max(), max);
            let mut sealer = sealer;
            let mut out = Vec::new();
            sealer.seal_control(ContentType::ApplicationData, &vec![0; max], &mut out).unwrap();
            assert!(sealer.seal_control(ContentType::ApplicationData, &vec![0; max + 1], &mut out).is_err());
            assert_eq!(sealer.with_fragment_len(16384).payload_len_max(), 16384);
        }
        assert_eq!(pair(suite(0x1301)).0.with_fragment_len(0).payload_len_max(), 1);
    }

    #[test]
    fn sealer_prints_no_key() {
        let (sealer, opener) = pair(suite(0x1301));
        assert_eq!(
            format!("{sealer:?} {opener:?}"),
            "Sealer(Tls13 Aes128Gcm sequence=0) Opener(Tls13 Aes128Gcm sequence=0)"
        );
    }
}
