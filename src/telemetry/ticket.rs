//! What is counted about tickets, and what is known about the ring.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use serde::Serialize;

use super::cell::{ByLabel, Counter};
use crate::label_enum;

label_enum! {
    /// What became of a received ticket (`sluice_tickets_opened_total`). Counts tickets, not handshakes: a TLS 1.3
    /// client may offer several, and shows them again after a HelloRetryRequest.
    pub enum TicketOpening as "result" {
        /// Opened with the key that seals now.
        Current = "current",
        /// Opened with a key that no longer seals; replaced by a new ticket.
        PreviousRenewed = "previous_renewed",
        /// The key name is not one that this node has seen: another ring, a revoked one, or noise.
        UnknownKey = "unknown_key",
        /// The ticket's lifetime is over, or it comes from a future beyond the clock skew.
        Expired = "expired",
        /// Issued under another scope: a policy, CA or CRL that is not this listener's present one.
        Scope = "scope",
        /// Issued for another server name than the client asks for now.
        ServerName = "server_name",
        /// The client certificate of the full handshake has expired since.
        ClientCertificate = "client_certificate",
        /// The session has another protocol version than this handshake.
        Version = "version",
        /// The MAC does not fit, or what is inside makes no sense.
        Corrupted = "corrupted",
    }
}

label_enum! {
    /// What became of a ticket that was to be sent (`sluice_tickets_issued_total`).
    pub enum TicketIssue as "result" {
        /// Sealed and sent.
        Issued = "issued",
        /// The ring has no key for the present: see the standing of the ring.
        NoKey = "no_key",
        /// A renewal at the very end of the original lifetime.
        LifetimeOver = "lifetime_over",
        /// OpenSSL failed.
        Failed = "failed",
    }
}

label_enum! {
    /// What happened to the ring (`sluice_ticket_ring_events_total`).
    pub enum RingEvent as "event" {
        /// Keys of expired tickets were wiped.
        Ratcheted = "ratcheted",
        /// Another process had ratcheted the file; followed.
        Followed = "followed",
        /// The file was behind; ratcheted forward.
        KeptOurs = "kept_ours",
        /// A revocation came with the file.
        Revoked = "revoked",
        /// Another ring came with the file, or took the place of one in memory that was ahead of the clock.
        Replaced = "replaced",
        /// A wrong clock had ratcheted the ring past the present, and the file had it as it was before.
        Restored = "restored",
        /// The file could not be written.
        NotPersisted = "not_persisted",
        /// The file holds the ring from before a revocation; not used.
        RefusedRevoked = "refused_revoked",
        /// The file's ring begins in the future; not used.
        RefusedAhead = "refused_ahead",
        /// Ring and clock are too far apart; no tickets.
        RefusedFarBehind = "refused_far_behind",
        /// The file claims to be the ring in use and has other keys; not used.
        RefusedDiverged = "refused_diverged",
        /// The file is missing, damaged or exposed; not used.
        RefusedFile = "refused_file",
        /// Anything else; see the log.
        Failed = "failed",
    }
}

/// The ring as other threads see it; the thread that keeps it is the writer.
#[derive(Debug, Default)]
pub struct RingTelemetry {
    /// What happened to the ring.
    pub events: ByLabel<RingEvent>,
    status: ArcSwap<RingStatus>,
}

impl RingTelemetry {
    /// What may be shown about the ring now.
    pub fn status(&self) -> Guard<Arc<RingStatus>> {
        self.status.load()
    }

    /// Replaces what may be shown.
    pub fn publish(&self, status: RingStatus) {
        self.status.store(Arc::new(status));
    }
}

/// What may be shown about the ticket keys: everything public, nothing that leads to a key. As it was when the ring was last
/// looked after, which is in each new epoch and after each change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RingStatus {
    /// Where the keys come from.
    pub source: KeySource,
    /// The ring, or none without one.
    pub ring: Option<RingFacts>,
    /// When the ring was loaded, ratcheted or replaced here, in seconds since 1970.
    pub changed_unix_seconds: u64,
    /// Number of keys in use, over all scopes.
    pub key_count: usize,
    /// Names of keys in use, as many as are shown.
    pub key_names: Vec<String>,
}

/// Where ticket keys come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeySource {
    /// Nowhere: there are no tickets.
    #[default]
    None,
    /// A ring of this process.
    Memory,
    /// A ring file.
    File,
    /// Key files without a ring.
    KeyFiles,
}

/// The public facts about one ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RingFacts {
    /// Its identity through ratchets and revocations.
    pub id: String,
    /// How many revocations it has seen.
    pub generation: u32,
    /// Where it stands compared with the clock.
    pub standing: RingStanding,
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
    /// When the next key begins to seal, in seconds since 1970.
    pub next_key_unix_seconds: u64,
    /// When the oldest key is wiped, in seconds since 1970.
    pub next_ratchet_unix_seconds: u64,
    /// Equal on all nodes that have the same ring in the same epoch; none when the ring has no key for the present.
    pub fingerprint: Option<String>,
}

label_enum! {
    /// Where a ring stands compared with the clock (`sluice_ticket_ring_standing`).
    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    pub enum RingStanding as "standing" {
        /// It holds the keys of every ticket that may be alive, and no others.
        Current = "current",
        /// It can derive keys of expired tickets: a ratchet is due.
        Behind = "behind",
        /// It is so far behind that it or the clock must be wrong: nothing is sealed or opened.
        FarBehind = "far_behind",
        /// It was ratcheted past the present: nothing is sealed until the clock gets there.
        Ahead = "ahead",
    }
}

/// The ticket counters of one worker.
#[derive(Debug, Default)]
pub struct TicketCounters {
    /// Tickets to be sent.
    pub issued: ByLabel<TicketIssue>,
    /// Tickets received.
    pub opened: ByLabel<TicketOpening>,
    /// Panics contained in a callback.
    pub panics: Counter,
}

#[cfg(test)]
impl RingStatus {
    /// The status of a ring in a file, for tests.
    pub(crate) fn sample() -> Self {
        let ring = RingFacts {
            id: "a0".repeat(16),
            generation: 3,
            standing: RingStanding::Current,
            standing_epochs: 0,
            epoch_length_seconds: 3600,
            retention_seconds: 43_200,
            first_epoch: 499_987,
            current_epoch: 500_000,
            next_key_unix_seconds: 1_800_003_600,
            next_ratchet_unix_seconds: 1_800_000_120,
            fingerprint: Some("c94d4ac67ef1e859".to_owned()),
        };
        Self {
            source: KeySource::File,
            ring: Some(ring),
            changed_unix_seconds: 1_800_000_000,
            key_count: 1,
            key_names: vec!["1a".repeat(16)],
        }
    }
}
