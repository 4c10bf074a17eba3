//! The one-way derivations of the ring: chain secret to next chain secret, to epoch secret, to ticket keys.
//!
//! Everything is HKDF-Expand with SHA-256 (RFC 5869 section 2.3) under a label of its own, so that two outputs never
//! coincide. `docs/ticket-ring.md` holds the same formulas and the vectors for other implementations.

use std::fmt;

use openssl::error::ErrorStack;
use openssl::md::Md;
use openssl::pkey::Id;
use openssl::pkey_ctx::{HkdfMode, PkeyCtx};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::key::{KEY_NAME_BYTES, ScopeHash, TicketKey};

/// Bytes of a chain or epoch secret.
pub const SECRET_BYTES: usize = 32;
/// Bytes of a ring's fingerprint for one epoch.
pub const FINGERPRINT_BYTES: usize = 8;
/// Bytes of the check value of a ring file.
pub const CHECK_BYTES: usize = 16;

/// The secret of one position of the chain. Leads to every later position and to none before.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct ChainSecret([u8; SECRET_BYTES]);

impl ChainSecret {
    /// A fresh chain from the random generator.
    pub fn generate() -> Result<Self, ErrorStack> {
        let mut secret = Self([0; SECRET_BYTES]);
        openssl::rand::rand_priv_bytes(&mut secret.0)?;
        Ok(secret)
    }

    /// A chain that continues from known bytes.
    pub fn from_bytes(bytes: &[u8; SECRET_BYTES]) -> Self {
        Self(*bytes)
    }

    /// The bytes, for the ring file only.
    pub(super) fn expose(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }

    /// A second owner of the same secret, for a comparison that has to walk the chain.
    pub(super) fn duplicate(&self) -> Self {
        Self(self.0)
    }

    /// Whether both are the same secret, in constant time.
    pub(super) fn matches(&self, other: &Self) -> bool {
        openssl::memcmp::eq(&self.0, &other.0)
    }

    /// Moves to the next position and wipes this one. What it sealed can no longer be derived.
    pub fn advance(&mut self) -> Result<(), ErrorStack> {
        let mut next = [0; SECRET_BYTES];
        expand(&self.0, &[b"sluice ticket chain v1"], &mut next)?;
        self.0.zeroize();
        self.0 = next;
        next.zeroize();
        Ok(())
    }

    /// The secret of the epoch at this position.
    pub fn epoch_secret(&self, epoch: u64, epoch_length_seconds: u32) -> Result<EpochSecret, ErrorStack> {
        let mut secret = EpochSecret([0; SECRET_BYTES]);
        let length = epoch_length_seconds.to_be_bytes();
        expand(&self.0, &[b"sluice ticket epoch v1", &epoch.to_be_bytes(), &length], &mut secret.0)?;
        Ok(secret)
    }

    /// A value that only an owner of the secret can compute over `fields`: detects a damaged or edited ring file.
    pub(super) fn check(&self, fields: &[u8]) -> Result<[u8; CHECK_BYTES], ErrorStack> {
        let mut check = [0; CHECK_BYTES];
        expand(&self.0, &[b"sluice ticket ring check v1", fields], &mut check)?;
        Ok(check)
    }
}

impl fmt::Debug for ChainSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChainSecret(..)")
    }
}

/// The secret of one epoch; leads to the ticket keys of every scope in that epoch and to nothing else.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct EpochSecret([u8; SECRET_BYTES]);

impl EpochSecret {
    /// The ticket key of one scope.
    pub fn ticket_key(&self, scope: &ScopeHash) -> Result<TicketKey, ErrorStack> {
        // The block has the layout of nginx's 80-byte key file: name, HMAC key, AES key.
        let mut block = [0; KEY_NAME_BYTES + 2 * SECRET_BYTES];
        expand(&self.0, &[b"sluice ticket key v1", scope.as_bytes()], &mut block)?;
        let key = TicketKey::from_block(&block);
        block.zeroize();
        Ok(key)
    }

    /// A public value that is equal on every node that has the same ring in the same epoch.
    pub fn fingerprint(&self) -> Result<[u8; FINGERPRINT_BYTES], ErrorStack> {
        let mut fingerprint = [0; FINGERPRINT_BYTES];
        expand(&self.0, &[b"sluice ticket fingerprint v1"], &mut fingerprint)?;
        Ok(fingerprint)
    }
}

impl fmt::Debug for EpochSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EpochSecret(..)")
    }
}

/// HKDF-Expand(SHA-256): `info` is the concatenation of its parts.
fn expand(secret: &[u8; SECRET_BYTES], info: &[&[u8]], out: &mut [u8]) -> Result<(), ErrorStack> {
    let mut ctx = PkeyCtx::new_id(Id::HKDF)?;
    ctx.derive_init()?;
    ctx.set_hkdf_mode(HkdfMode::EXPAND_ONLY)?;
    ctx.set_hkdf_md(Md::sha256())?;
    ctx.set_hkdf_key(secret)?;
    for part in info {
        ctx.add_hkdf_info(part)?;
    }
    ctx.derive(Some(out))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

    use super::*;

    #[test]
    fn expand_agrees_with_an_independent_hkdf() {
        let secret = [7; SECRET_BYTES];
        for length in [8, 32, 80] {
            let mut ours = vec![0; length];
            let mut theirs = vec![0; length];
            expand(&secret, &[b"one", b"two"], &mut ours).unwrap();
            hkdf::Hkdf::<sha2::Sha256>::from_prk(&secret).unwrap().expand(b"onetwo", &mut theirs).unwrap();
            assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn chain_after_advancing_does_not_hold_the_former_secret() {
        let mut chain = ChainSecret::from_bytes(&[1; SECRET_BYTES]);
        let before = chain.epoch_secret(5, 3600).unwrap().fingerprint().unwrap();
        chain.advance().unwrap();
        assert_ne!(chain.expose(), &[1; SECRET_BYTES]);
        assert_ne!(chain.epoch_secret(5, 3600).unwrap().fingerprint().unwrap(), before);
    }

    #[test]
    fn epoch_secret_depends_on_epoch_and_on_its_length() {
        let chain = ChainSecret::from_bytes(&[1; SECRET_BYTES]);
        let of = |epoch, length| chain.epoch_secret(epoch, length).unwrap().fingerprint().unwrap();
        assert_ne!(of(5, 3600), of(6, 3600));
        assert_ne!(of(5, 3600), of(5, 1800));
    }

    #[test]
    fn secrets_print_nothing() {
        let chain = ChainSecret::from_bytes(&[0xab; SECRET_BYTES]);
        assert_eq!(format!("{chain:?}"), "ChainSecret(..)");
        assert_eq!(format!("{:?}", chain.epoch_secret(1, 60).unwrap()), "EpochSecret(..)");
    }
}
