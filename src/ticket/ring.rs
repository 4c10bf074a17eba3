//! The ring: `(epoch length, first epoch, chain secret)`, from which every node computes the same keys by its clock.
//!
//! Epoch `n` is the `n`-th span of the epoch length since 1970. The chain secret stands at `first_epoch`, the oldest
//! epoch whose tickets may still be alive; ratcheting moves it forwards and wipes where it stood.

use std::fmt;
use std::time::Duration;

use openssl::error::ErrorStack;

use super::clock::UnixSeconds;
use super::key::{KeyName, ScheduledKey, ScopeHash};
use super::ratchet::{ChainSecret, FINGERPRINT_BYTES};

/// How far the clocks of two nodes may differ. A ticket of a node this much ahead, already in its next epoch, is
/// opened; beyond it the ticket is refused as not yet valid (full handshake).
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(120);
/// Shortest epoch. More than twice the skew, so that two nodes are at most one epoch apart.
pub const EPOCH_LENGTH_MIN: Duration = Duration::from_secs(5 * 60);
/// Longest epoch, and longest life of a ticket: RFC 8446 section 4.6.1 allows seven days.
pub const RETENTION_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Most epochs whose keys are held at a time; bounds the table that is searched for every ticket.
pub const EPOCHS_HELD_MAX: u64 = 171;
/// Longest way forwards that one ratchet goes. A clock that jumps further is not believed: keys burned by a wrong
/// clock cannot be had back.
pub const RATCHET_STEP_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// The spans of a ring, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingShape {
    epoch_length_seconds: u32,
    retention_seconds: u32,
}

impl RingShape {
    /// A ring whose sealing key changes every `epoch_length` and whose tickets live at most `retention`.
    ///
    /// Whole seconds; [`EPOCH_LENGTH_MIN`]..=7 days and 1 s..=7 days, at most [`EPOCHS_HELD_MAX`] epochs alive.
    pub fn new(epoch_length: Duration, retention: Duration) -> Result<Self, RingError> {
        let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
        let shape = Self { epoch_length_seconds: seconds(epoch_length), retention_seconds: seconds(retention) };
        if !(EPOCH_LENGTH_MIN..=RETENTION_MAX).contains(&epoch_length) || epoch_length.subsec_nanos() != 0 {
            return Err(RingError::EpochLength { seconds: shape.epoch_length_seconds });
        }
        if !(Duration::from_secs(1)..=RETENTION_MAX).contains(&retention) || retention.subsec_nanos() != 0 {
            return Err(RingError::Retention { seconds: shape.retention_seconds });
        }
        let held = retention.as_secs() / epoch_length.as_secs() + 3;
        if held > EPOCHS_HELD_MAX {
            return Err(RingError::TooManyEpochs { held });
        }
        Ok(shape)
    }

    /// How long one key seals.
    pub fn epoch_length(self) -> Duration {
        Duration::from_secs(self.epoch_length_seconds.into())
    }

    /// The longest life of a ticket, counted from the full handshake.
    pub fn retention(self) -> Duration {
        Duration::from_secs(self.retention_seconds.into())
    }

    /// The epoch at `now`.
    pub fn epoch_at(self, now: UnixSeconds) -> u64 {
        now.0 / u64::from(self.epoch_length_seconds)
    }

    /// The first second of an epoch.
    pub fn start_of(self, epoch: u64) -> UnixSeconds {
        UnixSeconds(epoch.saturating_mul(self.epoch_length_seconds.into()))
    }

    /// The oldest epoch of which a ticket may be alive at `now`, on a node whose clock is late by the allowed skew.
    pub fn oldest_alive_at(self, now: UnixSeconds) -> u64 {
        self.epoch_at(now.minus(self.retention() + CLOCK_SKEW_MAX))
    }

    fn step_max(self) -> u64 {
        RATCHET_STEP_MAX.as_secs() / u64::from(self.epoch_length_seconds)
    }
}

impl Default for RingShape {
    /// One hour, twelve hours.
    fn default() -> Self {
        Self { epoch_length_seconds: 3600, retention_seconds: 12 * 3600 }
    }
}

/// Identifies a ring through all its ratchets and revocations. Public.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RingId(pub [u8; 16]);

impl fmt::Display for RingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RingId({self})")
    }
}

/// A ticket-key ring. `Debug` shows no secret.
#[derive(Debug)]
pub struct Ring {
    id: RingId,
    /// Counts revocations. A ring with a lower generation never replaces one with a higher.
    generation: u32,
    shape: RingShape,
    first_epoch: u64,
    chain: ChainSecret,
}

/// Where a ring stands compared with the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It holds the keys of every ticket that may be alive, and no others.
    Current,
    /// It can derive keys of expired tickets: a ratchet by `epochs` is due.
    Behind {
        /// Epochs to ratchet.
        epochs: u64,
    },
    /// It is so far behind that it or the clock must be wrong: nothing is sealed or opened.
    FarBehind {
        /// Epochs between the ring and the clock.
        epochs: u64,
    },
    /// It was ratcheted past the present, by a clock that was ahead: nothing is sealed until the clock gets there.
    Ahead {
        /// Epochs until the first key.
        epochs: u64,
    },
}

