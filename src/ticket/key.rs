//! Ticket keys, their names, and the table of keys that one scope may use at a given time.

use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;
use std::time::Duration;

use openssl::sha::Sha256;
use zeroize::ZeroizeOnDrop;

use super::clock::UnixSeconds;
use super::seal::PreparedKey;

/// Bytes of a key name (RFC 5077 section 4).
pub const KEY_NAME_BYTES: usize = 16;
/// Bytes of a [`ScopeHash`]: also the most that OpenSSL takes as a session id context.
pub const SCOPE_BYTES: usize = 32;
/// Names of unusable keys that a table remembers so that their tickets are counted by reason. Further names are
/// forgotten; their tickets count as `unknown_key` and are refused all the same.
pub const REMEMBERED_NAMES_MAX: usize = 4096;

/// The public name of a ticket key. Derived like the key: it tells neither epoch nor scope.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName(pub [u8; KEY_NAME_BYTES]);

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyName({self})")
    }
}

/// AES key size of a ticket key; the HMAC-SHA256 key has the same length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// AES-128-CBC: nginx's 48-byte key files only.
    Aes128,
    /// AES-256-CBC.
    Aes256,
}

impl Strength {
    /// Bytes of each of the two keys.
    pub fn key_bytes(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes256 => 32,
        }
    }
}

/// The keys that protect a ticket: AES-CBC, then HMAC-SHA256 over name, IV and ciphertext.
#[derive(ZeroizeOnDrop)]
pub struct TicketKey {
    #[zeroize(skip)]
    name: KeyName,
    #[zeroize(skip)]
    strength: Strength,
    mac: [u8; 32],
    cipher: [u8; 32],
    /// Made with the first ticket; it wipes itself. In a box: tables are searched by name.
    #[zeroize(skip)]
    prepared: OnceLock<Option<Box<PreparedKey>>>,
}

impl TicketKey {
    fn blank(strength: Strength) -> Self {
        let name = KeyName([0; KEY_NAME_BYTES]);
        Self { name, strength, mac: [0; 32], cipher: [0; 32], prepared: OnceLock::new() }
    }

    /// From an 80-byte block: name, HMAC key, AES-256 key.
    pub fn from_block(block: &[u8; 80]) -> Self {
        let mut key = Self::blank(Strength::Aes256);
        key.name.0.copy_from_slice(&block[..16]);
        key.mac.copy_from_slice(&block[16..48]);
        key.cipher.copy_from_slice(&block[48..]);
        key
    }

    /// From a 48-byte block: name, AES-128 key, HMAC key (the other way round than in the long form).
    pub fn from_short_block(block: &[u8; 48]) -> Self {
        let mut key = Self::blank(Strength::Aes128);
        key.name.0.copy_from_slice(&block[..16]);
        key.cipher[..16].copy_from_slice(&block[16..32]);
        key.mac[..16].copy_from_slice(&block[32..]);
        key
    }

    /// The public name.
    pub fn name(&self) -> KeyName {
        self.name
    }

    /// The size of the keys.
    pub fn strength(&self) -> Strength {
        self.strength
    }

    /// The HMAC-SHA256 key: 16 or 32 bytes.
    pub fn mac_key(&self) -> &[u8] {
        &self.mac[..self.strength.key_bytes()]
    }

    /// The AES key: 16 or 32 bytes.
    pub fn cipher_key(&self) -> &[u8] {
        &self.cipher[..self.strength.key_bytes()]
    }

    /// A second owner of the same key, for the table of another scope.
    pub(super) fn duplicate(&self) -> Self {
        let mut key = Self::blank(self.strength);
        (key.name, key.mac, key.cipher) = (self.name, self.mac, self.cipher);
        key
    }

    pub(super) fn name_bytes(&self) -> &[u8; KEY_NAME_BYTES] {
        &self.name.0
    }

    /// The keys as they compute; none where the library failed to prepare them.
    pub(super) fn prepared(&self) -> Option<&PreparedKey> {
        let prepare = || PreparedKey::of(self.strength, self.cipher_key(), self.mac_key()).map(Box::new);
        self.prepared.get_or_init(prepare).as_deref()
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketKey(name={})", self.name)
    }
}

/// What admitted a session, as a hash: sessions resume only under the hash they were established under.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopeHash([u8; SCOPE_BYTES]);

impl ScopeHash {
    /// The hash of named fields, in any order: listener policy, client-auth mode, content of CA and CRL files, and
    /// whatever else decides who may connect.
    ///
    /// Every field counts, and so does its absence. Names and values are length-prefixed, so that no two different
    /// lists give the same bytes.
    pub fn of(fields: &[(&str, &[u8])]) -> Self {
        let mut sorted: Vec<_> = fields.to_vec();
        sorted.sort_unstable();
        let mut hash = Sha256::new();
        hash.update(b"sluice ticket scope v1");
        for (name, value) in sorted {
            for part in [name.as_bytes(), value] {
                hash.update(&(part.len() as u64).to_be_bytes());
                hash.update(part);
            }
        }
        Self(hash.finish())
    }

    /// The bytes; also the session id context of the scope's contexts.
    pub fn as_bytes(&self) -> &[u8; SCOPE_BYTES] {
        &self.0
    }
}

