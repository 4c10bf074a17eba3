//! The certificate of a listener: looked at now, so that a start or reload cannot fail on it later.

use std::ops::Range;

use crate::tls::CertificateFiles;
use crate::tls::identity::{File, Identity, IdentityError, Validity};

use super::super::diagnostic::Diagnostic;
use super::super::raw;
use super::super::report::Report;
use super::Environment;

pub(super) fn resolve(
    raw: &raw::Tls,
    table: &Range<usize>,
    environment: &Environment,
    report: &mut Report,
) -> Option<CertificateFiles> {
    let help = "certificates = [ { chain = \"edge.crt\", key = \"edge.key\" } ]";
    let Some(certificates) = &raw.certificates else {
        report.missing(table, "certificates", help);
        return None;
    };
    let span = certificates.span();
    let count = certificates.get_ref().len();
    if count != 1 {
        let title = if count == 0 { "`certificates` is empty" } else { "more than one certificate on a listener" };
        let finding = Diagnostic::error(title).allowed("allowed: exactly one entry: one certificate per listener");
        report.push_at(finding.help(help), &span, format!("{count} entries"));
    }
    let files: Vec<_> =
        certificates.get_ref().iter().map(|entry| files(entry.get_ref(), &entry.span(), environment, report)).collect();
    files.into_iter().next().flatten()
}

fn files(
    raw: &raw::Certificate,
    table: &Range<usize>,
    environment: &Environment,
    report: &mut Report,
) -> Option<CertificateFiles> {
    let chain =
        report.required(table, "chain", &raw.chain, "name the PEM file of the certificate: chain = \"edge.crt\"");
    let key = report.required(table, "key", &raw.key, "name the PEM file of the private key: key = \"edge.key\"");
    let (chain, key) = (chain?, key?);
    let files = CertificateFiles { chain: environment.absolute(&chain.0), key: environment.absolute(&key.0) };
    match Identity::load_with_all_errors(&files) {
        Ok(identity) => warn(&identity, &files, &chain.1, &key.1, environment, report),
        Err(errors) => errors.iter().for_each(|error| refuse(error, &chain.1, &key.1, report)),
    }
    Some(files)
}

fn warn(
    identity: &Identity,
    files: &CertificateFiles,
    chain: &Range<usize>,
    key: &Range<usize>,
    environment: &Environment,
    report: &mut Report,
) {
    let date = humantime::format_rfc3339_seconds;
    match identity.validity_at(environment.now) {
        Validity::Valid => {}
        Validity::Expired => {
            let finding = Diagnostic::warning("the certificate has expired");
            let found = format!("valid until {}", date(identity.not_after()));
            report.push_at(finding.help("clients will refuse it: renew it"), chain, found);
        }
        Validity::NotYetValid => {
            let finding = Diagnostic::warning("the certificate is not valid yet");
            let found = format!("valid from {}", date(identity.not_before()));
            report.push_at(finding.help("clients will refuse it until then; check the clock too"), chain, found);
        }
    }
    if let Some(position) = identity.chain_gap() {
        let finding = Diagnostic::warning("the certificate chain is out of order")
            .allowed("expected: the certificate, then the one that issued it, and so on")
            .help("some clients refuse such a chain: reorder the file");
        let found = format!("certificate {} was not issued by certificate {}", position + 1, position + 2);
        report.push_at(finding, chain, found);
    }
    if let Some(position) = identity.weak_signature() {
        let finding = Diagnostic::warning("the certificate chain is signed with SHA-1 or MD5")
            .help("clients will refuse it: ask the issuer for SHA-256");
        report.push_at(finding, chain, format!("certificate {position}"));
    }
    if identity.key_file_is_world_readable() {
        let finding = Diagnostic::warning("every user of this machine can read the private key")
            .help(format!("chmod 0600 {}", files.key.display()));
        report.push_at(finding, key, "world-readable");
    }
}

