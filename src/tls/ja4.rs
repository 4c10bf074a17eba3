//! The JA4 fingerprint of a ClientHello, after FoxIO's description of JA4: protocol, version, counts and first ALPN
//! protocol in clear, then a hash over the suites, and one over extensions and signature algorithms.

use std::fmt::Write;

use openssl::sha::sha256;

use super::client_hello::{ClientHello, extension, is_grease};

/// Three parts of 10, 12 and 12 characters with `_` between them. GREASE counts nowhere.
pub(super) fn fingerprint(hello: &ClientHello) -> String {
    let mut suites: Vec<_> = hello.suites().filter(|code| !is_grease(*code)).collect();
    let mut extensions: Vec<_> = hello.extension_types().filter(|code| !is_grease(*code)).collect();
    let name = if extensions.contains(&extension::SERVER_NAME) { 'd' } else { 'i' };
    let counts = [&suites, &extensions].map(|codes| codes.len().min(COUNT_MAX));
    let (version, alpn) = (version(hello), alpn(hello));
    let mut text = format!("t{version}{name}{:02}{:02}{alpn}", counts[0], counts[1]);

    suites.sort_unstable();
    extensions.retain(|kind| ![extension::SERVER_NAME, extension::ALPN].contains(kind));
    extensions.sort_unstable();
    let signatures: Vec<_> =
        hello.signature_algorithms().into_iter().flatten().filter(|code| !is_grease(*code)).collect();
    let mut second = hex_list(&extensions);
    if !signatures.is_empty() {
        second.push('_');
        second.push_str(&hex_list(&signatures));
    }
    for part in [hex_list(&suites), second] {
        text.push('_');
        text.push_str(&short_hash(&part));
    }
    text
}

/// The highest version on offer.
fn version(hello: &ClientHello) -> &'static str {
    match hello.versions().max() {
        Some(0x0304) => "13",
        Some(0x0303) => "12",
        Some(0x0302) => "11",
        Some(0x0301) => "10",
        Some(0x0300) => "s3",
        _ => "00",
    }
}

/// First and last character of the first ALPN protocol; of its hex form where they are not letters or digits.
fn alpn(hello: &ClientHello) -> String {
    let Some(name) = hello.alpn().next() else { return "00".to_owned() };
    let (Some(&first), Some(&last)) = (name.first(), name.last()) else { return "00".to_owned() };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        return [first, last].map(char::from).into_iter().collect();
    }
    format!("{:x}{:x}", first >> 4, last & 0x0f)
}

fn hex_list(codes: &[u16]) -> String {
    let mut text = String::with_capacity(codes.len() * 5);
    for (position, code) in codes.iter().enumerate() {
        let comma = if position == 0 { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}{code:04x}");
    }
    text
}

/// The first 12 hex digits of SHA-256; zeros for the hash of nothing.
fn short_hash(text: &str) -> String {
    if text.is_empty() {
        return "0".repeat(2 * SHORT_HASH_LEN);
    }
    sha256(text.as_bytes())[..SHORT_HASH_LEN].iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Counts have two digits.
const COUNT_MAX: usize = 99;
const SHORT_HASH_LEN: usize = 6;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use super::super::client_hello::tests::{body, list, name};
    use super::*;

    /// The Chrome hello of the description, in Chrome's order.
    #[test]
    fn fingerprint_of_the_published_example_is_the_published_one() {
        let suites = [
            0xdada, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014, 0x009c,
            0x009d, 0x002f, 0x0035,
        ];
        let signatures = list(&[0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601]);
        let alpn = [&[0, 12, 2][..], b"h2", &[8], b"http/1.1"].concat();
        let versions = [6, 0x2a, 0x2a, 3, 4, 3, 3];
        let host = name("example.org");
        let mut extensions: Vec<(u16, &[u8])> = vec![(0x1a1a, &[]), (0x001b, &[]), (0, &host), (0x0033, &[])];
        extensions.extend([(0x0010, &alpn[..]), (0x4469, &[]), (0x0017, &[]), (0x002d, &[]), (0x000d, &signatures)]);
        extensions.extend([(0x0005, &[][..]), (0x0023, &[]), (0x0012, &[]), (0x002b, &versions), (0xff01, &[])]);
        extensions.extend([(0x000b, &[][..]), (0x000a, &[]), (0x0015, &[]), (0x5a5a, &[])]);
        let hello = ClientHello::parse(&body(&suites, &extensions)).unwrap();
        assert_eq!(hello.ja4(), "t13d1516h2_8daaf6152771_e5627efa2ab1");
    }

    #[test]
    fn fingerprint_of_a_bare_hello_has_its_zeros() {
        let hello = ClientHello::parse(&body(&[], &[])).unwrap();
        assert_eq!(hello.ja4(), "t12i000000_000000000000_000000000000");
    }

    #[test]
    fn alpn_protocol_that_is_not_text_is_told_in_hex() {
        let alpn = [0, 3, 2, 0xab, 0xcd];
        assert!(ClientHello::parse(&body(&[], &[(16, &alpn)])).unwrap().ja4().starts_with("t12i0001ad_"));
    }
}
