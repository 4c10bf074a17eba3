//! What an OCSP response must be to be sent to clients.

use std::io;
use std::time::{Duration, SystemTime};

use openssl::asn1::Asn1GeneralizedTimeRef;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::ocsp::{OcspCertId, OcspCertStatus, OcspFlag, OcspResponse, OcspResponseStatus};
use openssl::stack::Stack;
use openssl::x509::X509Ref;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509VerifyFlags;

use super::super::identity::{Identity, system_time};
use crate::sys::certificate;
use crate::telemetry::OcspFetch;

/// Largest response that is read. With the certificate of a responder it has two to five KiB.
pub const RESPONSE_BYTES_MAX: usize = 64 * 1024;

/// How far the responder's clock may be ahead of ours.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// A response that says that a certificate is good, and that clients will believe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staple {
    der: Vec<u8>,
    this_update: SystemTime,
    next_update: SystemTime,
}

/// Why a response cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OcspError {
    /// The file may not be read.
    #[error("cannot be read: {0}")]
    Read(io::Error),
    /// A directory, socket, device or pipe.
    #[error("is no regular file")]
    NotRegular,
    /// Larger than any response.
    #[error("is {bytes} bytes, more than the {RESPONSE_BYTES_MAX} allowed")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// No response in DER.
    #[error("is no OCSP response in DER: {0}")]
    Malformed(ErrorStack),
    /// The responder has answered that it does not answer (RFC 6960 section 4.2.1).
    #[error("is a refusal of the responder: {0}")]
    Refused(&'static str),
    /// The issuer's own certificate, which is needed to check anything, is not there.
    #[error("cannot be checked: the certificate's issuer is not in its chain")]
    NoIssuer,
    /// Not signed by the issuer, nor by whom it has authorised (RFC 6960 section 4.2.2.2).
    #[error("is not signed by the certificate's issuer or a responder that it has authorised: {0}")]
    Signature(ErrorStack),
    /// About something else.
    #[error("is about another certificate")]
    WrongCertificate,
    /// The responder does not know the certificate.
    #[error("says that the responder does not know the certificate")]
    Unknown,
    /// The certificate is revoked.
    #[error("says that the certificate has been revoked{}", at.map(|at| format!(" at {}", humantime::format_rfc3339_seconds(at))).unwrap_or_default())]
    Revoked {
        /// When.
        at: Option<SystemTime>,
    },
    /// It would be valid for ever.
    #[error("has no nextUpdate: it does not say how long it is good")]
    NoNextUpdate,
    /// Its time has not come.
    #[error("is not valid before {}", humantime::format_rfc3339_seconds(*from))]
    NotYetValid {
        /// When it comes.
        from: SystemTime,
    },
    /// Its time is over.
    #[error("was valid until {}", humantime::format_rfc3339_seconds(*until))]
    Expired {
        /// When it was.
        until: SystemTime,
    },
}

impl OcspError {
    /// The name under which a fetched response is counted.
    pub fn label(&self) -> OcspFetch {
        match self {
            Self::Read(_) | Self::NotRegular | Self::Malformed(_) => OcspFetch::Malformed,
            Self::TooLarge { .. } => OcspFetch::TooLarge,
            Self::Refused(_) => OcspFetch::Refused,
            Self::NoIssuer | Self::Signature(_) => OcspFetch::Signature,
            Self::WrongCertificate => OcspFetch::WrongCertificate,
            Self::Unknown => OcspFetch::Unknown,
            Self::Revoked { .. } => OcspFetch::Revoked,
            Self::NoNextUpdate | Self::NotYetValid { .. } | Self::Expired { .. } => OcspFetch::OutOfDate,
        }
    }
}

impl Staple {
    /// Takes a response where a client would: signed by the issuer of the certificate or by a responder that the issuer
    /// has certified for this, about this very certificate, saying that it is good, and in its time at `now`.
    ///
    /// # Errors
    /// [`OcspError`]: the first fault.
    pub fn verify(der: &[u8], identity: &Identity, now: SystemTime) -> Result<Self, OcspError> {
        let issuer = identity.issuers().iter().next().ok_or(OcspError::NoIssuer)?;
        Self::verify_for(der, identity.leaf(), issuer, now)
    }