/// What another ring is to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Same keys, same position.
    Same,
    /// Same keys, not ratcheted as far.
    Behind {
        /// Epochs between the two.
        epochs: u64,
    },
    /// Same keys, ratcheted further.
    Ahead {
        /// Epochs between the two.
        epochs: u64,
    },
    /// The same ring after a revocation that this one has not seen: replaces this one.
    Revocation,
    /// The same ring from before a revocation that this one has seen: never used.
    Revoked,
    /// Another ring: replaces this one, whose tickets are then unknown.
    Different,
}

impl Ring {
    /// A fresh ring with keys for every epoch whose tickets could be alive at `now`.
    pub fn generate_at(shape: RingShape, now: UnixSeconds) -> Result<Self, RingError> {
        let mut id = RingId([0; 16]);
        openssl::rand::rand_bytes(&mut id.0)?;
        let chain = ChainSecret::generate()?;
        Ok(Self { id, generation: 0, shape, first_epoch: shape.oldest_alive_at(now), chain })
    }

    /// A ring from its parts, as a ring file has them.
    pub fn from_parts(id: RingId, generation: u32, shape: RingShape, first_epoch: u64, chain: ChainSecret) -> Self {
        Self { id, generation, shape, first_epoch, chain }
    }

    /// The identity that survives ratchets and revocations.
    pub fn id(&self) -> RingId {
        self.id
    }

    /// How many revocations the ring has seen.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The spans.
    pub fn shape(&self) -> RingShape {
        self.shape
    }

    /// The oldest epoch whose keys can be derived.
    pub fn first_epoch(&self) -> u64 {
        self.first_epoch
    }

    pub(super) fn chain(&self) -> &ChainSecret {
        &self.chain
    }

    /// Where the ring stands at `now`.
    pub fn standing_at(&self, now: UnixSeconds) -> Standing {
        let oldest = self.shape.oldest_alive_at(now);
        let current = self.shape.epoch_at(now);
        match oldest.checked_sub(self.first_epoch) {
            Some(0) => Standing::Current,
            Some(epochs) if epochs > self.shape.step_max() => Standing::FarBehind { epochs },
            Some(epochs) => Standing::Behind { epochs },
            // Between the two: the clock went back by less than a ticket's life. All that is needed is there.
            None if self.first_epoch <= current => Standing::Current,
            None => Standing::Ahead { epochs: self.first_epoch - current },
        }
    }

    /// Moves the chain past every epoch whose tickets have all expired, and wipes what it leaves. Never moves back.
    ///
    /// Gives the number of epochs left behind. Fails, unchanged, when the way is longer than [`RATCHET_STEP_MAX`].
    pub fn ratchet_at(&mut self, now: UnixSeconds) -> Result<u64, RingError> {
        match self.standing_at(now) {
            Standing::Current | Standing::Ahead { .. } => Ok(0),
            Standing::FarBehind { epochs } => Err(RingError::StepTooLong { epochs, max: self.shape.step_max() }),
            Standing::Behind { epochs } => {
                for _ in 0..epochs {
                    self.chain.advance()?;
                    self.first_epoch += 1;
                }
                Ok(epochs)
            }
        }
    }

    /// The kill switch: the same ring with a fresh chain, under which no earlier ticket opens.
    pub fn revoked_at(&self, now: UnixSeconds) -> Result<Self, RingError> {
        let generation = self.generation.checked_add(1).ok_or(RingError::GenerationsUsedUp)?;
        let chain = ChainSecret::generate()?;
        Ok(Self { id: self.id, generation, shape: self.shape, first_epoch: self.shape.oldest_alive_at(now), chain })
    }

    /// What `other` is to this ring. Fails when it claims to be the same one but has other keys.
    pub fn relation_of(&self, other: &Self) -> Result<Relation, RingError> {
        if self.id != other.id {
            return Ok(Relation::Different);
        }
        if self.generation != other.generation {
            return Ok(if other.generation > self.generation { Relation::Revocation } else { Relation::Revoked });
        }
        let (behind, ahead) = if self.first_epoch < other.first_epoch { (self, other) } else { (other, self) };
        let epochs = ahead.first_epoch - behind.first_epoch;
        if self.shape != other.shape {
            return Err(RingError::Diverged { id: self.id });
        }
        if epochs > self.shape.step_max() {
            return Err(RingError::StepTooLong { epochs, max: self.shape.step_max() });
        }
        let mut walker = behind.chain.duplicate();
        for _ in 0..epochs {
            walker.advance()?;
        }
        if !walker.matches(&ahead.chain) {
            return Err(RingError::Diverged { id: self.id });
        }
        Ok(match self.first_epoch.cmp(&other.first_epoch) {
            std::cmp::Ordering::Equal => Relation::Same,
            std::cmp::Ordering::Less => Relation::Ahead { epochs },
            std::cmp::Ordering::Greater => Relation::Behind { epochs },
        })
    }

