//! The ticket ring of the process: opened at the start, kept up to date by the control thread.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use crate::telemetry::RingCounters;
use crate::ticket::{
    Keeper, KeeperError, Maintenance, Renewal, RingChange, RingShape, ScopeHash, ScopeKeys, Settings, Source,
    TicketSettings, UnixSeconds,
};
use crate::tls;
use crate::worker;

/// The ring, and who uses it.
pub(super) struct Tickets {
    keeper: Option<Keeper>,
    source: Option<Source>,
    counters: Arc<RingCounters>,
}

impl Tickets {
    /// Opens the ring that the settings name, or makes one for this process. No ring where no tickets are wanted.
    /// Goes on with the ring of the process that this one takes over from, where both are in memory.
    pub(super) fn open(settings: &Settings, predecessors: Option<&[u8]>) -> Result<Self, KeeperError> {
        let mut tickets = Self::open_counting(source(settings)?, Arc::default())?;
        if let (Some(keeper), Some(ring)) = (&mut tickets.keeper, predecessors) {
            match keeper.resume_at(ring, now()) {
                Ok(true) => {}
                Ok(false) => {
                    tracing::info!("ticket ring: the settings differ from the predecessor's, its sessions end")
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

    fn open_counting(source: Option<Source>, counters: Arc<RingCounters>) -> Result<Self, KeeperError> {
        let open = |source: Source| Keeper::open_at(source, &[], now());
        let keeper = source.clone().map(open).transpose()?.map(|keeper| keeper.counting_into(Arc::clone(&counters)));
        Ok(Self { keeper, source, counters })
    }

    /// The ring of other settings; none where it is this one, so that sessions go on.
    pub(super) fn reopen(&self, settings: &Settings) -> Result<Option<Self>, KeeperError> {
        let wanted = source(settings)?;
        if wanted == self.source {
            return Ok(None);
        }
        Self::open_counting(wanted, Arc::clone(&self.counters)).map(Some)
    }

    /// Nobody's ring.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self { keeper: None, source: None, counters: Arc::default() }
    }

    /// The keys of a listener: those of everything that admits its sessions.
    pub(super) fn of(&mut self, listener: &worker::ListenerSettings) -> Result<Option<Arc<ScopeKeys>>, KeeperError> {
        let Some(keeper) = &mut self.keeper else { return Ok(None) };
        keeper.scope_at(scope(listener), now()).map(Some)
    }

    /// What happened to the ring.
    pub(super) fn counters(&self) -> Arc<RingCounters> {
        Arc::clone(&self.counters)
    }

    /// Looks at the file at once, changed or not. An error has been counted; the former keys stay in use.
    pub(super) fn reread(&mut self) -> Result<(), KeeperError> {
        let Some(keeper) = &mut self.keeper else { return Ok(()) };
        log(&keeper.reload_at(now())?);
        Ok(())
    }

    /// Ratchets the ring with the clock and follows its file; to be called every minute or so.
    pub(super) fn maintain(&mut self) {
        let Some(keeper) = &mut self.keeper else { return };
        match keeper.maintain_at(now()) {
            Ok(done) => log(&done),
            Err(error) => tracing::error!(%error, "ticket ring: the former keys stay in use"),
        }
    }
}

/// How often the ring is looked after: well within an epoch, which is five minutes at least.
pub(super) const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(30);

/// How tickets are issued.
pub(super) fn issuing(settings: &Settings) -> TicketSettings {
    let per_handshake = u8::try_from(settings.count).unwrap_or(u8::MAX);
    TicketSettings { lifetime: settings.lifetime, per_handshake, renewal: Renewal::default() }
}

/// Where keys come from; none: no tickets are wanted.
fn source(settings: &Settings) -> Result<Option<Source>, KeeperError> {
    if settings.lifetime.is_zero() {
        return Ok(None);
    }
    Ok(Some(match &settings.ring {
        Some(path) => Source::File(path.clone()),
        None => Source::Memory(shape(settings.lifetime)?),
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

/// What a ticket is bound to: a session resumes only where the same policy, name and protocols apply.
fn scope(listener: &worker::ListenerSettings) -> ScopeHash {
    let policy = match listener.tls.policy {
        tls::Policy::Modern => b"modern".as_slice(),
        tls::Policy::Intermediate => b"intermediate",
    };
    let alpn = listener.tls.alpn.join(",");
    ScopeHash::of(&[
        ("listener", listener.name.as_bytes()),
        ("policy", policy),
        ("alpn", alpn.as_bytes()),
        ("client_auth", b"off"),
    ])
}

fn log(done: &Maintenance) {
    if done.change != RingChange::None {
        tracing::info!(change = ?done.change, "ticket ring: the file brought a change");
    }
    if done.ratcheted_epochs > 0 {
        tracing::debug!(epochs = done.ratcheted_epochs, "ticket ring: ratcheted");
    }
    if let Err(error) = &done.persisted {
        tracing::error!(%error, "ticket ring: the file could not be rewritten and still holds keys of expired tickets");
    }
}

fn now() -> UnixSeconds {
    SystemTime::now().into()
}
