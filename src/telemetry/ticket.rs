//! What is counted about tickets and about the ring.

use super::cell::ByLabel;
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
        /// Another ring came with the file.
        Replaced = "replaced",
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

/// The counters of the ring; the thread that keeps it is the writer.
#[derive(Debug, Default)]
pub struct RingCounters {
    /// What happened to the ring.
    pub events: ByLabel<RingEvent>,
}

/// The ticket counters of one worker.
#[derive(Debug, Default)]
pub struct TicketCounters {
    /// Tickets to be sent.
    pub issued: ByLabel<TicketIssue>,
    /// Tickets received.
    pub opened: ByLabel<TicketOpening>,
}
