//! The verdict on a client's certificate, and its reason.
//!
//! OpenSSL calls back within the call that drives the handshake, on the worker's own thread, so a thread-local slot
//! carries the reason to the caller of that call, as with the secrets.

use std::cell::{Cell, RefCell};
use std::fmt;

use openssl::x509::{X509Ref, X509StoreContextRef, X509VerifyResult};

use super::allowed::AllowedIdentity;
use super::{ExpiredCrl, name};
use crate::sys;
use crate::telemetry::ClientCertificate;

/// Largest certificate of a client: it travels in tickets, and to the server where that is configured. Those of
/// authorities have one to three KiB.
pub const CLIENT_CERTIFICATE_BYTES_MAX: usize = 16 * 1024;

/// A client's certificate that was refused.
#[derive(Debug)]
pub struct CertificateRefusal {
    /// The name under which it is counted.
    pub reason: ClientCertificate,
    /// Why, in OpenSSL's words or ours.
    pub error: &'static str,
    /// The position of the certificate at fault in the chain, from the client's own, 0, upwards.
    pub depth: u32,
    /// Its subject.
    pub subject: String,
    /// Its issuer.
    pub issuer: String,
    /// Its serial number, hexadecimal.
    pub serial: String,
}

impl fmt::Display for CertificateRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason: _, error, depth, subject, issuer, serial } = self;
        write!(f, "{error} (subject {subject:?}, issuer {issuer:?}, serial {serial}, depth {depth})")
    }
}

/// What the callback saw in one call into OpenSSL.
#[derive(Default)]
pub(in super::super) struct Observed {
    /// The certificate was refused.
    pub(in super::super) refusal: Option<Box<CertificateRefusal>>,
    /// A revocation list was past its next update, and that was to be tolerated.
    pub(in super::super) has_expired_list: bool,
}

/// Runs `drive`, a call into OpenSSL, and gives what the callback saw meanwhile.
pub(in super::super) fn observe<T>(drive: impl FnOnce() -> T) -> (T, Observed) {
    let result = drive();
    (result, Observed { refusal: REFUSAL.take(), has_expired_list: HAS_EXPIRED_LIST.take() })
}

thread_local! {
    static REFUSAL: RefCell<Option<Box<CertificateRefusal>>> = const { RefCell::new(None) };
    static HAS_EXPIRED_LIST: Cell<bool> = const { Cell::new(false) };
}

/// Judges what OpenSSL found about each certificate of a chain.
pub(super) struct Verifier {
    expired_crl: ExpiredCrl,
    allowed: Vec<AllowedIdentity>,
}

impl Verifier {
    pub(super) fn new(expired_crl: ExpiredCrl, allowed: Vec<AllowedIdentity>) -> Self {
        Self { expired_crl, allowed }
    }

    /// Whether the verification goes on. OpenSSL calls this for each error, and for each certificate that is good, the
    /// client's own last.
    pub(super) fn judge(&self, is_good: bool, context: &mut X509StoreContextRef) -> bool {
        let (result, depth) = (context.error(), context.error_depth());
        if !is_good {
            if result.as_raw() == CRL_HAS_EXPIRED && self.expired_crl == ExpiredCrl::Warn {
                HAS_EXPIRED_LIST.set(true);
                // Otherwise the session would carry the error.
                context.set_error(X509VerifyResult::OK);
                return true;
            }
            return refuse(context, reason(result.as_raw()), result.error_string());
        }
        if depth > 0 {
            return true;
        }
        let Some(certificate) = context.current_cert() else {
            return refuse(context, ClientCertificate::Other, "no certificate to look at");
        };
        let (reason, error) = if is_too_large(certificate) {
            (ClientCertificate::TooLarge, "certificate too large")
        } else if !self.allowed.is_empty() && !self.allowed.iter().any(|one| one.is_proved_by(certificate)) {
            (ClientCertificate::NotAllowed, "not among the allowed identities")
        } else {
            return true;
        };
        // The alert is bad_certificate then: OpenSSL has no error that becomes access_denied.
        context.set_error(sys::ssl::certificate_rejected());
        refuse(context, reason, error)
    }
}

fn is_too_large(certificate: &X509Ref) -> bool {
    certificate.to_der().map_or(true, |der| der.len() > CLIENT_CERTIFICATE_BYTES_MAX)
}

fn refuse(context: &X509StoreContextRef, reason: ClientCertificate, error: &'static str) -> bool {
    let text = |of: fn(&X509Ref) -> String| context.current_cert().map_or_else(String::new, of);
    let refusal = CertificateRefusal {
        reason,
        error,
        depth: context.error_depth(),
        subject: text(|certificate| name::text(certificate.subject_name())),
        issuer: text(|certificate| name::text(certificate.issuer_name())),
        serial: text(|certificate| name::serial(certificate.serial_number())),
    };
    REFUSAL.set(Some(Box::new(refusal)));
    false
}

const CRL_HAS_EXPIRED: i32 = 12;

/// The numbers of OpenSSL's x509_vfy.h.
fn reason(error: i32) -> ClientCertificate {
    match error {
        2 | 18 | 19 | 20 | 21 | 27 => ClientCertificate::UnknownCa,
        3 | 33 => ClientCertificate::CrlMissing,
        5 | 8 | 11 | 15 | 16 | 35 | 36 | 44 | 54 => ClientCertificate::CrlUnusable,
        4 | 6 | 7 => ClientCertificate::Signature,
        9 | 13 => ClientCertificate::NotYetValid,
        10 | 14 => ClientCertificate::Expired,
        CRL_HAS_EXPIRED => ClientCertificate::CrlExpired,
        22 | 25 => ClientCertificate::ChainTooLong,
        23 => ClientCertificate::Revoked,
        24 | 32 | 79 => ClientCertificate::NotACa,
        26 => ClientCertificate::Purpose,
        47..=49 | 51..=53 => ClientCertificate::NameConstraints,
        66..=68 | 94 => ClientCertificate::Weak,
        _ => ClientCertificate::Other,
    }
}
