//! Which identities may enter.

use std::fmt;
use std::str::FromStr;

use openssl::x509::X509Ref;

use super::name::common_name;

/// An identity, as a certificate proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedIdentity {
    /// `cn:NAME`: the common name of the subject.
    CommonName(String),
    /// `dns:NAME`: a DNS name of the certificate (subjectAltName), without regard to case. A wildcard in the
    /// certificate is a name of its own and stands for no other.
    Dns(String),
    /// `uri:URI`: a URI of the certificate (subjectAltName), such as a SPIFFE ID.
    Uri(String),
    /// `spki:sha256:HEX`: the hash of the public key, whoever certified it (RFC 7469 section 2.4).
    PublicKey([u8; 32]),
}

/// Why a text is no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no identity: cn:NAME, dns:NAME, uri:URI or spki:sha256: and 64 hexadecimal digits")]
pub struct AllowedError;

impl AllowedIdentity {
    /// Whether the certificate proves it.
    pub(super) fn is_proved_by(&self, certificate: &X509Ref) -> bool {
        match self {
            Self::CommonName(name) => common_name(certificate).is_some_and(|found| found == *name),
            Self::Dns(name) => {
                alt_names(certificate, |entry| entry.dnsname().is_some_and(|found| found.eq_ignore_ascii_case(name)))
            }
            Self::Uri(uri) => alt_names(certificate, |entry| entry.uri().is_some_and(|found| found == uri)),
            Self::PublicKey(hash) => certificate
                .public_key()
                .and_then(|key| key.public_key_to_der())
                .is_ok_and(|der| openssl::sha::sha256(&der) == *hash),
        }
    }
}

fn alt_names(certificate: &X509Ref, is_it: impl Fn(&openssl::x509::GeneralNameRef) -> bool) -> bool {
    certificate.subject_alt_names().is_some_and(|names| names.iter().any(is_it))
}

impl FromStr for AllowedIdentity {
    type Err = AllowedError;

    fn from_str(text: &str) -> Result<Self, AllowedError> {
        let (kind, value) = text.split_once(':').filter(|(_, value)| !value.is_empty()).ok_or(AllowedError)?;
        match kind {
            "cn" => Ok(Self::CommonName(value.to_owned())),
            "dns" => Ok(Self::Dns(value.to_owned())),
            "uri" => Ok(Self::Uri(value.to_owned())),
            "spki" => value.strip_prefix("sha256:").and_then(hash).map(Self::PublicKey).ok_or(AllowedError),
            _ => Err(AllowedError),
        }
    }
}

impl fmt::Display for AllowedIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommonName(name) => write!(f, "cn:{name}"),
            Self::Dns(name) => write!(f, "dns:{}", name.to_ascii_lowercase()),
            Self::Uri(uri) => write!(f, "uri:{uri}"),
            Self::PublicKey(hash) => {
                f.write_str("spki:sha256:")?;
                hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

fn hash(digits: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if digits.len() != 2 * hash.len() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(0)? << 4 | digit(1)?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use super::*;

    #[test]
    fn identity_is_shown_as_it_is_read() {
        let hash = "00ff".repeat(16);
        for text in ["cn:Billing service", "dns:a.example", "uri:spiffe://example/ns/a", &format!("spki:sha256:{hash}")]
        {
            assert_eq!(text.parse::<AllowedIdentity>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn text_that_is_no_identity_is_refused() {
        let short = format!("spki:sha256:{}", "0".repeat(63));
        let odd = format!("spki:sha256:{}g", "0".repeat(63));
        for text in
            ["", "cn", "cn:", "a.example", "ip:192.0.2.1", "spki:", "spki:sha1:00", &short, &odd, "spki:sha256:é"]
        {
            assert_eq!(text.parse::<AllowedIdentity>(), Err(AllowedError), "{text}");
        }
    }
}
