//! The control thread: starts everything, then obeys signals and the admin endpoint, and watches over workers and files.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{self, Receiver, UnboundedReceiver};
use tokio::time::MissedTickBehavior;

use super::compression::Compression;
use super::expiry::Expiry;
use super::inherit::{InheritError, Inherited};
use super::memory::MemoryWatch;
use super::notify;
use super::reload::Reloads;
use super::settings::{Reader, Settings};
use super::signal::{Asked, Incoming, Signals};
use super::stall::StallWatch;
use super::stapling::Stapling;
use super::start::{Ended, Server, StartError};
use super::succession::{Door, Succession};
use super::tickets::MAINTENANCE_INTERVAL;
use super::upgrade::Invocation;
use super::watch::Watch;
use super::{confine, limit, summary};
use crate::admin;
use crate::telemetry::audit::{Actor, AuditEvent};
use crate::telemetry::diagnostics::DiagnosticsHandle;
use crate::telemetry::{DrainView, Phase, Process, WorkerState};
use crate::worker::Notice;

/// How often the control thread looks after the workers.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);
/// How often a drain tells how far it is.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// What a worker gets beyond the end of a drain to end by itself; then the process ends without it.
const STUCK_GRACE: Duration = Duration::from_secs(5);
/// Requests of admin clients that wait for the control loop.
const REQUESTS_MAX: usize = 4;

