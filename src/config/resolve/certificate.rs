//! The certificates of a listener: read now, so that a start or reload cannot fail on them later.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use toml::Spanned;

use crate::tls::identity::{self, File, Identity, IdentityError, Notice, Table, Validity};
use crate::tls::{CertificateFiles, CertificateForm, CertificateSources, Ending, Nearness, THRESHOLD_DAYS, days_left};

use super::super::diagnostic::Diagnostic;
use super::super::raw;
use super::super::report::Report;
use super::super::scalar::{Field, quote};
use super::Environment;

/// The places of the files of one certificate.
struct Places {
    certificate: Range<usize>,
    key: Range<usize>,
    passphrase: Range<usize>,
    /// Whether the entry does not name the files itself: the folder that they come from does.
    is_folder: bool,
}

pub(super) fn resolve(
    raw: &raw::Tls,
    table: &Range<usize>,
    environment: &Environment,
    report: &mut Report,
) -> Option<(CertificateSources, Arc<Table>)> {
    let help = "certificates = [ { chain = \"edge.crt\", key = \"edge.key\" } ]";
    let directory = report.get(&raw.certificate_directory);
    match &raw.certificates {
        None if raw.certificate_directory.is_absent() => {
            report.missing(table, "certificates", help);
            return None;
        }
        Some(entries) if entries.get_ref().is_empty() && directory.is_none() => {
            let finding = Diagnostic::error("`certificates` is empty").allowed("allowed: at least one entry");
            report.push_at(finding.help(help), &entries.span(), "0 entries");
            return None;
        }
        _ => {}
    }
    let entries = raw.certificates.as_ref().map_or(&[][..], |entries| entries.get_ref().as_slice());
    let written: Vec<_> = entries.iter().map(|entry| files(entry, environment, report)).collect();
    let is_complete = written.iter().all(Option::is_some);
    let (files, mut places): (Vec<_>, Vec<_>) = written.into_iter().flatten().unzip();
    let mut sources = CertificateSources { entries: files, directory: None };
    let mut files = sources.entries.clone();
    if let Some((folder, span)) = directory {
        let folder = environment.absolute(&folder);
        let place =
            || Places { certificate: span.clone(), key: span.clone(), passphrase: span.clone(), is_folder: true };
        match identity::list_directory(&folder) {
            Ok(found) => {
                places.extend(found.iter().map(|_| place()));
                files.extend(found);
            }
            Err(errors) => errors.iter().for_each(|error| refuse(error, &place(), report)),
        }
        sources.directory = Some(folder);
    }

    let mut identities = Vec::with_capacity(files.len());
    for ((loaded, files), places) in identity::load_all(&files).into_iter().zip(&files).zip(&places) {
        match loaded {
            Ok(identity) => {
                warn(&identity, files, places, environment, report);
                identities.push(identity);
            }
            Err(errors) => errors.iter().for_each(|error| refuse(error, places, report)),
        }
    }
    if !is_complete || identities.is_empty() || report.has_errors() && identities.len() < files.len() {
        return None;
    }
    match Table::new(identities, environment.now) {
        Ok(table) => {
            warn_idle(&table, &files, &places, report);
            Some((sources, Arc::new(table)))
        }
        Err(error) => {
            let span = raw.certificates.as_ref().map_or(table.clone(), Spanned::span);
            report.push_at(Diagnostic::error(error.to_string()), &span, "too many");
            None
        }
    }
}

fn files(
    entry: &Spanned<raw::Certificate>,
    environment: &Environment,
    report: &mut Report,
) -> Option<(CertificateFiles, Places)> {
    let (raw, table) = (entry.get_ref(), entry.span());
    let passphrase = report.get(&raw.passphrase_file);
    let (form, certificate, key) = if raw.pkcs12.is_absent() {
        let help = "name the PEM file of the certificate: chain = \"edge.crt\"";
        let chain = report.required(&table, "chain", &raw.chain, help);
        let help = "name the PEM file of the private key: key = \"edge.key\"";
        let key = report.required(&table, "key", &raw.key, help);
        let (chain, key) = (chain?, key?);
        let form = CertificateForm::Pem { chain: environment.absolute(&chain.0), key: environment.absolute(&key.0) };
        (form, chain.1, key.1)
    } else {
        let (path, span) = report.get(&raw.pkcs12)?;
        for (beside, _) in [&raw.chain, &raw.key].into_iter().filter_map(Field::written) {
            let finding = Diagnostic::error("a certificate has `pkcs12` and PEM files");
            let finding = finding.allowed("allowed: either `pkcs12`, or `chain` and `key`");
            report.push_at(finding.and_at(span.clone(), "everything is in here"), &beside, "beside it");
        }
        (CertificateForm::Pkcs12(environment.absolute(&path)), span.clone(), span)
    };
    let passphrase_span = passphrase.as_ref().map_or(key.clone(), |(_, span)| span.clone());
    let passphrase = passphrase.map(|(path, _)| environment.absolute(&path));
    let places = Places { certificate, key, passphrase: passphrase_span, is_folder: false };
    Some((CertificateFiles { form, passphrase }, places))
}

