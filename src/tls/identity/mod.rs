//! What the proxy proves who it is with: certificate chains and their private keys, read from files and checked against
//! each other, and the table that a handshake chooses from.

mod chain;
mod directory;
mod error;
mod file;
mod kind;
mod table;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::stack::Stack;
use openssl::x509::{X509, X509Ref};

use super::compression::CompressedCell;
use super::stapling::{self, StapleCell};
use super::{CertificateFiles, CertificateForm, ServerName};
use chain::Chain;
pub use chain::Repair;
pub use directory::list as list_directory;
pub use error::{File, IdentityError};
pub use file::{FILE_BYTES_MAX, RSA_BITS_MIN, file_time};
pub use kind::KeyKind;
pub use table::{IDENTITY_COUNT_MAX, Table, load_all};

/// A certificate, its intermediates and the key that belongs to it.
///
/// `Debug` shows the subject only; the key is freed and wiped by OpenSSL.
pub struct Identity {
    leaf: X509,
    /// The same intermediates stand behind thousands of certificates: shared, see [`Table::new`].
    issuers: Arc<Stack<X509>>,
    key: PKey<Private>,
    kind: KeyKind,
    not_before: SystemTime,
    not_after: SystemTime,
    path: PathBuf,
    notices: Vec<Notice>,
    must_staple: bool,
    has_responder: bool,
    staple: StapleCell,
    compressed: CompressedCell,
}

/// Something about an identity that works, and that the operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The chain was not in order.
    Repaired(Repair),
    /// Others than owner and group may read the file with the key, or the group may write it.
    OpenKeyFile,
    /// The same of the file with its passphrase.
    OpenPassphraseFile,
    /// A passphrase is configured, and the key has none.
    IdlePassphrase,
}

/// Whether a moment lies in the validity period of a certificate (RFC 5280 section 4.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// It does.
    Valid,
    /// The certificate is not valid yet.
    NotYetValid,
    /// The certificate has expired.
    Expired,
}

impl Identity {
    /// Reads the files and checks that they can serve a listener: a key of a supported kind and strength, the
    /// certificate of that key, and a chain that clients take. A chain out of order is repaired, see [`Notice`]. Dates
    /// are not checked: see [`Self::validity_at`].
    ///
    /// # Errors
    /// Every [`IdentityError`] that was found, each names the file at fault. Files larger than 1 MiB and files that are
    /// not regular are refused unread.
    pub fn load(files: &CertificateFiles) -> Result<Self, Vec<IdentityError>> {
        Self::from_content(files, file::read_all(files)?).map_err(|error| vec![error])
    }

    fn from_content(files: &CertificateFiles, content: file::Content) -> Result<Self, IdentityError> {
        let (path, file) = (files.certificate().to_owned(), files.certificate_file());
        let malformed = |source| IdentityError::Malformed { file, path: path.clone(), source };
        if content.certificates.is_empty() {
            return Err(IdentityError::NoCertificate { file, path });
        }
        let Some(chain) = Chain::build(content.certificates, &content.key) else {
            return Err(IdentityError::KeyMismatch { chain: path, key: files.key().to_owned() });
        };
        if let Some(position) = chain.weak_issuer() {
            return Err(IdentityError::WeakIntermediate { path, position });
        }
        if let Some((position, digest)) = chain.weak_signature() {
            return Err(IdentityError::WeakSignature { path, position, digest });
        }
        let mut notices = Vec::new();
        // PKCS #12 has no order that one could keep.
        let is_pem = matches!(files.form, CertificateForm::Pem { .. });
        notices.extend(chain.repair.filter(|repair| is_pem || !repair.left_out.is_empty()).map(Notice::Repaired));
        let is_open = |mode: u32| mode & OPEN_MODE_BITS != 0;
        notices.extend(is_open(content.key_file_mode).then_some(Notice::OpenKeyFile));
        notices.extend(content.passphrase_file_mode.is_some_and(is_open).then_some(Notice::OpenPassphraseFile));
        notices.extend(content.is_passphrase_idle.then_some(Notice::IdlePassphrase));
        let mut issuers = Stack::new().map_err(malformed)?;
        for issuer in chain.issuers {
            issuers.push(issuer).map_err(malformed)?;
        }
        Ok(Self {
            not_before: system_time(chain.leaf.not_before()).map_err(malformed)?,
            not_after: system_time(chain.leaf.not_after()).map_err(malformed)?,
            issuers: Arc::new(issuers),
            key: content.key,
            kind: content.kind,
            must_staple: stapling::demands_response(&chain.leaf),
            has_responder: stapling::responders(&chain.leaf).iter().any(|url| url.starts_with("http://")),
            staple: StapleCell::default(),
            compressed: CompressedCell::default(),
            leaf: chain.leaf,
            path: path.clone(),
            notices,
        })
    }

