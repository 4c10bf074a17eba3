//! A throw-away certification authority and a server certificate for the demo.

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509NameBuilder};

/// PEM texts: what the client trusts, and what the server shows and holds.
pub(super) struct Certificates {
    pub(super) authority: Vec<u8>,
    pub(super) chain: Vec<u8>,
    pub(super) key: Vec<u8>,
}

/// Days that the demo's certificates are valid.
const VALID_DAYS: u32 = 2;

/// Makes both, for localhost.
pub(super) fn make() -> Result<Certificates, ErrorStack> {
    let authority_key = p256_key()?;
    let mut builder = builder("Sluice demo CA", &authority_key)?;
    let issuer = name("Sluice demo CA")?;
    builder.set_issuer_name(&issuer)?;
    builder.append_extension(BasicConstraints::new().critical().ca().pathlen(0).build()?)?;
    builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build()?)?;
    builder.sign(&authority_key, MessageDigest::sha256())?;
    let authority = builder.build();

    let key = p256_key()?;
    let leaf = leaf(&authority, &authority_key, &key)?;
    Ok(Certificates { authority: authority.to_pem()?, chain: leaf.to_pem()?, key: key.private_key_to_pem_pkcs8()? })
}

fn leaf(authority: &X509, authority_key: &PKey<Private>, key: &PKey<Private>) -> Result<X509, ErrorStack> {
    let mut builder = builder("localhost", key)?;
    builder.set_issuer_name(authority.subject_name())?;
    builder.append_extension(BasicConstraints::new().critical().build()?)?;
    builder.append_extension(KeyUsage::new().critical().digital_signature().build()?)?;
    builder.append_extension(ExtendedKeyUsage::new().server_auth().build()?)?;
    let names = SubjectAlternativeName::new()
        .dns("localhost")
        .ip("127.0.0.1")
        .ip("::1")
        .build(&builder.x509v3_context(Some(authority), None))?;
    builder.append_extension(names)?;
    builder.sign(authority_key, MessageDigest::sha256())?;
    Ok(builder.build())
}

fn builder(common_name: &str, key: &PKey<Private>) -> Result<X509Builder, ErrorStack> {
    let mut builder = X509::builder()?;
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
    builder.set_version(2)?;
    builder.set_serial_number(&*serial.to_asn1_integer()?)?;
    let subject = name(common_name)?;
    builder.set_subject_name(&subject)?;
    builder.set_not_before(&*Asn1Time::days_from_now(0)?)?;
    builder.set_not_after(&*Asn1Time::days_from_now(VALID_DAYS)?)?;
    builder.set_pubkey(key)?;
    Ok(builder)
}

fn name(common_name: &str) -> Result<openssl::x509::X509Name, ErrorStack> {
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_nid(Nid::COMMONNAME, common_name)?;
    Ok(name.build())
}

fn p256_key() -> Result<PKey<Private>, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    PKey::from_ec_key(EcKey::generate(&group)?)
}
