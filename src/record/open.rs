//! Opening protected records: one [`Opener`] per connection and direction.

use std::ops::Range;

use openssl::cipher_ctx::CipherCtx;
use openssl::error::ErrorStack;

use super::alert::AlertDescription;
use super::header::{ContentType, HEADER_LEN, protected_length};
use super::limit::PLAINTEXT_LEN_MAX;
use super::protect::{
    CryptoError, EXPLICIT_NONCE_LEN, NONCE_LEN, explicit_nonce, sequence_nonce, tls12_aad, with_cipher,
};
use super::seal::check_rekey;
use super::suite::{Aead, ProtocolVersion, TrafficKeys};

/// Opens the records of one direction, in place.
pub struct Opener {
    context: CipherCtx,
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
    /// When a key has the wrong length, or OpenSSL refuses it.
    pub fn new(keys: TrafficKeys) -> Result<Self, CryptoError> {
        let mut context = CipherCtx::new().map_err(CryptoError::openssl("allocate a cipher context"))?;
        set_key(&mut context, &keys)?;
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
        decrypt(&mut self.context, &nonce, header, text, tag)?;
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
        decrypt(&mut self.context, &nonce, &aad, text, tag)?;
        self.keys.sequence += 1;
        let start = HEADER_LEN + explicit_len;
        Ok(Opened { content_type: open_type(header[0])?, payload: start..start + text.len() })
    }

    /// Goes on with the keys of the next generation, after a KeyUpdate of the peer.
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

fn set_key(context: &mut CipherCtx, keys: &TrafficKeys) -> Result<(), CryptoError> {
    keys.check_key_len()?;
    with_cipher(keys.aead, |cipher| {
        context
            .decrypt_init(Some(cipher), Some(keys.key.expose()), None)
            .map_err(CryptoError::openssl("set the key of an opener"))
    })
}

fn decrypt(
    context: &mut CipherCtx,
    nonce: &[u8; NONCE_LEN],
    aad: &[u8],
    text: &mut [u8],
    tag: &[u8],
) -> Result<(), OpenError> {
    decrypt_text(context, nonce, aad, text, tag)
        .map_err(|source| CryptoError::OpenSsl { operation: "decrypt a record", source })?;
    // Only the last step looks at the tag, and it has no other reason to fail.
    context.cipher_final(&mut []).map_err(|_| OpenError::BadRecordMac)?;
    Ok(())
}

fn decrypt_text(
    context: &mut CipherCtx,
    nonce: &[u8; NONCE_LEN],
    aad: &[u8],
    text: &mut [u8],
    tag: &[u8],
) -> Result<(), ErrorStack> {
    context.decrypt_init(None, None, Some(nonce))?;
    context.set_tag(tag)?;
    context.cipher_update(aad, None)?;
    if !text.is_empty() {
        context.cipher_update_inplace(text, text.len())?;
    }
    Ok(())
}
