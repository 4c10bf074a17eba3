//! How one process takes over from another, seen from both: the successor says when it serves, the predecessor drains.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::Sender;
use tokio::sync::oneshot::Receiver;
use tokio::task::AbortHandle;

use super::aside;
use super::control::{Control, PROGRESS_INTERVAL};
use super::handover;
use super::notify;
use super::signal::Origin;
use super::upgrade::{Invocation, UpgradeError};
use crate::admin;
use crate::telemetry::audit::AuditEvent;
use crate::telemetry::{Phase, Process, WorkerState};

/// What the process knows of its predecessor and of its successor.
pub(super) struct Succession {
    invocation: Invocation,
    /// Where the predecessor waits for word that this process serves.
    predecessor: Option<OwnedFd>,
    /// The upgrade under way, and who asked for it.
    upgrade: Option<(Origin, Receiver<Result<u32, UpgradeError>>)>,
    /// Asked for during a reload, which goes first.
    wanted: Option<Origin>,
}

/// The admin endpoint: served at once, or when this process has taken over, and no more when another one has.
#[derive(Default)]
pub(super) struct Door {
    waiting: Option<(admin::Endpoint, Sender<admin::Request>)>,
    serving: Option<AbortHandle>,
    /// The twin of its socket, for a successor.
    twin: Option<(String, admin::Twin)>,
}

impl Succession {
    pub(super) fn new(invocation: Invocation, predecessor: Option<OwnedFd>) -> Self {
        Self { invocation, predecessor, upgrade: None, wanted: None }
    }

    /// Whether a successor is being started.
    pub(super) fn is_under_way(&self) -> bool {
        self.upgrade.is_some()
    }

    /// Waits until the upgrade under way has come to an end; forever where there is none.
    ///
    /// Cancel safety: safe.
    pub(super) async fn ended(&mut self) -> (Origin, Result<u32, UpgradeError>) {
        let Some((origin, result)) = &mut self.upgrade else { return std::future::pending().await };
        let ended = (*origin, result.await.unwrap_or(Err(UpgradeError::Panicked)));
        self.upgrade = None;
        ended
    }
}

impl Door {
    pub(super) fn new(endpoint: admin::Endpoint, requests: Sender<admin::Request>) -> Self {
        let twin = endpoint
            .twin()
            .inspect_err(|error| tracing::warn!(%error, "an upgrade will not hand over the admin endpoint"))
            .ok();
        let twin = twin.map(|twin| (endpoint.address().to_string(), twin));
        Self { waiting: Some((endpoint, requests)), serving: None, twin }
    }

    fn open(&mut self, process: &Arc<Process>) {
        let Some((endpoint, requests)) = self.waiting.take() else { return };
        let process = Arc::clone(process);
        let serve = async move {
            if let Err(error) = endpoint.serve(process, requests).await {
                tracing::error!(%error, "the admin endpoint failed; connections are served on");
            }
        };
        self.serving = Some(tokio::spawn(serve).abort_handle());
    }

    fn close(&mut self) {
        if let Some((_, twin)) = self.twin.take() {
            twin.leave_file();
        }
        if let Some(task) = self.serving.take() {
            task.abort();
        }
    }
}

impl Control {
    /// Opens the admin endpoint, unless a predecessor answers there until this process serves.
    pub(super) fn open_door(&mut self) {
        if self.succession.predecessor.is_none() {
            self.door.open(&self.process);
        }
    }

    /// Says that the start is over when it is.
    pub(super) fn look_at_start(&mut self) {
        if self.process.worker_count(WorkerState::Starting) > 0 {
            return;
        }
        tracing::info!(workers = self.process.worker_count(WorkerState::Running), "every worker accepts connections");
        self.server.store_sockets();
        let Some(predecessor) = self.succession.predecessor.take() else { return notify::ready() };
        self.door.open(&self.process);
        match handover::tell_ready(&predecessor) {
            Ok(()) => tracing::info!("taken over from the former process"),
            // It has gone by itself, or was killed: all the more reason to go on.
            Err(error) => tracing::warn!(%error, "the former process cannot be told that this one serves"),
        }
    }

    /// Starts a successor; behind a reload, if there is one.
    pub(super) fn upgrade(&mut self, origin: Origin) {
        let cause = origin.signal;
        if self.process.phase.get() != Phase::Serving || self.succession.is_under_way() {
            tracing::warn!(%cause, "no upgrade: one is under way, or the process is about to end");
            return;
        }
        if self.reloads.is_busy() || self.process.worker_count(WorkerState::Starting) > 0 {
            self.succession.wanted = Some(origin);
            return;
        }
        tracing::info!(%cause, executable = %self.succession.invocation.executable().display(), "upgrading");
        let mut handover = match self.server.handover() {
            Ok(handover) => handover,
            Err(error) => return self.note_failed_upgrade(origin, &UpgradeError::Twins(error)),
        };
        let twin = self.door.twin.as_ref();
        handover.admin = twin.and_then(|(address, twin)| Some((address.clone(), twin.socket().try_clone().ok()?)));
        let invocation = self.succession.invocation.clone();
        match aside::run("upgrade", move || invocation.upgrade(&handover)) {
            Ok(result) => self.succession.upgrade = Some((origin, result)),
            Err(error) => self.note_failed_upgrade(origin, &UpgradeError::Thread(error)),
        }
    }

    /// Begins the upgrade that waited for a reload.
    pub(super) fn look_after_upgrade(&mut self) {
        let is_free = !self.reloads.is_busy() && self.process.worker_count(WorkerState::Starting) == 0;
        if is_free && let Some(origin) = self.succession.wanted.take() {
            self.upgrade(origin);
        }
    }

    /// Drains where a successor serves, and serves on where there is none.
    pub(super) fn finish_upgrade(&mut self, (origin, result): (Origin, Result<u32, UpgradeError>)) {
        let pid = match result {
            Ok(pid) => pid,
            Err(error) => return self.note_failed_upgrade(origin, &error),
        };
        notify::main_pid(pid);
        self.door.close();
        if self.process.phase.get() != Phase::Serving {
            // A drain came meanwhile. It was meant for this process; who wants to end the other one tells it.
            tracing::warn!(pid, "the new process serves, while this one is about to end already");
            return self.server.hand_over(self.drain_timeout);
        }
        let (open, timeout) = (self.process.connections_open(), self.drain_timeout);
        self.server.audit(AuditEvent::Upgrade, origin.actor(), Some(format!("process {pid} took over")));
        tracing::info!(pid, open, ?timeout, "upgraded: the new process accepts, open connections may go on here");
        self.begin_drain("upgrade");
        self.server.hand_over(timeout);
        self.deadline_within(timeout);
        self.progress_due = Instant::now() + PROGRESS_INTERVAL;
    }

    fn note_failed_upgrade(&mut self, origin: Origin, error: &UpgradeError) {
        self.server.audit(AuditEvent::UpgradeRefused, origin.actor(), Some(error.to_string()));
        self.process.reloads.upgrades_failed.increment();
        tracing::error!("upgrade failed: {error}; this process serves on");
    }
}
