//! The ticket format: `key_name[16] | IV[16] | AES-CBC(session) | HMAC-SHA256[32]` (RFC 5077 section 4), with AWS-LC.
//!
//! In a handshake our build of OpenSSL asks for a whole ticket or its content, and this makes and opens it; the system's
//! OpenSSL only asks for the keys (`sys/openssl_ext`). Also for the vectors in `docs/ticket-ring.md`, the fuzz target, and to
//! see what sealing costs.
//!
//! Not AES-GCM: OpenSSL's own ticket code never asks a cipher for its tag and insists on a MAC of its own, and nodes with
//! either build share a ring. AES-256-CBC with HMAC-SHA256 over name, IV and ciphertext is what RFC 5077 recommends.

use std::fmt;

use aws_lc_rs::cipher::{
    AES_128, AES_256, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey,
    UnboundCipherKey,
};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{hmac, rand};

use super::clock::UnixSeconds;
use super::key::{KEY_NAME_BYTES, KeyTable, Lookup, Strength, TicketKey};
use crate::sys::openssl_ext::TicketProtection;

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

/// The keys of a ticket key in the form in which they compute. AWS-LC wipes them when it is dropped; what it leaves on the
/// stack meanwhile is its own affair.
pub(super) struct PreparedKey {
    mac: hmac::Key,
    sealing: PaddedBlockEncryptingKey,
    opening: PaddedBlockDecryptingKey,
}

impl PreparedKey {
    /// None where the library fails.
    pub(super) fn of(strength: Strength, cipher_key: &[u8], mac_key: &[u8]) -> Option<Self> {
        let algorithm = match strength {
            Strength::Aes128 => &AES_128,
            Strength::Aes256 => &AES_256,
        };
        let cipher = || UnboundCipherKey::new(algorithm, cipher_key);
        Some(Self {
            mac: hmac::Key::new(hmac::HMAC_SHA256, mac_key),
            sealing: PaddedBlockEncryptingKey::cbc_pkcs7(cipher().ok()?).ok()?,
            opening: PaddedBlockDecryptingKey::cbc_pkcs7(cipher().ok()?).ok()?,
        })
    }
}

impl fmt::Debug for PreparedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PreparedKey")
    }
}

impl TicketProtection for TicketKey {
    fn key_name(&self) -> &[u8; KEY_NAME_BYTES] {
        self.name_bytes()
    }

    fn cipher_key(&self) -> &[u8] {
        self.cipher_key()
    }

    fn mac_key(&self) -> &[u8] {
        self.mac_key()
    }

    fn seal_into(&self, content: &[u8], ticket: &mut [u8]) -> Option<usize> {
        let mut iv = [0; IV_BYTES];
        rand::fill(&mut iv).ok()?;
        write(self, &iv, content, ticket).ok()
    }

    fn open_into(&self, ticket: &[u8], content: &mut [u8]) -> Option<usize> {
        read(self, ticket, content).ok()
    }
}

/// Seals `content`. The IV must be random for every ticket.
///
/// # Errors
/// When AWS-LC fails, which it has no reason to.
pub fn seal(key: &TicketKey, iv: &[u8; IV_BYTES], content: &[u8]) -> Result<Vec<u8>, Unspecified> {
    let mut ticket = vec![0; ticket_len(content.len())];
    write(key, iv, content, &mut ticket)?;
    Ok(ticket)
}

/// Bytes of a ticket with so many bytes of content, which gets padding of 1 to 16 bytes.
fn ticket_len(content_len: usize) -> usize {
    KEY_NAME_BYTES + IV_BYTES + (content_len / IV_BYTES + 1) * IV_BYTES + MAC_BYTES
}

