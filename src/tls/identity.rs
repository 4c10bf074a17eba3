//! placeholder until the configuration branch lands
use openssl::pkey::{PKey, Private};
use openssl::x509::X509;
/// A certificate and its key.
pub struct Identity { /// chain
 pub chain: Vec<X509>, /// key
 pub key: PKey<Private> }
/// e
pub type IdentityError = openssl::error::ErrorStack;
impl Identity { /// l
 pub fn load(f: &super::CertificateFiles) -> Result<Self, IdentityError> {
  Ok(Self{ chain: X509::stack_from_pem(&std::fs::read(&f.chain).unwrap_or_default())?, key: PKey::private_key_from_pem(&std::fs::read(&f.key).unwrap_or_default())? }) } }
impl Identity { /// n
 pub fn not_after(&self) -> std::time::SystemTime { std::time::SystemTime::UNIX_EPOCH } }
