//! Reading headers. A header is the word of a peer that is trusted, and read as if it were not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::crc32c::checksum;
use super::encode::Endpoints;
use super::{FIXED_LEN, SIGNATURE, kind};

/// Largest header that is taken. Version 2 could say 65 551 bytes; those of load balancers have a few hundred.
pub const HEADER_BYTES_MAX: usize = 4096;
/// Longest identifier of a connection (section 2.2.5).
pub const UNIQUE_ID_BYTES_MAX: usize = 128;

/// Longest version 1 header, with its CR LF (section 2.1).
const V1_BYTES_MAX: usize = 107;

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header.
    Incomplete,
    /// A header.
    Complete {
        /// Its bytes; what stands behind them is the client's.
        len: usize,
        /// What it says.
        header: Received,
    },
}

/// What a header says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// The client's connection; none where the sender speaks for itself (`LOCAL`, as health checks do) or does not say
    /// (`UNKNOWN`, or no internet addresses): then the addresses of the connection itself count.
    pub endpoints: Option<Endpoints>,
    /// The identifier of the connection.
    pub unique_id: Option<Box<[u8]>>,
}

/// Why bytes are no header. All are the sender's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Something else, such as TLS.
    #[error("no PROXY protocol header: neither the word PROXY nor the signature of version 2")]
    NotAHeader,
    /// Version 1: too long a line.
    #[error("version 1 header is longer than {V1_BYTES_MAX} bytes")]
    LineTooLong,
    /// Version 1: the line makes no sense.
    #[error("version 1 header is not \"PROXY TCP4|TCP6 SOURCE DESTINATION PORT PORT\"")]
    Line,
    /// Version 2: not version 2, or an unknown command.
    #[error("version and command {0:#04x} is not PROXY or LOCAL of version 2")]
    Command(u8),
    /// Version 2: an unknown address family or transport.
    #[error("family and transport {0:#04x} is unknown")]
    Family(u8),
    /// Version 2: too long.
    #[error("header of {0} bytes, at most {HEADER_BYTES_MAX} are taken")]
    TooLong(usize),
    /// Version 2: shorter than its addresses.
    #[error("header ends within its addresses")]
    AddressesCut,
    /// Version 2: a TLV reaches over the end.
    #[error("header ends within a TLV")]
    TlvCut,
    /// Version 2: an identifier that is too long.
    #[error("identifier of {0} bytes, at most {UNIQUE_ID_BYTES_MAX} are allowed")]
    UniqueIdTooLong(usize),
    /// Version 2: the checksum is of other bytes.
    #[error("checksum does not fit")]
    Checksum,
}

/// Looks at the first bytes of a connection.
///
/// # Errors
/// [`ParseError`] as soon as no continuation could make a header of the bytes.
pub fn parse(bytes: &[u8]) -> Result<Parsed, ParseError> {
    const V1: &[u8] = b"PROXY ";
    let begins = |with: &[u8]| {
        let len = with.len().min(bytes.len());
        bytes[..len] == with[..len]
    };
    if begins(&SIGNATURE) {
        parse_v2(bytes)
    } else if begins(V1) {
        parse_v1(bytes)
    } else {
        Err(ParseError::NotAHeader)
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Parsed, ParseError> {
    let window = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < V1_BYTES_MAX { Ok(Parsed::Incomplete) } else { Err(ParseError::LineTooLong) };
    };
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| ParseError::Line)?;
    let fields: Vec<&str> = line.split(' ').collect();
    let endpoints = match fields[..] {
        // What follows is to be ignored (section 2.1).
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", "TCP4", source, destination, source_port, destination_port] => Some(Endpoints {
            source: SocketAddr::new(v4(source)?, port(source_port)?),
            destination: SocketAddr::new(v4(destination)?, port(destination_port)?),
        }),
        ["PROXY", "TCP6", source, destination, source_port, destination_port] => Some(Endpoints {
            source: SocketAddr::new(v6(source)?, port(source_port)?),
            destination: SocketAddr::new(v6(destination)?, port(destination_port)?),
        }),
        _ => return Err(ParseError::Line),
    };
    Ok(Parsed::Complete { len: end + 2, header: Received { endpoints, unique_id: None } })
}

fn v4(text: &str) -> Result<IpAddr, ParseError> {
    text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| ParseError::Line)
}

fn v6(text: &str) -> Result<IpAddr, ParseError> {
    text.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| ParseError::Line)
}