/// Writes a ticket to the beginning of `ticket`; gives its length. An error where it does not fit, too.
fn write(key: &TicketKey, iv: &[u8; IV_BYTES], content: &[u8], ticket: &mut [u8]) -> Result<usize, Unspecified> {
    let prepared = key.prepared().ok_or(Unspecified)?;
    if ticket.len() < ticket_len(content.len()) {
        return Err(Unspecified);
    }
    let sealed_len = {
        let (name, rest) = ticket.split_first_chunk_mut().ok_or(Unspecified)?;
        let (iv_place, rest) = rest.split_first_chunk_mut().ok_or(Unspecified)?;
        *name = *key.name_bytes();
        *iv_place = *iv;
        rest.get_mut(..content.len()).ok_or(Unspecified)?.copy_from_slice(content);
        let mut padded = Growing { bytes: rest, len: content.len() };
        prepared.sealing.less_safe_encrypt(&mut padded, EncryptionContext::Iv128(FixedLength::from(*iv)))?;
        KEY_NAME_BYTES + IV_BYTES + padded.len
    };
    let (sealed, rest) = ticket.split_at_mut(sealed_len);
    let mac = rest.get_mut(..MAC_BYTES).ok_or(Unspecified)?;
    mac.copy_from_slice(hmac::sign(&prepared.mac, sealed).as_ref());
    Ok(sealed_len + MAC_BYTES)
}

/// Room for a message and its padding, which the caller has made sure of.
struct Growing<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl AsMut<[u8]> for Growing<'_> {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl<'b> Extend<&'b u8> for Growing<'_> {
    fn extend<T: IntoIterator<Item = &'b u8>>(&mut self, more: T) {
        for (place, byte) in self.bytes[self.len..].iter_mut().zip(more) {
            *place = *byte;
            self.len += 1;
        }
    }
}

/// Opens a ticket with the key it names, if `table` has it and its time allows.
pub fn open(table: &KeyTable, ticket: &[u8], now: UnixSeconds) -> Result<Opened, Refusal> {
    if ticket.len() > TICKET_BYTES_MAX {
        return Err(Refusal::Malformed);
    }
    let (name, _) = ticket.split_first_chunk::<KEY_NAME_BYTES>().ok_or(Refusal::Malformed)?;
    let (sealed, _) = ticket.split_last_chunk::<MAC_BYTES>().ok_or(Refusal::Malformed)?;
    let ciphertext = sealed.get(KEY_NAME_BYTES + IV_BYTES..).ok_or(Refusal::Malformed)?;
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
    let mut content = vec![0; ciphertext.len()];
    let len = read(key, ticket, &mut content).map_err(|_| Refusal::Corrupted)?;
    content.truncate(len);
    Ok(Opened { content, age })
}

/// Opens a ticket of `key` into `content`; gives the length. An error where it is not authentic or not whole, or does not fit.
fn read(key: &TicketKey, ticket: &[u8], content: &mut [u8]) -> Result<usize, Unspecified> {
    let prepared = key.prepared().ok_or(Unspecified)?;
    let (sealed, mac) = ticket.split_last_chunk::<MAC_BYTES>().ok_or(Unspecified)?;
    let rest = sealed.get(KEY_NAME_BYTES..).ok_or(Unspecified)?;
    let (iv, ciphertext) = rest.split_first_chunk::<IV_BYTES>().ok_or(Unspecified)?;
    // The MAC is checked before anything is decrypted: otherwise the padding would be an oracle.
    hmac::verify(&prepared.mac, sealed, mac)?;
    let content = content.get_mut(..ciphertext.len()).ok_or(Unspecified)?;
    content.copy_from_slice(ciphertext);
    let context = DecryptionContext::Iv128(FixedLength::from(*iv));
    Ok(prepared.opening.decrypt(content, context)?.len())
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

    #[test]
    fn ticket_that_does_not_fit_is_not_written() {
        for content in [&[5; 15][..], &[5; 16]] {
            let whole = ticket(content);
            let table = table(7);
            let key = table.sealing_at(UnixSeconds(0)).unwrap();
            for room in 0..whole.len() {
                assert_eq!(key.seal_into(content, &mut vec![0; room]), None, "{room}");
            }
            assert_eq!(key.seal_into(content, &mut vec![0; whole.len() + 9]), Some(whole.len()));
            assert_eq!(key.open_into(&whole, &mut vec![0; whole.len() - 65]), None);
        }
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
