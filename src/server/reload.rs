//! Reloads: the configuration is read and tried out on a thread of its own, put in service on the control thread, and
//! taken up by the workers, while everything else goes on. Whatever fails leaves the former configuration in service.
//! Changed certificate files go the same way, but the configuration is not read again, and each listener counts by
//! itself.

use std::future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;

use super::aside;
use super::control::Control;
use super::notify;
use super::settings::{Reader, Reading, Settings, Unusable};
use super::snapshot::{Prepared, Swap};
use super::start::StartError;
use super::summary;
use crate::admin::Reloaded;
use crate::telemetry::audit::{Actor, AuditEvent};
use crate::telemetry::{LastReload, Phase, ReloadResult, SwapResult, WorkerState};
use crate::worker::Notice;

/// How long the answer to a reload waits for every worker to take the configuration up.
const ADOPTION_TIMEOUT: Duration = Duration::from_secs(5);
/// When certificates are looked at again that could not be read for want of a thread.
const SWAP_RETRY: Duration = Duration::from_secs(10);

/// The reload under way, if there is one.
pub(super) struct Reloads {
    reader: Reader,
    preparing: Option<(Request, oneshot::Receiver<Result<Ready, Unready>>)>,
    adopting: Option<Adopting>,
    /// Those who asked meanwhile: what they changed may have been read already or not, so there will be another one.
    next: Option<Request>,
}

/// Who wants a reload, and of what.
struct Request {
    cause: &'static str,
    by: Actor,
    scope: Scope,
    answers: Vec<oneshot::Sender<Reloaded>>,
}

/// What is read anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Configuration,
    Certificates,
}

/// A configuration that can be put in service.
struct Ready {
    prepared: Prepared,
    warnings: Vec<String>,
    /// With [`Scope::Certificates`]: the listeners whose files have changed.
    swaps: Vec<Swap>,
}

/// Why there is none.
#[derive(Debug)]
enum Unready {
    Refused(Unusable),
    Failed(StartError),
}

/// A configuration that is in service, and that some workers have yet to take up.
struct Adopting {
    request: Request,
    generation: u64,
    warnings: Vec<String>,
    deadline: Instant,
}

impl Reloads {
    pub(super) fn new(reader: Reader) -> Self {
        Self { reader, preparing: None, adopting: None, next: None }
    }

    /// Waits until the configuration of the reload under way has been read and tried out; forever where there is none.
    ///
    /// Cancel safety: safe.
    pub(super) async fn prepared(&mut self) -> Finished {
        let Some((_, task)) = &mut self.preparing else { return future::pending().await };
        Finished(task.await.unwrap_or_else(|_panicked| {
            let reason = "reading the configuration panicked: this is a bug, please report it".to_owned();
            Err(Unready::Refused(Unusable { lines: vec![reason.clone()], rendered: reason }))
        }))
    }

    pub(super) fn is_busy(&self) -> bool {
        self.preparing.is_some() || self.adopting.is_some()
    }
}

/// What came of reading a configuration.
pub(super) struct Finished(Result<Ready, Unready>);

impl Control {
    /// Begins a reload, or has one follow the one under way.
    pub(super) fn reload(&mut self, cause: &'static str, by: Actor, answer: Option<oneshot::Sender<Reloaded>>) {
        let mut request = Request { cause, by, scope: Scope::Configuration, answers: answer.into_iter().collect() };
        let obstacle = match self.process.phase.get() {
            Phase::Serving if self.succession.is_under_way() => Some("an upgrade is under way"),
            Phase::Serving => None,
            Phase::Draining | Phase::Stopping => Some("the process is about to end"),
        };
        if let Some(obstacle) = obstacle {
            tracing::warn!(%cause, "no reload: {obstacle}");
            return request.answer(&Reloaded::Failed { reason: obstacle.to_owned() });
        }
        if self.reloads.is_busy() {
            let waiting = self.reloads.next.take();
            request.answers.extend(waiting.into_iter().flat_map(|waiting| waiting.answers));
            self.reloads.next = Some(request);
            return;
        }
        tracing::info!(%cause, "reloading the configuration");
        self.server.logs().reopen();
        notify::reloading();
        let reader = self.reloads.reader.clone();
        let known = self.server.capabilities().clone();
        let task = aside::run("reload", move || {
            let Reading { settings, warnings } = reader().map_err(Unready::Refused)?;
            let prepared = Prepared::prepare(settings, Some(known)).map_err(Unready::Failed)?;
            Ok(Ready { prepared, warnings, swaps: Vec::new() })
        });
        match task {
            Ok(task) => self.reloads.preparing = Some((request, task)),
            Err(error) => {
                let reason = format!(
                    "no thread to read the configuration on: {error}; look at the limits of the service (TasksMax=, memory)"
                );
                self.end_reload(request, &Reloaded::Failed { reason });
            }
        }
    }

