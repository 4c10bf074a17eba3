//! A certificate chain and its private key, read from files and checked against each other.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};
use openssl::x509::{X509, X509VerifyResult};
use zeroize::Zeroizing;

use super::CertificateFiles;

/// What the proxy proves who it is with: a certificate, its intermediates and the key that belongs to it.
///
/// `Debug` shows the subject only; the key is freed and wiped by OpenSSL.
pub struct Identity {
    chain: Vec<X509>,
    key: PKey<Private>,
    not_before: SystemTime,
    not_after: SystemTime,
    key_file_mode: u32,
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
    /// Reads both files and checks that they can serve a listener: at least one certificate, an unencrypted key of a
    /// supported kind and strength, and that the key belongs to the first certificate. Dates are not checked: see
    /// [`Self::validity_at`].
    ///
    /// # Errors
    /// One [`IdentityError`], which names the file at fault. Files larger than 1 MiB and files that are not regular
    /// are refused unread.
    pub fn load(files: &CertificateFiles) -> Result<Self, IdentityError> {
        Self::from_parts(files, read_chain(&files.chain)?, read_key(&files.key)?)
    }

    /// Like [`Self::load`], but looks at both files even where one is at fault.
    ///
    /// # Errors
    /// One or two errors.
    pub fn load_with_all_errors(files: &CertificateFiles) -> Result<Self, Vec<IdentityError>> {
        match (read_chain(&files.chain), read_key(&files.key)) {
            (Ok(chain), Ok(key)) => Self::from_parts(files, chain, key).map_err(|error| vec![error]),
            (Err(chain), Err(key)) => Err(vec![chain, key]),
            (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(vec![error]),
        }
    }

    fn from_parts(files: &CertificateFiles, chain: Vec<X509>, key: Key) -> Result<Self, IdentityError> {
        let Some(leaf) = chain.first() else {
            return Err(IdentityError::NoCertificate { path: files.chain.clone() });
        };
        let malformed = |source| IdentityError::Malformed { file: File::Chain, path: files.chain.clone(), source };
        if !leaf.public_key().map_err(malformed)?.public_eq(&key.key) {
            return Err(IdentityError::KeyMismatch { chain: files.chain.clone(), key: files.key.clone() });
        }
        if let Some(position) = weak_intermediate(&chain) {
            return Err(IdentityError::WeakIntermediate { path: files.chain.clone(), position });
        }
        let not_before = system_time(leaf.not_before()).map_err(malformed)?;
        let not_after = system_time(leaf.not_after()).map_err(malformed)?;
        Ok(Self { chain, key: key.key, not_before, not_after, key_file_mode: key.file_mode })
    }

    /// The certificate, then its intermediates; at least one entry.
    pub fn chain(&self) -> &[X509] {
        &self.chain
    }

    /// The private key of the first certificate.
    pub fn key(&self) -> &PKey<Private> {
        &self.key
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

    /// Whether every user of the machine may read the key file.
    pub fn key_file_is_world_readable(&self) -> bool {
        self.key_file_mode & 0o004 != 0
    }

    /// The position of the first certificate that was not issued by the one that follows it, by name and key
    /// identifier. RFC 8446 section 4.4.2: each certificate should certify the one immediately before it.
    pub fn chain_gap(&self) -> Option<usize> {
        self.chain
            .iter()
            .zip(self.chain.iter().skip(1))
            .position(|(subject, issuer)| issuer.issued(subject) != X509VerifyResult::OK)
    }

    /// The position, from 1, of the first certificate that is signed with SHA-1 or MD5. OpenSSL serves it, clients
    /// refuse it. What self-signed certificates say of themselves proves nothing and is not looked at.
    pub fn weak_signature(&self) -> Option<usize> {
        let is_weak = |certificate: &X509| {
            let algorithms = certificate.signature_algorithm().object().nid().signature_algorithms();
            algorithms.is_some_and(|algorithms| WEAK_DIGESTS.contains(&algorithms.digest))
                && certificate.issued(certificate) != X509VerifyResult::OK
        };
        self.chain.iter().zip(1..).find(|(certificate, _)| is_weak(certificate)).map(|(_, position)| position)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let subject = self.chain.first().map(|leaf| leaf.subject_name());
        f.debug_struct("Identity").field("subject", &subject).finish_non_exhaustive()
    }
}

/// Which of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// The certificate chain.
    Chain,
    /// The private key.
    Key,
}

impl std::fmt::Display for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Chain => "certificate file",
            Self::Key => "key file",
        })
    }
}

