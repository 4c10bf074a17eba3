//! Session tickets: the key ring.

mod clock;
mod key;
mod ratchet;
mod ring;

pub use clock::{Clock, ManualClock, UnixSeconds};
pub use key::{
    KEY_NAME_BYTES, KeyName, KeyTable, Lookup, Remembered, SCOPE_BYTES, ScheduledKey, ScopeHash, Strength, TicketKey,
};
pub use ratchet::{ChainSecret, EpochSecret, FINGERPRINT_BYTES, SECRET_BYTES};
pub use ring::{
    CLOCK_SKEW_MAX, EPOCH_LENGTH_MIN, EPOCHS_HELD_MAX, RATCHET_STEP_MAX, RETENTION_MAX, Relation, Ring, RingError,
    RingId, RingShape, Standing,
};
