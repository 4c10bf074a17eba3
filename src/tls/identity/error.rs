//! Why certificates and keys cannot serve.

use std::io;
use std::path::PathBuf;

use openssl::error::ErrorStack;

use super::chain::SECURITY_BITS_MIN;
use super::file::{FILE_BYTES_MAX, RSA_BITS_MIN};
use super::table::IDENTITY_COUNT_MAX;

/// Which of the files of an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// The certificate chain.
    Chain,
    /// The private key.
    Key,
    /// Both in one, PKCS #12.
    Pkcs12,
    /// The passphrase of the key.
    Passphrase,
    /// A folder of certificates.
    Directory,
}

impl std::fmt::Display for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Chain => "certificate file",
            Self::Key => "key file",
            Self::Pkcs12 => "PKCS #12 file",
            Self::Passphrase => "passphrase file",
            Self::Directory => "certificate directory",
        })
    }
}

/// Why files cannot serve a listener. All are faults of configuration.
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
    /// No certificate in it, although its form is right.
    #[error("{file} {} holds no certificate", path.display())]
    NoCertificate {
        /// Which file.
        file: File,
        /// Its path.
        path: PathBuf,
    },
    /// No private key in it, although its form is right.
    #[error("{file} {} holds no private key", path.display())]
    NoKey {
        /// Which file.
        file: File,
        /// Its path.
        path: PathBuf,
    },
    /// The key needs a passphrase, and none is configured.
    #[error("{file} {} is encrypted with a passphrase", path.display())]
    EncryptedKey {
        /// Which file.
        file: File,
        /// Its path.
        path: PathBuf,
    },
    /// The passphrase is another one.
    #[error("{file} {} does not open with the passphrase of {}", path.display(), passphrase.display())]
    WrongPassphrase {
        /// Which file.
        file: File,
        /// Its path.
        path: PathBuf,
        /// The passphrase file.
        passphrase: PathBuf,
    },
    /// The first line of the passphrase file is no passphrase.
    #[error("passphrase file {} {fault}", path.display())]
    UnusablePassphrase {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// OpenSSL cannot read what is inside.
    #[error("{file} {} is damaged: {source}", path.display())]
    Malformed {
        /// Which file.
        file: File,
        /// Its path.
        path: PathBuf,
        /// What OpenSSL said.
        source: ErrorStack,
    },
    /// The key is of another pair than any of the certificates.
    #[error("key {} does not belong to any certificate of {}", key.display(), chain.display())]
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
    /// SHA-1 or MD5 in a signature: clients refuse it.
    #[error("certificate {position} of {} is signed with {digest}", path.display())]
    WeakSignature {
        /// The certificate file.
        path: PathBuf,
        /// Which certificate of it, from 1.
        position: usize,
        /// The hash of the signature.
        digest: &'static str,
    },
    /// Neither RSA nor ECDSA on a curve of TLS 1.3 nor Ed25519.
    #[error("key {} is neither RSA nor ECDSA on P-256, P-384 or P-521 nor Ed25519", path.display())]
    UnsupportedKey {
        /// The key file.
        path: PathBuf,
    },
    /// A certificate of a folder whose key is not beside it.
    #[error("certificate file {} has no key: none in it, and no {} beside it", path.display(), key.display())]
    NoKeyBeside {
        /// The certificate file.
        path: PathBuf,
        /// Where the key was looked for.
        key: PathBuf,
    },
    /// A folder without a certificate.
    #[error("certificate directory {} holds no certificate", path.display())]
    EmptyDirectory {
        /// Its path.
        path: PathBuf,
    },
    /// More certificates than one listener takes.
    #[error("{count} certificates for one listener, at most {IDENTITY_COUNT_MAX} are allowed")]
    TooMany {
        /// How many.
        count: usize,
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
            | Self::NoCertificate { file, .. }
            | Self::NoKey { file, .. }
            | Self::EncryptedKey { file, .. }
            | Self::WrongPassphrase { file, .. }
            | Self::Malformed { file, .. } => *file,
            Self::WeakIntermediate { .. } | Self::WeakSignature { .. } | Self::NoKeyBeside { .. } => File::Chain,
            Self::KeyMismatch { .. } | Self::WeakKey { .. } | Self::UnsupportedKey { .. } => File::Key,
            Self::UnusablePassphrase { .. } => File::Passphrase,
            Self::EmptyDirectory { .. } | Self::TooMany { .. } => File::Directory,
        }
    }
}