/// Why a pair of files cannot serve a listener. All are faults of configuration.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file does not exist or may not be read.
    #[error("cannot read {file} {}: {source}", path.display())]
    Read {
        /// Which file.
        file: File,
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory, socket, device or pipe.
    #[error("{file} {} is {found}, not a regular file", path.display())]
    NotRegular {
        /// Which file.
        file: File,
        /// Its path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// Nothing in it.
    #[error("{file} {} is empty", path.display())]
    Empty {
        /// Which file.
        file: File,
        /// Its path.
        path: PathBuf,
    },
    /// Larger than any certificate chain.
    #[error("{file} {} is {bytes} bytes, more than the {FILE_BYTES_MAX} allowed", path.display())]
    TooLarge {
        /// Which file.
        file: File,
        /// Its path.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// No PEM block in it.
    #[error("{file} {} is not PEM: no -----BEGIN line in it", path.display())]
    NotPem {
        /// Which file.
        file: File,
        /// Its path.
        path: PathBuf,
    },
    /// PEM, but no certificate in it.
    #[error("certificate file {} holds no certificate", path.display())]
    NoCertificate {
        /// Its path.
        path: PathBuf,
    },
    /// PEM, but no private key in it.
    #[error("key file {} holds no private key", path.display())]
    NoKey {
        /// Its path.
        path: PathBuf,
    },
    /// The key needs a passphrase.
    #[error("key file {} is encrypted with a passphrase", path.display())]
    EncryptedKey {
        /// Its path.
        path: PathBuf,
    },
    /// OpenSSL cannot read what is inside the PEM block.
    #[error("{file} {} is damaged: {source}", path.display())]
    Malformed {
        /// Which file.
        file: File,
        /// Its path.
        path: PathBuf,
        /// What OpenSSL said.
        source: ErrorStack,
    },
    /// The key is of another pair than the first certificate.
    #[error("key {} does not belong to the first certificate of {}", key.display(), chain.display())]
    KeyMismatch {
        /// The certificate file.
        chain: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// An RSA key below the bound.
    #[error("RSA key {} has {bits} bits, at least {RSA_BITS_MIN} are needed", path.display())]
    WeakKey {
        /// The key file.
        path: PathBuf,
        /// Its modulus.
        bits: u32,
    },
    /// An intermediate with a key below 112 bits of strength, such as RSA below 2048 bits.
    #[error("certificate {position} of {} has a key of less than {SECURITY_BITS_MIN} bits of strength", path.display())]
    WeakIntermediate {
        /// The certificate file.
        path: PathBuf,
        /// Which certificate of it, from 1.
        position: usize,
    },
    /// Neither RSA nor ECDSA on a curve of TLS 1.3 nor Ed25519.
    #[error("key {} is neither RSA nor ECDSA on P-256, P-384 or P-521 nor Ed25519", path.display())]
    UnsupportedKey {
        /// The key file.
        path: PathBuf,
    },
}

impl IdentityError {
    /// The file that the operator has to look at.
    pub fn file(&self) -> File {
        match self {
            Self::Read { file, .. }
            | Self::NotRegular { file, .. }
            | Self::Empty { file, .. }
            | Self::TooLarge { file, .. }
            | Self::NotPem { file, .. }
            | Self::Malformed { file, .. } => *file,
            Self::NoCertificate { .. } | Self::WeakIntermediate { .. } => File::Chain,
            Self::NoKey { .. }
            | Self::EncryptedKey { .. }
            | Self::KeyMismatch { .. }
            | Self::WeakKey { .. }
            | Self::UnsupportedKey { .. } => File::Key,
        }
    }
}

/// Reads a whole regular file; also gives its permission bits. The buffer is wiped when dropped.
fn read(path: &Path, file: File) -> Result<(Zeroizing<Vec<u8>>, u32), IdentityError> {
    let failed = |source| IdentityError::Read { file, path: path.to_owned(), source };
    // Looked at before opening: opening a FIFO waits for a writer.
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "a directory" } else { "a device, socket or pipe" };
        return Err(IdentityError::NotRegular { file, path: path.to_owned(), found });
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(IdentityError::TooLarge { file, path: path.to_owned(), bytes: metadata.len() });
    }
    // Room for the whole file at once, so that no grown-out-of buffer with key bytes is left behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(metadata.len() as usize + 1));
    let opened = fs::File::open(path).map_err(failed)?;
    opened.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(IdentityError::Empty { file, path: path.to_owned() });
    }
    if !contains(&bytes, b"-----BEGIN ") {
        return Err(IdentityError::NotPem { file, path: path.to_owned() });
    }
    Ok((bytes, metadata.mode()))
}

