//! Protecting records: one [`Sealer`] per connection and direction.

use openssl::cipher_ctx::CipherCtx;

use super::header::{ContentType, HEADER_LEN};
use super::limit::{CONTROL_RECORDS_RESERVE, PLAINTEXT_LEN_MAX, records_max};
use super::protect::{
    CryptoError, EXPLICIT_NONCE_LEN, NONCE_LEN, explicit_nonce, header, outer_type, sequence_nonce, tls12_aad,
    with_cipher,
};
use super::suite::{Aead, ProtocolVersion, TrafficKeys};

/// Protects the records of one direction, in place.
///
/// The caller leaves [`prefix_len`](Self::prefix_len) bytes before and [`suffix_len`](Self::suffix_len) bytes behind
/// the payload, so that data is sealed where it was received.
pub struct Sealer {
    context: CipherCtx,
    keys: TrafficKeys,
    record_limit: u64,
    payload_len_max: usize,
}

impl Sealer {
    /// A sealer that goes on where `keys` stand.
    ///
    /// # Errors
    /// When a key has the wrong length, or OpenSSL refuses it.
    pub fn new(keys: TrafficKeys) -> Result<Self, CryptoError> {
        let mut context = CipherCtx::new().map_err(CryptoError::openssl("allocate a cipher context"))?;
        set_key(&mut context, &keys)?;
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
    /// when OpenSSL fails. After an error of OpenSSL `record` holds nothing that may be sent.
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
        let result = match self.keys.version {
            ProtocolVersion::Tls13 => {
                text[payload_len] = content_type as u8;
                encrypt(&mut self.context, &nonce, &header, text, tag)
            }
            ProtocolVersion::Tls12 => {
                encrypt(&mut self.context, &nonce, &tls12_aad(sequence, outer, payload_len), text, tag)
            }
        };
        result.map_err(|source| SealError::Crypto(CryptoError::OpenSsl { operation: "encrypt a record", source }))
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
    /// When `keys` are of another suite or of TLS 1.2, which has no KeyUpdate, or OpenSSL refuses them.
    pub fn rekey(&mut self, keys: TrafficKeys) -> Result<(), CryptoError> {
        check_rekey(&self.keys, &keys)?;
        set_key(&mut self.context, &keys)?;
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

fn set_key(context: &mut CipherCtx, keys: &TrafficKeys) -> Result<(), CryptoError> {
    keys.check_key_len()?;
    with_cipher(keys.aead, |cipher| {
        context
            .encrypt_init(Some(cipher), Some(keys.key.expose()), None)
            .map_err(CryptoError::openssl("set the key of a sealer"))
    })
}

fn encrypt(
    context: &mut CipherCtx,
    nonce: &[u8; NONCE_LEN],
    aad: &[u8],
    text: &mut [u8],
    tag: &mut [u8],
) -> Result<(), openssl::error::ErrorStack> {
    context.encrypt_init(None, None, Some(nonce))?;
    context.cipher_update(aad, None)?;
    if !text.is_empty() {
        context.cipher_update_inplace(text, text.len())?;
    }
    context.cipher_final(&mut [])?;
    context.tag(tag)
}