    /// The certificate.
    pub fn leaf(&self) -> &X509Ref {
        &self.leaf
    }

    /// Its intermediates, each the issuer of the one before it.
    pub fn issuers(&self) -> &Stack<X509> {
        &self.issuers
    }

    /// The private key of the certificate.
    pub fn key(&self) -> &PKey<Private> {
        &self.key
    }

    /// The kind of the key.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The file of the certificate.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it demands that an OCSP response is sent along (RFC 7633 section 4.2.3.1).
    pub fn must_staple(&self) -> bool {
        self.must_staple
    }

    /// Whether it names an OCSP responder that can be asked, which is over plain HTTP.
    pub fn has_responder(&self) -> bool {
        self.has_responder
    }

    /// The OCSP response that is sent along, where there is one.
    pub fn staple(&self) -> &StapleCell {
        &self.staple
    }

    /// It and its intermediates as they are sent to clients that take them compressed.
    pub fn compressed(&self) -> &CompressedCell {
        &self.compressed
    }

    /// What the operator should know about it.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// The names that it is for: the DNS names of its subjectAltName extension, as far as they are host names. The
    /// common name says nothing to a client of today (RFC 9525 section 2) and is not looked at.
    pub fn names(&self) -> Vec<ServerName> {
        let alternative = self.leaf.subject_alt_names();
        let names = alternative.iter().flatten().filter_map(|name| ServerName::parse(name.dnsname()?));
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The first second of validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The last second of validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether `now` lies in the validity period of the certificate itself (intermediates are not looked at).
    pub fn validity_at(&self, now: SystemTime) -> Validity {
        if now < self.not_before {
            Validity::NotYetValid
        } else if now > self.not_after {
            Validity::Expired
        } else {
            Validity::Valid
        }
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("subject", &self.leaf.subject_name()).finish_non_exhaustive()
    }
}

/// Dates before 1970 are given as 1970: nothing that is served was valid then.
pub(super) fn system_time(time: &Asn1TimeRef) -> Result<SystemTime, ErrorStack> {
    let since_epoch = Asn1Time::from_unix(0)?.diff(time)?;
    let seconds = i64::from(since_epoch.days) * SECONDS_PER_DAY + i64::from(since_epoch.secs);
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Reading by others, writing by group or others. A group that may read is how `ssl-cert` and its kind work.
const OPEN_MODE_BITS: u32 = 0o026;

const SECONDS_PER_DAY: i64 = 86_400;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use std::fs;

    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::x509::X509Name;
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    use super::*;

    /// A pair of files; the certificate is valid from 1 000 000 000 to 2 000 000 000 seconds after 1970.
    fn pair(folder: &TempDir, name: &str) -> (PathBuf, PathBuf) {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut subject = X509Name::builder().unwrap();
        subject.append_entry_by_text("CN", name).unwrap();
        let subject = subject.build();
        let mut builder = X509::builder().unwrap();
        builder.set_subject_name(&subject).unwrap();
        builder.set_issuer_name(&subject).unwrap();
        builder.set_not_before(&Asn1Time::from_unix(1_000_000_000).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::from_unix(2_000_000_000).unwrap()).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        let path = |suffix| folder.path().join(format!("{name}.{suffix}"));
        let (chain, key_path) = (path("crt"), path("key"));
        fs::write(&chain, builder.build().to_pem().unwrap()).unwrap();
        fs::write(&key_path, key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        (chain, key_path)
    }

    fn load((chain, key): &(PathBuf, PathBuf)) -> Result<Identity, Vec<IdentityError>> {
        Identity::load(&CertificateFiles::pem(chain, key))
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn identity_of_a_good_pair_has_its_key_and_dates() {
        let folder = TempDir::new().unwrap();
        let identity = load(&pair(&folder, "edge")).unwrap();
        assert!(identity.leaf().public_key().unwrap().public_eq(identity.key()));
        assert_eq!((identity.not_before(), identity.not_after()), (at(1_000_000_000), at(2_000_000_000)));
        assert_eq!((identity.kind(), identity.issuers().len()), (KeyKind::EcdsaP256, 0));
        assert!(identity.names().is_empty(), "the common name is not looked at");
    }

    #[test]
    fn validity_includes_both_ends() {
        let folder = TempDir::new().unwrap();
        let identity = load(&pair(&folder, "edge")).unwrap();
        assert_eq!(identity.validity_at(at(999_999_999)), Validity::NotYetValid);
        assert_eq!(identity.validity_at(at(1_000_000_000)), Validity::Valid);
        assert_eq!(identity.validity_at(at(2_000_000_000)), Validity::Valid);
        assert_eq!(identity.validity_at(at(2_000_000_001)), Validity::Expired);
    }

    #[test]
    fn key_of_another_certificate_is_refused() {
        let folder = TempDir::new().unwrap();
        let (edge, other) = (pair(&folder, "edge"), pair(&folder, "other"));
        let errors = load(&(edge.0, other.1)).unwrap_err();
        assert!(matches!(&errors[..], [IdentityError::KeyMismatch { .. }]), "{errors:?}");
        assert_eq!(errors[0].file(), File::Key);
    }

    #[test]
    fn errors_of_both_files_are_given_together() {
        let folder = TempDir::new().unwrap();
        let files = pair(&folder, "edge");
        fs::remove_file(&files.0).unwrap();
        fs::write(&files.1, "nothing of use").unwrap();
        let errors = load(&files).unwrap_err();
        let [IdentityError::Read { .. }, IdentityError::NotPem { .. }] = &errors[..] else { panic!("{errors:?}") };
    }

    #[test]
    fn chain_with_a_stranger_in_it_is_sent_without_it() {
        let folder = TempDir::new().unwrap();
        let (edge, other) = (pair(&folder, "edge"), pair(&folder, "other"));
        let [chain, stranger] = [&edge.0, &other.0].map(|path| fs::read(path).unwrap());
        fs::write(&edge.0, [&chain[..], &stranger].concat()).unwrap();
        let identity = load(&edge).unwrap();
        let repair = Repair { is_reordered: false, left_out: vec![2] };
        assert_eq!((identity.notices().first(), identity.issuers().len()), (Some(&Notice::Repaired(repair)), 0));
        // The stranger first: the certificate of the key is still the one that is served.
        fs::write(&edge.0, [&stranger[..], &chain].concat()).unwrap();
        let subject = format!("{:?}", load(&edge).unwrap());
        assert!(subject.contains("edge"), "{subject}");
    }

    #[test]
    fn key_file_that_is_open_to_others_is_told() {
        let folder = TempDir::new().unwrap();
        let files = pair(&folder, "edge");
        for (mode, expected) in [(0o600, false), (0o640, false), (0o644, true), (0o660, true)] {
            fs::set_permissions(&files.1, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(load(&files).unwrap().notices().contains(&Notice::OpenKeyFile), expected, "{mode:o}");
        }
    }

    #[test]
    fn debug_output_names_the_subject_and_nothing_of_the_key() {
        let folder = TempDir::new().unwrap();
        let text = format!("{:?}", load(&pair(&folder, "edge")).unwrap());
        assert!(text.contains("edge") && !text.to_lowercase().contains("key"), "{text}");
    }
}
