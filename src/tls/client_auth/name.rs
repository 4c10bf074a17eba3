//! Names in certificates, which whoever made the certificate chose: read strictly, shown so that they cannot fake a log
//! line.

use std::fmt::Write as _;

use openssl::asn1::Asn1IntegerRef;
use openssl::nid::Nid;
use openssl::x509::{X509NameRef, X509Ref};

/// Characters of a name that a message shows; the rest is cut off.
const SHOWN_CHARS_MAX: usize = 256;

/// The first common name of the subject. None where there is none, and where it is not plain UTF-8: a name with a zero
/// byte in it would pass for what stands in front of it.
pub fn common_name(certificate: &X509Ref) -> Option<String> {
    let entry = certificate.subject_name().entries_by_nid(Nid::COMMONNAME).next()?;
    let text = std::str::from_utf8(entry.data().as_slice()).ok()?;
    (!text.contains('\0')).then(|| text.to_owned())
}

/// A name as one line of printable text, such as `O=Example, CN=client`.
pub(in crate::tls) fn text(name: &X509NameRef) -> String {
    let mut text = String::new();
    for entry in name.entries() {
        let key = entry.object().nid().short_name().unwrap_or("?");
        let value = String::from_utf8_lossy(entry.data().as_slice());
        let separator = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{separator}{key}=");
        // A comma or a backslash of the value must not look like ours.
        for character in value.chars() {
            match character {
                ',' | '\\' => text.extend(['\\', character]),
                '\u{20}'..='\u{7e}' => text.push(character),
                other => text.extend(other.escape_unicode()),
            }
        }
    }
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// A serial number in hexadecimal digits.
pub(in crate::tls) fn serial(number: &Asn1IntegerRef) -> String {
    let digits = number.to_bn().and_then(|number| number.to_hex_str().map(|hex| hex.to_lowercase()));
    digits.unwrap_or_else(|_| "?".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use openssl::asn1::Asn1Type;
    use openssl::x509::{X509, X509NameBuilder};

    use super::*;

    fn certificate(common_name: &str) -> X509 {
        let mut name = X509NameBuilder::new().unwrap();
        name.append_entry_by_nid_with_type(Nid::ORGANIZATIONNAME, "a, b", Asn1Type::UTF8STRING).unwrap();
        name.append_entry_by_nid_with_type(Nid::COMMONNAME, common_name, Asn1Type::UTF8STRING).unwrap();
        let mut builder = X509::builder().unwrap();
        builder.set_subject_name(&name.build()).unwrap();
        builder.build()
    }

    #[test]
    fn common_name_with_a_zero_byte_is_none() {
        assert_eq!(common_name(&certificate("admin")).as_deref(), Some("admin"));
        assert_eq!(common_name(&certificate("admin\0.evil")), None);
        assert_eq!(common_name(&X509::builder().unwrap().build()), None);
    }

    #[test]
    fn shown_name_is_one_bounded_line() {
        assert_eq!(text(certificate("x\ny\u{202e}").subject_name()), "O=a\\, b, CN=x\\u{a}y\\u{202e}");
        // OpenSSL has a bound of its own for names that it makes, not for those that it reads.
        let long = text(certificate(&"\n".repeat(64)).subject_name());
        assert!(long.ends_with("...") && long.chars().count() == SHOWN_CHARS_MAX + 3, "{long}");
    }
}
