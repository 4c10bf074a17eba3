//! Workers: one pinned thread per CPU, each with its own runtime and listeners.
//!
//! `connection.rs` orders the phases of a connection. A worker shares nothing with another: its counters are read by
//! the scrape, its mailbox is the one inlet from other threads, and what it has to say goes out as a [`Notice`].

mod accept;
mod connection;
mod context;
#[cfg(debug_assertions)]
mod fault;
mod mailbox;
mod proxy_header;
mod recess;
mod reclaim;
mod runtime;
mod settings;
mod snapshot;
mod station;
mod steering;
mod trace;

use std::io;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::backend;
use crate::guard::PressureCell;
pub use crate::relay::RECORDS_PER_KEY_MAX;
pub use crate::relay::Timeouts as RelayTimeouts;
use crate::telemetry::access::AccessRing;
use crate::telemetry::{CloseReason, PulseCell, TicketCounters, WorkerMetrics};
use crate::timer;
use context::WorkerContext;
pub use mailbox::{Command, Mailbox, Notice, Notices, Queued};
use recess::Recess;
use reclaim::Reclaim;
pub use runtime::{Ring, RingError, WorkerRuntime, choose_ring};
pub use settings::{IoDriver, ListenerSettings, Settings, Steering, Timeouts};
pub use snapshot::{ListenerPlan, Snapshot, SocketGroup, try_out};
use station::Stations;
pub use steering::kernel_steers;

/// Everything that one worker is started with.
pub struct Plan {
    /// Its number, from 0.
    pub index: usize,
    /// The CPU that it is pinned to.
    pub cpu: usize,
    /// Which connections it is to get.
    pub steering: Steering,
    /// How it waits for its sockets.
    pub ring: Ring,
    /// What it serves until it is told otherwise.
    pub snapshot: Arc<Snapshot>,
    /// Its own listening sockets.
    pub sockets: Vec<(SocketGroup, OwnedFd)>,
    /// How short memory is.
    pub pressure: PressureCell,
    /// Its counters.
    pub metrics: Arc<WorkerMetrics>,
    /// Where it shows that it goes on.
    pub pulse: Arc<PulseCell>,
    /// Its end of the access log.
    pub access_log: AccessRing,
    /// Where it says what has become of it.
    pub notices: Notices,
}

/// A running worker.
pub struct Handle {
    /// Tells the worker things.
    pub mailbox: Mailbox,
    /// Ends when the worker has drained, or failed.
    pub thread: JoinHandle<Result<(), WorkerError>>,
}

#[cfg(test)]
impl Handle {
    /// A handle on a thread that only looks like a worker; what it is told goes nowhere.
    pub(crate) fn over_thread(thread: JoinHandle<Result<(), WorkerError>>) -> Self {
        #[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
        let (mailbox, _) = mailbox::mailbox().unwrap();
        Self { mailbox, thread }
    }
}

/// Why a worker could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Here: the CPU is not there or not ours.
    #[error("worker {index} cannot be pinned to CPU {cpu}: {source}")]
    Pin {
        /// The worker.
        index: usize,
        /// The CPU.
        cpu: usize,
        /// What sched_setaffinity said.
        source: io::Error,
    },
    /// Here: the runtime or a descriptor.
    #[error("worker {index} cannot start: {source}")]
    Start {
        /// The worker.
        index: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// Here: OpenSSL refused the settings.
    #[error("listener {listener}: {source}")]
    Context {
        /// The listener.
        listener: String,
        /// What OpenSSL said.
        source: openssl::error::ErrorStack,
    },
    /// Configuration: a unix socket's path.
    #[error(transparent)]
    Address(#[from] backend::AddressError),
}

/// Starts a worker on its own thread.
///
/// # Errors
/// When no thread or descriptor is left; what goes wrong on the thread is the thread's result.
pub fn spawn(plan: Plan) -> io::Result<Handle> {
    let (mailbox, slot) = mailbox::mailbox()?;
    let name = format!("worker-{}", plan.index);
    let thread = std::thread::Builder::new().name(name).spawn(move || run(plan, slot))?;
    Ok(Handle { mailbox, thread })
}

fn run(plan: Plan, slot: mailbox::Slot) -> Result<(), WorkerError> {
    let index = plan.index;
    pin_to(plan.cpu).map_err(|source| WorkerError::Pin { index, cpu: plan.cpu, source })?;
    let start_error = |source| WorkerError::Start { index, source };
    if index == 0 && plan.steering == Steering::Cpu && matches!(kernel_steers(plan.cpu), Ok(false)) {
        tracing::warn!("workers.steering = \"cpu\" has no effect on this kernel: connections are spread by a hash");
    }
    let mut runtime = WorkerRuntime::build(plan.ring).map_err(start_error)?;
    let worker = WorkerContext::new(Arc::clone(&plan.metrics), plan.access_log);
    TicketCounters::adopt(Arc::clone(&plan.metrics.tickets));
    let served = std::panic::catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let inbox = slot.open().map_err(start_error)?;
            monoio::spawn(turn_wheel(Rc::clone(&worker), plan.pressure, plan.pulse, index));
            monoio::spawn(recess::run(Recess::new().map_err(start_error)?, Rc::clone(&worker)));
            let mut stations = Stations::new(Rc::clone(&worker), index, (plan.steering, plan.cpu));
            stations.adopt(&plan.snapshot, plan.sockets)?;
            plan.notices.send(Notice::Adopted { generation: plan.snapshot.generation });
            // Not held on to: certificates that a reload replaces shall go.
            drop(plan.snapshot);
            serve(&worker, stations, inbox, &plan.notices).await;
            Ok(())
        })
    }));
    served.unwrap_or_else(|panic| {
        // The runtime does not drop its tasks: their sockets would stay open, and the kernel would give new connections to
        // listeners that nobody accepts from.
        let _ = std::panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(wind_up(&worker))));
        std::panic::resume_unwind(panic)
    })
}

