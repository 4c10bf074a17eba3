//! How OCSP stapling goes.

use super::cell::{ByLabel, Counter, Gauge, label_enum};

label_enum! {
    /// What came of asking a responder.
    pub enum OcspFetch as "result" {
        /// The certificate is good, and clients will be told so.
        Good = "good",
        /// The certificate has been revoked.
        Revoked = "revoked",
        /// The responder does not know the certificate.
        Unknown = "unknown",
        /// No connection, or one that broke.
        Unreachable = "unreachable",
        /// No answer in time.
        TimedOut = "timed_out",
        /// Another status than 200.
        HttpStatus = "http_status",
        /// An answer that is larger than any response.
        TooLarge = "too_large",
        /// An answer that is no response.
        Malformed = "malformed",
        /// The responder answers that it does not answer.
        Refused = "refused",
        /// Signed by somebody who may not.
        Signature = "signature",
        /// About another certificate.
        WrongCertificate = "wrong_certificate",
        /// Not valid yet, not any more, or without an end.
        OutOfDate = "out_of_date",
    }
}

label_enum! {
    /// How it stands with the response of a certificate.
    pub enum StapleState as "state" {
        /// There is a valid one.
        Stapled = "stapled",
        /// There should be one, and there is none that is valid.
        Missing = "missing",
        /// The certificate has been revoked: none is sent.
        Revoked = "revoked",
        /// There can be none: the certificate names no responder, or issued itself, or its issuer is not in the chain.
        Unavailable = "unavailable",
    }
}

label_enum! {
    /// What a client got that asked for a response.
    pub enum StapleResult as "result" {
        /// A response.
        Stapled = "stapled",
        /// None.
        Missing = "missing",
    }
}

/// Stapling of the process; written by the control thread.
#[derive(Debug, Default)]
pub struct StaplingMetrics {
    /// Questions to responders, by what came of them.
    pub fetches: ByLabel<OcspFetch, Counter>,
    /// Certificates of listeners that staple, by how it stands with their response.
    pub certificates: ByLabel<StapleState, Gauge>,
    /// Certificates of any listener that demand a response and have none.
    pub must_staple_missing: Gauge,
}
