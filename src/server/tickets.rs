//! The ticket ring of the process: opened at the start, kept up to date by the control thread.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use zeroize::Zeroizing;

use crate::backend;
use crate::telemetry::{KeySource, RingFacts, RingStanding, RingStatus, RingTelemetry};
use crate::ticket::{
    Keeper, KeeperError, Maintenance, Renewal, RingChange, RingShape, ScopeHash, ScopeKeys, Settings, Source,
    TicketSettings, UnixSeconds,
};
use crate::tls::client_auth::ClientAuth;
use crate::tls::{ServerName, TicketKeys};
use crate::worker;

/// The ring, and who uses it.
pub(super) struct Tickets {
    /// None where no tickets are wanted.
    keeper: Option<Keeper>,
    source: Option<Source>,
    key_files: Vec<PathBuf>,
    telemetry: Arc<RingTelemetry>,
    /// What is wrong, so that it is logged once and not with every run.
    complaint: Option<String>,
}

impl Tickets {
    /// Opens the ring that the settings name, or makes one for this process. No ring where no tickets are wanted.
    /// Goes on with the ring of the process that this one takes over from, where both are in memory.
    pub(super) fn open(settings: &Settings, predecessors: Option<&[u8]>) -> Result<Self, KeeperError> {
        let mut tickets = Self::open_from(settings, None)?;
        if let (Some(keeper), Some(ring)) = (&mut tickets.keeper, predecessors) {
            match keeper.resume_at(ring, now()) {
                Ok(true) => {}
                Ok(false) => {
                    tracing::info!("ticket ring: the settings differ from the predecessor's, its sessions end");
                }
                Err(error) => tracing::warn!(%error, "ticket ring: the predecessor's cannot be used, its sessions end"),
            }
        }
        Ok(tickets)
    }

    /// The ring, where no file has it, for the process that takes over.
    pub(super) fn export(&self) -> Option<Zeroizing<Vec<u8>>> {
        self.keeper.as_ref()?.export()
    }

    /// The keys of other settings; none where they are these, so that sessions go on.
    pub(super) fn reopen(&self, settings: &Settings) -> Result<Option<Self>, KeeperError> {
        if source(settings)? == self.source && settings.key_files == self.key_files {
            return Ok(None);
        }
        Self::open_from(settings, Some(self)).map(Some)
    }

    fn open_from(settings: &Settings, former: Option<&Self>) -> Result<Self, KeeperError> {
        let (source, key_files) = (source(settings)?, settings.key_files.clone());
        let telemetry = former.map(Self::telemetry).unwrap_or_default();
        let mut tickets = Self { keeper: None, source, key_files, telemetry, complaint: None };
        if let Some(source) = &tickets.source {
            let keeper = Keeper::open_at(source.clone(), &tickets.key_files, now())?;
            tickets.keeper = Some(match former.and_then(|former| former.keeper.as_ref()) {
                Some(former) => keeper.succeed(former)?,
                None => keeper.report_to(Arc::clone(&tickets.telemetry)),
            });
        }
        tickets.log_lifetime(settings);
        Ok(tickets)
    }

