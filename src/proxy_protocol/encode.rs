//! Writing headers.

use std::net::{IpAddr, SocketAddr};

use super::crc32c::checksum;
use super::settings::{Tlv, Tlvs};
use super::{FIXED_LEN, SIGNATURE, client_flag, kind};

/// The two ends of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The client.
    pub source: SocketAddr,
    /// What it connected to.
    pub destination: SocketAddr,
}

/// Everything that a header can say.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    /// The client's connection.
    pub endpoints: Endpoints,
    /// The ALPN protocol that was chosen.
    pub alpn: Option<&'a [u8]>,
    /// The server_name that the client asked for.
    pub authority: Option<&'a str>,
    /// The identifier of the connection; 128 bytes at most.
    pub unique_id: &'a [u8],
    /// TLS between the client and us.
    pub tls: Tls<'a>,
}

/// TLS between the client and us.
#[derive(Clone, Copy, Debug)]
pub struct Tls<'a> {
    /// The protocol version, as OpenSSL names it.
    pub version: &'a str,
    /// The cipher suite, as OpenSSL names it.
    pub cipher: &'a str,
    /// The algorithm with which our certificate is signed.
    pub sig_alg: Option<&'a str>,
    /// Kind and size of our key.
    pub key_alg: Option<&'a str>,
    /// The key-exchange group; none where nothing was exchanged.
    pub group: Option<&'a str>,
    /// The algorithm with which we signed the handshake; none in a resumption.
    pub sig_scheme: Option<&'a str>,
    /// The certificate that the client proved to own; none where it showed none.
    pub client: Option<ClientCertificate<'a>>,
}

/// A client's certificate that was verified.
#[derive(Clone, Copy, Debug)]
pub struct ClientCertificate<'a> {
    /// Its common name.
    pub common_name: Option<&'a str>,
    /// All of it, DER.
    pub der: &'a [u8],
    /// Whether it was shown in this connection, not in an earlier one of the session.
    pub is_fresh: bool,
}

