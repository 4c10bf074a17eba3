//! What sealing and opening share: nonces, additional data, headers.

use openssl::error::ErrorStack;

use super::header::{ContentType, HEADER_LEN, RECORD_VERSION};
use super::suite::ProtocolVersion;

/// Length of the AEAD nonce in bytes, with every suite.
pub(super) const NONCE_LEN: usize = 12;

/// Length of the explicit part of an AES-GCM nonce in TLS 1.2 (RFC 5288 section 3).
pub(super) const EXPLICIT_NONCE_LEN: usize = 8;

/// Length of the additional data in TLS 1.2.
pub(super) const TLS12_AAD_LEN: usize = 13;

/// Why cryptography failed without the peer having a part in it.
#[derive(Debug, thiserror::Error)]
pub enum CryptoError {
    /// Local fault: OpenSSL refused, for want of memory or because the algorithm is missing.
    #[error("OpenSSL could not {operation}: {source}")]
    OpenSsl {
        /// What was tried.
        operation: &'static str,
        /// What OpenSSL says.
        source: ErrorStack,
    },
    /// Local fault: a library that gives no reason refused.
    #[error("{library} could not {operation}")]
    Unspecified {
        /// Which.
        library: &'static str,
        /// What was tried.
        operation: &'static str,
    },
    /// Bug: a key or secret has another length than its algorithm asks for.
    #[error("{what} has {got} bytes instead of {expected}")]
    KeyLength {
        /// Which key.
        what: &'static str,
        /// Bytes handed in.
        got: usize,
        /// Bytes that the suite asks for.
        expected: usize,
    },
    /// Bug: an operation of one protocol version was asked for on another, or a KeyUpdate would change the suite.
    #[error("{operation} does not fit the negotiated version and suite")]
    WrongSuite {
        /// What was tried.
        operation: &'static str,
    },
}

impl CryptoError {
    pub(super) fn openssl(operation: &'static str) -> impl FnOnce(ErrorStack) -> Self {
        move |source| Self::OpenSsl { operation, source }
    }

    pub(super) fn ring<E>(operation: &'static str) -> impl FnOnce(E) -> Self {
        move |_| Self::Unspecified { library: "ring", operation }
    }

    pub(super) fn aws_lc<E>(operation: &'static str) -> impl FnOnce(E) -> Self {
        move |_| Self::Unspecified { library: "AWS-LC", operation }
    }
}

/// The nonce of RFC 8446 section 5.3 and RFC 7905 section 2: the IV combined with the sequence number.
pub(super) fn sequence_nonce(iv: &[u8; NONCE_LEN], sequence: u64) -> [u8; NONCE_LEN] {
    let mut nonce = *iv;
    for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(sequence.to_be_bytes()) {
        *byte ^= number;
    }
    nonce
}

/// The nonce of RFC 5288 section 3: the salt, then what the record carries.
pub(super) fn explicit_nonce(iv: &[u8; NONCE_LEN], explicit: [u8; EXPLICIT_NONCE_LEN]) -> [u8; NONCE_LEN] {
    let mut nonce = *iv;
    nonce[NONCE_LEN - EXPLICIT_NONCE_LEN..].copy_from_slice(&explicit);
    nonce
}

/// The additional data of RFC 5246 section 6.2.3.3. TLS 1.3 takes the header as it stands on the wire instead.
pub(super) fn tls12_aad(sequence: u64, content_type: u8, payload_len: usize) -> [u8; TLS12_AAD_LEN] {
    let mut aad = [0; TLS12_AAD_LEN];
    aad[..8].copy_from_slice(&sequence.to_be_bytes());
    aad[8..].copy_from_slice(&header(content_type, payload_len));
    aad
}

/// A header of a protected record.
pub(super) fn header(content_type: u8, length: usize) -> [u8; HEADER_LEN] {
    debug_assert!(length <= usize::from(u16::MAX), "callers bound the record");
    let [major, minor] = RECORD_VERSION.to_be_bytes();
    let [high, low] = (length as u16).to_be_bytes();
    [content_type, major, minor, high, low]
}

/// The outer content type of a record.
pub(super) const fn outer_type(version: ProtocolVersion, content_type: ContentType) -> u8 {
    match version {
        ProtocolVersion::Tls13 => ContentType::ApplicationData as u8,
        ProtocolVersion::Tls12 => content_type as u8,
    }
}