impl From<[u8; SCOPE_BYTES]> for ScopeHash {
    fn from(bytes: [u8; SCOPE_BYTES]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for ScopeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScopeHash({:02x}{:02x}{:02x}{:02x}..)", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

/// A key with the times at which it may be used, in seconds since 1970, end excluded.
#[derive(Debug)]
pub struct ScheduledKey {
    /// The key.
    pub key: TicketKey,
    /// When new tickets are sealed with it.
    pub seals: Range<u64>,
    /// When tickets that it sealed may be opened.
    pub opens: Range<u64>,
}

/// Why a key name that is not usable is known all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remembered {
    /// A key of this scope whose tickets have all expired; the key itself is gone.
    Expired,
    /// A key of another scope.
    OtherScope,
}

/// What a table has for a key name.
#[derive(Debug)]
pub enum Lookup<'a> {
    /// The key that seals now.
    Current(&'a TicketKey),
    /// A usable key that does not seal now: the ticket is due for renewal.
    Previous(&'a TicketKey),
    /// A key whose time is over, or whose time has not come within the allowed clock skew.
    Expired,
    /// A key of another scope.
    OtherScope,
    /// No key that this node has seen.
    Unknown,
}

/// The keys of one scope around one moment. Immutable: a change of keys is a new table.
///
/// The key for sealing is chosen by the clock at the moment of use, so that a new epoch begins on time even when the
/// next table is late.
#[derive(Debug, Default)]
pub struct KeyTable {
    keys: Vec<ScheduledKey>,
    remembered: Vec<(KeyName, Remembered)>,
    retention: Duration,
}

impl KeyTable {
    /// A table of `keys`; where the times of several allow sealing, the first of them seals. No ticket lives longer
    /// than `retention`.
    pub fn new(keys: Vec<ScheduledKey>, mut remembered: Vec<(KeyName, Remembered)>, retention: Duration) -> Self {
        remembered.truncate(REMEMBERED_NAMES_MAX);
        remembered.sort_unstable_by_key(|(name, _)| *name);
        Self { keys, remembered, retention }
    }

    /// The longest life of a ticket under these keys, counted from the full handshake.
    pub fn retention(&self) -> Duration {
        self.retention
    }

    /// The key that seals at `now`; none when the clock stands outside the ring, and then no ticket is issued.
    pub fn sealing_at(&self, now: UnixSeconds) -> Option<&TicketKey> {
        self.keys.iter().find(|entry| entry.seals.contains(&now.0)).map(|entry| &entry.key)
    }

    /// The key with that name, if tickets that it sealed may be opened at `now`.
    pub fn opening_at(&self, name: &[u8; KEY_NAME_BYTES], now: UnixSeconds) -> Lookup<'_> {
        // Key names are public, so the comparison need not take constant time.
        let Some(entry) = self.keys.iter().find(|entry| entry.key.name.0 == *name) else {
            return match self.remembered.binary_search_by_key(name, |(name, _)| name.0) {
                Ok(found) => match self.remembered.get(found) {
                    Some((_, Remembered::OtherScope)) => Lookup::OtherScope,
                    _ => Lookup::Expired,
                },
                Err(_) => Lookup::Unknown,
            };
        };
        if !entry.opens.contains(&now.0) {
            Lookup::Expired
        } else if self.sealing_at(now).is_some_and(|current| current.name == entry.key.name) {
            Lookup::Current(&entry.key)
        } else {
            Lookup::Previous(&entry.key)
        }
    }

    /// Names of all usable keys, oldest first.
    pub fn names(&self) -> impl Iterator<Item = KeyName> + '_ {
        self.keys.iter().map(|entry| entry.key.name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

    use super::*;

    fn key(byte: u8) -> TicketKey {
        TicketKey::from_block(&[byte; 80])
    }

    fn table() -> KeyTable {
        KeyTable::new(
            vec![
                ScheduledKey { key: key(1), seals: 0..10, opens: 0..30 },
                ScheduledKey { key: key(2), seals: 10..20, opens: 8..40 },
            ],
            vec![(KeyName([9; 16]), Remembered::OtherScope), (KeyName([8; 16]), Remembered::Expired)],
            Duration::from_secs(20),
        )
    }

    #[test]
    fn table_chooses_the_sealing_key_by_the_clock() {
        assert_eq!(table().sealing_at(UnixSeconds(9)).unwrap().name().0, [1; 16]);
        assert_eq!(table().sealing_at(UnixSeconds(10)).unwrap().name().0, [2; 16]);
        assert!(table().sealing_at(UnixSeconds(20)).is_none());
    }

    #[test]
    fn table_tells_current_from_previous_expired_foreign_and_unknown_keys() {
        let table = table();
        let at = |byte, now| table.opening_at(&[byte; 16], UnixSeconds(now));
        assert!(matches!(at(1, 5), Lookup::Current(_)));
        assert!(matches!(at(1, 15), Lookup::Previous(_)));
        assert!(matches!(at(1, 30), Lookup::Expired));
        assert!(matches!(at(2, 7), Lookup::Expired), "a key of the future, beyond the skew");
        assert!(matches!(at(2, 8), Lookup::Previous(_)), "a key of the future, within the skew");
        assert!(matches!(at(9, 5), Lookup::OtherScope));
        assert!(matches!(at(8, 5), Lookup::Expired));
        assert!(matches!(at(7, 5), Lookup::Unknown));
    }

    #[test]
    fn scope_ignores_the_order_of_fields_and_nothing_else() {
        let scope = ScopeHash::of(&[("a", b"1"), ("b", b"2")]);
        assert_eq!(scope, ScopeHash::of(&[("b", b"2"), ("a", b"1")]));
        for other in
            [&[("a", &b"1"[..])][..], &[("a", b"1"), ("b", b"")], &[("a", b"1b"), ("", b"2")], &[("ab", b"12")]]
        {
            assert_ne!(scope, ScopeHash::of(other));
        }
    }

    #[test]
    fn key_prints_its_name_only() {
        assert_eq!(format!("{:?}", key(0xab)), format!("TicketKey(name={})", "ab".repeat(16)));
    }
}
