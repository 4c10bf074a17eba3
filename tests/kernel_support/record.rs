//! A record layer in userspace for the other end of a connection: written from the RFCs over OpenSSL's one-shot AEAD, so
//! that it shares no code with the kernel or the proxy.

use std::net::TcpStream;

use openssl::symm::{Cipher, decrypt_aead, encrypt_aead};
use sluice::record::{Aead, ProtocolVersion, TrafficKeys};

use super::socket::read_exactly;

/// One direction: seals or opens, record after record.
pub struct Reference {
    keys: TrafficKeys,
}

/// A record that [`Reference::open`] opened.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    pub content_type: u8,
    pub payload: Vec<u8>,
}

impl Reference {
    pub fn new(keys: TrafficKeys) -> Self {
        Self { keys }
    }

    pub fn sequence(&self) -> u64 {
        self.keys.sequence
    }

    /// One record with `payload`.
    pub fn seal(&mut self, content_type: u8, payload: &[u8]) -> Vec<u8> {
        self.seal_padded(content_type, payload, 0)
    }

    /// One record with `payload`, and in TLS 1.3 with so many zeros of padding (RFC 8446 section 5.4).
    pub fn seal_padded(&mut self, content_type: u8, payload: &[u8], padding: usize) -> Vec<u8> {
        let is_tls13 = self.keys.version == ProtocolVersion::Tls13;
        let mut inner = payload.to_vec();
        if is_tls13 {
            inner.push(content_type);
            inner.resize(inner.len() + padding, 0);
        }
        let explicit = if self.has_explicit_nonce() { self.keys.sequence.to_be_bytes().to_vec() } else { Vec::new() };
        let outer_type = if is_tls13 { 23 } else { content_type };
        let body_len = explicit.len() + inner.len() + TAG_BYTES;
        let mut record = vec![outer_type, 3, 3, (body_len >> 8) as u8, body_len as u8];
        let additional = self.additional_data(&record, inner.len());
        let mut tag = [0; TAG_BYTES];
        let (cipher, key, nonce) = (self.cipher(), self.keys.key.expose(), self.nonce(&explicit));
        let sealed = encrypt_aead(cipher, key, Some(&nonce), &additional, &inner, &mut tag).unwrap();
        record.extend([explicit, sealed, tag.to_vec()].concat());
        self.keys.sequence += 1;
        record
    }

    /// Opens one whole record; panics when it does not authenticate.
    pub fn open(&mut self, record: &[u8]) -> Opened {
        self.try_open(record).expect("a record that authenticates")
    }

    /// Opens one whole record.
    pub fn try_open(&mut self, record: &[u8]) -> Option<Opened> {
        let (header, body) = record.split_at(HEADER_BYTES);
        assert_eq!(usize::from(u16::from_be_bytes([header[3], header[4]])), body.len(), "a whole record");
        let explicit_len = if self.has_explicit_nonce() { 8 } else { 0 };
        let (explicit, rest) = body.split_at(explicit_len);
        let (sealed, tag) = rest.split_at(rest.len() - TAG_BYTES);
        let additional = self.additional_data(header, sealed.len());
        let (cipher, key, nonce) = (self.cipher(), self.keys.key.expose(), self.nonce(explicit));
        let mut payload = decrypt_aead(cipher, key, Some(&nonce), &additional, sealed, tag).ok()?;
        self.keys.sequence += 1;
        let mut content_type = header[0];
        if self.keys.version == ProtocolVersion::Tls13 {
            while payload.last() == Some(&0) {
                payload.pop();
            }
            content_type = payload.pop().expect("a content type");
        }
        Some(Opened { content_type, payload })
    }

    /// Reads one record off the wire and opens it.
    pub fn read(&mut self, stream: &TcpStream) -> Opened {
        self.open(&read_record(stream))
    }

    /// Opens the records that follow each other in `bytes`; what is left is an incomplete record.
    pub fn open_all<'a>(&mut self, mut bytes: &'a [u8]) -> (Vec<Opened>, &'a [u8]) {
        let mut records = Vec::new();
        while let Some(len) = record_len(bytes).filter(|len| *len <= bytes.len()) {
            let (record, rest) = bytes.split_at(len);
            records.push(self.open(record));
            bytes = rest;
        }
        (records, bytes)
    }

    fn has_explicit_nonce(&self) -> bool {
        self.keys.version == ProtocolVersion::Tls12 && self.keys.aead != Aead::ChaCha20Poly1305
    }

    /// RFC 5288 section 3 with an explicit nonce; otherwise RFC 8446 section 5.3 and RFC 7905 section 2.
    fn nonce(&self, explicit: &[u8]) -> [u8; 12] {
        let mut nonce = self.keys.iv;
        if explicit.is_empty() {
            let sequence = self.keys.sequence.to_be_bytes();
            nonce[4..].iter_mut().zip(sequence).for_each(|(byte, part)| *byte ^= part);
        } else {
            nonce[4..].copy_from_slice(explicit);
        }
        nonce
    }

    /// RFC 8446 section 5.2: the header; RFC 5246 section 6.2.3.3: sequence number, type, version, length of the plaintext.
    fn additional_data(&self, header: &[u8], plaintext_len: usize) -> Vec<u8> {
        if self.keys.version == ProtocolVersion::Tls13 {
            return header.to_vec();
        }
        let length = (plaintext_len as u16).to_be_bytes();
        [&self.keys.sequence.to_be_bytes()[..], &header[..3], &length].concat()
    }

    fn cipher(&self) -> Cipher {
        match self.keys.aead {
            Aead::Aes128Gcm => Cipher::aes_128_gcm(),
            Aead::Aes256Gcm => Cipher::aes_256_gcm(),
            Aead::ChaCha20Poly1305 => Cipher::chacha20_poly1305(),
        }
    }
}

/// Reads one whole record as it came over the wire.
pub fn read_record(stream: &TcpStream) -> Vec<u8> {
    let mut record = read_exactly(stream, HEADER_BYTES);
    let body_len = usize::from(u16::from_be_bytes([record[3], record[4]]));
    record.extend(read_exactly(stream, body_len));
    record
}

fn record_len(bytes: &[u8]) -> Option<usize> {
    let header = bytes.get(..HEADER_BYTES)?;
    Some(HEADER_BYTES + usize::from(u16::from_be_bytes([header[3], header[4]])))
}

const HEADER_BYTES: usize = 5;
const TAG_BYTES: usize = 16;