/// A version 1 header. Two families in one header, which the form has no words for, are written as `UNKNOWN`.
pub fn encode_v1(endpoints: &Endpoints) -> Vec<u8> {
    let Endpoints { source, destination } = endpoints;
    let family = match (source, destination) {
        (SocketAddr::V4(_), SocketAddr::V4(_)) => "TCP4",
        (SocketAddr::V6(_), SocketAddr::V6(_)) => "TCP6",
        _ => return b"PROXY UNKNOWN\r\n".to_vec(),
    };
    let (source_ip, destination_ip) = (source.ip(), destination.ip());
    format!("PROXY {family} {source_ip} {destination_ip} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

/// A version 2 header with those of `tlvs` that there is something to say about.
pub fn encode_v2(header: &Header<'_>, tlvs: Tlvs) -> Vec<u8> {
    const PROXY: u8 = 0x21;
    let mut bytes = Vec::with_capacity(USUAL_LEN);
    bytes.extend_from_slice(&SIGNATURE);
    bytes.extend_from_slice(&[PROXY, 0, 0, 0]);
    debug_assert_eq!(bytes.len(), FIXED_LEN);
    bytes[13] = push_endpoints(&mut bytes, &header.endpoints);
    if tlvs.contains(Tlv::Alpn)
        && let Some(alpn) = header.alpn
    {
        push(&mut bytes, kind::ALPN, alpn);
    }
    if tlvs.contains(Tlv::Authority)
        && let Some(authority) = header.authority
    {
        push(&mut bytes, kind::AUTHORITY, authority.as_bytes());
    }
    if tlvs.contains(Tlv::UniqueId) {
        push(&mut bytes, kind::UNIQUE_ID, header.unique_id);
    }
    if tlvs.contains(Tlv::Ssl) {
        push_nested(&mut bytes, kind::SSL, |bytes| push_tls(bytes, &header.tls, tlvs));
    }
    let checksum_at = tlvs.contains(Tlv::Crc32c).then(|| {
        push(&mut bytes, kind::CRC32C, &[0; 4]);
        bytes.len() - 4
    });
    let length = u16::try_from(bytes.len() - FIXED_LEN).unwrap_or(u16::MAX);
    bytes[14..FIXED_LEN].copy_from_slice(&length.to_be_bytes());
    // Over the finished header, with zeroes in the place of the sum (section 2.2.3).
    if let Some(at) = checksum_at {
        let sum = checksum(&[&bytes]);
        bytes[at..].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// Room for a header with everything but a certificate.
const USUAL_LEN: usize = 384;

/// Appends the addresses; returns family and transport. Where the families differ, the IPv4 address is mapped.
fn push_endpoints(bytes: &mut Vec<u8>, endpoints: &Endpoints) -> u8 {
    const TCP_OVER_IPV4: u8 = 0x11;
    const TCP_OVER_IPV6: u8 = 0x21;
    let Endpoints { source, destination } = endpoints;
    let family = if let (IpAddr::V4(source), IpAddr::V4(destination)) = (source.ip(), destination.ip()) {
        bytes.extend_from_slice(&source.octets());
        bytes.extend_from_slice(&destination.octets());
        TCP_OVER_IPV4
    } else {
        for ip in [source.ip(), destination.ip()] {
            let ip = match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            bytes.extend_from_slice(&ip.octets());
        }
        TCP_OVER_IPV6
    };
    bytes.extend_from_slice(&source.port().to_be_bytes());
    bytes.extend_from_slice(&destination.port().to_be_bytes());
    family
}

fn push_tls(bytes: &mut Vec<u8>, tls: &Tls<'_>, tlvs: Tlvs) {
    // Zero says that a certificate was presented and verified, and nothing else does.
    const VERIFIED: u32 = 0;
    const NOT_VERIFIED: u32 = 1;
    let flags = match &tls.client {
        None => client_flag::SSL,
        Some(client) if client.is_fresh => client_flag::SSL | client_flag::CERT_CONN | client_flag::CERT_SESS,
        Some(_) => client_flag::SSL | client_flag::CERT_SESS,
    };
    bytes.push(flags);
    let verify = if tls.client.is_some() { VERIFIED } else { NOT_VERIFIED };
    bytes.extend_from_slice(&verify.to_be_bytes());
    push(bytes, kind::SSL_VERSION, tls.version.as_bytes());
    let common_name = tls.client.as_ref().and_then(|client| client.common_name);
    for (tlv, kind, text) in [
        (Tlv::Cn, kind::SSL_CN, common_name),
        (Tlv::Cipher, kind::SSL_CIPHER, Some(tls.cipher)),
        (Tlv::SigAlg, kind::SSL_SIG_ALG, tls.sig_alg),
        (Tlv::KeyAlg, kind::SSL_KEY_ALG, tls.key_alg),
        (Tlv::Group, kind::SSL_GROUP, tls.group),
        (Tlv::SigScheme, kind::SSL_SIG_SCHEME, tls.sig_scheme),
    ] {
        if let Some(text) = text.filter(|_| tlvs.contains(tlv)) {
            push(bytes, kind, text.as_bytes());
        }
    }
    if tlvs.contains(Tlv::ClientCert)
        && let Some(client) = &tls.client
    {
        push(bytes, kind::SSL_CLIENT_CERT, client.der);
    }
}

fn push(bytes: &mut Vec<u8>, kind: u8, value: &[u8]) {
    push_nested(bytes, kind, |bytes| bytes.extend_from_slice(value));
}

/// Appends a TLV whose value `write` appends.
fn push_nested(bytes: &mut Vec<u8>, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
    bytes.extend_from_slice(&[kind, 0, 0]);
    let begin = bytes.len();
    write(bytes);
    // Everything here is bounded: certificates by `tls::CLIENT_CERTIFICATE_BYTES_MAX`, names by their extensions.
    debug_assert!(bytes.len() - begin <= usize::from(u16::MAX), "the value of a TLV has a length of 16 bits");
    let length = u16::try_from(bytes.len() - begin).unwrap_or(u16::MAX);
    bytes[begin - 2..begin].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(source: &str, destination: &str) -> Endpoints {
        #[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
        let parse = |text: &str| text.parse().unwrap();
        Endpoints { source: parse(source), destination: parse(destination) }
    }

    fn header(endpoints: Endpoints) -> Header<'static> {
        let tls = Tls {
            version: "TLSv1.3",
            cipher: "TLS_AES_128_GCM_SHA256",
            sig_alg: None,
            key_alg: None,
            group: None,
            sig_scheme: None,
            client: None,
        };
        Header { endpoints, alpn: Some(b"h2"), authority: Some("a.example"), unique_id: b"id", tls }
    }

    #[test]
    fn version_1_is_one_line_of_text() {
        let text =
            |source, destination| String::from_utf8_lossy(&encode_v1(&endpoints(source, destination))).into_owned();
        assert_eq!(text("192.0.2.1:1000", "198.51.100.2:443"), "PROXY TCP4 192.0.2.1 198.51.100.2 1000 443\r\n");
        assert_eq!(text("[2001:db8::1]:1", "[::1]:65535"), "PROXY TCP6 2001:db8::1 ::1 1 65535\r\n");
        assert_eq!(text("192.0.2.1:1000", "[::1]:443"), "PROXY UNKNOWN\r\n");
    }

    /// Byte by byte, so that a mistake made in writing and in reading alike is seen.
    #[test]
    fn version_2_is_laid_out_as_specified() {
        let tlvs = [Tlv::Alpn, Tlv::Ssl].into_iter().collect();
        let bytes = encode_v2(&header(endpoints("192.0.2.1:1000", "198.51.100.2:443")), tlvs);
        let expected: &[&[u8]] = &[
            b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x11\x00\x23",
            b"\xc0\x00\x02\x01\xc6\x33\x64\x02\x03\xe8\x01\xbb",
            b"\x01\x00\x02h2",
            b"\x20\x00\x0f\x01\x00\x00\x00\x01\x21\x00\x07TLSv1.3",
        ];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn client_certificate_sets_the_flags_and_the_verify_field() {
        let mut header = header(endpoints("[::1]:1", "[::1]:2"));
        let ssl = |header: &Header<'_>| {
            encode_v2(header, [Tlv::Ssl].into_iter().collect())[FIXED_LEN + 36 + 3..][..5].to_vec()
        };
        assert_eq!(ssl(&header), [1, 0, 0, 0, 1]);
        header.tls.client = Some(ClientCertificate { common_name: None, der: b"", is_fresh: true });
        assert_eq!(ssl(&header), [7, 0, 0, 0, 0]);
        header.tls.client = Some(ClientCertificate { common_name: None, der: b"", is_fresh: false });
        assert_eq!(ssl(&header), [5, 0, 0, 0, 0]);
    }
}
