//! A private hierarchy of certificates: authorities, what they issue, and what they revoke. Good and bad in every way
//! that a verifier must tell apart.

#![allow(dead_code, reason = "each file of tests uses a part of this")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use openssl::asn1::{Asn1Object, Asn1OctetString, Asn1Time};
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName, SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509Builder, X509CrlBuilder, X509Extension, X509Name, X509NameBuilder, X509RevokedBuilder};

const DAY: i64 = 86_400;

/// An authority and its key.
pub(crate) struct Authority {
    pub(crate) certificate: X509,
    key: PKey<Private>,
    /// From itself up to the last one below the root; empty for a root.
    chain: Vec<X509>,
}

/// A certificate, what issued it, and its key.
pub(crate) struct Credentials {
    pub(crate) certificate: X509,
    pub(crate) key: PKey<Private>,
    pub(crate) chain: Vec<X509>,
}

/// What a certificate says.
#[derive(Clone)]
pub(crate) struct Profile {
    pub(crate) common_name: String,
    pub(crate) dns: Vec<String>,
    pub(crate) uris: Vec<String>,
    pub(crate) purpose: Purpose,
    /// Where its authority answers questions about it.
    pub(crate) responder: Option<String>,
    /// Whether it demands an OCSP response.
    pub(crate) must_staple: bool,
    /// Seconds from now.
    pub(crate) valid: std::ops::Range<i64>,
}

/// What a certificate may be used for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Client,
    Server,
    /// Signing OCSP responses.
    OcspSigning,
    /// Nothing is said.
    Any,
}

impl Profile {
    /// A client's certificate without fault.
    pub(crate) fn client(common_name: &str) -> Self {
        Self {
            common_name: common_name.to_owned(),
            dns: Vec::new(),
            uris: Vec::new(),
            purpose: Purpose::Client,
            responder: None,
            must_staple: false,
            valid: -DAY..30 * DAY,
        }
    }

    pub(crate) fn expired(self) -> Self {
        Self { valid: -2 * DAY..-DAY, ..self }
    }

    pub(crate) fn not_yet_valid(self) -> Self {
        Self { valid: DAY..2 * DAY, ..self }
    }

    pub(crate) fn valid_for(self, seconds: i64) -> Self {
        Self { valid: -DAY..seconds, ..self }
    }

    pub(crate) fn purpose(self, purpose: Purpose) -> Self {
        Self { purpose, ..self }
    }

    pub(crate) fn dns(mut self, name: &str) -> Self {
        self.dns.push(name.to_owned());
        self
    }

    /// Names a responder.
    pub(crate) fn responder(self, url: &str) -> Self {
        Self { responder: Some(url.to_owned()), ..self }
    }

    /// Demands an OCSP response.
    pub(crate) fn must_staple(self) -> Self {
        Self { must_staple: true, ..self }
    }

    pub(crate) fn uri(mut self, uri: &str) -> Self {
        self.uris.push(uri.to_owned());
        self
    }
}

impl Authority {
    /// A root.
    pub(crate) fn root(common_name: &str) -> Self {
        Self::make(common_name, None, None, -DAY..3650 * DAY)
    }

    /// A root that was written somewhere, PEM.
    pub(crate) fn from_pem(certificate: &[u8], key: &[u8]) -> Self {
        let certificate = X509::from_pem(certificate).unwrap();
        Self { certificate, key: PKey::private_key_from_pem(key).unwrap(), chain: Vec::new() }
    }

    /// An authority below this one.
    pub(crate) fn intermediate(&self, common_name: &str) -> Self {
        Self::make(common_name, Some(self), None, -DAY..365 * DAY)
    }

    /// An authority below this one whose time is over.
    pub(crate) fn expired_intermediate(&self, common_name: &str) -> Self {
        Self::make(common_name, Some(self), None, -2 * DAY..-DAY)
    }

    /// An authority below this one that may certify names below `domain` only.
    pub(crate) fn constrained(&self, common_name: &str, domain: &str) -> Self {
        Self::make(common_name, Some(self), Some(domain), -DAY..365 * DAY)
    }