/// Decimal digits without a sign or leading zeroes.
fn port(text: &str) -> Result<u16, ParseError> {
    let is_plain = text == "0" || text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| is_plain).ok_or(ParseError::Line)
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, ParseError> {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    if let Some(command) = bytes.get(SIGNATURE.len()).filter(|byte| !matches!(**byte, LOCAL | PROXY)) {
        return Err(ParseError::Command(*command));
    }
    let Some(&[.., command, family, high, low]) = bytes.first_chunk::<FIXED_LEN>() else {
        return Ok(Parsed::Incomplete);
    };
    let len = FIXED_LEN + usize::from(u16::from_be_bytes([high, low]));
    if len > HEADER_BYTES_MAX {
        return Err(ParseError::TooLong(len));
    }
    let Some(header) = bytes.get(..len) else { return Ok(Parsed::Incomplete) };
    let (endpoints, tlvs) = addresses(family, &header[FIXED_LEN..])?;
    let unique_id = read_tlvs(header, tlvs)?;
    let endpoints = endpoints.filter(|_| command == PROXY);
    Ok(Parsed::Complete { len, header: Received { endpoints, unique_id } })
}

/// The addresses of a header, and the TLVs behind them.
fn addresses(family: u8, body: &[u8]) -> Result<(Option<Endpoints>, &[u8]), ParseError> {
    const UNIX_LEN: usize = 216;
    match family {
        0x11 => {
            let (block, rest) = body.split_first_chunk::<12>().ok_or(ParseError::AddressesCut)?;
            let [a, b, c, d, e, f, g, h, ports @ ..] = *block;
            Ok((Some(endpoints([a, b, c, d].into(), [e, f, g, h].into(), ports)), rest))
        }
        0x21 => {
            let (source, rest) = body.split_first_chunk::<16>().ok_or(ParseError::AddressesCut)?;
            let (destination, rest) = rest.split_first_chunk::<16>().ok_or(ParseError::AddressesCut)?;
            let (ports, rest) = rest.split_first_chunk::<4>().ok_or(ParseError::AddressesCut)?;
            Ok((Some(endpoints((*source).into(), (*destination).into(), *ports)), rest))
        }
        // Datagrams make no sense on a stream, but their addresses have a known length.
        0x12 => Ok((None, body.get(12..).ok_or(ParseError::AddressesCut)?)),
        0x22 => Ok((None, body.get(36..).ok_or(ParseError::AddressesCut)?)),
        0x31 | 0x32 => Ok((None, body.get(UNIX_LEN..).ok_or(ParseError::AddressesCut)?)),
        // No length is laid down for what is unspecified: all of it is skipped (section 2.2).
        0x00 => Ok((None, &[])),
        _ => Err(ParseError::Family(family)),
    }
}

fn endpoints(source: IpAddr, destination: IpAddr, ports: [u8; 4]) -> Endpoints {
    let [a, b, c, d] = ports;
    Endpoints {
        source: SocketAddr::new(source.to_canonical(), u16::from_be_bytes([a, b])),
        destination: SocketAddr::new(destination.to_canonical(), u16::from_be_bytes([c, d])),
    }
}

