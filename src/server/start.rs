//! From settings to running workers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::settings::Settings;
use crate::sys::socket;
use crate::telemetry::WorkerMetrics;
use crate::tls::identity::{Identity, IdentityError};
use crate::worker::{self, Command, ListenerPlan, Plan, Ring, RingError, WorkerError};

/// Connections that may wait to be accepted, per worker and listener; the kernel caps it at net.core.somaxconn.
const LISTEN_BACKLOG: i32 = 4096;

/// A running proxy.
pub struct Server {
    workers: Vec<worker::Handle>,
    metrics: Vec<Arc<WorkerMetrics>>,
    addresses: Vec<SocketAddr>,
    ring: Ring,
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
        let (ring, ring_error) = worker::choose_ring(settings.workers.io)?;
        if let Some(error) = ring_error {
            tracing::warn!("{error}; workers wait with epoll instead, which costs throughput (workers.io)");
        }
        let worker_count = settings.workers.cpus.len();
        let (mut sockets, addresses) = bind_all(settings, worker_count)?;
        let metrics: Vec<_> = (0..worker_count).map(|_| Arc::<WorkerMetrics>::default()).collect();
        let mut server = Self { workers: Vec::new(), metrics, addresses, ring };
        for (index, cpu) in settings.workers.cpus.iter().enumerate() {
            let plan = Plan {
                index,
                cpu: *cpu,
                ring,
                connections_max: settings.workers.connections_max,
                buffer_bytes_max: settings.workers.buffer_bytes_max,
                listeners: plan_listeners(settings, &identities, sockets.remove(0)),
                tickets_per_handshake: if settings.tickets.lifetime.is_zero() { 0 } else { settings.tickets.count },
                metrics: Arc::clone(&server.metrics[index]),
            };
            match worker::spawn(plan) {
                Ok(handle) => server.workers.push(handle),
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

    /// How the workers wait for their sockets.
    pub fn ring(&self) -> Ring {
        self.ring
    }

    /// The counters of each worker.
    pub fn metrics(&self) -> &[Arc<WorkerMetrics>] {
        &self.metrics
    }

    /// Tells every worker to stop accepting, and to end when its connections have ended or the time is over.
    pub fn drain(&self, timeout: Duration) {
        for worker in &self.workers {
            worker.mailbox.send(Command::Drain { timeout });
        }
    }

    /// Whether a worker has ended, be it because it has drained or because it failed.
    pub fn has_ended_worker(&self) -> bool {
        self.workers.iter().any(|worker| worker.thread.is_finished())
    }

    /// Waits until every worker has ended.
    ///
    /// # Errors
    /// The first failure of a worker; a panic comes back as [`Ended::Panicked`].
    pub fn wait(self) -> Result<(), Ended> {
        let mut result = Ok(());
        for worker in self.workers {
            let ended = match worker.thread.join() {
                Ok(ended) => ended.map_err(Ended::Failed),
                Err(_) => Err(Ended::Panicked),
            };
            result = result.and(ended);
        }
        result
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

fn plan_listeners(settings: &Settings, identities: &[Arc<Identity>], sockets: Sockets) -> Vec<ListenerPlan> {
    let listeners = settings.listeners.iter().zip(identities).zip(sockets);
    let plan = |((listener, identity), socket): ((&worker::ListenerSettings, &Arc<Identity>), OwnedFd)| ListenerPlan {
        settings: listener.clone(),
        identity: Arc::clone(identity),
        backend: settings.backends[listener.backend].clone(),
        socket,
    };
    listeners.map(plan).collect()
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
