//! What may be shown about a ring: everything public, nothing that leads to a key.

use serde::Serialize;

use super::clock::UnixSeconds;
use super::key::KeyName;
use super::ring::{Ring, RingError, Standing};

/// A ring as the status page and `sluice tickets show` present it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RingStatus {
    /// The ring, or none with key files only.
    pub ring: Option<RingFacts>,
    /// Seconds since the ring was loaded, ratcheted or replaced here.
    pub unchanged_seconds: u64,
    /// Names of all keys in use, of every scope.
    pub key_names: Vec<String>,
}

/// The public facts about one ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RingFacts {
    /// Its identity through ratchets and revocations.
    pub id: String,
    /// How many revocations it has seen.
    pub generation: u32,
    /// `current`, `behind`, `far_behind` or `ahead`, compared with the clock.
    pub standing: &'static str,
    /// By how many epochs it is behind or ahead.
    pub standing_epochs: u64,
    /// How long one key seals.
    pub epoch_length_seconds: u64,
    /// The longest life of a ticket.
    pub retention_seconds: u64,
    /// The oldest epoch whose keys the ring can derive.
    pub first_epoch: u64,
    /// The epoch by this node's clock.
    pub current_epoch: u64,
    /// When the next epoch begins, in seconds since 1970.
    pub next_ratchet_unix_seconds: u64,
    /// Equal on all nodes that have the same ring in the same epoch; none when the ring has no key for the present.
    pub fingerprint: Option<String>,
}

impl RingStatus {
    pub(super) fn of(
        ring: Option<&Ring>,
        changed_at: UnixSeconds,
        names: Vec<KeyName>,
        now: UnixSeconds,
    ) -> Result<Self, RingError> {
        Ok(Self {
            ring: ring.map(|ring| RingFacts::at(ring, now)).transpose()?,
            unchanged_seconds: now.since(changed_at).as_secs(),
            key_names: names.iter().map(ToString::to_string).collect(),
        })
    }
}

impl RingFacts {
    /// The facts at `now`.
    pub fn at(ring: &Ring, now: UnixSeconds) -> Result<Self, RingError> {
        let shape = ring.shape();
        let (standing, standing_epochs) = match ring.standing_at(now) {
            Standing::Current => ("current", 0),
            Standing::Behind { epochs } => ("behind", epochs),
            Standing::FarBehind { epochs } => ("far_behind", epochs),
            Standing::Ahead { epochs } => ("ahead", epochs),
        };
        let fingerprint = ring.fingerprint_at(now)?;
        Ok(Self {
            id: ring.id().to_string(),
            generation: ring.generation(),
            standing,
            standing_epochs,
            epoch_length_seconds: shape.epoch_length().as_secs(),
            retention_seconds: shape.retention().as_secs(),
            first_epoch: ring.first_epoch(),
            current_epoch: shape.epoch_at(now),
            next_ratchet_unix_seconds: ring.next_epoch_at(now).0,
            fingerprint: fingerprint.map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        })
    }
}
