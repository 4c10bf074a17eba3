//! Reading authorities and revocation lists.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use openssl::error::ErrorStack;
use openssl::x509::{X509, X509Crl};

/// Largest file of authorities. All those that browsers trust have 220 KiB.
pub(super) const CA_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Largest file of revocation lists: some three million revoked certificates.
pub(super) const CRL_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Which kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuthFile {
    /// Authorities.
    Ca,
    /// Revocation lists.
    Crl,
}

impl std::fmt::Display for ClientAuthFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ca => "CA file",
            Self::Crl => "CRL file",
        })
    }
}

/// Why a file cannot be used. All are faults of configuration.
#[derive(Debug, thiserror::Error)]
pub enum ClientAuthError {
    /// The file does not exist or may not be read.
    #[error("cannot read {file} {}: {source}", path.display())]
    Read {
        /// Which file.
        file: ClientAuthFile,
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory, socket, device or pipe.
    #[error("{file} {} is {found}, not a regular file", path.display())]
    NotRegular {
        /// Which file.
        file: ClientAuthFile,
        /// Its path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// Nothing in it.
    #[error("{file} {} is empty", path.display())]
    Empty {
        /// Which file.
        file: ClientAuthFile,
        /// Its path.
        path: PathBuf,
    },
    /// Larger than anybody needs.
    #[error("{file} {} is {bytes} bytes, more than the {max} allowed", path.display())]
    TooLarge {
        /// Which file.
        file: ClientAuthFile,
        /// Its path.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// No certificate in it.
    #[error("CA file {} holds no PEM certificate", path.display())]
    NoCertificate {
        /// Its path.
        path: PathBuf,
    },
    /// No revocation list in it.
    #[error("CRL file {} holds no revocation list", path.display())]
    NoList {
        /// Its path.
        path: PathBuf,
    },
    /// OpenSSL cannot read it.
    #[error("{} is damaged: {source}", path.display())]
    Malformed {
        /// Its path.
        path: PathBuf,
        /// What OpenSSL said.
        source: ErrorStack,
    },
}

impl ClientAuthError {
    /// The file that the operator has to look at.
    pub fn path(&self) -> &Path {
        match self {
            Self::Read { path, .. }
            | Self::NotRegular { path, .. }
            | Self::Empty { path, .. }
            | Self::TooLarge { path, .. }
            | Self::NoCertificate { path }
            | Self::NoList { path }
            | Self::Malformed { path, .. } => path,
        }
    }
}

/// At least one.
pub(super) fn authorities(path: &Path) -> Result<Vec<X509>, ClientAuthError> {
    let pem = read(path, ClientAuthFile::Ca, CA_BYTES_MAX)?;
    let no_certificate = || ClientAuthError::NoCertificate { path: path.to_owned() };
    if find(&pem, b"CERTIFICATE-----").is_none() {
        return Err(no_certificate());
    }
    let malformed = |source| ClientAuthError::Malformed { path: path.to_owned(), source };
    let authorities = X509::stack_from_pem(&pem).map_err(malformed)?;
    if authorities.is_empty() { Err(no_certificate()) } else { Ok(authorities) }
}

/// At least one: all of a PEM file, or the one of a DER file, as authorities publish them.
pub(super) fn lists(path: &Path) -> Result<Vec<X509Crl>, ClientAuthError> {
    const BEGIN: &[u8] = b"-----BEGIN X509 CRL-----";
    const END: &[u8] = b"-----END X509 CRL-----";
    let bytes = read(path, ClientAuthFile::Crl, CRL_BYTES_MAX)?;
    let malformed = |source| ClientAuthError::Malformed { path: path.to_owned(), source };
    // The tag of a DER sequence.
    if bytes.first() == Some(&0x30) {
        return X509Crl::from_der(&bytes).map(|list| vec![list]).map_err(malformed);
    }
    let mut lists = Vec::new();
    let mut rest = bytes.as_slice();
    while let Some(begin) = find(rest, BEGIN) {
        let block = &rest[begin..];
        let end = find(block, END).map_or(block.len(), |end| end + END.len());
        lists.push(X509Crl::from_pem(&block[..end]).map_err(malformed)?);
        rest = &block[end..];
    }
    if lists.is_empty() { Err(ClientAuthError::NoList { path: path.to_owned() }) } else { Ok(lists) }
}

fn read(path: &Path, file: ClientAuthFile, max: u64) -> Result<Vec<u8>, ClientAuthError> {
    let failed = |source| ClientAuthError::Read { file, path: path.to_owned(), source };
    // Looked at before opening: opening a FIFO waits for a writer.
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "a directory" } else { "a device, socket or pipe" };
        return Err(ClientAuthError::NotRegular { file, path: path.to_owned(), found });
    }
    if metadata.len() > max {
        return Err(ClientAuthError::TooLarge { file, path: path.to_owned(), bytes: metadata.len(), max });
    }
    let mut bytes = Vec::new();
    fs::File::open(path).map_err(failed)?.take(max).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(ClientAuthError::Empty { file, path: path.to_owned() });
    }
    Ok(bytes)
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}