    /// Nobody's ring.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self { keeper: None, source: None, key_files: Vec::new(), telemetry: Arc::default(), complaint: None }
    }

    /// The keys of a listener: those of everything that admits its sessions.
    pub(super) fn of(
        &mut self,
        listener: &worker::ListenerSettings,
        backends: &[backend::Settings],
    ) -> Result<Option<TicketKeys>, KeeperError> {
        let Some(keeper) = &mut self.keeper else { return Ok(None) };
        let now = now();
        let mut known: Vec<(Option<[u8; 32]>, Arc<ScopeKeys>)> = Vec::new();
        let mut keys = |client_auth: Option<&ClientAuth>| {
            let digest = client_auth.map(|client_auth| *client_auth.digest());
            if let Some((_, keys)) = known.iter().find(|(known, _)| *known == digest) {
                return Ok(Arc::clone(keys));
            }
            let keys = keeper.scope_at(scope(listener, client_auth, backends), now)?;
            known.push((digest, Arc::clone(&keys)));
            Ok::<_, KeeperError>(keys)
        };
        let of_listener = keys(listener.tls.client_auth.as_deref())?;
        let sections = listener.tls.sections.iter().map(|section| keys(section.client_auth.as_deref()));
        Ok(Some(TicketKeys { sections: sections.collect::<Result<_, _>>()?, listener: of_listener }))
    }

    /// What happened to the ring, and what it is like.
    pub(super) fn telemetry(&self) -> Arc<RingTelemetry> {
        Arc::clone(&self.telemetry)
    }

    /// Looks at every file at once, changed or not; says when that ended the tickets that were out. An error has been
    /// counted; the former keys stay in use.
    pub(super) fn reread(&mut self) -> Result<Option<String>, KeeperError> {
        let Some(keeper) = &mut self.keeper else { return Ok(None) };
        let done = keeper.reload_at(now())?;
        self.log_done(&done);
        Ok(self.revocation(done.change))
    }

    /// Ratchets the ring with the clock and follows its file; to be called each [`MAINTENANCE_INTERVAL`]. Says when a
    /// change of the file ended the tickets that were out.
    pub(super) fn maintain(&mut self) -> Option<String> {
        let now = now();
        let Some(keeper) = &mut self.keeper else {
            if self.telemetry.status().source != KeySource::None {
                self.telemetry.publish(RingStatus::default());
            }
            return None;
        };
        if !keeper.is_due_at(now) {
            return None;
        }
        match keeper.maintain_at(now) {
            Ok(done) => {
                self.log_done(&done);
                self.revocation(done.change)
            }
            Err(error) => {
                self.complain(&error, "ticket ring: the former keys stay in use");
                None
            }
        }
    }

    /// What to take note of for good: that every ticket from before is refused, and by which ring.
    fn revocation(&self, change: RingChange) -> Option<String> {
        let what = match change {
            RingChange::Revoked => "revoked",
            RingChange::Replaced => "another ring took its place",
            RingChange::None
            | RingChange::Followed { .. }
            | RingChange::KeptOurs { .. }
            | RingChange::Restored { .. } => return None,
        };
        let status = self.telemetry.status();
        let facts = status.ring.as_ref();
        let generation = facts.map_or_else(String::new, |facts| format!(" {}", facts.generation));
        let fingerprint = facts.and_then(|facts| facts.fingerprint.as_deref()).unwrap_or("unknown");
        Some(format!("{what}: every ticket from before is refused; generation{generation}, ring {fingerprint}"))
    }

    fn log_done(&mut self, done: &Maintenance) {
        match (done.change, &self.source) {
            (RingChange::None, _) => {}
            (change, Some(Source::Memory(_))) => {
                tracing::info!(?change, "ticket ring: made anew, it was ahead of the clock")
            }
            (change, _) => tracing::info!(?change, "ticket ring: the file brought a change"),
        }
        if done.ratcheted_epochs > 0 {
            tracing::debug!(epochs = done.ratcheted_epochs, "ticket ring: ratcheted");
        }
        match &done.persisted {
            Err(error) => self.complain(
                error,
                "ticket ring: the file could not be rewritten and still holds keys of expired tickets",
            ),
            Ok(_) => self.log_standing(),
        }
    }

    /// Logs that the ring is ahead of the clock, so that there are no tickets, or that nothing is wrong any more.
    fn log_standing(&mut self) {
        let beginning = self.telemetry.status().ring.as_ref().and_then(beginning_of_ring_ahead);
        match beginning {
            Some(at) => self.complain(
                &format_args!("the ring begins at {}", humantime::format_rfc3339_seconds(at)),
                "ticket ring: no tickets until the clock gets there; set the clock, or distribute the ring again",
            ),
            None if self.complaint.take().is_some() => tracing::info!("ticket ring: all is well again"),
            None => {}
        }
    }

    /// Logs an error once for as long as it stays the same.
    fn complain(&mut self, error: &dyn Display, consequence: &'static str) {
        let text = error.to_string();
        if self.complaint.as_ref() != Some(&text) {
            tracing::error!(error = %text, "{consequence}");
            self.complaint = Some(text);
        }
    }

    /// Logs where the ring gives less than the configuration asks for.
    fn log_lifetime(&self, settings: &Settings) {
        let Some(keeper) = self.keeper.as_ref().filter(|keeper| settings.lifetime > keeper.retention()) else { return };
        let (wanted, lifetime) = (settings.lifetime, keeper.retention());
        tracing::warn!(?wanted, ?lifetime, "ticket ring: tickets.lifetime is longer than the ring allows, whose holds");
    }
}