    /// The keys of `scope` that may be used at `now` or in the epoch after: oldest first.
    ///
    /// Empty when the ring is ahead of the clock or far behind it.
    pub fn keys_at(&self, scope: &ScopeHash, now: UnixSeconds) -> Result<Vec<ScheduledKey>, RingError> {
        let mut keys = Vec::new();
        self.walk_at(now, |epoch, secret| {
            keys.push(self.schedule(epoch, secret.ticket_key(scope)?));
            Ok(())
        })?;
        Ok(keys)
    }

    /// The names alone: to recognise the tickets of a scope without holding its keys.
    pub fn names_at(&self, scope: &ScopeHash, now: UnixSeconds) -> Result<Vec<KeyName>, RingError> {
        Ok(self.keys_at(scope, now)?.iter().map(|scheduled| scheduled.key.name()).collect())
    }

    /// A public value by which an operator sees that two nodes hold the same ring; none when the ring cannot derive
    /// the present epoch.
    pub fn fingerprint_at(&self, now: UnixSeconds) -> Result<Option<[u8; FINGERPRINT_BYTES]>, RingError> {
        let mut fingerprint = None;
        let current = self.shape.epoch_at(now);
        self.walk_at(now, |epoch, secret| {
            if epoch == current {
                fingerprint = Some(secret.fingerprint()?);
            }
            Ok(())
        })?;
        Ok(fingerprint)
    }

    /// When the oldest key has seen its last ticket expire, so that a ratchet leaves it behind.
    pub fn next_ratchet(&self) -> UnixSeconds {
        self.shape.start_of(self.first_epoch.saturating_add(1)).plus(self.shape.retention() + CLOCK_SKEW_MAX)
    }

    /// When the next epoch begins: the table of keys should be renewed then.
    pub fn next_epoch_at(&self, now: UnixSeconds) -> UnixSeconds {
        self.shape.start_of(self.shape.epoch_at(now).saturating_add(1))
    }

    /// Calls `visit` with the secret of each epoch from the oldest alive to the one after the present.
    fn walk_at(
        &self,
        now: UnixSeconds,
        mut visit: impl FnMut(u64, &super::ratchet::EpochSecret) -> Result<(), ErrorStack>,
    ) -> Result<(), RingError> {
        if matches!(self.standing_at(now), Standing::FarBehind { .. } | Standing::Ahead { epochs: 2.. }) {
            return Ok(());
        }
        let last = self.shape.epoch_at(now).saturating_add(1);
        let oldest = self.shape.oldest_alive_at(now);
        let mut chain = self.chain.duplicate();
        for epoch in self.first_epoch..=last {
            if epoch >= oldest {
                visit(epoch, &chain.epoch_secret(epoch, self.shape.epoch_length_seconds)?)?;
            }
            if epoch < last {
                chain.advance()?;
            }
        }
        Ok(())
    }

    fn schedule(&self, epoch: u64, key: super::key::TicketKey) -> ScheduledKey {
        let starts = self.shape.start_of(epoch);
        let ends = self.shape.start_of(epoch.saturating_add(1));
        ScheduledKey {
            key,
            seals: starts.0..ends.0,
            // Tickets of a node whose clock is ahead come early, those of one that is late expire late.
            opens: starts.minus(CLOCK_SKEW_MAX).0..ends.plus(self.shape.retention() + CLOCK_SKEW_MAX).0,
        }
    }
}

/// Why a ring cannot be made or moved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// Configuration.
    #[error("ticket epoch length is {seconds} s; allowed are whole seconds from 300 s to 604800 s (7 days)")]
    EpochLength {
        /// What was given.
        seconds: u32,
    },
    /// Configuration.
    #[error("ticket lifetime is {seconds} s; allowed are whole seconds from 1 s to 604800 s (7 days)")]
    Retention {
        /// What was given.
        seconds: u32,
    },
    /// Configuration.
    #[error("ticket lifetime spans {held} epochs, at most {EPOCHS_HELD_MAX} are held; choose a longer epoch")]
    TooManyEpochs {
        /// How many it would be.
        held: u64,
    },
    /// The clock or the ring is wrong.
    #[error(
        "ticket ring and clock are {epochs} epochs apart, at most {max} are bridged; set the clock, or make a new ring \
         with `sluice tickets new`"
    )]
    StepTooLong {
        /// The distance.
        epochs: u64,
        /// The bound.
        max: u64,
    },
    /// Damage or forgery.
    #[error("ticket ring {id} has other keys than the ring in use, without a revocation; distribute one ring again")]
    Diverged {
        /// The ring.
        id: RingId,
    },
    /// After 2^32 revocations.
    #[error("ticket ring has been revoked too often; make a new one with `sluice tickets new`")]
    GenerationsUsedUp,
    /// A local resource failed.
    #[error("OpenSSL failed to derive a ticket key: {0}")]
    Crypto(#[from] ErrorStack),
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
