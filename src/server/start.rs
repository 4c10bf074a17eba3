//! From settings to running workers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::settings::Settings;
use super::tickets::Tickets;
use crate::guard::Clients;
use crate::ktls;
use crate::sys::socket;
use crate::telemetry::{RingCounters, WorkerMetrics};
use crate::ticket::{KeeperError, ScopeKeys};
use crate::tls::identity::{Identity, IdentityError};
use crate::worker::{self, Command, ListenerPlan, Plan, Ring, RingError, WorkerError};

/// Connections that may wait to be accepted, per worker and listener; the kernel caps it at net.core.somaxconn.
pub(crate) const LISTEN_BACKLOG: i32 = 4096;

/// A running proxy.
pub struct Server {
    /// None where the worker has ended and [`Server::reap`] has told how.
    workers: Vec<Option<worker::Handle>>,
    metrics: Vec<Arc<WorkerMetrics>>,
    addresses: Vec<SocketAddr>,
    certificates_not_after: Vec<SystemTime>,
    ring: Ring,
    capabilities: Arc<ktls::Capabilities>,
    tickets: Tickets,
}

/// Why the proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Configuration: a certificate or key.
    #[error("listener {listener}: {source}")]
    Identity {
        /// The listener.
        listener: String,
        /// What is wrong with it.
        source: IdentityError,
    },
    /// The machine: an address is taken or not ours.
    #[error("listener {listener} cannot listen on {address}: {source}{remedy}", remedy = bind_remedy(.source))]
    Listen {
        /// The listener.
        listener: String,
        /// The address.
        address: SocketAddr,
        /// What bind(2) or listen(2) said.
        source: io::Error,
    },
    /// The machine: no io_uring, where the configuration demands it.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// Configuration or machine: the ticket ring.
    #[error("ticket ring: {0}")]
    Tickets(#[from] KeeperError),
    /// The machine: no kernel TLS, where the configuration demands it.
    #[error("listener {listener}: {source}")]
    KernelTls {
        /// The listener.
        listener: String,
        /// What is missing, and what to do about it.
        source: ktls::RequirementUnmet,
    },
    /// The machine: no thread or descriptor left.
    #[error("worker {index} cannot be started: {source}")]
    Spawn {
        /// The worker.
        index: usize,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Server {
    /// Binds every listener, then starts every worker.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then. What fails on a worker's own thread comes out of
    /// [`Server::wait`].
    pub fn start(settings: &Settings) -> Result<Self, StartError> {
        let identities = load_identities(settings)?;
        let capabilities = Arc::new(probe_kernel_tls(settings)?);
        let (ring, ring_error) = worker::choose_ring(settings.workers.io)?;
        if let Some(error) = ring_error {
            tracing::warn!("{error}; workers wait with epoll instead, which costs throughput (workers.io)");
        }
        let worker_count = settings.workers.cpus.len();
        let mut tickets = Tickets::open(&settings.tickets)?;
        let (mut sockets, addresses) = bind_all(settings, worker_count)?;
        let metrics: Vec<_> = (0..worker_count).map(|_| Arc::<WorkerMetrics>::default()).collect();
        let certificates_not_after = identities.iter().map(|identity| identity.not_after()).collect();
        let ticket_keys =
            settings.listeners.iter().map(|listener| tickets.of(listener)).collect::<Result<Vec<_>, _>>()?;
        let mut server =
            Self { workers: Vec::new(), metrics, addresses, certificates_not_after, ring, capabilities, tickets };
        server.tickets.maintain();
        let clients = Clients::new(settings.tracked_clients_max);
        for (index, cpu) in settings.workers.cpus.iter().enumerate() {
            let plan = Plan {
                index,
                cpu: *cpu,
                steering: settings.workers.steering,
                ring,
                connections_max: settings.workers.connections_max,
                buffer_bytes_max: settings.workers.buffer_bytes_max,
                listeners: plan_listeners(settings, &identities, &ticket_keys, sockets.remove(0)),
                tickets: server.tickets.settings().clone(),
                capabilities: Arc::clone(&server.capabilities),
                clients: Arc::clone(&clients),
                metrics: Arc::clone(&server.metrics[index]),
            };
            match worker::spawn(plan) {
                Ok(handle) => server.workers.push(Some(handle)),
                Err(source) => {
                    server.drain(Duration::ZERO);
                    return Err(StartError::Spawn { index, source });
                }
            }
        }
        Ok(server)
    }

    /// Where each listener listens, in the order of the configuration; a port of 0 is resolved.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The last second of validity of each listener's certificate, in the order of the configuration.
    pub fn certificates_not_after(&self) -> &[SystemTime] {
        &self.certificates_not_after
    }

    /// How the workers wait for their sockets.
    pub fn ring(&self) -> Ring {
        self.ring
    }

    /// What the kernel can do for TLS.
    pub fn capabilities(&self) -> &ktls::Capabilities {
        &self.capabilities
    }

    /// What happened to the ticket ring.
    pub fn ticket_ring_counters(&self) -> Arc<RingCounters> {
        self.tickets.counters()
    }

    /// Keeps the ticket ring up to date with the clock and its file.
    pub fn maintain_tickets(&mut self) {
        self.tickets.maintain();
    }

    /// The counters of each worker.
    pub fn metrics(&self) -> &[Arc<WorkerMetrics>] {
        &self.metrics
    }

    /// Tells every worker to stop accepting, and to end when its connections have ended or the time is over. Called
    /// again, it sets the time anew.
    pub fn drain(&self, timeout: Duration) {
        for worker in self.workers.iter().flatten() {
            worker.mailbox.send(Command::Drain { timeout });
        }
    }

    /// Whether a worker has ended, be it because it has drained or because it failed.
    pub fn has_ended_worker(&self) -> bool {
        self.workers.iter().any(|worker| worker.as_ref().is_none_or(|worker| worker.thread.is_finished()))
    }

    /// The workers that have ended since the last call, by number, and how. Does not wait.
    pub fn reap(&mut self) -> Vec<(usize, Result<(), Ended>)> {
        let take = |(index, slot): (usize, &mut Option<worker::Handle>)| {
            let handle = slot.take_if(|worker| worker.thread.is_finished())?;
            Some((index, join(handle)))
        };
        self.workers.iter_mut().enumerate().filter_map(take).collect()
    }

    /// How many workers have not been reaped.
    pub fn worker_count(&self) -> usize {
        self.workers.iter().flatten().count()
    }

    /// Waits until every worker has ended.
    ///
    /// # Errors
    /// The first failure of a worker; a panic comes back as [`Ended::Panicked`].
    pub fn wait(self) -> Result<(), Ended> {
        // Each one is joined, also behind a failure.
        self.workers.into_iter().flatten().map(join).fold(Ok(()), Result::and)
    }
}

fn join(worker: worker::Handle) -> Result<(), Ended> {
    match worker.thread.join() {
        Ok(ended) => ended.map_err(Ended::Failed),
        Err(_) => Err(Ended::Panicked),
    }
}

/// How a worker came to an end that nobody asked for.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// It could not start.
    #[error(transparent)]
    Failed(WorkerError),
    /// It panicked outside of a connection: a bug.
    #[error("a worker panicked: this is a bug, please report it")]
    Panicked,
}

#[cfg(test)]
impl Server {
    /// A server over threads that only look like workers: what the control loop does with their ends.
    pub(super) fn over_threads(threads: Vec<std::thread::JoinHandle<Result<(), WorkerError>>>) -> Self {
        let workers: Vec<_> = threads.into_iter().map(|thread| Some(worker::Handle::over_thread(thread))).collect();
        let metrics = workers.iter().map(|_| Arc::default()).collect();
        let capabilities = Arc::new(ktls::Capabilities::unasked());
        let tickets = Tickets::none();
        let (addresses, certificates_not_after) = (Vec::new(), Vec::new());
        Self { workers, metrics, addresses, certificates_not_after, ring: Ring::Epoll, capabilities, tickets }
    }
}

/// Finds out what the kernel can do, unless nobody wants to know.
fn probe_kernel_tls(settings: &Settings) -> Result<ktls::Capabilities, StartError> {
    if settings.listeners.iter().all(|listener| listener.kernel_tls.mode == ktls::Mode::Off) {
        return Ok(ktls::Capabilities::unasked());
    }
    let capabilities = ktls::probe();
    for listener in &settings.listeners {
        let error = |source| StartError::KernelTls { listener: listener.name.clone(), source };
        listener.kernel_tls.check_at_start(&capabilities).map_err(error)?;
    }
    match &capabilities.absent {
        Some(absence) => {
            let remedy = absence.remedy();
            tracing::warn!("no kernel TLS: {absence}; records are protected in userspace (remedy: {remedy})");
        }
        None if capabilities.has_remote_bug() => {
            let bugs: Vec<_> = capabilities.known_bugs.iter().map(|bug| bug.id).collect();
            let bugs = bugs.join(", ");
            tracing::warn!(
                "Linux {} has {bugs} in its kernel TLS (listener.kernel_tls_known_bugs)",
                capabilities.kernel
            );
        }
        None => tracing::info!(suites = capabilities.suites.len(), "kernel TLS is available"),
    }
    Ok(capabilities)
}

fn load_identities(settings: &Settings) -> Result<Vec<Arc<Identity>>, StartError> {
    let load = |listener: &worker::ListenerSettings| {
        Identity::load(&listener.tls.certificate)
            .map(Arc::new)
            .map_err(|source| StartError::Identity { listener: listener.name.clone(), source })
    };
    settings.listeners.iter().map(load).collect()
}

type Sockets = Vec<OwnedFd>;

/// For each worker its listening sockets, and the address of each listener.
fn bind_all(settings: &Settings, worker_count: usize) -> Result<(Vec<Sockets>, Vec<SocketAddr>), StartError> {
    let mut sockets: Vec<Sockets> = (0..worker_count).map(|_| Vec::new()).collect();
    let mut addresses = Vec::new();
    for listener in &settings.listeners {
        let mut address = listener.address;
        for worker in &mut sockets {
            let error = |source| StartError::Listen { listener: listener.name.clone(), address, source };
            let socket = socket::listen(address, LISTEN_BACKLOG).map_err(error)?;
            // With port 0 the first worker's socket decides for the others.
            let port = local_port(&socket).map_err(error)?;
            address.set_port(port);
            worker.push(socket);
        }
        addresses.push(address);
    }
    Ok((sockets, addresses))
}

fn plan_listeners(
    settings: &Settings,
    identities: &[Arc<Identity>],
    ticket_keys: &[Option<Arc<ScopeKeys>>],
    sockets: Sockets,
) -> Vec<ListenerPlan> {
    let shared = identities.iter().zip(ticket_keys);
    let mut plans = Vec::new();
    for ((listener, (identity, ticket_keys)), socket) in settings.listeners.iter().zip(shared).zip(sockets) {
        plans.push(ListenerPlan {
            settings: listener.clone(),
            identity: Arc::clone(identity),
            ticket_keys: ticket_keys.clone(),
            backend: settings.backends[listener.backend].clone(),
            socket,
        });
    }
    plans
}

fn local_port(socket: &OwnedFd) -> io::Result<u16> {
    let address: nix::sys::socket::SockaddrStorage = nix::sys::socket::getsockname(socket.as_raw_fd())?;
    let v4 = address.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::port);
    v4.or_else(|| address.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::port))
        .ok_or_else(|| io::ErrorKind::Unsupported.into())
}

fn bind_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process listens there",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "; no interface has this address",
        _ => "",
    }
}
