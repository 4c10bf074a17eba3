//! Session tickets: sessions that resume on every node that has the same ring, and never past the policy that
//! admitted them.
//!
//! `ring` and `ratchet` say which keys exist at a given time, `key` which of them one scope may use, `install` puts
//! them into an OpenSSL context, `provenance` is what travels inside a ticket. `docs/ticket-ring.md` describes the
//! formats for other implementations.

mod clock;
mod encoding;
mod file;
mod install;
mod keeper;
mod key;
pub mod provenance;
mod ratchet;
mod ring;
pub mod seal;
mod settings;
mod status;
mod telemetry;

pub use clock::{Clock, ManualClock, UnixSeconds};
pub use encoding::{FormatError, RING_FILE_BYTES_MAX, decode as decode_ring, encode as encode_ring};
pub use file::{FileError, FileStamp, LockWait, RingFile, RingLock, load_key_file};
pub use install::{Issuer, Renewal, ScopeKeys, TICKETS_PER_HANDSHAKE_MAX, TicketSettings, install};
pub use keeper::{
    EXPIRED_NAMES_MAX, KEY_FILES_MAX, KEY_NAMES_SHOWN_MAX, Keeper, KeeperError, Maintenance, Persisted,
    REPLACED_RINGS_MAX, RETIRED_SCOPES_MAX, RETRY_INTERVAL, RingChange, Source,
};
pub use key::{
    KEY_NAME_BYTES, KeyName, KeyTable, Lookup, REMEMBERED_NAMES_MAX, Remembered, SCOPE_BYTES, ScheduledKey, ScopeHash,
    Strength, TicketKey,
};
pub use ratchet::{CHECK_BYTES, ChainSecret, EpochSecret, FINGERPRINT_BYTES, SECRET_BYTES};
pub use ring::{
    CLOCK_SKEW_MAX, EPOCH_LENGTH_MIN, EPOCHS_HELD_MAX, RATCHET_STEP_MAX, RETENTION_MAX, Relation, Ring, RingError,
    RingId, RingShape, Standing,
};
pub use settings::Settings;
pub use telemetry::{
    KeySource, RingEvent, RingFacts, RingStanding, RingStatus, RingTelemetry, TicketCounters, TicketIssue,
    TicketOpening,
};
