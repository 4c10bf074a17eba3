//! What is known about the process as a whole: written by the control thread, read by the exposition and the admin
//! endpoint.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::audit;
use super::configuration::Configuration;
use super::expiry::ExpiryView;
use super::label::CloseReason;
use super::memory::MemoryMetrics;
use super::output::LogCounters;
use super::reload::ReloadView;
use super::stapling::StaplingMetrics;
use super::ticket::RingTelemetry;
use super::worker::WorkerMetrics;

/// The facts that were settled when the process started, and what has changed since.
#[derive(Debug)]
pub struct Process {
    /// The version of Sluice.
    pub version: &'static str,
    /// The version of OpenSSL, as the library tells it.
    pub openssl: &'static str,
    /// The release of the running kernel.
    pub kernel: String,
    /// How the workers wait for their sockets: `io_uring` or `epoll`.
    pub driver: &'static str,
    /// The flags of the workers' rings.
    pub ring_flags: &'static [&'static str],
    /// When the process started, by the clock on the wall.
    pub started: SystemTime,
    /// When the process started, by the clock that is never set.
    pub started_at: Instant,
    /// The workers in order.
    pub workers: Vec<WorkerView>,
    /// What is served at present; a reload replaces it as a whole.
    pub snapshot: ArcSwap<SnapshotView>,
    /// What became of the reloads.
    pub reloads: ReloadView,
    /// OCSP stapling.
    pub stapling: Arc<StaplingMetrics>,
    /// The ticket ring.
    pub ticket_ring: Arc<RingTelemetry>,
    /// What the kernel can do for TLS.
    pub kernel_tls: KernelTlsView,
    /// What became of the lines of the access log and of the audit log.
    pub logs: Arc<LogCounters>,
    /// Where the chain of the audit log stands.
    pub audit_head: Arc<Mutex<Option<audit::Head>>>,
    /// What runs.
    pub configuration: ArcSwap<Configuration>,
    /// How short memory is.
    pub memory: Arc<MemoryMetrics>,
    /// What the process is doing.
    pub phase: PhaseCell,
    /// The drain under way, if there is one.
    pub drain: ArcSwapOption<DrainView>,
}

/// A drain.
#[derive(Clone, Debug)]
pub struct DrainView {
    /// Who asked for it.
    pub cause: &'static str,
    /// When it began, by the clock on the wall.
    pub since: SystemTime,
    /// When it began, by the clock that is never set.
    pub since_at: Instant,
    /// How long open connections may take.
    pub timeout: Duration,
}

/// What was found out about kernel TLS when the process started.
#[derive(Clone, Debug, Default)]
pub struct KernelTlsView {
    /// Whether a listener asks for it.
    pub is_wanted: bool,
    /// Why there is none, with what to do about it.
    pub absent: Option<String>,
    /// Published bugs that this kernel has.
    pub known_bugs: Vec<String>,
}

/// One worker.
#[derive(Debug)]
pub struct WorkerView {
    /// The CPU that it is pinned to.
    pub cpu: usize,
    /// Its counters.
    pub metrics: Arc<WorkerMetrics>,
    /// Whether it is there.
    pub state: WorkerStateCell,
    /// Whether it goes on.
    pub pulse: Arc<PulseCell>,
    /// The generation of the configuration that it serves; 0 until it serves.
    pub generation: GenerationCell,
}

/// One configuration as it is served.
#[derive(Clone, Debug)]
pub struct SnapshotView {
    /// Its number: 1 at the start, one more with each reload or change of certificates that was put in service.
    pub generation: u64,
    /// When it was put in service.
    pub published: SystemTime,
    /// The listeners in the order of the configuration.
    pub listeners: Vec<ListenerView>,
    /// What of it ends by itself.
    pub expiry: ExpiryView,
}

/// One listener.
#[derive(Clone, Debug)]
pub struct ListenerView {
    /// Its name.
    pub name: String,
    /// Where it listens; a port of 0 is resolved.
    pub address: SocketAddr,
    /// The name of its backend.
    pub backend: String,
    /// The last second at which its certificate is valid.
    pub certificate_not_after: SystemTime,
}

/// What the process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Accepting connections.
    Serving,
    /// Letting open connections end.
    Draining,
    /// Ending open connections.
    Stopping,
}

/// What has become of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// It sets itself up and accepts nothing yet.
    Starting,
    /// It serves.
    Running,
    /// It serves, but has stood still for a while.
    Stalled,
    /// It has ended because it was told to.
    Drained,
    /// It has ended although nobody asked it to.
    Failed,
}

/// A [`Phase`] that one thread writes and any thread reads.
#[derive(Debug)]
pub struct PhaseCell(AtomicU8);

/// A [`WorkerState`] that one thread writes and any thread reads.
#[derive(Debug)]
pub struct WorkerStateCell(AtomicU8);

