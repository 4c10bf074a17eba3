//! Reads certificates and keys from their files.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use openssl::error::ErrorStack;
use openssl::pkcs12::Pkcs12;
use openssl::pkey::{PKey, Private};
use openssl::x509::X509;
use zeroize::Zeroizing;

use super::super::{CertificateFiles, CertificateForm};
use super::error::{File, IdentityError};
use super::kind::KeyKind;

/// What the files of one identity hold: certificates as they lie there, and a key that is strong enough to serve.
pub(super) struct Content {
    pub(super) certificates: Vec<X509>,
    pub(super) key: PKey<Private>,
    pub(super) kind: KeyKind,
    /// Permission bits of the file with the key.
    pub(super) key_file_mode: u32,
    /// Those of the file with its passphrase; none where there is none.
    pub(super) passphrase_file_mode: Option<u32>,
    /// A passphrase is configured, and nothing asked for it.
    pub(super) is_passphrase_idle: bool,
}

/// The time by the clock that the kernel stamps files with. It stands still between two ticks, so that a file which is
/// written now may be stamped with a time before [`SystemTime::now`], and never with one before this.
pub fn file_time() -> SystemTime {
    let now = clock_gettime(ClockId::CLOCK_REALTIME_COARSE).map(|now| SystemTime::UNIX_EPOCH + Duration::from(now));
    // Every Linux has it.
    now.unwrap_or_else(|_| SystemTime::now())
}

/// Reads all the files, also where one of them is at fault.
pub(super) fn read_all(files: &CertificateFiles) -> Result<Content, Vec<IdentityError>> {
    let passphrase = files.passphrase.as_deref().map(read_passphrase).transpose().map_err(|error| vec![error])?;
    let content = match &files.form {
        CertificateForm::Pem { chain, key } => match (read_chain(chain), read_key(key, passphrase.as_ref())) {
            (Ok(certificates), Ok(key)) => Ok(Content { certificates, ..key }),
            (Err(chain), Err(key)) => Err(vec![chain, key]),
            (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(vec![error]),
        },
        CertificateForm::Pkcs12(path) => read_pkcs12(path, passphrase.as_ref()).map_err(|error| vec![error]),
    };
    Ok(Content { passphrase_file_mode: passphrase.map(|passphrase| passphrase.file_mode), ..content? })
}

/// Whether a file of a folder holds certificate and key in one.
pub(super) fn holds_key(path: &Path) -> Result<bool, IdentityError> {
    Ok(contains(&read_pem(path, File::Chain)?.0, b" PRIVATE KEY-----"))
}

/// The passphrase of a key, and where it came from.
struct Passphrase<'a> {
    secret: Zeroizing<Vec<u8>>,
    path: &'a Path,
    file_mode: u32,
}

fn read_passphrase(path: &Path) -> Result<Passphrase<'_>, IdentityError> {
    let (bytes, file_mode) = read(path, File::Passphrase)?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let unusable = |fault| Err(IdentityError::UnusablePassphrase { path: path.to_owned(), fault });
    if line.is_empty() {
        return unusable("has an empty first line");
    }
    if line.len() > PASSPHRASE_BYTES_MAX {
        return unusable("has a first line of more than 1024 bytes, which OpenSSL would cut");
    }
    if line.contains(&0) || std::str::from_utf8(line).is_err() {
        return unusable("has a first line that is no text");
    }
    Ok(Passphrase { secret: Zeroizing::new(line.to_vec()), path, file_mode })
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
    Ok((bytes, metadata.mode()))
}

fn read_pem(path: &Path, file: File) -> Result<(Zeroizing<Vec<u8>>, u32), IdentityError> {
    let (bytes, mode) = read(path, file)?;
    if !contains(&bytes, b"-----BEGIN ") {
        return Err(IdentityError::NotPem { file, path: path.to_owned() });
    }
    Ok((bytes, mode))
}

fn read_chain(path: &Path) -> Result<Vec<X509>, IdentityError> {
    let (pem, _) = read_pem(path, File::Chain)?;
    // The three labels that OpenSSL takes; without one it would return an empty list.
    let labels = [&b"BEGIN CERTIFICATE-----"[..], b"BEGIN X509 CERTIFICATE-----", b"BEGIN TRUSTED CERTIFICATE-----"];
    if !labels.iter().any(|label| contains(&pem, label)) {
        return Err(IdentityError::NoCertificate { file: File::Chain, path: path.to_owned() });
    }
    let malformed = |source| IdentityError::Malformed { file: File::Chain, path: path.to_owned(), source };
    X509::stack_from_pem(&pem).map_err(malformed)
}

