//! The ring file's text form. Eight lines, in this order, nothing else: so strict that a damaged file cannot pass.

use std::fmt::Write as _;
use std::time::Duration;

use zeroize::{Zeroize, Zeroizing};

use super::ratchet::{CHECK_BYTES, ChainSecret, SECRET_BYTES};
use super::ring::{Ring, RingError, RingId, RingShape};

/// Longest ring file that is read. A real one is below 300 bytes.
pub const RING_FILE_BYTES_MAX: usize = 1024;
const MAGIC: &str = "sluice-ticket-ring v1";

/// The file content of a ring. Wiped on drop: it holds the chain secret.
pub fn encode(ring: &Ring) -> Result<Zeroizing<String>, RingError> {
    let shape = ring.shape();
    // Room for all of it, so that no half-written copy stays behind in a reallocation.
    let mut text = Zeroizing::new(String::with_capacity(RING_FILE_BYTES_MAX));
    let check = ring.chain().check(&checked_fields(ring))?;
    let _ = write!(
        text,
        "{MAGIC}\nid {}\ngeneration {}\nepoch-length {}\nretention {}\nfirst-epoch {}\nchain-secret ",
        ring.id(),
        ring.generation(),
        shape.epoch_length().as_secs(),
        shape.retention().as_secs(),
        ring.first_epoch(),
    );
    push_hex(&mut text, ring.chain().expose());
    text.push_str("\ncheck ");
    push_hex(&mut text, &check);
    text.push('\n');
    Ok(text)
}

/// The ring in a file's content. No error shows any of the content.
pub fn decode(content: &[u8]) -> Result<Ring, FormatError> {
    if content.is_empty() {
        return Err(FormatError::Empty);
    }
    if content.len() > RING_FILE_BYTES_MAX {
        return Err(FormatError::TooLong);
    }
    let text = std::str::from_utf8(content).map_err(|_| FormatError::NotARing)?;
    let mut lines = Lines { rest: text, number: 0 };
    match lines.next("version")? {
        MAGIC => {}
        other if other.starts_with("sluice-ticket-ring ") => return Err(FormatError::UnknownVersion),
        _ => return Err(FormatError::NotARing),
    }
    let id = RingId(lines.hex::<16>("id")?);
    let generation = lines.number("generation")?;
    let epoch_length: u32 = lines.number("epoch-length")?;
    let retention: u32 = lines.number("retention")?;
    let first_epoch = lines.number("first-epoch")?;
    let mut secret = Zeroizing::new(lines.hex::<SECRET_BYTES>("chain-secret")?);
    let check = lines.hex::<CHECK_BYTES>("check")?;
    if !lines.rest.is_empty() {
        return Err(FormatError::TrailingBytes);
    }
    let shape = RingShape::new(Duration::from_secs(epoch_length.into()), Duration::from_secs(retention.into()))?;
    let ring = Ring::from_parts(id, generation, shape, first_epoch, ChainSecret::from_bytes(&secret));
    secret.zeroize();
    if !openssl::memcmp::eq(&ring.chain().check(&checked_fields(&ring))?, &check) {
        return Err(FormatError::Check);
    }
    Ok(ring)
}

/// Why a file's content is not a ring.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Nothing in it.
    #[error("is empty")]
    Empty,
    /// More than a ring can be.
    #[error("is longer than {RING_FILE_BYTES_MAX} bytes")]
    TooLong,
    /// Something else altogether.
    #[error("is not a ticket ring: its first line is not \"{MAGIC}\"")]
    NotARing,
    /// From a later release.
    #[error("has a format version that this release does not read; it reads \"{MAGIC}\"")]
    UnknownVersion,
    /// Ends early.
    #[error("is cut short: line {line} with `{expected}` is missing or has no end")]
    Truncated {
        /// One-based.
        line: usize,
        /// The field that was due.
        expected: &'static str,
    },
    /// A line that says something else.
    #[error("line {line}: expected `{expected}` with a value in its form")]
    Line {
        /// One-based.
        line: usize,
        /// The field that was due.
        expected: &'static str,
    },
    /// More behind the last line.
    #[error("has bytes behind its last line")]
    TrailingBytes,
    /// Every line reads well, but they do not belong together.
    #[error("is damaged or was edited: its check value does not fit")]
    Check,
    /// The values are out of bounds.
    #[error(transparent)]
    Ring(#[from] RingError),
}

impl From<openssl::error::ErrorStack> for FormatError {
    fn from(error: openssl::error::ErrorStack) -> Self {
        Self::Ring(error.into())
    }
}