/// A generation that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub struct GenerationCell(AtomicU64);

/// The turns of a worker's wheel: one thread counts them, and any thread sees whether there are more.
#[derive(Debug, Default)]
pub struct PulseCell(AtomicU64);

impl Process {
    /// Client connections open now, over all workers.
    pub fn connections_open(&self) -> i64 {
        self.workers.iter().map(|worker| worker.metrics.connections_open.value()).sum()
    }

    /// Connections that were cut because a drain was over.
    pub fn connections_cut(&self) -> u64 {
        let cut = |worker: &WorkerView| worker.metrics.connections_closed.of(CloseReason::Drained).value();
        self.workers.iter().map(cut).sum()
    }

    /// How many workers are in `state`.
    pub fn worker_count(&self, state: WorkerState) -> usize {
        self.workers.iter().filter(|worker| worker.state.get() == state).count()
    }
}

impl Phase {
    const ALL: [Self; 3] = [Self::Serving, Self::Draining, Self::Stopping];

    /// The name in the status and the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
        }
    }
}

impl WorkerState {
    /// Every state, in the order of the labels.
    pub const ALL: [Self; 5] = [Self::Starting, Self::Running, Self::Stalled, Self::Drained, Self::Failed];

    /// The name in the status and the metrics.
    pub fn name(self) -> &'static str {
        super::catalog::WORKER_STATES[self as usize]
    }
}

// Relaxed suffices for all cells: a reader may see a state that is a moment old, and nothing else hangs on it.

impl PhaseCell {
    /// A cell in the phase of a process that starts.
    pub fn new() -> Self {
        Self(AtomicU8::new(Phase::Serving as u8))
    }

    /// The present phase.
    pub fn get(&self) -> Phase {
        Phase::ALL[usize::from(self.0.load(Ordering::Relaxed))]
    }

    /// Enters `phase`.
    pub fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Relaxed);
    }
}

impl Default for PhaseCell {
    fn default() -> Self {
        Self::new()
    }
}

impl WorkerStateCell {
    /// A cell of a worker that starts.
    pub fn new() -> Self {
        Self(AtomicU8::new(WorkerState::Starting as u8))
    }

    /// The present state.
    pub fn get(&self) -> WorkerState {
        WorkerState::ALL[usize::from(self.0.load(Ordering::Relaxed))]
    }

    /// Notes what has become of the worker.
    pub fn set(&self, state: WorkerState) {
        self.0.store(state as u8, Ordering::Relaxed);
    }
}

impl Default for WorkerStateCell {
    fn default() -> Self {
        Self::new()
    }
}

impl GenerationCell {
    /// The present generation.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Notes which generation it is now.
    pub fn set(&self, generation: u64) {
        self.0.store(generation, Ordering::Relaxed);
    }
}

impl PulseCell {
    /// Counts a turn.
    pub fn turn(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// The turns so far.
    pub fn turns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
impl Process {
    /// A process with `worker_count` running workers and one listener, for tests.
    pub(crate) fn sample(worker_count: usize) -> Self {
        let worker = |cpu| {
            let view = WorkerView {
                cpu,
                metrics: Arc::default(),
                state: WorkerStateCell::new(),
                pulse: Arc::default(),
                generation: GenerationCell::default(),
            };
            view.state.set(WorkerState::Running);
            view
        };
        let address = SocketAddr::from(([127, 0, 0, 1], 8443));
        let listener = ListenerView {
            name: "edge".to_owned(),
            address,
            backend: "app".to_owned(),
            certificate_not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        };
        let published = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let not_after = listener.certificate_not_after;
        let all = vec![("edge", super::expiry::ExpiryKind::Certificate, not_after, "CN=edge.example")];
        let expiry = ExpiryView::choose(all, |subject| (subject.to_owned(), "0a1b".to_owned()));
        Self {
            version: "1.2.3",
            openssl: "OpenSSL 4 \"test\"",
            kernel: "6.1.0".to_owned(),
            driver: "io_uring",
            ring_flags: &["SINGLE_ISSUER", "DEFER_TASKRUN"],
            started: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            started_at: Instant::now(),
            workers: (0..worker_count).map(worker).collect(),
            snapshot: ArcSwap::from_pointee(SnapshotView {
                generation: 1,
                published,
                listeners: vec![listener],
                expiry,
            }),
            reloads: ReloadView::default(),
            stapling: Arc::default(),
            ticket_ring: Arc::default(),
            kernel_tls: KernelTlsView::default(),
            logs: Arc::default(),
            audit_head: Arc::default(),
            configuration: ArcSwap::from_pointee(Configuration::none()),
            memory: Arc::default(),
            phase: PhaseCell::new(),
            drain: ArcSwapOption::empty(),
        }
    }
}