/// Checks the checksum and gives the identifier, where there is one.
fn read_tlvs(header: &[u8], mut tlvs: &[u8]) -> Result<Option<Box<[u8]>>, ParseError> {
    let mut unique_id = None;
    while let Some((&kind, rest)) = tlvs.split_first() {
        let (length, rest) = rest.split_first_chunk::<2>().ok_or(ParseError::TlvCut)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (value, rest) = rest.split_at_checked(length).ok_or(ParseError::TlvCut)?;
        match kind {
            kind::UNIQUE_ID if value.len() > UNIQUE_ID_BYTES_MAX => {
                return Err(ParseError::UniqueIdTooLong(value.len()));
            }
            kind::UNIQUE_ID => unique_id = Some(value.into()),
            kind::CRC32C => {
                let after = rest.len();
                let before = header.len() - after - value.len();
                let sum = checksum(&[&header[..before], &[0; 4], &header[header.len() - after..]]);
                if value != sum.to_be_bytes() {
                    return Err(ParseError::Checksum);
                }
            }
            _ => {}
        }
        tlvs = rest;
    }
    Ok(unique_id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use super::*;

    fn complete(bytes: &[u8]) -> (usize, Received) {
        match parse(bytes) {
            Ok(Parsed::Complete { len, header }) => (len, header),
            other => panic!("{other:?}"),
        }
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    const IPV4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 3, 232, 1, 187];

    #[test]
    fn version_1_gives_the_addresses_and_leaves_what_follows() {
        let (len, header) = complete(b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 443\r\n\x16\x03\x01");
        let endpoints = header.endpoints.unwrap();
        assert_eq!(
            (endpoints.source, endpoints.destination),
            ("192.0.2.1:1000".parse().unwrap(), "198.51.100.2:443".parse().unwrap())
        );
        assert_eq!(len, 44);
        let (_, header) = complete(b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n");
        assert_eq!(header.endpoints.unwrap().source, "[2001:db8::1]:1".parse().unwrap());
        assert_eq!(complete(b"PROXY UNKNOWN\r\n"), (15, Received::default()));
        assert_eq!(complete(b"PROXY UNKNOWN ffff::1 ::1 1 2\r\n").1, Received::default());
    }

    #[test]
    fn version_1_that_is_cut_short_is_incomplete_at_every_byte() {
        let line = b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 443\r\n";
        for len in 0..line.len() {
            assert_eq!(parse(&line[..len]), Ok(Parsed::Incomplete), "{len}");
        }
    }

    #[test]
    fn version_1_that_makes_no_sense_is_refused() {
        for line in [
            "PROXY TCP4 192.0.2.1 198.51.100.2 1000\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 1000 443 1\r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.2 1000 443\r\n",
            "PROXY TCP4 ::1 ::1 1000 443\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.2 1000 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 +1 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 01 443\r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.2 1 443\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.2 1 443\r\n",
            "PROXY \r\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(ParseError::Line), "{line:?}");
        }
        let long = format!("PROXY UNKNOWN {}", "x".repeat(V1_BYTES_MAX));
        assert_eq!(parse(long.as_bytes()), Err(ParseError::LineTooLong));
        assert_eq!(parse(&long.as_bytes()[..V1_BYTES_MAX - 1]), Ok(Parsed::Incomplete));
    }

    #[test]
    fn something_else_is_refused_at_its_first_wrong_byte() {
        for bytes in [&b"\x16"[..], b"GET / HTTP/1.1", b"PROXYTCP", b"\r\n\r\n\0\r\nQUIP", b"proxy "] {
            assert_eq!(parse(bytes), Err(ParseError::NotAHeader), "{bytes:?}");
        }
        assert_eq!(parse(b""), Ok(Parsed::Incomplete));
    }

    #[test]
    fn version_2_gives_the_addresses_of_a_proxied_connection_only() {
        let (len, header) = complete(&[&v2(0x21, 0x11, &IPV4)[..], b"rest"].concat());
        assert_eq!((len, header.endpoints.unwrap().source), (28, "192.0.2.1:1000".parse().unwrap()));
        assert_eq!(complete(&v2(0x20, 0x11, &IPV4)).1, Received::default());
        assert_eq!(complete(&v2(0x20, 0x00, &[])).1, Received::default());
        assert_eq!(complete(&v2(0x21, 0x00, b"whatever")).1, Received::default());
        assert_eq!(complete(&v2(0x21, 0x31, &[0; 216])).1, Received::default());
        let mapped: Vec<u8> =
            [0; 10].into_iter().chain([255, 255, 192, 0, 2, 1]).chain([0; 16]).chain([0, 1, 0, 2]).collect();
        assert_eq!(complete(&v2(0x21, 0x21, &mapped)).1.endpoints.unwrap().source, "192.0.2.1:1".parse().unwrap());
    }

    #[test]
    fn version_2_that_is_cut_short_is_incomplete_at_every_byte() {
        let header = v2(0x21, 0x11, &IPV4);
        for len in 0..header.len() {
            assert_eq!(parse(&header[..len]), Ok(Parsed::Incomplete), "{len}");
        }
    }

    #[test]
    fn version_2_that_makes_no_sense_is_refused() {
        assert_eq!(parse(&v2(0x11, 0x11, &IPV4)), Err(ParseError::Command(0x11)));
        assert_eq!(parse(&v2(0x22, 0x11, &IPV4)), Err(ParseError::Command(0x22)));
        assert_eq!(parse(&v2(0x21, 0x41, &IPV4)), Err(ParseError::Family(0x41)));
        assert_eq!(parse(&v2(0x21, 0x21, &IPV4)), Err(ParseError::AddressesCut));
        assert_eq!(parse(&v2(0x21, 0x11, &[&IPV4[..], &[5, 0, 2, 1]].concat())), Err(ParseError::TlvCut));
        assert_eq!(parse(&v2(0x21, 0x11, &[&IPV4[..], &[5]].concat())), Err(ParseError::TlvCut));
        let long = [&IPV4[..], &[5, 0, 129], &[0; 129]].concat();
        assert_eq!(parse(&v2(0x21, 0x11, &long)), Err(ParseError::UniqueIdTooLong(129)));
        let huge = v2(0x21, 0x11, &[0; HEADER_BYTES_MAX]);
        assert_eq!(parse(&huge[..FIXED_LEN]), Err(ParseError::TooLong(HEADER_BYTES_MAX + FIXED_LEN)));
    }

    #[test]
    fn checksum_is_verified_wherever_it_stands() {
        let with =
            |sum: u32| v2(0x21, 0x11, &[&IPV4[..], &[3, 0, 4], &sum.to_be_bytes(), &[5, 0, 2, b'i', b'd']].concat());
        let sum = checksum(&[&with(0)]);
        assert_eq!(complete(&with(sum)).1.unique_id.as_deref(), Some(&b"id"[..]));
        assert_eq!(parse(&with(sum ^ 1)), Err(ParseError::Checksum));
        assert_eq!(parse(&v2(0x21, 0x11, &[&IPV4[..], &[3, 0, 3, 0, 0, 0]].concat())), Err(ParseError::Checksum));
    }
}
