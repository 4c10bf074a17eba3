//! Puts the keys of a scope to work in an OpenSSL context.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use openssl::asn1::Asn1Time;
use openssl::error::ErrorStack;
use openssl::ssl::{SslContextBuilder, SslOptions, SslRef, SslSessionCacheMode, SslVersion};

use super::clock::{Clock, UnixSeconds};
use super::key::{KEY_NAME_BYTES, KeyTable, Lookup, ScopeHash};
use super::provenance::{NameHash, Provenance, host_name};
use super::telemetry::{TicketIssue, TicketOpening, count};
use crate::sys::openssl_ext::{
    Admission, Handshake, ProtectionSlot, Session, TicketHooks, choose_ticket_hooks, install_ticket_hooks,
};

/// Most tickets that a full TLS 1.3 handshake may send.
pub const TICKETS_PER_HANDSHAKE_MAX: u8 = 8;

/// How a listener issues tickets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketSettings {
    /// Life of a session from its full handshake; the ring's retention bounds it. RFC 8446 section 4.6.1: 7 days at most.
    pub lifetime: Duration,
    /// Tickets after a full TLS 1.3 handshake, 0 to [`TICKETS_PER_HANDSHAKE_MAX`]; 0 turns tickets off in TLS 1.2 too.
    pub per_handshake: u8,
    /// When a resumption brings a new ticket.
    pub renewal: Renewal,
    /// From then on no session is resumed, because what admitted them is to be looked at anew; none: no such time.
    pub until: Option<UnixSeconds>,
}

impl Default for TicketSettings {
    fn default() -> Self {
        let lifetime = super::ring::RingShape::default().retention();
        Self { lifetime, per_handshake: 2, renewal: Renewal::default(), until: None }
    }
}

/// When a resumption brings a new ticket. Never with a longer life than the one it replaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Renewal {
    /// In TLS 1.3 always, because a ticket that is shown twice links two connections (RFC 8446 appendix C.4) and clients
    /// use each once; in TLS 1.2 when its key no longer seals.
    #[default]
    OneTimeUse,
    /// Only when the key no longer seals.
    WhenKeyIsOld,
}

/// The keys of one scope as its contexts see them: replaced as a whole, read without a lock.
#[derive(Debug)]
pub struct ScopeKeys {
    scope: ScopeHash,
    table: ArcSwap<KeyTable>,
}

impl ScopeKeys {
    /// A scope with its first table.
    pub fn new(scope: ScopeHash, table: KeyTable) -> Self {
        Self { scope, table: ArcSwap::from_pointee(table) }
    }

    /// The scope.
    pub fn scope(&self) -> &ScopeHash {
        &self.scope
    }

    /// Replaces the keys. Callbacks that are running finish with the table they began with; its keys are wiped when the
    /// last of them returns.
    pub fn publish(&self, table: KeyTable) {
        self.table.store(Arc::new(table));
    }

    /// The table in use.
    pub fn table(&self) -> arc_swap::Guard<Arc<KeyTable>> {
        self.table.load()
    }
}

/// Makes a server context issue and open tickets under `keys`.
///
/// Contexts between which the callback for the server name switches must get the same `keys`: OpenSSL opens tickets before
/// it calls back, and seals them with the context that was switched in. Where the server name decides on the scope, switch
/// in the ClientHello callback, or [`Issuer::choose`] there. Also sets the session id context to the scope and turns the
/// session cache off, which would hold a copy of every ticket's session.
pub fn install(
    ctx: &mut SslContextBuilder,
    keys: Arc<ScopeKeys>,
    settings: &TicketSettings,
    clock: Clock,
) -> Result<(), ErrorStack> {
    ctx.set_session_cache_mode(SslSessionCacheMode::OFF);
    ctx.set_session_id_context(keys.scope.as_bytes())?;
    let per_handshake = settings.per_handshake.min(TICKETS_PER_HANDSHAKE_MAX);
    ctx.set_num_tickets(per_handshake.into())?;
    if per_handshake == 0 {
        ctx.set_options(SslOptions::NO_TICKET);
        return Ok(());
    }
    ctx.clear_options(SslOptions::NO_TICKET);
    install_ticket_hooks(ctx, Issuer::new(keys, settings, clock).hooks)
}

