//! The ticket format outside of a handshake: `key_name[16] | IV[16] | AES-CBC(session) | HMAC-SHA256[32]`.
//!
//! In a handshake OpenSSL builds and takes apart this format itself (RFC 5077 section 4) and only asks for keys
//! (`install.rs`). These functions are the same format in our hands: for the vectors in `docs/ticket-ring.md`, for the
//! fuzz target, and to see what sealing costs.
//!
//! Not AES-GCM: OpenSSL's ticket code never asks a cipher for its tag, nor gives one back on opening, and insists on a
//! MAC of its own. AES-256-CBC with HMAC-SHA256 over name, IV and ciphertext is what RFC 5077 recommends.

use openssl::cipher_ctx::CipherCtx;
use openssl::error::ErrorStack;

use super::clock::UnixSeconds;
use super::key::{KEY_NAME_BYTES, KeyTable, Lookup, TicketKey};
use crate::sys::openssl_ext::{HmacSha256, aes_cbc};

/// Bytes of the initialisation vector.
pub const IV_BYTES: usize = 16;
/// Bytes of the MAC at the end.
pub const MAC_BYTES: usize = 32;
/// Longest ticket: its length field has 16 bits.
pub const TICKET_BYTES_MAX: usize = u16::MAX as usize;

/// A ticket's content.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// The serialised session.
    pub content: Vec<u8>,
    /// Whether the key seals now or the ticket is due for renewal.
    pub age: KeyAge,
}

/// Whether a key still seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAge {
    /// It seals now.
    Current,
    /// It only opens.
    Previous,
}

/// Why a ticket does not open. None is worth an alert: the answer is a full handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Shorter than its fixed parts, longer than a ticket can be, or not whole cipher blocks.
    Malformed,
    /// Its key name is not ours.
    UnknownKey,
    /// Its key's time is over or has not come.
    Expired,
    /// Its key belongs to another scope.
    OtherScope,
    /// The MAC does not fit.
    Corrupted,
}

/// Seals `content`. The IV must be random for every ticket.
pub fn seal(key: &TicketKey, iv: &[u8; IV_BYTES], content: &[u8]) -> Result<Vec<u8>, ErrorStack> {
    let mut ticket = Vec::with_capacity(KEY_NAME_BYTES + IV_BYTES + content.len() + IV_BYTES + MAC_BYTES);
    ticket.extend_from_slice(&key.name().0);
    ticket.extend_from_slice(iv);
    let mut cipher = CipherCtx::new()?;
    cipher.encrypt_init(Some(aes_cbc(key.cipher_key().len())?), Some(key.cipher_key()), Some(iv))?;
    cipher.cipher_update_vec(content, &mut ticket)?;
    cipher.cipher_final_vec(&mut ticket)?;
    let mac = mac_of(key, &ticket)?;
    ticket.extend_from_slice(&mac);
    Ok(ticket)
}

/// Opens a ticket with the key it names, if `table` has it and its time allows.
pub fn open(table: &KeyTable, ticket: &[u8], now: UnixSeconds) -> Result<Opened, Refusal> {
    if ticket.len() > TICKET_BYTES_MAX {
        return Err(Refusal::Malformed);
    }
    let (name, _) = ticket.split_first_chunk::<KEY_NAME_BYTES>().ok_or(Refusal::Malformed)?;
    let (sealed, mac) = ticket.split_last_chunk::<MAC_BYTES>().ok_or(Refusal::Malformed)?;
    let ciphertext = sealed.get(KEY_NAME_BYTES + IV_BYTES..).ok_or(Refusal::Malformed)?;
    let iv = sealed.get(KEY_NAME_BYTES..KEY_NAME_BYTES + IV_BYTES).ok_or(Refusal::Malformed)?;
    if ciphertext.is_empty() || ciphertext.len() % IV_BYTES != 0 {
        return Err(Refusal::Malformed);
    }
    let (key, age) = match table.opening_at(name, now) {
        Lookup::Current(key) => (key, KeyAge::Current),
        Lookup::Previous(key) => (key, KeyAge::Previous),
        Lookup::Expired => return Err(Refusal::Expired),
        Lookup::OtherScope => return Err(Refusal::OtherScope),
        Lookup::Unknown => return Err(Refusal::UnknownKey),
    };
    // The MAC is checked before anything is decrypted: otherwise the padding would be an oracle.
    let expected = mac_of(key, sealed).map_err(|_| Refusal::Corrupted)?;
    if !openssl::memcmp::eq(&expected, mac) {
        return Err(Refusal::Corrupted);
    }
    let content = decrypt(key, iv, ciphertext).map_err(|_| Refusal::Corrupted)?;
    Ok(Opened { content, age })
}

