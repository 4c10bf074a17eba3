//! OCSP stapling (RFC 6960; RFC 6066 section 8; RFC 8446 section 4.4.2.1): what the authority says of a certificate is
//! sent along with it.
//!
//! A response is looked at before it is ever sent: who signed it, which certificate it is about, what it says, and until
//! when. One that a client would refuse is worse than none. The control thread puts responses where the workers find
//! them, next to the certificates; a handshake that is asked for one loads a pointer.

mod response;

use std::cell::Cell;
use std::ffi::c_int;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::ocsp::{OcspCertId, OcspRequest};
use openssl::x509::{X509Ref, X509VerifyResult};

use super::identity::{Identity, Table};
use crate::sys::certificate;
use crate::telemetry::StapleResult;
pub use response::{OcspError, RESPONSE_BYTES_MAX, Staple};

/// Where the responses of a listener's certificates come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OcspMode {
    /// None are sent.
    #[default]
    Off,
    /// From a file beside each certificate, see [`response_file`].
    File,
    /// From the responder that the certificate names, and until it has answered from the file, if there is one.
    Fetch,
}

/// The response of one certificate, replaced as a whole and read by every worker.
#[derive(Debug, Default)]
pub struct StapleCell {
    response: ArcSwapOption<Staple>,
    is_revoked: AtomicBool,
}

impl StapleCell {
    /// The response, where one is valid at `now`.
    pub fn current_at(&self, now: SystemTime) -> Option<Arc<Staple>> {
        self.response.load_full().filter(|staple| staple.is_valid_at(now))
    }

    /// Takes a response, unless there is a newer one.
    pub fn offer(&self, staple: &Arc<Staple>) {
        let is_news = |stored: &Arc<Staple>| stored.this_update() < staple.this_update();
        if self.response.load().as_ref().is_none_or(is_news) {
            self.response.store(Some(Arc::clone(staple)));
        }
    }

    /// Takes a response that was just fetched, whatever was known before.
    pub fn renew(&self, staple: &Arc<Staple>) {
        self.response.store(Some(Arc::clone(staple)));
        self.is_revoked.store(false, Ordering::Relaxed);
    }

    /// Notes that the authority has revoked the certificate: from now on nothing is sent.
    pub fn revoke(&self) {
        self.is_revoked.store(true, Ordering::Relaxed);
        self.response.store(None);
    }

    /// Whether the authority has revoked the certificate.
    pub fn is_revoked(&self) -> bool {
        self.is_revoked.load(Ordering::Relaxed)
    }
}

/// Where the response of a certificate lies, in DER: `edge.crt.ocsp` beside `edge.crt`, as HAProxy has it.
pub fn response_file(certificate: &Path) -> PathBuf {
    let mut path = certificate.as_os_str().to_owned();
    path.push(".ocsp");
    path.into()
}

/// Reads the responses that lie beside the certificates of a table, unless the mode is off, and puts them to the
/// certificates. Gives what cannot be used; that a file is not there is no fault.
pub fn read_files(table: &Table, mode: OcspMode, now: SystemTime) -> Vec<(PathBuf, OcspError)> {
    let mut problems = Vec::new();
    for identity in table.identities().iter().filter(|_| mode != OcspMode::Off) {
        let path = response_file(identity.path());
        match read_file(&path).and_then(|der| der.map(|der| Staple::verify(&der, identity, now)).transpose()) {
            Ok(Some(staple)) => identity.staple().offer(&Arc::new(staple)),
            Ok(None) => {}
            Err(error) => {
                if matches!(error, OcspError::Revoked { .. }) {
                    identity.staple().revoke();
                }
                problems.push((path, error));
            }
        }
    }
    problems
}

fn read_file(path: &Path) -> Result<Option<Vec<u8>>, OcspError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OcspError::Read(error)),
    };
    if !metadata.is_file() {
        return Err(OcspError::NotRegular);
    }
    if metadata.len() > RESPONSE_BYTES_MAX as u64 {
        return Err(OcspError::TooLarge { bytes: metadata.len() });
    }
    let mut der = Vec::new();
    let file = fs::File::open(path).map_err(OcspError::Read)?;
    file.take(RESPONSE_BYTES_MAX as u64).read_to_end(&mut der).map_err(OcspError::Read)?;
    Ok(Some(der))
}

/// The question for a responder (RFC 6960 section 4.1), DER: without a nonce, so that a response serves all clients.
///
/// # Errors
/// When memory is short.
pub fn request(leaf: &X509Ref, issuer: &X509Ref) -> Result<Vec<u8>, ErrorStack> {
    let mut request = OcspRequest::new()?;
    // SHA-1 names the issuer here and protects nothing; it is what every responder knows (RFC 5019 section 2.1.1).
    request.add_id(OcspCertId::from_cert(MessageDigest::sha1(), leaf, issuer)?)?;
    request.to_der()
}

/// The addresses of the responders that a certificate names (RFC 5280 section 4.2.2.1), in its order.
pub fn responders(leaf: &X509Ref) -> Vec<String> {
    leaf.ocsp_responders().map(|urls| urls.iter().map(|url| url.to_string()).collect()).unwrap_or_default()
}

/// Whether a certificate demands that a response is sent along with it: status_request among its TLS features (RFC 7633
/// section 4.2.3.1).
pub fn demands_response(leaf: &X509Ref) -> bool {
    // OpenSSL's number for the extension.
    const TLS_FEATURE: c_int = 1020;
    certificate::extension(leaf, Nid::from_raw(TLS_FEATURE)).is_some_and(lists_status_request)
}

/// Whether a DER sequence of small integers has the number of status_request (RFC 6066 section 8) in it.
fn lists_status_request(features: &[u8]) -> bool {
    let [SEQUENCE, length, content @ ..] = features else { return false };
    let integers = content.get(..usize::from(*length)).unwrap_or_default();
    integers.as_chunks().0.contains(&[INTEGER, 1, STATUS_REQUEST])
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const STATUS_REQUEST: u8 = 5;

/// Whether a certificate issued itself: there is nobody who could say anything of it.
pub fn is_self_signed(leaf: &X509Ref) -> bool {
    leaf.issued(leaf) == X509VerifyResult::OK
}

thread_local! {
    static RESULT: Cell<Option<StapleResult>> = const { Cell::new(None) };
}

/// The response for a handshake whose client asks for one. OpenSSL calls back within the call that drives the
/// handshake, on the worker's own thread, so a thread-local slot carries what came of it to the caller of that call.
pub(super) fn respond(identity: Option<&Identity>, now: SystemTime) -> Option<Arc<Staple>> {
    let staple = identity.and_then(|identity| identity.staple().current_at(now));
    RESULT.set(Some(if staple.is_some() { StapleResult::Stapled } else { StapleResult::Missing }));
    staple
}

/// What came of the client's question in the last call into OpenSSL; none where it did not ask.
pub(super) fn take_result() -> Option<StapleResult> {
    RESULT.take()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_request_is_found_among_the_features() {
        assert!(lists_status_request(&[0x30, 3, 2, 1, 5]));
        assert!(lists_status_request(&[0x30, 6, 2, 1, 17, 2, 1, 5]));
        assert!(!lists_status_request(&[0x30, 3, 2, 1, 17]));
        for malformed in [&[][..], &[0x30], &[0x30, 3], &[0x30, 200, 2, 1, 5], &[0x30, 2, 2, 1, 5], &[0x31, 3, 2, 1, 5]]
        {
            assert!(!lists_status_request(malformed), "{malformed:?}");
        }
    }
}