    fn make(common_name: &str, issuer: Option<&Self>, domain: Option<&str>, valid: std::ops::Range<i64>) -> Self {
        let key = new_key();
        let mut builder = begin(common_name, &key, &valid);
        let own_name = name(common_name);
        let (issuer_name, issuer_certificate, issuer_key) = match issuer {
            None => (own_name.as_ref(), None, &key),
            Some(issuer) => (issuer.certificate.subject_name(), Some(&issuer.certificate), &issuer.key),
        };
        builder.set_issuer_name(issuer_name).unwrap();
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build().unwrap()).unwrap();
        append_identifiers(&mut builder, issuer_certificate);
        if let Some(domain) = domain {
            builder.append_extension(permitted_domain(domain)).unwrap();
        }
        builder.sign(issuer_key, MessageDigest::sha256()).unwrap();
        let certificate = builder.build();
        let above = issuer.map(|issuer| issuer.chain.clone()).unwrap_or_default();
        let own = issuer.map(|_| certificate.clone());
        Self { chain: own.into_iter().chain(above).collect(), certificate, key }
    }

    /// Issues a certificate.
    pub(crate) fn issue(&self, profile: &Profile) -> Credentials {
        let key = new_key();
        let mut builder = begin(&profile.common_name, &key, &profile.valid);
        builder.set_issuer_name(self.certificate.subject_name()).unwrap();
        append_profile(&mut builder, profile, Some(&self.certificate));
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        Credentials { certificate: builder.build(), key, chain: self.chain.clone() }
    }

    /// Issues a client's certificate of exactly so many bytes, DER. Its signature is a byte or two longer or shorter each
    /// time, hence the attempts.
    pub(crate) fn issue_of_size(&self, bytes: usize) -> Credentials {
        let mut padding = bytes - 1024;
        for _ in 0..200 {
            let credentials = self.issue(&Profile::client("large").uri(&format!("uri:{}", "x".repeat(padding))));
            let len = credentials.certificate.to_der().unwrap().len();
            if len == bytes {
                return credentials;
            }
            padding = (padding + bytes).checked_sub(len).expect("the rest is shorter than that");
        }
        panic!("no certificate of {bytes} bytes in 200 attempts");
    }

    /// A revocation list, PEM, whose next update is due in `next_update` seconds.
    pub(crate) fn revocation_list(&self, revoked: &[&X509], next_update: i64) -> Vec<u8> {
        let mut builder = X509CrlBuilder::new().unwrap();
        builder.set_issuer_name(self.certificate.subject_name()).unwrap();
        builder.set_last_update(&time(next_update.min(0) - DAY)).unwrap();
        builder.set_next_update(&time(next_update)).unwrap();
        for certificate in revoked {
            let mut entry = X509RevokedBuilder::new().unwrap();
            entry.set_serial_number(certificate.serial_number()).unwrap();
            entry.set_revocation_date(&time(-DAY)).unwrap();
            builder.add_revoked(entry.build()).unwrap();
        }
        let identifier = self.certificate.subject_key_id().unwrap().as_slice();
        builder.append_extension(extension("2.5.29.35", false, &der(0x30, &der(0x80, identifier)))).unwrap();
        builder.append_extension(extension("2.5.29.20", false, &der(0x02, &[1]))).unwrap();
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        builder.build().unwrap().to_pem().unwrap()
    }

    /// Writes the private key, PEM.
    pub(crate) fn write_key(&self, directory: &Path, name: &str) -> PathBuf {
        let path = directory.join(name);
        std::fs::write(&path, self.key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        path
    }

    /// Writes the certificate, PEM.
    pub(crate) fn write(&self, directory: &Path, name: &str) -> PathBuf {
        let path = directory.join(name);
        std::fs::write(&path, self.certificate.to_pem().unwrap()).unwrap();
        path
    }
}

/// A certificate that its owner issued himself.
pub(crate) fn self_signed(profile: &Profile) -> Credentials {
    let key = new_key();
    let mut builder = begin(&profile.common_name, &key, &profile.valid);
    builder.set_issuer_name(&name(&profile.common_name)).unwrap();
    append_profile(&mut builder, profile, None);
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    Credentials { certificate: builder.build(), key, chain: Vec::new() }
}