/// Issues and opens the tickets of one scope, for handshakes whose context serves several.
#[derive(Clone)]
pub struct Issuer {
    scope: ScopeHash,
    hooks: Arc<dyn TicketHooks>,
}

impl Issuer {
    /// The issuer of the scope of `keys`. Number of tickets and whether there are any are the context's affair.
    pub fn new(keys: Arc<ScopeKeys>, settings: &TicketSettings, clock: Clock) -> Self {
        let scope = keys.scope;
        Self { scope, hooks: Arc::new(Tickets { keys, settings: settings.clone(), clock }) }
    }

    /// Has this handshake issue and open tickets of this scope and no other. To be called in the ClientHello callback, of a
    /// context with tickets of its own.
    pub fn choose(&self, ssl: &mut SslRef) -> Result<(), ErrorStack> {
        choose_ticket_hooks(ssl, Arc::clone(&self.hooks), self.scope.as_bytes())
    }
}

/// The hooks of one scope.
struct Tickets {
    keys: Arc<ScopeKeys>,
    settings: TicketSettings,
    clock: Clock,
}

impl TicketHooks for Tickets {
    fn issue(&self, handshake: &Handshake<'_>, session: &mut Session<'_>) {
        let now = self.clock.now();
        let lifetime = self.lifetime(&self.keys.table());
        let timeout = if handshake.is_resumed() {
            // OpenSSL 4.0.3 sets the session's time to now before it calls, in TLS 1.3 only: what it announces and
            // enforces would begin anew with each renewal. A TLS 1.2 session keeps its first time, so nothing is due.
            if handshake.version() != Some(SslVersion::TLS1_3) {
                return;
            }
            Provenance::decode(session.application_data()).and_then(|first| first.remaining_at(now, lifetime))
        } else {
            let provenance = Provenance { issued_at: now, server_name: NameHash::of(handshake.server_name()) };
            // A session that could not be marked is not sealed, see below.
            let marked = session.set_application_data(&provenance.encode());
            marked.is_ok().then_some(lifetime)
        };
        // At least a second: as it comes, OpenSSL 4.0.3 takes a session without timeout for a broken one and ends the
        // handshake, and what it reads from such a ticket has three seconds (ssl_asn1.c). No ticket comes of it, because `seal`
        // checks the lifetime by our own account. That is also why a failure, which only a broken session can cause, may be
        // ignored.
        let seconds = timeout.map_or(1, |timeout| u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX).max(1));
        let _ = session.set_timeout(seconds);
    }

    fn seal(&self, session: Option<&Session<'_>>, slot: &mut ProtectionSlot<'_>) -> bool {
        let result = self.seal_at(self.clock.now(), session, slot);
        count(|counters| counters.issued.of(result).increment());
        result == TicketIssue::Issued
    }

    fn open(&self, key_name: &[u8; KEY_NAME_BYTES], slot: &mut ProtectionSlot<'_>) -> bool {
        let table = self.keys.table();
        let (opening, key) = match table.opening_at(key_name, self.clock.now()) {
            Lookup::Current(key) => (TicketOpening::Current, Some(key)),
            Lookup::Previous(key) => (TicketOpening::PreviousRenewed, Some(key)),
            Lookup::Expired => (TicketOpening::Expired, None),
            Lookup::OtherScope => (TicketOpening::Scope, None),
            Lookup::Unknown => (TicketOpening::UnknownKey, None),
        };
        LOOKED_UP.set(Some(opening));
        key.is_some_and(|key| slot.protect(key))
    }

    fn admit(&self, handshake: &Handshake<'_>, session: Option<&Session<'_>>) -> Admission {
        let looked_up = LOOKED_UP.take();
        let opening = match (session, looked_up) {
            (Some(session), Some(found)) => self.judge_at(self.clock.now(), handshake, session, found),
            // No key, and then the reason is known, or a key and a ticket that does not fit it.
            (None, Some(reason)) if !is_usable(reason) => reason,
            _ => TicketOpening::Corrupted,
        };
        count(|counters| counters.opened.of(opening).increment());
        let one_time = self.settings.renewal == Renewal::OneTimeUse && handshake.version() == Some(SslVersion::TLS1_3);
        match opening {
            TicketOpening::Current if !one_time => Admission::Resume,
            TicketOpening::Current | TicketOpening::PreviousRenewed => Admission::ResumeAndRenew,
            _ => Admission::Refuse,
        }
    }

    fn panicked(&self) {
        count(|counters| counters.panics.increment());
    }
}

