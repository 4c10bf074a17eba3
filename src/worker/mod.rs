//! Workers: one pinned thread per CPU, each with its own runtime and listeners.
//!
//! `connection.rs` orders the phases of a connection. A worker shares nothing with another: its counters are read by
//! the scrape, and its mailbox is the one inlet from other threads.

mod accept;
mod connection;
mod context;
mod mailbox;
mod runtime;
mod settings;
mod steering;

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::backend::{self, Servers};
use crate::guard::Clients;
use crate::ktls;
pub use crate::relay::RECORDS_PER_KEY_MAX;
use crate::sys::socket::Acceptor;
use crate::telemetry::{TicketCounters, WorkerMetrics};
use crate::ticket::{ScopeKeys, TicketSettings};
use crate::timer;
use crate::tls::{self, identity::Identity};
use context::{Listener, WorkerContext};
pub use mailbox::{Command, Mailbox};
pub use runtime::{Ring, RingError, WorkerRuntime, choose_ring};
pub use settings::{IoDriver, ListenerSettings, Settings, Steering, Timeouts};
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
    /// Largest number of open connections.
    pub connections_max: usize,
    /// Bytes of large relay buffers that it lends at most.
    pub buffer_bytes_max: usize,
    /// Its listeners.
    pub listeners: Vec<ListenerPlan>,
    /// How tickets are issued.
    pub tickets: TicketSettings,
    /// What the kernel can do for TLS.
    pub capabilities: Arc<ktls::Capabilities>,
    /// What each client holds, for all workers.
    pub clients: Arc<Clients>,
    /// Its counters.
    pub metrics: Arc<WorkerMetrics>,
}

/// One listener of one worker.
pub struct ListenerPlan {
    /// What it is configured with.
    pub settings: ListenerSettings,
    /// Its certificate and key.
    pub identity: Arc<Identity>,
    /// The keys of its tickets; none: no tickets.
    pub ticket_keys: Option<Arc<ScopeKeys>>,
    /// Where its connections go.
    pub backend: backend::Settings,
    /// Its own listening socket, bound with SO_REUSEPORT.
    pub socket: OwnedFd,
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
    let worker =
        WorkerContext::new(plan.connections_max, plan.buffer_bytes_max, plan.capabilities, Arc::clone(&plan.metrics));
    TicketCounters::adopt(Arc::clone(&plan.metrics.tickets));
    runtime.block_on(async {
        let inbox = slot.open().map_err(start_error)?;
        for listener in plan.listeners {
            steering::set(&listener.socket, plan.steering, plan.cpu).map_err(start_error)?;
            let (acceptor, listener) = open(listener, index, &plan.tickets, &plan.clients)?;
            monoio::spawn(accept::run(acceptor, Rc::new(listener), Rc::clone(&worker)));
        }
        monoio::spawn(turn_wheel(Rc::clone(&worker)));
        serve(&worker, inbox).await;
        Ok(())
    })
}

/// Obeys the mailbox until the worker has drained.
async fn serve(worker: &Rc<WorkerContext>, inbox: mailbox::Inbox) {
    let timeout = match inbox.next().await {
        Some(Command::Drain { timeout }) => timeout,
        None => Duration::ZERO,
    };
    worker.start_draining();
    let watch = Rc::new(worker.wheel.watch(timeout));
    monoio::spawn(move_deadline(Rc::clone(&watch), inbox));
    // A turn of the ring first, so that the acceptors empty their queues.
    monoio::time::sleep(timer::TICK).await;
    let all_ended = pin!(worker.until(|worker| worker.open_count() == 0));
    if watch.guard(all_ended).await.is_err() {
        tracing::warn!(open = worker.open_count(), "drain timed out: closing what is still open");
    }
}

/// Lets a later command set the drain's deadline anew: an operator in a hurry need not wait for the first one.
async fn move_deadline(watch: Rc<timer::Watch>, inbox: mailbox::Inbox) {
    while let Some(Command::Drain { timeout }) = inbox.next().await {
        watch.allow(timeout);
    }
}

async fn turn_wheel(worker: Rc<WorkerContext>) {
    loop {
        monoio::time::sleep(timer::TICK).await;
        worker.wheel.advance_at(Instant::now());
    }
}

fn open(
    plan: ListenerPlan,
    worker: usize,
    tickets: &TicketSettings,
    clients: &Arc<Clients>,
) -> Result<(Acceptor, Listener), WorkerError> {
    let ListenerPlan { settings, identity, ticket_keys, backend, socket } = plan;
    let tls = tls::Context::build(&settings.tls, &identity, ticket_keys.map(|keys| (keys, tickets)))
        .map_err(|source| WorkerError::Context { listener: settings.name.clone(), source })?;
    let listener = Listener {
        tls,
        servers: Rc::new(Servers::new(&backend, worker)?),
        connect_timeout: backend.connect_timeout,
        kernel_tls: settings.kernel_tls,
        records_per_key: settings.records_per_key,
        timeouts: settings.timeouts,
        connections_max: settings.connections_max.unwrap_or(usize::MAX),
        open_count: Cell::new(0),
        client_limits: settings.client_limits.map(|limits| (Arc::clone(clients), limits)),
        name: settings.name,
    };
    let acceptor = Acceptor::new(socket).map_err(|source| WorkerError::Start { index: worker, source })?;
    Ok((acceptor, listener))
}

fn pin_to(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}
