//! A folder of certificates.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use super::super::CertificateFiles;
use super::error::{File, IdentityError};
use super::file;

/// The certificates of a folder, in the order of their file names. `NAME.crt` and `NAME.pem` have their key in
/// `NAME.key`, or in themselves; `NAME.p12` and `NAME.pfx` are PKCS #12. `NAME.pass` beside them holds the passphrase.
/// Other files, hidden ones and folders are passed over.
///
/// # Errors
/// One error for each certificate without a key, or one about the folder.
pub fn list(folder: &Path) -> Result<Vec<CertificateFiles>, Vec<IdentityError>> {
    let failed = |source| vec![IdentityError::Read { file: File::Directory, path: folder.to_owned(), source }];
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && Extension::of(&path).is_some() && !path.is_dir() {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(vec![IdentityError::EmptyDirectory { path: folder.to_owned() }]);
    }
    paths.sort();
    let (mut found, mut errors) = (Vec::with_capacity(paths.len()), Vec::new());
    for path in &paths {
        match certificate(path) {
            Ok(files) => found.push(files),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(found) } else { Err(errors) }
}

fn certificate(path: &Path) -> Result<CertificateFiles, IdentityError> {
    let passphrase = Some(path.with_extension("pass")).filter(|path| path.exists());
    if Extension::of(path) == Some(Extension::Pkcs12) {
        return Ok(CertificateFiles { passphrase, ..CertificateFiles::pkcs12(path) });
    }
    let key = path.with_extension("key");
    if key.exists() {
        return Ok(CertificateFiles { passphrase, ..CertificateFiles::pem(path, &key) });
    }
    if file::holds_key(path)? {
        return Ok(CertificateFiles { passphrase, ..CertificateFiles::pem(path, path) });
    }
    Err(IdentityError::NoKeyBeside { path: path.to_owned(), key })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Extension {
    Pem,
    Pkcs12,
}

impl Extension {
    fn of(path: &Path) -> Option<Self> {
        match path.extension().and_then(OsStr::to_str)? {
            "crt" | "pem" => Some(Self::Pem),
            "p12" | "pfx" => Some(Self::Pkcs12),
            _ => None,
        }
    }
}