/// How often the ring is looked after. A look costs one stat(2) where nothing has changed; a revocation that is written
/// into the file is obeyed after this time.
pub(super) const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);

/// How tickets are issued.
pub(super) fn issuing(settings: &Settings) -> TicketSettings {
    let per_handshake = u8::try_from(settings.count).unwrap_or(u8::MAX);
    TicketSettings { lifetime: settings.lifetime, per_handshake, renewal: Renewal::default(), until: None }
}

/// Where keys come from; none: no tickets are wanted.
fn source(settings: &Settings) -> Result<Option<Source>, KeeperError> {
    if settings.lifetime.is_zero() {
        return Ok(None);
    }
    Ok(Some(match &settings.ring {
        Some(path) => Source::File(path.clone()),
        None if settings.key_files.is_empty() => Source::Memory(shape(settings.lifetime)?),
        None => Source::KeyFiles,
    }))
}

/// A ring that keeps keys for as long as the tickets live.
fn shape(lifetime: Duration) -> Result<RingShape, KeeperError> {
    let longest_default = RingShape::default().retention();
    if lifetime <= longest_default {
        return Ok(RingShape::default());
    }
    Ok(RingShape::new(RingShape::default().epoch_length(), Duration::from_secs(lifetime.as_secs()))?)
}

/// What a ticket is bound to: a session resumes only where the same versions, suites and protocols apply, the same backend
/// answers, and the same is asked of clients. Not the listener's name: one site often has several, such as one for IPv4
/// and one for IPv6. `docs/ticket-ring.md` lists the fields.
fn scope(
    listener: &worker::ListenerSettings,
    client_auth: Option<&ClientAuth>,
    backends: &[backend::Settings],
) -> ScopeHash {
    let protocol = &listener.tls.protocol;
    let (versions, suites) = (protocol.versions_text(), protocol.suites_text());
    let alpn = listener.tls.alpn.join(",");
    // Whom it lets in, down to the content of its files: a session must not get past a stricter policy than its own.
    let client_auth = client_auth.map_or(b"off".as_slice(), |client_auth| client_auth.digest());
    let backend = |index: usize| backends.get(index).map_or("", |backend| backend.name.as_str());
    let mut sections = String::new();
    for (section, index) in listener.tls.sections.iter().zip(&listener.section_backends) {
        let names: Vec<_> = section.names.iter().map(ServerName::as_str).collect();
        sections.extend([&names.join(","), "=", backend(*index), ";"]);
    }
    ScopeHash::of(&[
        ("backend", backend(listener.backend).as_bytes()),
        ("sections", sections.as_bytes()),
        ("versions", versions.as_bytes()),
        ("suites", suites.as_bytes()),
        ("alpn", alpn.as_bytes()),
        ("client_auth", client_auth),
    ])
}

/// When the first key of a ring that is ahead of the clock begins to seal; none where the ring is not ahead.
fn beginning_of_ring_ahead(facts: &RingFacts) -> Option<SystemTime> {
    let seconds = facts.first_epoch.saturating_mul(facts.epoch_length_seconds);
    (facts.standing == RingStanding::Ahead).then(|| UNIX_EPOCH + Duration::from_secs(seconds.min(UNIX_SECONDS_MAX)))
}

/// 9999-12-31T23:59:59Z, where RFC 3339 ends: a later beginning is shown as this.
const UNIX_SECONDS_MAX: u64 = 253_402_300_799;

fn now() -> UnixSeconds {
    SystemTime::now().into()
}