impl Tickets {
    fn lifetime(&self, table: &KeyTable) -> Duration {
        self.settings.lifetime.min(table.retention())
    }

    fn seal_at(&self, now: UnixSeconds, session: Option<&Session<'_>>, slot: &mut ProtectionSlot<'_>) -> TicketIssue {
        let table = self.keys.table();
        let Some(provenance) = session.and_then(|session| Provenance::decode(session.application_data())) else {
            return TicketIssue::Failed;
        };
        if provenance.remaining_at(now, self.lifetime(&table)).is_none() {
            return TicketIssue::LifetimeOver;
        }
        let Some(key) = table.sealing_at(now) else { return TicketIssue::NoKey };
        if slot.protect(key) { TicketIssue::Issued } else { TicketIssue::Failed }
    }

    /// Everything that OpenSSL does not check, or checks later with an alert where a full handshake does.
    fn judge_at(
        &self,
        now: UnixSeconds,
        handshake: &Handshake<'_>,
        session: &Session<'_>,
        found: TicketOpening,
    ) -> TicketOpening {
        const SERVER_NAME: u16 = 0;
        if session.id_context() != self.keys.scope.as_bytes() {
            return TicketOpening::Scope;
        }
        let Some(provenance) = Provenance::decode(session.application_data()) else {
            return TicketOpening::Corrupted;
        };
        if provenance.remaining_at(now, self.lifetime(&self.keys.table())).is_none() {
            return TicketOpening::Expired;
        }
        if session.version().is_none() || session.version() != handshake.version() {
            return TicketOpening::Version;
        }
        // RFC 6066 section 3: a session is not resumed for another server name. OpenSSL resumes it all the same.
        let name = handshake.client_hello_extension(SERVER_NAME).and_then(host_name);
        if NameHash::of(name) != provenance.server_name {
            return TicketOpening::ServerName;
        }
        // Verified anew, the certificate would be refused: its revocation list has expired since.
        if self.settings.until.is_some_and(|until| now >= until) {
            return TicketOpening::ClientCertificate;
        }
        // The scope sees to this already. Should it ever not, a session without a certificate still gets nowhere where
        // one is needed.
        if handshake.requires_client_certificate() && session.client_certificate().is_none() {
            return TicketOpening::ClientCertificate;
        }
        // A resumption does not verify the certificate again: an expired one would live on in tickets.
        if session.client_certificate().is_some_and(|certificate| !is_before_at(now, certificate.not_after())) {
            return TicketOpening::ClientCertificate;
        }
        found
    }
}

fn is_usable(opening: TicketOpening) -> bool {
    matches!(opening, TicketOpening::Current | TicketOpening::PreviousRenewed)
}

/// Whether `now` is before `end`; a time that cannot be compared counts as over.
fn is_before_at(now: UnixSeconds, end: &openssl::asn1::Asn1TimeRef) -> bool {
    let now = i64::try_from(now.0).ok().and_then(|seconds| Asn1Time::from_unix(seconds).ok());
    now.is_some_and(|now| now.compare(end).is_ok_and(std::cmp::Ordering::is_lt))
}

thread_local! {
    /// What `open` found, for the `admit` that OpenSSL calls next on the same thread for the same ticket.
    static LOOKED_UP: Cell<Option<TicketOpening>> = const { Cell::new(None) };
}