fn warn(
    identity: &Identity,
    files: &CertificateFiles,
    places: &Places,
    environment: &Environment,
    report: &mut Report,
) {
    // A folder's place says nothing about which of its files it is.
    let of_file = |found: String, path: &Path| {
        if places.is_folder { format!("{}: {found}", path.display()) } else { found }
    };
    let date = humantime::format_rfc3339_seconds;
    match identity.validity_at(environment.now) {
        Validity::Valid => {
            if let Some(finding) = expires_soon(&Ending::of_identity(identity).valid, environment.now, |words| {
                format!("the certificate {words}")
            }) {
                let found = time_left(identity.not_after(), environment.now);
                report.push_at(finding.help("renew it"), &places.certificate, of_file(found, identity.path()));
            }
        }
        Validity::Expired => {
            let finding = Diagnostic::warning("the certificate has expired");
            let found = format!("valid until {}", date(identity.not_after()));
            let finding = finding.help("clients will refuse it: renew it");
            report.push_at(finding, &places.certificate, of_file(found, identity.path()));
        }
        Validity::NotYetValid => {
            let finding = Diagnostic::warning("the certificate is not valid yet");
            let found = format!("valid from {}", date(identity.not_before()));
            let finding = finding.help("clients will refuse it until then; check the clock too");
            report.push_at(finding, &places.certificate, of_file(found, identity.path()));
        }
    }
    for notice in identity.notices() {
        match notice {
            Notice::Repaired(repair) => {
                let positions = repair.left_out.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let found = match (repair.is_reordered, repair.left_out.is_empty()) {
                    (_, true) => "sent in another order than in the file".to_owned(),
                    (true, false) => format!("sent in another order, and without certificate {positions}"),
                    (false, false) => format!("sent without certificate {positions}, which issued none before it"),
                };
                let finding = Diagnostic::warning("the certificate chain is out of order, and was repaired")
                    .allowed("expected: the certificate, then the one that issued it, and so on")
                    .help("put the file in order, so that other programs can use it, too");
                report.push_at(finding, &places.certificate, of_file(found, identity.path()));
            }
            Notice::OpenKeyFile => {
                let finding = Diagnostic::warning("the private key is open to others: they can read or replace it")
                    .help(format!("chmod 0600 {}", files.key().display()));
                report.push_at(finding, &places.key, of_file("mode too open".to_owned(), files.key()));
            }
            Notice::OpenPassphraseFile => {
                let path = files.passphrase.as_deref().unwrap_or_else(|| files.key());
                let finding = Diagnostic::warning("the passphrase is open to others: they can read or replace it")
                    .help(format!("chmod 0600 {}", path.display()));
                report.push_at(finding, &places.passphrase, of_file("mode too open".to_owned(), path));
            }
            Notice::IdlePassphrase => {
                let finding = Diagnostic::warning("the passphrase is not needed: the key is not encrypted")
                    .help("remove `passphrase_file`, or encrypt the key");
                report.push_at(finding, &places.passphrase, of_file("not used".to_owned(), files.key()));
            }
        }
    }
}

/// A certificate that no client gets is probably a slip.
fn warn_idle(table: &Table, files: &[CertificateFiles], places: &[Places], report: &mut Report) {
    for (path, names) in table.idle() {
        let place = files.iter().zip(places).find(|(files, _)| files.certificate() == path);
        let Some((_, place)) = place else { continue };
        let (found, help) = match names.first() {
            None => ("no DNS name in it", "give it a subjectAltName: the common name does not count"),
            Some(_) => {
                ("never chosen", "certificates before it have all its names, on the same kind of key: remove one")
            }
        };
        let finding = Diagnostic::warning(format!("no client gets the certificate {}", quote(&path.to_string_lossy())));
        report.push_at(finding.help(help), &place.certificate, found);
    }
}