fn decrypt(key: &TicketKey, iv: &[u8], ciphertext: &[u8]) -> Result<Vec<u8>, ErrorStack> {
    let mut content = Vec::with_capacity(ciphertext.len() + IV_BYTES);
    let mut cipher = CipherCtx::new()?;
    cipher.decrypt_init(Some(aes_cbc(key.cipher_key().len())?), Some(key.cipher_key()), Some(iv))?;
    cipher.cipher_update_vec(ciphertext, &mut content)?;
    cipher.cipher_final_vec(&mut content)?;
    Ok(content)
}

fn mac_of(key: &TicketKey, sealed: &[u8]) -> Result<[u8; MAC_BYTES], ErrorStack> {
    let mut mac = HmacSha256::new(key.mac_key())?;
    mac.update(sealed)?;
    mac.finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

    use super::super::key::ScheduledKey;
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn table(byte: u8) -> KeyTable {
        let mut block = [byte; 80];
        block[..16].copy_from_slice(&[1; 16]);
        let key = TicketKey::from_block(&block);
        KeyTable::new(vec![ScheduledKey { key, seals: 0..10, opens: 0..20 }], Vec::new(), Duration::from_secs(10))
    }

    fn ticket(content: &[u8]) -> Vec<u8> {
        seal(table(7).sealing_at(UnixSeconds(0)).unwrap(), &[3; 16], content).unwrap()
    }

    proptest! {
        #[test]
        fn ticket_opens_to_what_was_sealed(content in prop::collection::vec(any::<u8>(), 0..2000)) {
            let opened = open(&table(7), &ticket(&content), UnixSeconds(0)).unwrap();
            prop_assert_eq!(opened, Opened { content, age: KeyAge::Current });
        }

        #[test]
        fn ticket_with_any_bit_changed_is_refused(
            content in prop::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let mut ticket = ticket(&content);
            let at = at.index(ticket.len());
            ticket[at] ^= 1 << bit;
            let expected = if at < 16 { Refusal::UnknownKey } else { Refusal::Corrupted };
            prop_assert_eq!(open(&table(7), &ticket, UnixSeconds(0)), Err(expected));
        }
    }

    #[test]
    fn ticket_after_its_keys_time_is_due_for_renewal_and_then_refused() {
        let ticket = ticket(b"session");
        assert_eq!(open(&table(7), &ticket, UnixSeconds(10)).unwrap().age, KeyAge::Previous);
        assert_eq!(open(&table(7), &ticket, UnixSeconds(20)), Err(Refusal::Expired));
    }

    #[test]
    fn ticket_cut_short_or_too_long_is_malformed() {
        let whole = ticket(b"session");
        for length in 0..whole.len() {
            assert!(open(&table(7), &whole[..length], UnixSeconds(0)).is_err(), "at {length}");
        }
        assert_eq!(open(&table(7), &vec![1; TICKET_BYTES_MAX + 1], UnixSeconds(0)), Err(Refusal::Malformed));
        assert_eq!(open(&table(7), &[], UnixSeconds(0)), Err(Refusal::Malformed));
    }

    #[test]
    fn ticket_under_the_same_name_and_another_key_is_corrupted() {
        assert_eq!(open(&table(8), &ticket(b"session"), UnixSeconds(0)), Err(Refusal::Corrupted));
    }
}