fn refuse(error: &IdentityError, chain: &Range<usize>, key: &Range<usize>, report: &mut Report) {
    let (found, allowed, help) = advice(error);
    let mut finding = Diagnostic::error(error.to_string());
    if let Some(allowed) = allowed {
        finding = finding.allowed(allowed);
    }
    if let Some(help) = help {
        finding = finding.help(help);
    }
    match (error, error.file()) {
        (IdentityError::KeyMismatch { .. }, _) => {
            report.push_at(finding.and_at(chain.clone(), "for this certificate"), key, found);
        }
        (_, File::Chain) => report.push_at(finding, chain, found),
        (_, File::Key) => report.push_at(finding, key, found),
    }
}

/// What was found, what is allowed, and what to do.
fn advice(error: &IdentityError) -> (String, Option<String>, Option<String>) {
    let is_chain = error.file() == File::Chain;
    let form = if is_chain {
        "allowed: PEM, the certificate first, then its intermediates"
    } else {
        "allowed: PEM, one private key without a passphrase"
    };
    let (found, allowed, help) = match error {
        IdentityError::Read { path, source, .. } => {
            let help = match source.kind() {
                std::io::ErrorKind::NotFound => {
                    "relative paths start at the folder of the configuration file".to_owned()
                }
                std::io::ErrorKind::PermissionDenied => {
                    format!("let the user that runs the proxy read it: ls -l {}", path.display())
                }
                _ => format!("look at it with: ls -l {}", path.display()),
            };
            ("cannot be read".to_owned(), None, Some(help))
        }
        IdentityError::NotRegular { found, .. } => ((*found).to_owned(), Some(form.to_owned()), None),
        IdentityError::Empty { .. } => ("empty".to_owned(), Some(form.to_owned()), None),
        IdentityError::TooLarge { bytes, .. } => (format!("{bytes} bytes"), Some(form.to_owned()), None),
        IdentityError::NotPem { .. } => {
            let kind = if is_chain { "x509" } else { "pkey" };
            let help = format!("if it is DER, convert it: openssl {kind} -inform der -in FILE -out FILE.pem");
            ("not PEM".to_owned(), Some(form.to_owned()), Some(help))
        }
        IdentityError::NoCertificate { .. } => {
            let help = "are `chain` and `key` swapped?".to_owned();
            ("no certificate in it".to_owned(), Some(form.to_owned()), Some(help))
        }
        IdentityError::NoKey { .. } => {
            let help = "are `chain` and `key` swapped?".to_owned();
            ("no private key in it".to_owned(), Some(form.to_owned()), Some(help))
        }
        IdentityError::EncryptedKey { .. } => {
            let help = "remove the passphrase: openssl pkey -in FILE -out FILE.plain, and keep the file at mode 0600";
            ("needs a passphrase".to_owned(), Some(form.to_owned()), Some(help.to_owned()))
        }
        IdentityError::Malformed { .. } => ("damaged".to_owned(), Some(form.to_owned()), None),
        IdentityError::KeyMismatch { .. } => {
            let help = "compare: openssl x509 -noout -pubkey -in CHAIN; openssl pkey -pubout -in KEY".to_owned();
            ("this key is of another pair".to_owned(), None, Some(help))
        }
        IdentityError::WeakKey { bits, .. } => {
            let help = "ask for a new certificate on a new key: openssl ecparam -genkey -name prime256v1".to_owned();
            (format!("{bits} bits"), Some(KEYS.to_owned()), Some(help))
        }
        IdentityError::WeakIntermediate { .. } => {
            let help = "ask the issuer for a chain with RSA keys from 2048 bits, or ECDSA".to_owned();
            ("too weak to be served".to_owned(), None, Some(help))
        }
        IdentityError::UnsupportedKey { .. } => {
            let allowed = KEYS.to_owned();
            ("not supported".to_owned(), Some(allowed), None)
        }
    };
    (found, allowed, help)
}

const KEYS: &str = "allowed: RSA from 2048 bits, ECDSA on P-256, P-384 or P-521, Ed25519";
