//! What a ticket says about the full handshake it goes back to: travels inside the session, encrypted.

use std::time::Duration;

use openssl::sha::Sha256;

use super::clock::UnixSeconds;
use super::ring::CLOCK_SKEW_MAX;

/// Bytes of an encoded [`Provenance`].
pub const PROVENANCE_BYTES: usize = 1 + 8 + NAME_HASH_BYTES;
const VERSION: u8 = 1;
const NAME_HASH_BYTES: usize = 16;

/// Issue time and server name of the full handshake. Renewal copies it unchanged, so that a chain of renewed tickets
/// ends when the first ticket would have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// When the full handshake was done, by the clock of the node that did it.
    pub issued_at: UnixSeconds,
    /// The server name that it was done for.
    pub server_name: NameHash,
}

/// A server name, or its absence, as a hash; upper and lower case are the same (RFC 6066 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameHash([u8; NAME_HASH_BYTES]);

impl NameHash {
    /// The hash of a name as it came in a ClientHello.
    pub fn of(name: Option<&[u8]>) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"sluice ticket server name v1");
        match name {
            None => hash.update(&[0]),
            Some(name) => {
                hash.update(&[1]);
                hash.update(&name.to_ascii_lowercase());
            }
        }
        let mut short = [0; NAME_HASH_BYTES];
        short.copy_from_slice(&hash.finish()[..NAME_HASH_BYTES]);
        Self(short)
    }
}

impl Provenance {
    /// The bytes for the session.
    pub fn encode(&self) -> [u8; PROVENANCE_BYTES] {
        let mut bytes = [0; PROVENANCE_BYTES];
        bytes[0] = VERSION;
        bytes[1..9].copy_from_slice(&self.issued_at.0.to_be_bytes());
        bytes[9..].copy_from_slice(&self.server_name.0);
        bytes
    }

    /// From the bytes of a session; none for a session that did not come from [`Provenance::encode`].
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; PROVENANCE_BYTES] = bytes.try_into().ok()?;
        let (version, rest) = bytes.split_first()?;
        let (issued_at, name) = rest.split_first_chunk()?;
        (*version == VERSION).then_some(Self {
            issued_at: UnixSeconds(u64::from_be_bytes(*issued_at)),
            server_name: NameHash(name.try_into().ok()?),
        })
    }

    /// What is left of `lifetime` at `now`; none once it is over, or when the ticket claims to come from a future
    /// further away than the allowed clock skew.
    pub fn remaining_at(&self, now: UnixSeconds, lifetime: Duration) -> Option<Duration> {
        if self.issued_at > now.plus(CLOCK_SKEW_MAX) {
            return None;
        }
        let remaining = lifetime.saturating_sub(now.since(self.issued_at));
        (!remaining.is_zero()).then_some(remaining)
    }
}

/// The host name in the body of a ClientHello's server_name extension (RFC 6066 section 3); none where there is none.
///
/// OpenSSL checks the form of the extension later and refuses a malformed one, so a wrong guess here harms nothing.
pub fn host_name(extension: &[u8]) -> Option<&[u8]> {
    const HOST_NAME: u8 = 0;
    let (list_length, list) = extension.split_first_chunk::<2>()?;
    let list = list.get(..usize::from(u16::from_be_bytes(*list_length)))?;
    let (kind, entry) = list.split_first()?;
    let (name_length, name) = entry.split_first_chunk::<2>()?;
    (*kind == HOST_NAME).then_some(())?;
    name.get(..usize::from(u16::from_be_bytes(*name_length)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

    use super::*;

    fn issued(at: u64) -> Provenance {
        Provenance { issued_at: UnixSeconds(at), server_name: NameHash::of(Some(b"a.example")) }
    }

    #[test]
    fn provenance_survives_encoding_and_nothing_else_decodes() {
        let bytes = issued(1234).encode();
        assert_eq!(Provenance::decode(&bytes), Some(issued(1234)));
        assert_eq!(Provenance::decode(&bytes[1..]), None);
        assert_eq!(Provenance::decode(&[]), None);
        let mut other = bytes;
        other[0] = 2;
        assert_eq!(Provenance::decode(&other), None);
    }

    #[test]
    fn lifetime_counts_from_the_full_handshake() {
        let life = Duration::from_secs(100);
        let remaining = |now| issued(1000).remaining_at(UnixSeconds(now), life);
        assert_eq!(remaining(1000), Some(life));
        assert_eq!(remaining(1099), Some(Duration::from_secs(1)));
        assert_eq!(remaining(1100), None);
        assert_eq!(remaining(u64::MAX), None);
    }

    #[test]
    fn ticket_from_the_future_is_taken_within_the_skew_only() {
        let life = Duration::from_secs(100);
        assert_eq!(issued(1120).remaining_at(UnixSeconds(1000), life), Some(life));
        assert_eq!(issued(1121).remaining_at(UnixSeconds(1000), life), None);
    }

    #[test]
    fn server_name_hash_ignores_case_and_tells_absence_from_emptiness() {
        assert_eq!(NameHash::of(Some(b"A.Example")), NameHash::of(Some(b"a.example")));
        assert_ne!(NameHash::of(Some(b"a.example")), NameHash::of(Some(b"b.example")));
        assert_ne!(NameHash::of(Some(b"")), NameHash::of(None));
    }

    #[test]
    fn host_name_is_read_from_the_extension_and_damage_reads_as_none() {
        let extension = [0, 8, 0, 0, 5, b'h', b'o', b's', b't', b's'];
        assert_eq!(host_name(&extension), Some(&b"hosts"[..]));
        for length in 0..extension.len() {
            assert_eq!(host_name(&extension[..length]), None);
        }
        assert_eq!(host_name(&[0, 8, 1, 0, 5, b'h', b'o', b's', b't', b's']), None, "another name type");
    }
}
