//! The chain: each record of the audit log carries the hash of the one before it, and its own. No I/O.
//!
//! A record is one line of JSON. Its last key is `hash`: SHA-256 over every byte of the line in front of `,"hash":`. The
//! key before it is `previous`, the hash of the record before; the first record of all has 64 zeros there. Whoever
//! changes, removes or moves a record has to compute every later one anew, and cannot do that to a head that somebody
//! has noted elsewhere.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a chain stands: its last record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The number of the record; the first one has 1.
    pub sequence: u64,
    /// Its hash, in hexadecimal.
    pub hash: String,
}

/// What is wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is no record.
    #[error("this is no record of an audit log")]
    NotARecord,
    /// It was changed.
    #[error("the record was changed: its hash does not fit its content")]
    Changed,
    /// Records are missing in front of it, or it was moved here.
    #[error("the record does not follow the one before it: expected number {expected}, found {found}")]
    Sequence {
        /// The number that would follow.
        expected: u64,
        /// Its number.
        found: u64,
    },
    /// It follows another record than the one before it.
    #[error("record {sequence} does not follow the one before it: that one was replaced")]
    Previous {
        /// Its number.
        sequence: u64,
    },
}

/// A line that is a record in itself, whatever stands before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The hash of the record before.
    pub previous: String,
    /// The record itself.
    pub head: Head,
}

impl Head {
    /// The one before the first record.
    pub fn genesis() -> Self {
        Self { sequence: 0, hash: "0".repeat(HASH_DIGITS) }
    }

    /// Makes the record that follows: its line, without a line break, and where the chain stands then.
    ///
    /// # Errors
    /// When `content` is not a structure of strings and numbers: a bug.
    pub fn follow(&self, time: &str, content: &impl Serialize) -> Result<(Vec<u8>, Self), serde_json::Error> {
        let sequence = self.sequence + 1;
        let record = Written { sequence, time, content, previous: &self.hash };
        let mut line = serde_json::to_vec(&record)?;
        line.pop();
        let hash = hash_of(&line);
        line.extend_from_slice(format!("{HASH_KEY}{hash}\"}}").as_bytes());
        Ok((line, Self { sequence, hash }))
    }

    /// Checks that `line` is the record that follows, and goes on to it. After a fault the chain stands at the line, if
    /// it is a record at all, so that one fault is not taken for many.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn check_next(&mut self, line: &[u8]) -> Result<(), Fault> {
        let link = Link::read(line)?;
        let before = std::mem::replace(self, link.head);
        if self.sequence != before.sequence + 1 {
            return Err(Fault::Sequence { expected: before.sequence + 1, found: self.sequence });
        }
        if link.previous != before.hash {
            return Err(Fault::Previous { sequence: self.sequence });
        }
        Ok(())
    }
}

impl Link {
    /// Reads one line and checks its own hash.
    ///
    /// # Errors
    /// [`Fault::NotARecord`], [`Fault::Changed`].
    pub fn read(line: &[u8]) -> Result<Self, Fault> {
        let body_len = line.len().checked_sub(HASH_KEY.len() + HASH_DIGITS + 2).ok_or(Fault::NotARecord)?;
        let (body, tail) = line.split_at(body_len);
        let hash = tail.strip_prefix(HASH_KEY.as_bytes()).and_then(|tail| tail.strip_suffix(b"\"}"));
        let hash = hash.and_then(|hash| std::str::from_utf8(hash).ok()).ok_or(Fault::NotARecord)?;
        let record: Read = serde_json::from_slice(line).map_err(|_| Fault::NotARecord)?;
        if hash_of(body) != hash {
            return Err(Fault::Changed);
        }
        Ok(Self { previous: record.previous, head: Head { sequence: record.sequence, hash: hash.to_owned() } })
    }
}

/// `NUMBER:HASH`.
impl fmt::Display for Head {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.sequence, self.hash)
    }
}

#[derive(Serialize)]
struct Written<'a, T: Serialize> {
    sequence: u64,
    time: &'a str,
    #[serde(flatten)]
    content: &'a T,
    previous: &'a str,
}

#[derive(Deserialize)]
struct Read {
    sequence: u64,
    previous: String,
}

fn hash_of(body: &[u8]) -> String {
    openssl::sha::sha256(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

const HASH_KEY: &str = ",\"hash\":\"";
const HASH_DIGITS: usize = 64;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chain(count: u64) -> Vec<Vec<u8>> {
        let mut head = Head::genesis();
        let next = |number| {
            let content = serde_json::json!({ "event": "reload", "detail": number });
            let (line, next) = head.follow("2026-01-01T00:00:00Z", &content).unwrap();
            head = next;
            line
        };
        (0..count).map(next).collect()
    }

    fn check(lines: &[Vec<u8>]) -> Vec<(usize, Fault)> {
        let mut head = Head::genesis();
        let checked = lines.iter().enumerate();
        checked.filter_map(|(at, line)| head.check_next(line).err().map(|fault| (at, fault))).collect()
    }

    #[test]
    fn chain_as_written_is_good() {
        assert_eq!(check(&chain(20)), []);
    }

    #[test]
    fn hash_is_what_sha256sum_says_of_the_line_in_front_of_it() {
        let line = String::from_utf8(chain(1).remove(0)).unwrap();
        let expected = concat!(
            r#"{"sequence":1,"time":"2026-01-01T00:00:00Z","detail":0,"event":"reload","previous":""#,
            "0000000000000000000000000000000000000000000000000000000000000000\""
        );
        let (body, hash) = line.split_once(HASH_KEY).unwrap();
        assert_eq!(body, expected);
        let digest = openssl::hash::hash(openssl::hash::MessageDigest::sha256(), expected.as_bytes()).unwrap();
        assert_eq!(hash, digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\"}");
    }

    #[test]
    fn removed_moved_and_repeated_records_are_found_where_they_are() {
        let good = chain(6);
        let mut lines = good.clone();
        lines.remove(2);
        assert_eq!(check(&lines), [(2, Fault::Sequence { expected: 3, found: 4 })]);
        let mut lines = good.clone();
        lines.swap(2, 3);
        assert_eq!(check(&lines).iter().map(|(at, _)| *at).collect::<Vec<_>>(), [2, 3, 4]);
        let mut lines = good.clone();
        lines.insert(3, good[2].clone());
        assert_eq!(check(&lines)[0].0, 3);
        assert_eq!(check(&good[1..])[0], (0, Fault::Sequence { expected: 1, found: 2 }));
    }

    #[test]
    fn record_that_was_replaced_by_a_sound_one_is_found_at_the_next() {
        let mut lines = chain(4);
        let mut head = Head::genesis();
        head.check_next(&lines[0]).unwrap();
        lines[1] = head.follow("2026-01-01T00:00:00Z", &serde_json::json!({ "event": "forged" })).unwrap().0;
        assert_eq!(check(&lines), [(2, Fault::Previous { sequence: 3 })]);
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_found(at in 0_usize..10_000, bit in 0_u8..8) {
            let mut lines = chain(3);
            let index = at % lines[1].len();
            lines[1][index] ^= 1 << bit;
            prop_assert!(!check(&lines).is_empty());
        }

        #[test]
        fn bytes_that_are_no_record_never_panic(line in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Link::read(&line).is_err());
        }
    }
}