/// Why the process ended, other than on request.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Configuration or machine: nothing was served.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Whoever started the process: what it was to inherit; nothing was served.
    #[error(transparent)]
    Inherit(#[from] InheritError),
    /// Configuration or machine: the admin endpoint; nothing was served.
    #[error(transparent)]
    Admin(#[from] admin::BindError),
    /// The machine: the control thread got no descriptor; nothing was served.
    #[error("the control thread cannot start: {0}")]
    Runtime(io::Error),
    /// A worker could not start (the process stopped), or panicked (the others served on until the process was told to
    /// end, or until none was left).
    #[error("worker {index} failed: {source}")]
    Worker {
        /// Its number.
        index: usize,
        /// How it ended.
        source: Ended,
    },
    /// A bug: a worker ended with no reason, while the process served.
    #[error("worker {index} left without being told to: this is a bug, please report it")]
    WorkerLeft {
        /// Its number.
        index: usize,
    },
    /// A bug: workers did not end when they had to.
    #[error("{count} workers did not end in time: this is a bug, please report it")]
    Stuck {
        /// How many.
        count: usize,
    },
}

/// What the process has set up before it serves, and before its first thread where that matters.
pub struct Foundation {
    /// Held back before the first thread was started.
    pub signals: Signals,
    /// The log of the process, where it has one that a reload may change.
    pub log: Option<DiagnosticsHandle>,
}

/// Starts the proxy and serves until it is told to end by SIGTERM, SIGINT or the admin endpoint; `reader` reads the
/// configuration anew for each reload. The calling thread becomes the control thread; on success every worker has ended.
///
/// # Errors
/// [`ServeError`]. Only after [`ServeError::Stuck`] a worker may still run: the process should exit then.
pub fn serve(settings: &Settings, reader: Reader, foundation: Foundation) -> Result<(), ServeError> {
    let started = (SystemTime::now(), Instant::now());
    let invocation = Invocation::current(confine::successor_variable(settings));
    limit::raise_descriptors(settings);
    let runtime = Builder::new_current_thread().enable_all().build().map_err(ServeError::Runtime)?;
    let signals = listen(&runtime, foundation.signals)?;
    let mut inherited = Inherited::take()?;
    let endpoint = match inherited.take_admin(settings.admin.address.as_ref()) {
        Some(socket) => admin::Endpoint::take_over(&settings.admin, socket)?,
        None => admin::Endpoint::bind(&settings.admin)?,
    };
    let mut server = Server::start_with(settings, &mut inherited, foundation.log)?;
    server.audit(AuditEvent::Start, Actor::process(), None);

    let process = Arc::new(summary::process(settings, &server, started));
    summary::log(&process, endpoint.as_ref().map(admin::Endpoint::address));
    let (sender, requests) = mpsc::channel(REQUESTS_MAX);
    let door = endpoint.map(|endpoint| Door::new(endpoint, sender)).unwrap_or_default();
    let succession = Succession::new(invocation, inherited.finish());
    let control = Control::new(server, process, settings.drain_timeout, reader, succession, door);
    runtime.block_on(control.run(signals, requests))
}

fn listen(runtime: &Runtime, signals: Signals) -> Result<Incoming, ServeError> {
    let _within = runtime.enter();
    signals.listen().map_err(ServeError::Runtime)
}

pub(super) struct Control {
    pub(super) server: Server,
    pub(super) process: Arc<Process>,
    pub(super) drain_timeout: Duration,
    pub(super) reloads: Reloads,
    pub(super) watch: Watch,
    pub(super) succession: Succession,
    pub(super) door: Door,
    pub(super) stapling: Stapling,
    compression: Compression,
    memory: MemoryWatch,
    stalls: StallWatch,
    /// A signal to stop has come; the next one means at once.
    is_told_to_stop: bool,
    /// When the process ends even if a worker does not.
    deadline: Option<Instant>,
    pub(super) progress_due: Instant,
    expiry: Expiry,
    /// The first failure.
    failure: Option<ServeError>,
}

impl Control {
    fn new(
        server: Server,
        process: Arc<Process>,
        drain_timeout: Duration,
        reader: Reader,
        succession: Succession,
        door: Door,
    ) -> Self {
        Self {
            stapling: Stapling::new(Arc::clone(&process.stapling)),
            compression: Compression::default(),
            memory: MemoryWatch::new(server.pressure(), Arc::clone(&process.memory)),
            stalls: StallWatch::default(),
            server,
            process,
            drain_timeout,
            reloads: Reloads::new(reader),
            watch: Watch::idle(),
            succession,
            door,
            is_told_to_stop: false,
            deadline: None,
            progress_due: Instant::now(),
            expiry: Expiry::default(),
            failure: None,
        }
    }

    async fn run(mut self, mut signals: Incoming, mut requests: Receiver<admin::Request>) -> Result<(), ServeError> {
        let mut watch = tokio::time::interval(WATCH_INTERVAL);
        // When the process was stopped for a while, nothing that was counted meanwhile says anything.
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tickets = tokio::time::interval(MAINTENANCE_INTERVAL);
        let mut notices = self.server.take_notices();
        let mut watchdog = sd_notify::watchdog_enabled().map(|limit| tokio::time::interval(limit / 2));
        self.watch = Watch::new();
        self.watch.follow(self.server.stamps().clone());
        self.stapling.follow(&self.server.settings().listeners, SystemTime::now());
        self.open_door();
        loop {
            tokio::select! {
                asked = signals.next() => self.obey(asked),
                Some(request) = requests.recv() => self.grant(request),
                Some((worker, notice)) = next(&mut notices) => self.note(worker, notice),
                finished = self.reloads.prepared() => self.finish_reading(finished),
                answered = self.stapling.answered() => self.stapling.take(answered, SystemTime::now()),
                upgraded = self.succession.ended() => self.finish_upgrade(upgraded),
                () = due(&mut watchdog) => self.tell_alive(),
                _ = tickets.tick() => {
                    if let Some(change) = self.server.maintain_tickets() {
                        self.server.audit(AuditEvent::TicketsRevoked, Actor::process(), Some(change));
                    }
                    let (listeners, now) = (&self.server.settings().listeners, SystemTime::now());
                    self.expiry.look_at(listeners, now);
                    self.stapling.look_after(listeners, now);
                }
                _ = watch.tick() => {
                    self.memory.look(self.server.settings().memory_max_bytes);
                    self.stalls.look(&self.process.workers);
                    self.compression.look_after(&self.server.settings().listeners);
                    if let ControlFlow::Break(ended) = self.look_after_workers(Instant::now()) {
                        return ended;
                    }
                }
            }
        }
    }

    fn obey(&mut self, asked: Asked) {
        match asked {
            Asked::Stop(origin) if std::mem::replace(&mut self.is_told_to_stop, true) => {
                self.stop(origin.signal, origin.actor());
            }
            // After a drain that the admin endpoint began, the first signal changes nothing: service managers send it
            // behind their own drain request.
            Asked::Stop(origin) => self.drain(origin.signal, origin.actor()),
            Asked::Reload(origin) => self.reload(origin.signal, origin.actor(), None),
            Asked::Upgrade(origin) => self.upgrade(origin),
        }
    }

    fn grant(&mut self, request: admin::Request) {
        match request {
            admin::Request::Drain(peer) => self.drain("admin", Actor::Admin(peer)),
            admin::Request::Reload(peer, answer) => self.reload("admin", Actor::Admin(peer), Some(answer)),
        }
    }

    /// Tells systemd that the process is alive, unless a worker stands still: it restarts the process then.
    fn tell_alive(&self) {
        if self.process.worker_count(WorkerState::Stalled) == 0 {
            notify::alive();
        }
    }

    /// Begins a drain, unless one has begun.
    fn drain(&mut self, cause: &'static str, by: Actor) {
        if self.process.phase.get() != Phase::Serving {
            return;
        }
        let (open, timeout) = (self.process.connections_open(), self.drain_timeout);
        self.server.audit(AuditEvent::Drain, by, None);
        tracing::info!(%cause, open, ?timeout, "draining: accepting has ended, open connections may go on");
        self.begin_drain(cause);
        self.end_within(timeout);
        self.progress_due = Instant::now() + PROGRESS_INTERVAL;
    }

    fn stop(&mut self, cause: &'static str, by: Actor) {
        if self.process.phase.get() != Phase::Stopping {
            tracing::warn!(%cause, open = self.process.connections_open(), "stopping: open connections are cut");
            self.server.audit(AuditEvent::Stop, by, None);
            self.process.phase.set(Phase::Stopping);
            self.end_within(Duration::ZERO);
        }
    }

    fn end_within(&mut self, timeout: Duration) {
        notify::stopping();
        self.server.drain(timeout);
        self.deadline_within(timeout);
    }

    /// Readiness off, before the first connection is refused.
    pub(super) fn begin_drain(&self, cause: &'static str) {
        self.process.phase.set(Phase::Draining);
        let view = DrainView { cause, since: SystemTime::now(), since_at: Instant::now(), timeout: self.drain_timeout };
        self.process.drain.store(Some(Arc::new(view)));
    }

    pub(super) fn deadline_within(&mut self, timeout: Duration) {
        self.deadline = Instant::now().checked_add(timeout.saturating_add(STUCK_GRACE));
    }

    fn look_after_workers(&mut self, now: Instant) -> ControlFlow<Result<(), ServeError>> {
        for (index, ended) in self.server.reap() {
            self.note_end(index, ended);
        }
        self.look_after_adoption(now);
        self.look_after_upgrade();
        let may_swap = self.process.phase.get() == Phase::Serving && !self.reloads.is_busy();
        if may_swap && !self.succession.is_under_way() && self.watch.is_due(now) {
            self.swap_certificates();
        }
        let left = self.server.worker_count();
        if left == 0 {
            let cut = self.process.connections_cut();
            self.server.audit(AuditEvent::End, Actor::process(), None);
            tracing::info!(uptime = ?self.process.started_at.elapsed(), cut, "every worker has ended");
            return ControlFlow::Break(self.failure.take().map_or(Ok(()), Err));
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return ControlFlow::Break(Err(ServeError::Stuck { count: left }));
        }
        if self.process.phase.get() == Phase::Draining && now >= self.progress_due {
            self.progress_due = now + PROGRESS_INTERVAL;
            tracing::info!(open = self.process.connections_open(), workers = left, "draining");
        }
        ControlFlow::Continue(())
    }

    fn note_end(&mut self, index: usize, ended: Result<(), Ended>) {
        let is_serving = self.process.phase.get() == Phase::Serving;
        let error = match ended {
            Ok(()) if !is_serving => return self.process.workers[index].state.set(WorkerState::Drained),
            Ok(()) => ServeError::WorkerLeft { index },
            Err(source) => ServeError::Worker { index, source },
        };
        self.process.workers[index].state.set(WorkerState::Failed);
        self.server.forget_closed_sockets();
        tracing::error!(worker = index, workers_left = self.server.worker_count(), "{error}");
        // A worker that cannot start is a mistake that the operator has to see now; one that panicked has taken its
        // connections with it, and the others are worth more than a clean sheet.
        if matches!(error, ServeError::Worker { source: Ended::Failed(_), .. }) {
            self.stop("a worker could not start", Actor::process());
        }
        self.failure.get_or_insert(error);
    }
}

async fn next(notices: &mut Option<UnboundedReceiver<(usize, Notice)>>) -> Option<(usize, Notice)> {
    notices.as_mut()?.recv().await
}

/// Waits for the next tick of an interval; forever where there is none.
async fn due(interval: &mut Option<tokio::time::Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
mod tests {
    use std::thread::{self, JoinHandle};

    use super::*;
    use crate::server::signal::Origin;
    use crate::worker::WorkerError;

    type Thread = JoinHandle<Result<(), WorkerError>>;

    /// A thread that ends well when the sender is dropped.
    fn idle() -> (mpsc::Sender<()>, Thread) {
        let (sender, mut receiver) = mpsc::channel(1);
        let run = move || {
            let _ = receiver.blocking_recv();
            Ok(())
        };
        (sender, thread::spawn(run))
    }

    fn told(signal: &'static str) -> Asked {
        Asked::Stop(Origin::unknown(signal))
    }

    fn failing() -> Thread {
        thread::spawn(|| Err(WorkerError::Start { index: 1, source: io::ErrorKind::OutOfMemory.into() }))
    }

    fn panicking() -> Thread {
        thread::spawn(|| panic!("on purpose"))
    }

    fn control(threads: Vec<Thread>) -> Control {
        let process = Arc::new(Process::sample(threads.len()));
        let reader: Reader = Arc::new(|| panic!("nobody reloads here"));
        let succession = Succession::new(Invocation::current(None), None);
        let server = Server::over_threads(threads);
        Control::new(server, process, Duration::from_secs(60), reader, succession, Door::default())
    }

    /// Looks after the workers until `condition` holds or the loop ends.
    fn watch(control: &mut Control, condition: impl Fn(&Process) -> bool) -> Option<Result<(), ServeError>> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition(&control.process) {
            assert!(Instant::now() < deadline, "the condition never held");
            if let ControlFlow::Break(ended) = control.look_after_workers(Instant::now()) {
                return Some(ended);
            }
            thread::yield_now();
        }
        None
    }

    #[test]
    fn worker_that_panics_is_seen_and_the_others_serve_on() {
        let (stop, good) = idle();
        let mut control = control(vec![good, panicking()]);
        assert!(watch(&mut control, |process| process.worker_count(WorkerState::Failed) == 1).is_none());
        assert_eq!(control.process.phase.get(), Phase::Serving);
        assert_eq!(control.process.workers[0].state.get(), WorkerState::Running);

        control.obey(told("SIGTERM"));
        drop(stop);
        let ended = watch(&mut control, |_| false).unwrap();
        assert!(matches!(ended, Err(ServeError::Worker { index: 1, source: Ended::Panicked })), "{ended:?}");
        assert_eq!(control.process.workers[0].state.get(), WorkerState::Drained);
    }

    #[test]
    fn process_ends_when_the_last_worker_has_panicked() {
        let mut control = control(vec![panicking(), panicking()]);
        let ended = watch(&mut control, |_| false).unwrap();
        assert!(matches!(ended, Err(ServeError::Worker { source: Ended::Panicked, .. })), "{ended:?}");
    }

    #[test]
    fn worker_that_cannot_start_stops_the_process() {
        let (stop, good) = idle();
        let mut control = control(vec![good, failing()]);
        assert!(watch(&mut control, |process| process.phase.get() == Phase::Stopping).is_none());
        drop(stop);
        let ended = watch(&mut control, |_| false).unwrap();
        assert!(matches!(ended, Err(ServeError::Worker { index: 1, source: Ended::Failed(_) })), "{ended:?}");
    }

    #[test]
    fn worker_that_leaves_unasked_is_a_failure() {
        let mut control = control(vec![thread::spawn(|| Ok(()))]);
        let ended = watch(&mut control, |_| false).unwrap();
        assert!(matches!(ended, Err(ServeError::WorkerLeft { index: 0 })), "{ended:?}");
    }

    #[test]
    fn second_signal_stops_at_once() {
        let (_stop, good) = idle();
        let mut control = control(vec![good]);
        control.obey(told("SIGTERM"));
        let first = control.deadline.unwrap();
        assert_eq!(control.process.phase.get(), Phase::Draining);
        control.obey(told("SIGINT"));
        assert_eq!(control.process.phase.get(), Phase::Stopping);
        assert!(control.deadline.unwrap() < first);
    }

    #[test]
    fn first_signal_behind_an_admin_drain_keeps_its_deadline() {
        let (_stop, good) = idle();
        let mut control = control(vec![good]);
        control.drain("admin", Actor::process());
        let deadline = control.deadline;
        control.drain("admin", Actor::process());
        control.obey(told("SIGTERM"));
        assert_eq!((control.process.phase.get(), control.deadline), (Phase::Draining, deadline));
        control.obey(told("SIGTERM"));
        assert_eq!(control.process.phase.get(), Phase::Stopping);
        control.drain("admin", Actor::process());
        assert_eq!(control.process.phase.get(), Phase::Stopping);
    }

    #[test]
    fn worker_that_does_not_end_in_time_is_left_behind() {
        let (_stop, stuck) = idle();
        let mut control = control(vec![stuck]);
        control.obey(told("SIGTERM"));
        control.obey(told("SIGTERM"));
        let late = control.deadline.unwrap();
        assert!(control.look_after_workers(late - Duration::from_secs(1)).is_continue());
        let ended = control.look_after_workers(late);
        assert!(matches!(ended, ControlFlow::Break(Err(ServeError::Stuck { count: 1 }))));
    }
}