    /// Reads the certificates whose files have changed.
    pub(super) fn swap_certificates(&mut self) {
        let request = Request {
            cause: "certificate files",
            by: Actor::process(),
            scope: Scope::Certificates,
            answers: Vec::new(),
        };
        let settings = self.server.settings().clone();
        let known = self.server.capabilities().clone();
        let read = self.watch.stamps().clone();
        let task = aside::run("certificates", move || {
            let (prepared, swaps) = Prepared::renew(settings, known, &read);
            Ok(Ready { prepared, warnings: Vec::new(), swaps })
        });
        match task {
            Ok(task) => self.reloads.preparing = Some((request, task)),
            Err(error) => {
                tracing::error!(%error, "certificate files changed, and no thread can be had to read them: tried again later");
                self.watch.look_again_at(Instant::now() + SWAP_RETRY);
            }
        }
    }

    /// Puts in service what was read, if it can be.
    pub(super) fn finish_reading(&mut self, Finished(result): Finished) {
        let Some((request, _)) = self.reloads.preparing.take() else { return };
        // A drain that began meanwhile goes first.
        if self.process.phase.get() != Phase::Serving {
            return self.end_reload(request, &Reloaded::Failed { reason: "the process is about to end".to_owned() });
        }
        match result {
            Ok(ready) if request.scope == Scope::Certificates => self.finish_swap(request, ready),
            Ok(ready) => self.publish(request, ready),
            Err(Unready::Refused(Unusable { lines, rendered })) => {
                self.end_reload(request, &Reloaded::Refused { lines, rendered });
            }
            Err(Unready::Failed(error)) => {
                self.end_reload(request, &Reloaded::Failed { reason: error.to_string() });
            }
        }
    }

    /// Counts and tells what came of each listener, and puts in service what can be.
    fn finish_swap(&mut self, request: Request, mut ready: Ready) {
        for Swap { listener, problem } in &ready.swaps {
            match problem {
                None => {
                    self.process.reloads.swaps.of(SwapResult::Swapped).increment();
                    tracing::info!(%listener, "certificate files changed: the new certificate goes in service");
                }
                Some(error) => {
                    self.process.reloads.swaps.of(SwapResult::Kept).increment();
                    tracing::error!(%listener, "certificate files changed: {error}; the former certificate stays in service");
                    ready.warnings.push(format!("{error}; the former certificate stays in service"));
                }
            }
        }
        if ready.swaps.iter().any(|swap| swap.problem.is_none()) {
            return self.publish(request, ready);
        }
        // Looked at again when the files change again.
        self.watch.follow(ready.prepared.stamps);
        let lines = ready.warnings;
        self.end_reload(request, &Reloaded::Refused { rendered: lines.join("\n"), lines });
    }

    fn publish(&mut self, request: Request, Ready { prepared, mut warnings, .. }: Ready) {
        warnings.extend(needs_restart(self.server.settings(), &prepared.settings));
        let tickets_before = self.server.settings().tickets.clone();
        // Before the first handshake can want it.
        self.stapling.offer(&prepared.settings.listeners);
        let generation = match self.server.publish(prepared) {
            Ok(generation) => generation,
            Err(error) => return self.end_reload(request, &Reloaded::Failed { reason: error.to_string() }),
        };
        self.server.store_sockets();
        self.watch.follow(self.server.stamps().clone());
        self.stapling.follow(&self.server.settings().listeners, SystemTime::now());
        let tickets = &self.server.settings().tickets;
        if (&tickets.ring, &tickets.key_files) != (&tickets_before.ring, &tickets_before.key_files) {
            let change = "other ticket keys are configured: tickets of the former ones are refused".to_owned();
            self.server.audit(AuditEvent::TicketsRevoked, request.by.clone(), Some(change));
        }
        if request.scope == Scope::Configuration {
            match self.server.reread_tickets() {
                Ok(Some(change)) => self.server.audit(AuditEvent::TicketsRevoked, request.by.clone(), Some(change)),
                Ok(None) => {}
                Err(error) => warnings.push(format!("ticket ring: {error}; the former keys stay in use")),
            }
        }
        self.drain_timeout = self.server.settings().drain_timeout;
        self.process.configuration.store(Arc::clone(&self.server.settings().shown));
        let view = Arc::new(self.server.view());
        let before = self.process.snapshot.swap(Arc::clone(&view));
        summary::log_changes(&before, &view);
        let deadline = Instant::now() + ADOPTION_TIMEOUT;
        self.reloads.adopting = Some(Adopting { request, generation, warnings, deadline });
        self.look_after_adoption(Instant::now());
    }

    /// Notes what a worker says of itself.
    pub(super) fn note(&mut self, worker: usize, notice: Notice) {
        let view = &self.process.workers[worker];
        match notice {
            Notice::Adopted { generation } => {
                view.generation.set(generation);
                let is_first = view.state.get() == WorkerState::Starting;
                if is_first {
                    view.state.set(WorkerState::Running);
                    self.look_at_start();
                }
            }
            Notice::Kept { generation, error } => {
                tracing::error!(worker, generation, %error, "a worker cannot take the configuration up and serves the former one on");
                if let Some(adopting) = &mut self.reloads.adopting {
                    adopting.warnings.push(format!("worker {worker} serves the former configuration on: {error}"));
                    // Not waited for any longer.
                    adopting.deadline = Instant::now();
                }
            }
        }
        self.look_after_adoption(Instant::now());
    }