fn refuse(error: &IdentityError, places: &Places, report: &mut Report) {
    let (found, allowed, help) = advice(error);
    let mut finding = Diagnostic::error(error.to_string());
    if let Some(allowed) = allowed {
        finding = finding.allowed(allowed);
    }
    if let Some(help) = help {
        finding = finding.help(help);
    }
    match (error, error.file()) {
        (IdentityError::KeyMismatch { .. }, _) if !places.is_folder && places.certificate != places.key => {
            report.push_at(finding.and_at(places.certificate.clone(), "for this certificate"), &places.key, found);
        }
        (_, File::Key) => report.push_at(finding, &places.key, found),
        (_, File::Passphrase) => report.push_at(finding, &places.passphrase, found),
        (_, File::Chain | File::Pkcs12 | File::Directory) => report.push_at(finding, &places.certificate, found),
    }
}

/// What was found, what is allowed, and what to do.
fn advice(error: &IdentityError) -> (String, Option<String>, Option<String>) {
    let form = match error.file() {
        File::Chain => "allowed: PEM, the certificate first, then its intermediates",
        File::Key => "allowed: PEM, one private key",
        File::Pkcs12 => "allowed: PKCS #12 with a certificate, its intermediates and its key",
        File::Passphrase => "allowed: a text file with the passphrase in its first line",
        File::Directory => "allowed: a folder with NAME.crt or NAME.pem and NAME.key, or NAME.p12",
    };
    let with = |found: &str, help: &str| (found.to_owned(), Some(form.to_owned()), Some(help.to_owned()));
    let is_chain = error.file() == File::Chain;
    match error {
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
            with("not PEM", &help)
        }
        IdentityError::NoCertificate { file: File::Pkcs12, .. } => {
            with("no certificate in it", "export the certificate with its key: openssl pkcs12 -export -in .. -inkey ..")
        }
        IdentityError::NoKey { file: File::Pkcs12, .. } => {
            with("no private key in it", "export the certificate with its key: openssl pkcs12 -export -in .. -inkey ..")
        }
        IdentityError::NoCertificate { .. } => with("no certificate in it", "are `chain` and `key` swapped?"),
        IdentityError::NoKey { .. } => with("no private key in it", "are `chain` and `key` swapped?"),
        IdentityError::EncryptedKey { .. } => with(
            "needs a passphrase",
            "put the passphrase into a file of mode 0600 and name it: passphrase_file = \"..\"",
        ),
        IdentityError::WrongPassphrase { .. } => {
            let help = "try it: openssl pkey -noout -in KEY -passin file:PASSPHRASE (pkcs12 for PKCS #12)";
            ("locked".to_owned(), None, Some(help.to_owned()))
        }
        IdentityError::UnusablePassphrase { .. } => ("no passphrase".to_owned(), Some(form.to_owned()), None),
        IdentityError::Malformed { file: File::Pkcs12, .. } => {
            let help = "if it was exported with RC2 or 3DES, as older programs do, export it anew with AES: \
                        openssl pkcs12 -export";
            with("damaged, or of a kind that OpenSSL 4 does not read", help)
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
        IdentityError::WeakSignature { position, .. } => {
            let help = "clients refuse it: ask the issuer for a certificate that is signed with SHA-256".to_owned();
            (format!("certificate {position}"), Some("allowed: SHA-256 and better".to_owned()), Some(help))
        }
        IdentityError::UnsupportedKey { .. } => ("not supported".to_owned(), Some(KEYS.to_owned()), None),
        IdentityError::NoKeyBeside { .. } => with("no key for it", "put the key there, or the certificate elsewhere"),
        IdentityError::EmptyDirectory { .. } => {
            with("no certificate in it", "are the files named NAME.crt or NAME.pem?")
        }
        IdentityError::TooMany { count } => (format!("{count} certificates"), None, None),
    }
}

/// A word about what ends before long, which `title` names: a note where there is a month, a warning where there is
/// less. What has ended is for the caller to say.
pub(super) fn expires_soon(
    valid: &Range<SystemTime>,
    now: SystemTime,
    title: impl Fn(&str) -> String,
) -> Option<Diagnostic> {
    match Nearness::of(valid, now)? {
        Nearness::Expired => None,
        Nearness::Days(days) if Some(&days) == THRESHOLD_DAYS.last() => {
            Some(Diagnostic::note(title("expires within 30 days")))
        }
        Nearness::Days(_) => Some(Diagnostic::warning(title("expires soon"))),
    }
}

/// What is found of something that ends then.
pub(super) fn time_left(end: SystemTime, now: SystemTime) -> String {
    let days = days_left(end, now);
    let plural = if days == 1 { "" } else { "s" };
    format!("{days} day{plural} left, until {}", humantime::format_rfc3339_seconds(end))
}

const KEYS: &str = "allowed: RSA from 2048 bits, ECDSA on P-256, P-384 or P-521, Ed25519";
