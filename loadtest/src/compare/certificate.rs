//! Throw-away certificates, the same files for every proxy of one comparison.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};

/// Server name in the certificates, and what the client sends.
pub const SERVER_NAME: &str = "localhost";

/// Type of the certificate's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// ECDSA over P-256.
    EcdsaP256,
    /// RSA with 2048 bits.
    Rsa2048,
}

impl KeyType {
    /// Name in file names and in the JSON form.
    pub fn label(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ecdsa-p256",
            Self::Rsa2048 => "rsa-2048",
        }
    }
}

/// PEM files of one identity. Its chain is the self-signed certificate alone, and so its own root.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Certificate.
    pub chain: PathBuf,
    /// Private key, PKCS#8.
    pub key: PathBuf,
    /// Both in one file, key first, as HAProxy and Hitch want them.
    pub bundle: PathBuf,
}

/// Makes a key and a self-signed certificate, valid for two days, and writes them below `dir` (keys mode 0600).
pub fn create(dir: &Path, key_type: KeyType) -> anyhow::Result<Identity> {
    let key = generate(key_type).context("cannot make a key")?;
    let certificate = self_signed(&key).context("cannot make a certificate")?;
    let (certificate, key) = (certificate.to_pem()?, key.private_key_to_pem_pkcs8()?);
    let file = |ending: &str| dir.join(format!("{}.{ending}", key_type.label()));
    let identity = Identity { chain: file("crt"), key: file("key"), bundle: file("pem") };
    fs::write(&identity.chain, &certificate).with_context(|| format!("cannot write {}", identity.chain.display()))?;
    write_secret(&identity.key, &key)?;
    write_secret(&identity.bundle, &[key.as_slice(), certificate.as_slice()].concat())?;
    Ok(identity)
}

fn generate(key_type: KeyType) -> Result<PKey<Private>, openssl::error::ErrorStack> {
    match key_type {
        KeyType::EcdsaP256 => {
            let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
            PKey::from_ec_key(EcKey::generate(&group)?)
        }
        KeyType::Rsa2048 => PKey::from_rsa(Rsa::generate(2048)?),
    }
}

fn self_signed(key: &PKey<Private>) -> Result<X509, openssl::error::ErrorStack> {
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_nid(Nid::COMMONNAME, SERVER_NAME)?;
    let name = name.build();
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::MAYBE_ZERO, false)?;

    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_serial_number(&*serial.to_asn1_integer()?)?;
    builder.set_subject_name(&name)?;
    builder.set_issuer_name(&name)?;
    builder.set_pubkey(key)?;
    builder.set_not_before(&*Asn1Time::days_from_now(0)?)?;
    builder.set_not_after(&*Asn1Time::days_from_now(2)?)?;
    builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
    builder.append_extension(KeyUsage::new().critical().digital_signature().key_cert_sign().build()?)?;
    builder.append_extension(ExtendedKeyUsage::new().server_auth().build()?)?;
    let alternative =
        SubjectAlternativeName::new().dns(SERVER_NAME).ip("127.0.0.1").build(&builder.x509v3_context(None, None))?;
    builder.append_extension(alternative)?;
    builder.sign(key, MessageDigest::sha256())?;
    Ok(builder.build())
}

fn write_secret(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(content)).with_context(|| format!("cannot write {}", path.display()))
}