/// Ends everything that a worker holds whose own tasks cannot be relied on any more.
async fn wind_up(worker: &WorkerContext) {
    worker.start_winding_up();
    for _ in 0..WIND_UP_TICKS {
        worker.wheel.end_all();
        monoio::time::sleep(timer::TICK).await;
        worker.wheel.advance_at(Instant::now());
    }
}

/// How long that may take: longer than a client gets to read our close_notify.
const WIND_UP_TICKS: u32 = 20;

/// Obeys the mailbox until the worker has drained.
async fn serve(worker: &Rc<WorkerContext>, mut stations: Stations, inbox: mailbox::Inbox, notices: &Notices) {
    let (timeout, queued) = loop {
        match inbox.next().await {
            Some(Command::Adopt { snapshot, sockets }) => {
                let generation = snapshot.generation;
                notices.send(match stations.adopt(&snapshot, sockets) {
                    Ok(()) => Notice::Adopted { generation },
                    Err(error) => Notice::Kept { generation, error },
                });
            }
            Some(Command::Drain { timeout, queued }) => break (timeout, queued),
            None => break (Duration::ZERO, Queued::Accept),
        }
    };
    worker.start_draining(queued);
    let watch = Rc::new(worker.wheel.watch(timeout));
    monoio::spawn(move_deadline(Rc::clone(&watch), inbox));
    // A turn of the ring first, so that the acceptors empty their queues.
    monoio::time::sleep(timer::TICK).await;
    let all_ended = pin!(worker.until(|worker| worker.open_count() == 0));
    if watch.guard(all_ended).await.is_err() {
        let open = worker.open_count();
        tracing::warn!(open, "drain timed out: closing what is still open");
        // Their tasks end with the runtime and count nothing themselves.
        worker.metrics.connections_closed.of(CloseReason::Drained).add(open as u64);
    }
}

/// Lets a later command set the drain's deadline anew: an operator in a hurry need not wait for the first one.
async fn move_deadline(watch: Rc<timer::Watch>, inbox: mailbox::Inbox) {
    while let Some(command) = inbox.next().await {
        if let Command::Drain { timeout, .. } = command {
            watch.allow(timeout);
        }
    }
}

/// Turns the wheel of deadlines, obeys the memory of the process, and gives back what is not needed any more.
async fn turn_wheel(worker: Rc<WorkerContext>, pressure: PressureCell, pulse: Arc<PulseCell>, index: usize) {
    let mut reclaim = Reclaim::new(Instant::now());
    loop {
        monoio::time::sleep(timer::TICK).await;
        pulse.turn();
        let now = Instant::now();
        worker.wheel.advance_at(now);
        reclaim.advance_at(now, worker.metrics.connections_accepted.value());
        worker.obey(pressure.get());
        worker.metrics.handshakes_open.set(worker.handshakes.open_count() as i64);
        worker.metrics.handshakes_waiting.set(worker.handshakes.waiting_count() as i64);
        #[cfg(debug_assertions)]
        {
            fault::panic_if_asked(index);
            fault::stall_if_asked(index);
        }
        #[cfg(not(debug_assertions))]
        let _ = index;
    }
}

fn pin_to(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}