    /// Ends the reload when every worker that lives has taken the configuration up, or time is over.
    pub(super) fn look_after_adoption(&mut self, now: Instant) {
        let Some(adopting) = &self.reloads.adopting else { return };
        let (generation, is_late) = (adopting.generation, now >= adopting.deadline);
        let lags = |(_, view): &(usize, &crate::telemetry::WorkerView)| {
            view.state.get() == WorkerState::Running && view.generation.get() < generation
        };
        let behind: Vec<_> =
            self.process.workers.iter().enumerate().filter(lags).map(|(index, _)| index.to_string()).collect();
        if !behind.is_empty() && !is_late {
            return;
        }
        let Some(Adopting { request, generation, mut warnings, .. }) = self.reloads.adopting.take() else { return };
        if !behind.is_empty() {
            warnings.push(format!("not taken up yet by worker {}", behind.join(", ")));
        }
        self.end_reload(request, &Reloaded::Applied { generation, warnings });
    }

    fn end_reload(&mut self, request: Request, outcome: &Reloaded) {
        let cause = request.cause;
        let is_whole = request.scope == Scope::Configuration;
        let (result, details) = match outcome {
            Reloaded::Applied { generation, warnings } => {
                // Those of certificates have been told one by one.
                for warning in warnings.iter().filter(|_| is_whole) {
                    tracing::warn!("{warning}");
                }
                tracing::info!(%cause, generation, warnings = warnings.len(), "reloaded");
                (ReloadResult::Applied, warnings.clone())
            }
            Reloaded::Refused { lines, .. } if !is_whole => (ReloadResult::Refused, lines.clone()),
            Reloaded::Refused { lines, .. } => {
                for line in lines {
                    tracing::error!("{line}");
                }
                tracing::error!(%cause, "reload refused: the configuration has errors; the former one stays in service");
                (ReloadResult::Refused, lines.clone())
            }
            Reloaded::Failed { reason } => {
                tracing::error!(%cause, "reload failed: {reason}; the former configuration stays in service");
                (ReloadResult::Failed, vec![reason.clone()])
            }
        };
        let event = match (result, is_whole) {
            (ReloadResult::Applied, true) => AuditEvent::Reload,
            (ReloadResult::Applied, false) => AuditEvent::CertificatesChanged,
            (_, true) => AuditEvent::ReloadRefused,
            (_, false) => AuditEvent::CertificatesRefused,
        };
        self.server.audit(event, request.by.clone(), details.first().cloned());
        if is_whole {
            self.process.reloads.results.of(result).increment();
        }
        self.process.reloads.remember(LastReload { at: SystemTime::now(), cause, result, details });
        request.answer(outcome);
        match self.reloads.next.take() {
            Some(next) => {
                self.reload(next.cause, next.by.clone(), None);
                match &mut self.reloads.preparing {
                    Some((request, _)) => request.answers.extend(next.answers),
                    None => next.answer(&Reloaded::Failed { reason: "the process is about to end".to_owned() }),
                }
            }
            None if is_whole => notify::ready(),
            None => {}
        }
    }
}

impl Request {
    fn answer(self, outcome: &Reloaded) {
        for answer in self.answers {
            // Whoever asked may have gone.
            let _ = answer.send(outcome.clone());
        }
    }
}

/// What differs and takes effect only when the process starts anew.
fn needs_restart(before: &Settings, after: &Settings) -> Vec<String> {
    let mut keys = Vec::new();
    if before.workers.cpus != after.workers.cpus {
        keys.push("workers.count or workers.cpus");
    }
    if before.workers.io != after.workers.io {
        keys.push("workers.io");
    }
    if before.workers.steering != after.workers.steering {
        keys.push("workers.steering");
    }
    if before.logs.process.format != after.logs.process.format {
        keys.push("log.format");
    }
    if before.admin != after.admin {
        keys.push("[admin]");
    }
    if (&before.user, before.sandbox, before.core_dumps) != (&after.user, after.sandbox, after.core_dumps) {
        keys.push("server.user, server.group, server.sandbox or server.core_dumps");
    }
    keys.into_iter()
        .map(|key| format!("{key} has changed: this takes effect with a restart or an upgrade (SIGUSR2)"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_that_needs_a_restart_is_named() {
        let before = Settings::sample(2);
        assert!(needs_restart(&before, &before).is_empty());
        let mut after = Settings::sample(1);
        after.admin.address = Some(crate::admin::Address::Tcp(([127, 0, 0, 1], 9180).into()));
        after.drain_timeout = Duration::ZERO;
        let warnings = needs_restart(&before, &after);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].starts_with("workers.count or workers.cpus has changed"), "{warnings:?}");
        assert!(warnings[1].starts_with("[admin] has changed"), "{warnings:?}");
    }
}
