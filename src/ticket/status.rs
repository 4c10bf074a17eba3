//! What may be shown about a ring, read from the ring.

use super::clock::UnixSeconds;
use super::ring::{Ring, RingError, Standing};
use super::telemetry::{RingFacts, RingStanding};

impl RingFacts {
    /// The facts at `now`.
    pub fn at(ring: &Ring, now: UnixSeconds) -> Result<Self, RingError> {
        let shape = ring.shape();
        let (standing, standing_epochs) = match ring.standing_at(now) {
            Standing::Current => (RingStanding::Current, 0),
            Standing::Behind { epochs } => (RingStanding::Behind, epochs),
            Standing::FarBehind { epochs } => (RingStanding::FarBehind, epochs),
            Standing::Ahead { epochs } => (RingStanding::Ahead, epochs),
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
            next_key_unix_seconds: ring.next_epoch_at(now).0,
            next_ratchet_unix_seconds: ring.next_ratchet().0,
            fingerprint: fingerprint.map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        })
    }
}