/// Everything but the certificates.
fn read_key(path: &Path, passphrase: Option<&Passphrase<'_>>) -> Result<Content, IdentityError> {
    let (pem, key_file_mode) = read_pem(path, File::Key)?;
    // The first form is PKCS #8 (RFC 7468 section 11), the second the older one of RFC 1421 section 4.6.1.1.
    let is_encrypted =
        contains(&pem, b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || contains(&pem, b"Proc-Type: 4,ENCRYPTED");
    if !contains(&pem, b" PRIVATE KEY-----") {
        return Err(IdentityError::NoKey { file: File::Key, path: path.to_owned() });
    }
    let malformed = |source| IdentityError::Malformed { file: File::Key, path: path.to_owned(), source };
    let key = match (is_encrypted, passphrase) {
        (true, None) => return Err(IdentityError::EncryptedKey { file: File::Key, path: path.to_owned() }),
        (true, Some(passphrase)) => PKey::private_key_from_pem_passphrase(&pem, &passphrase.secret).map_err(|_| {
            let passphrase = passphrase.path.to_owned();
            IdentityError::WrongPassphrase { file: File::Key, path: path.to_owned(), passphrase }
        })?,
        // With the callback OpenSSL never asks for a passphrase on the terminal.
        (false, _) => PKey::private_key_from_pem_callback(&pem, |_| Err(ErrorStack::get())).map_err(malformed)?,
    };
    let kind = check_strength(path, &key)?;
    let is_passphrase_idle = passphrase.is_some() && !is_encrypted;
    Ok(Content { certificates: Vec::new(), key, kind, key_file_mode, passphrase_file_mode: None, is_passphrase_idle })
}

fn read_pkcs12(path: &Path, passphrase: Option<&Passphrase<'_>>) -> Result<Content, IdentityError> {
    const FILE: File = File::Pkcs12;
    let (der, key_file_mode) = read(path, FILE)?;
    let malformed = |source| IdentityError::Malformed { file: FILE, path: path.to_owned(), source };
    let archive = Pkcs12::from_der(&der).map_err(malformed)?;
    let secret = passphrase.map_or("", |passphrase| std::str::from_utf8(&passphrase.secret).unwrap_or_default());
    let parsed = archive.parse2(secret).map_err(|source| {
        let is_locked = source.errors().iter().any(|error| error.reason_code() == PKCS12_R_MAC_VERIFY_FAILURE);
        match (is_locked, passphrase) {
            (false, _) => malformed(source),
            (true, None) => IdentityError::EncryptedKey { file: FILE, path: path.to_owned() },
            (true, Some(passphrase)) => {
                let passphrase = passphrase.path.to_owned();
                IdentityError::WrongPassphrase { file: FILE, path: path.to_owned(), passphrase }
            }
        }
    })?;
    let key = parsed.pkey.ok_or_else(|| IdentityError::NoKey { file: FILE, path: path.to_owned() })?;
    let leaf = parsed.cert.ok_or_else(|| IdentityError::NoCertificate { file: FILE, path: path.to_owned() })?;
    let kind = check_strength(path, &key)?;
    let certificates = std::iter::once(leaf).chain(parsed.ca.into_iter().flatten()).collect();
    Ok(Content { certificates, key, kind, key_file_mode, passphrase_file_mode: None, is_passphrase_idle: false })
}

fn check_strength(path: &Path, key: &PKey<Private>) -> Result<KeyKind, IdentityError> {
    match KeyKind::of(key) {
        Some(KeyKind::Rsa | KeyKind::RsaPss) if key.bits() < RSA_BITS_MIN => {
            Err(IdentityError::WeakKey { path: path.to_owned(), bits: key.bits() })
        }
        Some(kind) => Ok(kind),
        None => Err(IdentityError::UnsupportedKey { path: path.to_owned() }),
    }
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// Largest certificate or key file that is read. A chain of ten RSA-4096 certificates has 25 KiB.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Smallest RSA modulus: NIST SP 800-131A, and what every browser asks for.
pub const RSA_BITS_MIN: u32 = 2048;

/// Longest passphrase: OpenSSL's PEM_BUFSIZE.
const PASSPHRASE_BYTES_MAX: usize = 1024;

/// OpenSSL's number for a PKCS #12 file that does not open with the passphrase.
const PKCS12_R_MAC_VERIFY_FAILURE: i32 = 113;
