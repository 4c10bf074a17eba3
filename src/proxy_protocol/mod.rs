//! The PROXY protocol, versions 1 and 2: who the client is, said in front of the first byte of a connection.
//!
//! Towards the backend `encode` writes the header; from a load balancer in front `parse` reads it. All of it is sans-I/O
//! but `receive`. The specification is proxy-protocol.txt of HAProxy.

mod crc32c;
mod encode;
mod parse;
mod receive;
mod settings;

pub use encode::{ClientCertificate, Endpoints, Header, Tls, encode_v1, encode_v2};
pub use parse::{HEADER_BYTES_MAX, ParseError, Parsed, Received, UNIQUE_ID_BYTES_MAX, parse};
pub use receive::{ReceiveError, receive};
pub use settings::{Send, Tlv, Tlvs, Version};

/// The first bytes of a version 2 header.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const FIXED_LEN: usize = 16;

/// Types of TLVs, section 2.2 of the specification, and within [`kind::SSL`] 2.2.6.
mod kind {
    pub(super) const ALPN: u8 = 0x01;
    pub(super) const AUTHORITY: u8 = 0x02;
    pub(super) const CRC32C: u8 = 0x03;
    pub(super) const UNIQUE_ID: u8 = 0x05;
    pub(super) const SSL: u8 = 0x20;
    pub(super) const SSL_VERSION: u8 = 0x21;
    pub(super) const SSL_CN: u8 = 0x22;
    pub(super) const SSL_CIPHER: u8 = 0x23;
    pub(super) const SSL_SIG_ALG: u8 = 0x24;
    pub(super) const SSL_KEY_ALG: u8 = 0x25;
    pub(super) const SSL_GROUP: u8 = 0x26;
    pub(super) const SSL_SIG_SCHEME: u8 = 0x27;
    pub(super) const SSL_CLIENT_CERT: u8 = 0x28;
}

/// Bits of the client field of [`kind::SSL`].
mod client_flag {
    pub(super) const SSL: u8 = 0x01;
    pub(super) const CERT_CONN: u8 = 0x02;
    pub(super) const CERT_SESS: u8 = 0x04;
}