/// The public fields as the check value covers them.
fn checked_fields(ring: &Ring) -> [u8; 16 + 4 + 4 + 4 + 8] {
    let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX).to_be_bytes();
    let mut fields = [0; 36];
    fields[..16].copy_from_slice(&ring.id().0);
    fields[16..20].copy_from_slice(&ring.generation().to_be_bytes());
    fields[20..24].copy_from_slice(&seconds(ring.shape().epoch_length()));
    fields[24..28].copy_from_slice(&seconds(ring.shape().retention()));
    fields[28..].copy_from_slice(&ring.first_epoch().to_be_bytes());
    fields
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
}

/// Takes a text apart line by line.
struct Lines<'a> {
    rest: &'a str,
    number: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self, expected: &'static str) -> Result<&'a str, FormatError> {
        self.number += 1;
        let (line, rest) = self.rest.split_once('\n').ok_or(FormatError::Truncated { line: self.number, expected })?;
        self.rest = rest;
        Ok(line)
    }

    fn value(&mut self, name: &'static str) -> Result<&'a str, FormatError> {
        let line = self.next(name)?;
        line.strip_prefix(name).and_then(|value| value.strip_prefix(' ')).ok_or(self.malformed(name))
    }

    /// A decimal number in its one shortest form.
    fn number<T: std::str::FromStr + ToString>(&mut self, name: &'static str) -> Result<T, FormatError> {
        let value = self.value(name)?;
        let parsed = value.parse::<T>().ok().filter(|number| number.to_string() == value);
        parsed.ok_or(self.malformed(name))
    }

    /// Exactly `N` bytes in lower-case hex.
    fn hex<const N: usize>(&mut self, name: &'static str) -> Result<[u8; N], FormatError> {
        let value = self.value(name)?.as_bytes();
        let mut bytes = [0; N];
        if value.len() != 2 * N {
            return Err(self.malformed(name));
        }
        for (byte, digits) in bytes.iter_mut().zip(value.chunks_exact(2)) {
            for digit in digits {
                let nibble = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return Err(self.malformed(name)),
                };
                *byte = *byte << 4 | nibble;
            }
        }
        Ok(bytes)
    }

    fn malformed(&self, expected: &'static str) -> FormatError {
        FormatError::Line { line: self.number, expected }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

    use super::super::clock::UnixSeconds;
    use super::super::ring::Relation;
    use super::*;
    use proptest::prelude::*;

    fn ring() -> Ring {
        Ring::generate_at(RingShape::default(), UnixSeconds(1_800_000_000)).unwrap()
    }

    #[test]
    fn ring_survives_encoding() {
        let ring = ring();
        let text = encode(&ring).unwrap();
        assert_eq!(ring.relation_of(&decode(text.as_bytes()).unwrap()).unwrap(), Relation::Same);
    }

    #[test]
    fn ring_cut_at_any_byte_is_refused() {
        let text = encode(&ring()).unwrap();
        assert!(matches!(decode(b""), Err(FormatError::Empty)));
        for length in 1..text.len() {
            assert!(matches!(decode(&text.as_bytes()[..length]), Err(FormatError::Truncated { .. })), "at {length}");
        }
    }

    #[test]
    fn each_kind_of_wrong_content_has_its_own_error() {
        let text = encode(&ring()).unwrap();
        let edited = |from: &str, to: &str| decode(text.replacen(from, to, 1).as_bytes()).map(drop).unwrap_err();
        assert!(matches!(decode(&[b'x'; RING_FILE_BYTES_MAX + 1]), Err(FormatError::TooLong)));
        assert!(matches!(decode(b"-----BEGIN KEY-----\n"), Err(FormatError::NotARing)));
        assert!(matches!(decode(&[0xff, b'\n']), Err(FormatError::NotARing)));
        assert!(matches!(edited(" v1\n", " v2\n"), FormatError::UnknownVersion));
        assert!(matches!(edited("generation 0", "generation 1"), FormatError::Check));
        assert!(matches!(edited("generation 0", "generation 00"), FormatError::Line { line: 3, .. }));
        assert!(matches!(edited("epoch-length 3600", "epoch-length 7200"), FormatError::Check));
        assert!(matches!(edited("epoch-length 3600", "epoch-length 1"), FormatError::Ring(_)));
        assert!(matches!(edited("retention", "Retention"), FormatError::Line { line: 5, expected: "retention" }));
        let longer = format!("{}\n", text.as_str());
        assert!(matches!(decode(longer.as_bytes()), Err(FormatError::TrailingBytes)));
    }

    #[test]
    fn errors_show_nothing_of_the_content() {
        let text = encode(&ring()).unwrap();
        let secret = text.lines().nth(6).unwrap().strip_prefix("chain-secret ").unwrap().to_owned();
        let damaged = text.replace(&secret, &format!("{}X", &secret[1..]));
        let error = decode(damaged.as_bytes()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(&secret[2..10]));
    }

    proptest! {
        #[test]
        fn ring_with_any_bit_changed_is_refused(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let mut bytes = encode(&ring()).unwrap().as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn arbitrary_content_never_panics(content in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decode(&content).is_err());
        }
    }
}