impl Credentials {
    /// PEM files with the chain and with the key, as programs want them.
    pub(crate) fn write(&self, directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (chain, key) = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
        let certificates = std::iter::once(&self.certificate).chain(&self.chain);
        let pem: Vec<u8> = certificates.flat_map(|certificate| certificate.to_pem().unwrap()).collect();
        std::fs::write(&chain, pem).unwrap();
        std::fs::write(&key, self.key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        (chain, key)
    }

    /// The hash of the public key in hexadecimal digits.
    pub(crate) fn spki_sha256(&self) -> String {
        let der = self.certificate.public_key().unwrap().public_key_to_der().unwrap();
        openssl::sha::sha256(&der).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn begin(common_name: &str, key: &PKey<Private>, valid: &std::ops::Range<i64>) -> X509Builder {
    let mut serial = BigNum::new().unwrap();
    serial.rand(127, MsbOption::MAYBE_ZERO, false).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&name(common_name)).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&time(valid.start)).unwrap();
    builder.set_not_after(&time(valid.end)).unwrap();
    builder
}

fn append_profile(builder: &mut X509Builder, profile: &Profile, issuer: Option<&X509>) {
    builder.append_extension(BasicConstraints::new().critical().build().unwrap()).unwrap();
    builder.append_extension(KeyUsage::new().critical().digital_signature().build().unwrap()).unwrap();
    match profile.purpose {
        Purpose::Client => {
            builder.append_extension(ExtendedKeyUsage::new().client_auth().build().unwrap()).unwrap();
        }
        Purpose::Server => {
            builder.append_extension(ExtendedKeyUsage::new().server_auth().build().unwrap()).unwrap();
        }
        Purpose::OcspSigning => {
            builder.append_extension(ExtendedKeyUsage::new().other("OCSPSigning").build().unwrap()).unwrap();
        }
        Purpose::Any => {}
    }
    if let Some(url) = &profile.responder {
        builder.append_extension(responder(url)).unwrap();
    }
    if profile.must_staple {
        // RFC 7633: status_request.
        builder.append_extension(extension("1.3.6.1.5.5.7.1.24", false, &der(0x30, &der(0x02, &[5])))).unwrap();
    }
    append_identifiers(builder, issuer);
    if profile.dns.is_empty() && profile.uris.is_empty() {
        return;
    }
    let mut names = SubjectAlternativeName::new();
    for name in &profile.dns {
        names.dns(name);
    }
    for uri in &profile.uris {
        names.uri(uri);
    }
    let names = names.build(&builder.x509v3_context(issuer.map(AsRef::as_ref), None)).unwrap();
    builder.append_extension(names).unwrap();
}

fn append_identifiers(builder: &mut X509Builder, issuer: Option<&X509>) {
    let own = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None)).unwrap();
    builder.append_extension(own).unwrap();
    if let Some(issuer) = issuer {
        let above = AuthorityKeyIdentifier::new().keyid(true).build(&builder.x509v3_context(Some(issuer), None));
        builder.append_extension(above.unwrap()).unwrap();
    }
}

/// RFC 5280 section 4.2.2.1.
fn responder(url: &str) -> X509Extension {
    let ocsp = [0x06, 8, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01];
    let description = der(0x30, &[&ocsp[..], &der(0x86, url.as_bytes())].concat());
    extension("1.3.6.1.5.5.7.1.1", false, &der(0x30, &description))
}

/// RFC 5280 section 4.2.1.10.
fn permitted_domain(domain: &str) -> X509Extension {
    let subtree = der(0x30, &der(0x82, domain.as_bytes()));
    extension("2.5.29.30", true, &der(0x30, &der(0xa0, &subtree)))
}

fn extension(oid: &str, is_critical: bool, value: &[u8]) -> X509Extension {
    let oid = Asn1Object::from_str(oid).unwrap();
    X509Extension::new_from_der(&oid, is_critical, &Asn1OctetString::new_from_bytes(value).unwrap()).unwrap()
}

/// One DER element of less than 128 bytes.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).ok().filter(|length| *length < 128).expect("a short element");
    [&[tag, length][..], content].concat()
}

fn name(common_name: &str) -> X509Name {
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("O", "Sluice tests").unwrap();
    name.append_entry_by_text("CN", common_name).unwrap();
    name.build()
}

/// So many seconds from now.
fn time(seconds: i64) -> Asn1Time {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    Asn1Time::from_unix(i64::try_from(now).unwrap() + seconds).unwrap()
}

fn new_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

/// Python with this program, which finds a `context` for clients of this version (`TLSv1_2`, `TLSv1_3`) with the chain and
/// key that are given, no `session`, and in `arguments` what the caller adds.
pub(crate) fn python(program: &str, version: &str, identity: Option<(&Path, &Path)>) -> std::process::Command {
    let none = (Path::new("-"), Path::new("-"));
    let (chain, key) = identity.unwrap_or(none);
    let mut command = std::process::Command::new("python3");
    command.arg("-c").arg(format!("{PYTHON_CONTEXT}{program}")).arg(version).arg(chain).arg(key);
    command
}

const PYTHON_CONTEXT: &str = "
import socket, ssl, sys
version, chain, key, *arguments = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
if chain != '-':
    context.load_cert_chain(chain, key)
session = None
";