    /// The same for a certificate and its issuer.
    ///
    /// # Errors
    /// [`OcspError`]: the first fault.
    pub fn verify_for(der: &[u8], leaf: &X509Ref, issuer: &X509Ref, now: SystemTime) -> Result<Self, OcspError> {
        if der.len() > RESPONSE_BYTES_MAX {
            return Err(OcspError::TooLarge { bytes: der.len() as u64 });
        }
        let response = OcspResponse::from_der(der).map_err(OcspError::Malformed)?;
        if response.status() != OcspResponseStatus::SUCCESSFUL {
            return Err(OcspError::Refused(refusal(response.status())));
        }
        let basic = response.basic().map_err(OcspError::Malformed)?;
        // The issuer alone is trusted, whoever stands above it.
        let mut store = X509StoreBuilder::new().map_err(OcspError::Signature)?;
        store.add_cert(issuer.to_owned()).map_err(OcspError::Signature)?;
        store.set_flags(X509VerifyFlags::PARTIAL_CHAIN).map_err(OcspError::Signature)?;
        let mut signers = Stack::new().map_err(OcspError::Signature)?;
        signers.push(issuer.to_owned()).map_err(OcspError::Signature)?;
        basic.verify(&signers, &store.build(), OcspFlag::empty()).map_err(OcspError::Signature)?;

        // A responder chooses the hash of the names in its answer.
        let find = |digest| basic.find_status(&*OcspCertId::from_cert(digest, leaf, issuer).ok()?);
        let status = [MessageDigest::sha1(), MessageDigest::sha256()].into_iter().find_map(find);
        let status = status.ok_or(OcspError::WrongCertificate)?;
        match status.status {
            OcspCertStatus::GOOD => {}
            OcspCertStatus::REVOKED => {
                return Err(OcspError::Revoked { at: status.revocation_time.and_then(|at| time(at).ok()) });
            }
            _ => return Err(OcspError::Unknown),
        }
        let this_update = time(status.this_update).map_err(OcspError::Malformed)?;
        // RFC 6960 section 4.2.2.1: without it newer information is always there, and nobody could tell it stale.
        let next_update = status.next_update().ok_or(OcspError::NoNextUpdate)?;
        let next_update = time(next_update).map_err(OcspError::Malformed)?;
        if this_update > now + CLOCK_SKEW {
            return Err(OcspError::NotYetValid { from: this_update });
        }
        if next_update <= now {
            return Err(OcspError::Expired { until: next_update });
        }
        let der = response.to_der().map_err(OcspError::Malformed)?;
        Ok(Self { der, this_update, next_update })
    }

    /// One that nobody has looked at, good for an hour.
    #[cfg(all(test, feature = "vendored-openssl"))]
    pub(in crate::tls) fn unchecked(der: &[u8]) -> Self {
        let next_update = SystemTime::now() + Duration::from_secs(3600);
        Self { der: der.to_vec(), this_update: SystemTime::UNIX_EPOCH, next_update }
    }

    /// The response, DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The time at which what it says was known to be right.
    pub fn this_update(&self) -> SystemTime {
        self.this_update
    }

    /// The time until which it may be shown.
    pub fn next_update(&self) -> SystemTime {
        self.next_update
    }

    /// Whether it may be shown.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        now < self.next_update
    }

    /// When the next one is to be fetched: half way through its time, and where that is over, half way through what is
    /// left of it.
    pub fn refresh_at(&self, now: SystemTime) -> SystemTime {
        let half = |from: SystemTime| from + self.next_update.duration_since(from).unwrap_or_default() / 2;
        let ahead = half(self.this_update);
        if ahead > now { ahead } else { half(now) }
    }
}

fn time(time: &Asn1GeneralizedTimeRef) -> Result<SystemTime, ErrorStack> {
    system_time(certificate::general_time(time))
}

/// The names of RFC 6960 section 4.2.1.
fn refusal(status: OcspResponseStatus) -> &'static str {
    match status {
        OcspResponseStatus::MALFORMED_REQUEST => "malformedRequest",
        OcspResponseStatus::INTERNAL_ERROR => "internalError",
        OcspResponseStatus::TRY_LATER => "tryLater",
        OcspResponseStatus::SIG_REQUIRED => "sigRequired",
        OcspResponseStatus::UNAUTHORIZED => "unauthorized",
        _ => "an unknown status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staple(this_update: u64, next_update: u64) -> Staple {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        Staple { der: Vec::new(), this_update: at(this_update), next_update: at(next_update) }
    }

    #[test]
    fn next_response_is_fetched_half_way() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let week = staple(1_000_000, 1_600_000);
        assert_eq!(week.refresh_at(at(1_000_010)), at(1_300_000));
        assert_eq!(week.refresh_at(at(1_500_000)), at(1_550_000), "half of what is left");
        assert_eq!(week.refresh_at(at(1_700_000)), at(1_700_000), "at once, when it is over");
    }

    #[test]
    fn response_is_shown_up_to_its_next_update_and_no_longer() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let one = staple(10, 20);
        assert!(one.is_valid_at(at(19)) && !one.is_valid_at(at(20)));
    }

    #[test]
    fn bytes_that_are_no_response_are_refused() {
        let none = openssl::x509::X509::builder().map(openssl::x509::X509Builder::build);
        let Ok(certificate) = none else { panic!("an empty certificate can be made") };
        let verify = |der: &[u8]| Staple::verify_for(der, &certificate, &certificate, SystemTime::now());
        assert!(matches!(verify(b""), Err(OcspError::Malformed(_))));
        assert!(matches!(verify(b"<html>not found</html>"), Err(OcspError::Malformed(_))));
        assert!(matches!(verify(&vec![0; RESPONSE_BYTES_MAX + 1]), Err(OcspError::TooLarge { .. })));
        // A status without a body, and one that no RFC knows.
        assert!(matches!(verify(b"\x30\x03\x0a\x01\x03"), Err(OcspError::Refused("tryLater"))));
        assert!(matches!(verify(b"\x30\x03\x0a\x01\x00"), Err(OcspError::Malformed(_))));
    }
}
