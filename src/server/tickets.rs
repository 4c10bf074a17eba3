//! The ticket ring of the process: opened at the start, kept up to date by the control thread.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

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
    settings: TicketSettings,
}

impl Tickets {
    /// Opens the ring that the settings name, or makes one for this process. No ring where no tickets are wanted.
    pub(super) fn open(settings: &Settings) -> Result<Self, KeeperError> {
        let per_handshake = u8::try_from(settings.count).unwrap_or(u8::MAX);
        let ticket_settings =
            TicketSettings { lifetime: settings.lifetime, per_handshake, renewal: Renewal::default() };
        if settings.lifetime.is_zero() {
            return Ok(Self { keeper: None, settings: ticket_settings });
        }
        let source = match &settings.ring {
            Some(path) => Source::File(path.clone()),
            None => Source::Memory(shape(settings.lifetime)?),
        };
        Ok(Self { keeper: Some(Keeper::open_at(source, &[], now())?), settings: ticket_settings })
    }

    /// Nobody's ring.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self { keeper: None, settings: TicketSettings::default() }
    }

    /// The keys of a listener: those of everything that admits its sessions.
    pub(super) fn of(&mut self, listener: &worker::ListenerSettings) -> Result<Option<Arc<ScopeKeys>>, KeeperError> {
        let Some(keeper) = &mut self.keeper else { return Ok(None) };
        keeper.scope_at(scope(listener), now()).map(Some)
    }

    /// How tickets are issued.
    pub(super) fn settings(&self) -> &TicketSettings {
        &self.settings
    }

    /// What happened to the ring.
    pub(super) fn counters(&self) -> Arc<RingCounters> {
        self.keeper.as_ref().map(Keeper::counters).unwrap_or_default()
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
