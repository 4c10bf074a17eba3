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
    let (ca, ca_key) = authority();
    let key = match kind {
        KeyKind::EcdsaP256 => p256_key(),
        KeyKind::Rsa2048 => PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap(),
    };
    let mut builder = begin(SERVER_NAME, &key);
    builder.set_issuer_name(ca.subject_name()).unwrap();
    let names =
        SubjectAlternativeName::new().dns(SERVER_NAME).ip("127.0.0.1").build(&builder.x509v3_context(Some(&ca), None));
    builder.append_extension(names.unwrap()).unwrap();
    builder.append_extension(BasicConstraints::new().critical().build().unwrap()).unwrap();
    builder.sign(&ca_key, MessageDigest::sha256()).unwrap();
    let files =
        Files { ca: directory.join("ca.pem"), chain: directory.join("server.pem"), key: directory.join("server.key") };
    std::fs::write(&files.ca, ca.to_pem().unwrap()).unwrap();
    std::fs::write(&files.chain, builder.build().to_pem().unwrap()).unwrap();
    std::fs::write(&files.key, key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    std::fs::set_permissions(&files.key, Permissions::from_mode(0o600)).unwrap();
    files
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

fn p256_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}
