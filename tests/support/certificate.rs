//! A certificate authority of the test, and what it issued.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{BasicConstraints, KeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509NameBuilder};

/// The name in every certificate, beside 127.0.0.1.
pub(crate) const SERVER_NAME: &str = "localhost";

/// The kind of the server's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyKind {
    EcdsaP256,
    Rsa2048,
}

/// PEM files: the authority for the clients, chain and key for the proxy.
pub(crate) struct Files {
    pub(crate) ca: PathBuf,
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
}

/// Issues a certificate into `directory`.
pub(crate) fn issue(directory: &Path, kind: KeyKind) -> Files {
    let key = match kind {
        KeyKind::EcdsaP256 => p256_key(),
        KeyKind::Rsa2048 => rsa_key(),
    };
    let authority = Authority::new();
    let (chain, key) = authority.issue(directory, "server", &key, &[SERVER_NAME]);
    Files { ca: authority.write(directory), chain, key }
}

/// A certificate authority of the test.
pub(crate) struct Authority {
    certificate: X509,
    key: PKey<Private>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let (certificate, key) = authority();
        Self { certificate, key }
    }

    /// Writes its own certificate into the directory, for clients to trust.
    pub(crate) fn write(&self, directory: &Path) -> PathBuf {
        let path = directory.join("ca.pem");
        std::fs::write(&path, self.certificate.to_pem().unwrap()).unwrap();
        path
    }

    /// A certificate with `stem` as its common name, for these DNS names and for 127.0.0.1.
    pub(crate) fn certify(&self, stem: &str, key: &PKey<Private>, names: &[&str]) -> X509 {
        let ca = &self.certificate;
        let mut builder = begin(stem, key);
        builder.set_issuer_name(ca.subject_name()).unwrap();
        let mut alternative = SubjectAlternativeName::new();
        alternative.ip("127.0.0.1");
        for name in names {
            alternative.dns(name);
        }
        let alternative = alternative.build(&builder.x509v3_context(Some(ca), None)).unwrap();
        builder.append_extension(alternative).unwrap();
        builder.append_extension(BasicConstraints::new().critical().build().unwrap()).unwrap();
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        builder.build()
    }

    /// [`Authority::certify`], written into `STEM.pem` and `STEM.key`.
    pub(crate) fn issue(
        &self,
        directory: &Path,
        stem: &str,
        key: &PKey<Private>,
        names: &[&str],
    ) -> (PathBuf, PathBuf) {
        let (chain, key_path) = (directory.join(format!("{stem}.pem")), directory.join(format!("{stem}.key")));
        std::fs::write(&chain, self.certify(stem, key, names).to_pem().unwrap()).unwrap();
        write_key(&key_path, &key.private_key_to_pem_pkcs8().unwrap());
        (chain, key_path)
    }
}

/// Writes a file that only its owner may read.
pub(crate) fn write_key(path: &Path, content: &[u8]) {
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

fn authority() -> (X509, PKey<Private>) {
    let key = p256_key();
    let mut builder = begin("Test authority", &key);
    let name = name("Test authority");
    builder.set_issuer_name(&name).unwrap();
    builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    builder.append_extension(KeyUsage::new().critical().key_cert_sign().build().unwrap()).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    (builder.build(), key)
}

fn begin(common_name: &str, key: &PKey<Private>) -> X509Builder {
    let mut serial = BigNum::new().unwrap();
    serial.rand(127, MsbOption::MAYBE_ZERO, false).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&name(common_name)).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(30).unwrap()).unwrap();
    builder
}

fn name(common_name: &str) -> openssl::x509::X509Name {
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", common_name).unwrap();
    name.build()
}

pub(crate) fn p256_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

pub(crate) fn rsa_key() -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap()
}