fn read_chain(path: &Path) -> Result<Vec<X509>, IdentityError> {
    let (pem, _) = read(path, File::Chain)?;
    // The three labels that OpenSSL takes; without one it would return an empty list.
    let labels = [&b"BEGIN CERTIFICATE-----"[..], b"BEGIN X509 CERTIFICATE-----", b"BEGIN TRUSTED CERTIFICATE-----"];
    if !labels.iter().any(|label| contains(&pem, label)) {
        return Err(IdentityError::NoCertificate { path: path.to_owned() });
    }
    let malformed = |source| IdentityError::Malformed { file: File::Chain, path: path.to_owned(), source };
    X509::stack_from_pem(&pem).map_err(malformed)
}

/// A private key and the permission bits of its file.
struct Key {
    key: PKey<Private>,
    file_mode: u32,
}

fn read_key(path: &Path) -> Result<Key, IdentityError> {
    let (pem, file_mode) = read(path, File::Key)?;
    // The first form is PKCS #8 (RFC 7468 section 11), the second the older one of RFC 1421 section 4.6.1.1.
    if contains(&pem, b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || contains(&pem, b"Proc-Type: 4,ENCRYPTED") {
        return Err(IdentityError::EncryptedKey { path: path.to_owned() });
    }
    if !contains(&pem, b" PRIVATE KEY-----") {
        return Err(IdentityError::NoKey { path: path.to_owned() });
    }
    // With the callback OpenSSL never asks for a passphrase on the terminal.
    let key = PKey::private_key_from_pem_callback(&pem, |_| Err(ErrorStack::get()))
        .map_err(|source| IdentityError::Malformed { file: File::Key, path: path.to_owned(), source })?;
    check_strength(path, &key)?;
    Ok(Key { key, file_mode })
}

fn check_strength(path: &Path, key: &PKey<Private>) -> Result<(), IdentityError> {
    match key.id() {
        Id::RSA | Id::RSA_PSS if key.bits() < RSA_BITS_MIN => {
            Err(IdentityError::WeakKey { path: path.to_owned(), bits: key.bits() })
        }
        Id::RSA | Id::RSA_PSS | Id::ED25519 => Ok(()),
        // RFC 8446 section 4.2.3: the ecdsa schemes name their curves.
        Id::EC if key.ec_key().is_ok_and(|key| key.group().curve_name().is_some_and(|name| CURVES.contains(&name))) => {
            Ok(())
        }
        _ => Err(IdentityError::UnsupportedKey { path: path.to_owned() }),
    }
}

/// The first intermediate, counted from 1, whose key OpenSSL refuses at security level 2: it would fail every handshake.
/// The key of the certificate itself is looked at in its own file.
fn weak_intermediate(chain: &[X509]) -> Option<usize> {
    let is_weak =
        |certificate: &X509| certificate.public_key().is_ok_and(|key| key.security_bits() < SECURITY_BITS_MIN);
    chain.iter().zip(1..).skip(1).find(|(certificate, _)| is_weak(certificate)).map(|(_, position)| position)
}

/// Dates before 1970 are given as 1970: nothing that is served was valid then.
pub(super) fn system_time(time: &Asn1TimeRef) -> Result<SystemTime, ErrorStack> {
    let since_epoch = Asn1Time::from_unix(0)?.diff(time)?;
    let seconds = i64::from(since_epoch.days) * SECONDS_PER_DAY + i64::from(since_epoch.secs);
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// Largest certificate or key file that is read. A chain of ten RSA-4096 certificates has 25 KiB.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Smallest RSA modulus: NIST SP 800-131A, and what every browser asks for.
pub const RSA_BITS_MIN: u32 = 2048;

/// OpenSSL's security level 2.
const SECURITY_BITS_MIN: u32 = 112;

const WEAK_DIGESTS: [Nid; 2] = [Nid::MD5, Nid::SHA1];

const CURVES: [Nid; 3] = [Nid::X9_62_PRIME256V1, Nid::SECP384R1, Nid::SECP521R1];

const SECONDS_PER_DAY: i64 = 86_400;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::x509::X509Name;
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    use super::*;

    /// A pair of files; the certificate is valid from 1 000 000 000 to 2 000 000 000 seconds after 1970.
    fn pair(folder: &TempDir, name: &str) -> CertificateFiles {
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
        let files = CertificateFiles { chain: path("crt"), key: path("key") };
        fs::write(&files.chain, builder.build().to_pem().unwrap()).unwrap();
        fs::write(&files.key, key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        files
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn identity_of_a_good_pair_has_its_chain_key_and_dates() {
        let folder = TempDir::new().unwrap();
        let identity = Identity::load(&pair(&folder, "edge")).unwrap();
        assert_eq!(identity.chain().len(), 1);
        assert!(identity.chain()[0].public_key().unwrap().public_eq(identity.key()));
        assert_eq!((identity.not_before(), identity.not_after()), (at(1_000_000_000), at(2_000_000_000)));
        assert_eq!(identity.chain_gap(), None);
    }

    #[test]
    fn validity_includes_both_ends() {
        let folder = TempDir::new().unwrap();
        let identity = Identity::load(&pair(&folder, "edge")).unwrap();
        assert_eq!(identity.validity_at(at(999_999_999)), Validity::NotYetValid);
        assert_eq!(identity.validity_at(at(1_000_000_000)), Validity::Valid);
        assert_eq!(identity.validity_at(at(2_000_000_000)), Validity::Valid);
        assert_eq!(identity.validity_at(at(2_000_000_001)), Validity::Expired);
    }

    #[test]
    fn key_of_another_certificate_is_refused() {
        let folder = TempDir::new().unwrap();
        let (edge, other) = (pair(&folder, "edge"), pair(&folder, "other"));
        let mixed = CertificateFiles { chain: edge.chain, key: other.key };
        let error = Identity::load(&mixed).unwrap_err();
        assert!(matches!(error, IdentityError::KeyMismatch { .. }) && error.file() == File::Key, "{error}");
    }

    #[test]
    fn errors_of_both_files_are_given_together() {
        let folder = TempDir::new().unwrap();
        let files = pair(&folder, "edge");
        fs::remove_file(&files.chain).unwrap();
        fs::write(&files.key, "nothing of use").unwrap();
        let errors = Identity::load_with_all_errors(&files).unwrap_err();
        let [IdentityError::Read { .. }, IdentityError::NotPem { .. }] = &errors[..] else { panic!("{errors:?}") };
    }

    #[test]
    fn chain_with_a_stranger_in_it_has_a_gap_there() {
        let folder = TempDir::new().unwrap();
        let (edge, other) = (pair(&folder, "edge"), pair(&folder, "other"));
        let [mut chain, stranger] = [&edge.chain, &other.chain].map(|path| fs::read(path).unwrap());
        chain.extend(stranger);
        fs::write(&edge.chain, chain).unwrap();
        assert_eq!(Identity::load(&edge).unwrap().chain_gap(), Some(0));
    }

    #[test]
    fn key_file_that_everybody_can_read_is_told() {
        let folder = TempDir::new().unwrap();
        let files = pair(&folder, "edge");
        for (mode, expected) in [(0o600, false), (0o640, false), (0o644, true)] {
            fs::set_permissions(&files.key, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Identity::load(&files).unwrap().key_file_is_world_readable(), expected, "{mode:o}");
        }
    }

    #[test]
    fn debug_output_names_the_subject_and_nothing_of_the_key() {
        let folder = TempDir::new().unwrap();
        let text = format!("{:?}", Identity::load(&pair(&folder, "edge")).unwrap());
        assert!(text.contains("edge") && !text.to_lowercase().contains("key"), "{text}");
    }
}
