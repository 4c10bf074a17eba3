//! From settings to running workers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use openssl::hash::MessageDigest;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::expiry;
use super::handover::Handover;
use super::inherit::Inherited;
use super::logs::Logs;
use super::settings::Settings;
use super::snapshot::Prepared;
use super::sockets::Sockets;
use super::tickets::{self, Tickets};
use super::watch::Stamps;
use crate::guard::{Clients, PressureCell};
use crate::ktls;
use crate::telemetry::access::AccessRing;
use crate::telemetry::audit::{Actor, AuditEvent, CertificateFact};
use crate::telemetry::diagnostics::DiagnosticsHandle;
use crate::telemetry::{ListenerView, PulseCell, RingTelemetry, SnapshotView, WorkerMetrics};
use crate::ticket::KeeperError;
use crate::tls;
use crate::tls::client_auth::ClientAuthError;
use crate::tls::identity::{Identity, IdentityError};
use crate::worker::{
    self, Command, ListenerPlan, Notice, Notices, Plan, Queued, Ring, RingError, Snapshot, SocketGroup, WorkerError,
};

/// A running proxy.
pub struct Server {
    /// None where the worker has ended and [`Server::reap`] has told how.
    workers: Vec<Option<worker::Handle>>,
    metrics: Vec<Arc<WorkerMetrics>>,
    pulses: Vec<Arc<PulseCell>>,
    ring: Ring,
    /// What is in service, with what a start has settled for the life of the process.
    settings: Settings,
    snapshot: Arc<Snapshot>,
    published: SystemTime,
    sockets: Sockets,
    /// Where each listener listens.
    addresses: Vec<SocketAddr>,
    /// What the files looked like from which the snapshot was made.
    stamps: Stamps,
    tickets: Tickets,
    logs: Logs,
    notices: Option<UnboundedReceiver<(usize, Notice)>>,
    pressure: PressureCell,
}

/// Why the proxy could not start, or a configuration could not be put in service.
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
    /// Configuration: authorities or revocation lists for certificates of clients.
    #[error("listener {listener}: {source}")]
    ClientAuth {
        /// The listener.
        listener: String,
        /// What is wrong with it.
        source: ClientAuthError,
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
    /// Configuration or machine: OpenSSL refuses a listener's settings, or a backend's address is none.
    #[error(transparent)]
    Listener(WorkerError),
    /// Configuration or machine: the access log or the audit log.
    #[error("the logs cannot be opened: {0} (audit_log.file)")]
    Logs(io::Error),
    /// The machine: no descriptor left.
    #[error("listening sockets cannot be shared out: {0}")]
    Share(io::Error),
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
        Self::start_with(settings, &mut Inherited::default(), None)
    }

    /// Takes what is inherited, binds every listener that is left, then starts every worker.
    pub(super) fn start_with(
        settings: &Settings,
        inherited: &mut Inherited,
        process_log: Option<DiagnosticsHandle>,
    ) -> Result<Self, StartError> {
        let prepared = Prepared::prepare(settings.clone(), None)?;
        let (ring, ring_error) = worker::choose_ring(settings.workers.io)?;
        if let Some(error) = ring_error {
            tracing::warn!("{error}; workers wait with epoll instead, which costs throughput (workers.io)");
        }
        let mut tickets = Tickets::open(&settings.tickets, inherited.take_ring().as_ref().map(|ring| ring.as_slice()))?;
        let mut sockets = Sockets::default();
        let worker_count = settings.workers.cpus.len();
        let change = sockets.prepare(&settings.listeners, worker_count, inherited)?;
        let shares = change.for_workers(worker_count).map_err(StartError::Share)?;
        let clients = Clients::new(settings.tracked_clients_max);
        let snapshot = Arc::new(snapshot(FIRST_GENERATION, &prepared, &change.groups(), &mut tickets, clients)?);
        tickets.maintain();
        let addresses = sockets.apply(change);
        let (logs, access_rings) = Logs::start(settings, worker_count, process_log).map_err(StartError::Logs)?;
        let (sender, notices) = mpsc::unbounded_channel();
        let mut server = Self {
            stamps: prepared.stamps,
            workers: Vec::new(),
            metrics: (0..worker_count).map(|_| Arc::default()).collect(),
            pulses: (0..worker_count).map(|_| Arc::default()).collect(),
            ring,
            settings: prepared.settings,
            snapshot,
            published: SystemTime::now(),
            sockets,
            addresses,
            tickets,
            logs,
            notices: Some(notices),
            pressure: PressureCell::default(),
        };
        for ((index, share), access_log) in shares.into_iter().enumerate().zip(access_rings) {
            if let Err(source) = server.spawn(index, share, access_log, &sender) {
                server.drain(Duration::ZERO);
                return Err(StartError::Spawn { index, source });
            }
        }
        Ok(server)
    }

    fn spawn(
        &mut self,
        index: usize,
        sockets: Vec<(SocketGroup, OwnedFd)>,
        access_log: AccessRing,
        sender: &UnboundedSender<(usize, Notice)>,
    ) -> io::Result<()> {
        let handle = worker::spawn(Plan {
            index,
            cpu: self.settings.workers.cpus[index],
            steering: self.settings.workers.steering,
            ring: self.ring,
            snapshot: Arc::clone(&self.snapshot),
            sockets,
            metrics: Arc::clone(&self.metrics[index]),
            pulse: Arc::clone(&self.pulses[index]),
            access_log,
            notices: Notices { worker: index, sender: sender.clone() },
            pressure: self.pressure.clone(),
        })?;
        self.workers.push(Some(handle));
        Ok(())
    }

    /// Puts another configuration in service and gives its generation. Workers take it up in their own time and say so
    /// ([`Notice`]).
    ///
    /// # Errors
    /// [`StartError`]; what was in service is then as it was.
    pub(super) fn publish(&mut self, mut prepared: Prepared) -> Result<u64, StartError> {
        // What belongs to threads, to the admin endpoint and to the process itself stays as the start has settled it.
        prepared.settings.workers.cpus.clone_from(&self.settings.workers.cpus);
        prepared.settings.workers.io = self.settings.workers.io;
        prepared.settings.workers.steering = self.settings.workers.steering;
        prepared.settings.admin.clone_from(&self.settings.admin);
        prepared.settings.user.clone_from(&self.settings.user);
        prepared.settings.sandbox = self.settings.sandbox;
        prepared.settings.core_dumps = self.settings.core_dumps;
        // A worker that has ended gets no sockets: the kernel would give connections to them.
        let living: Vec<_> = self.workers.iter().flatten().map(|worker| worker.mailbox.clone()).collect();
        let worker_count = living.len().max(1);

        let mut other_tickets = self.tickets.reopen(&prepared.settings.tickets)?;
        let tickets = other_tickets.as_mut().unwrap_or(&mut self.tickets);
        let change = self.sockets.prepare(&prepared.settings.listeners, worker_count, &mut Inherited::default())?;
        let shares = change.for_workers(worker_count).map_err(StartError::Share)?;
        let groups = change.groups();
        let generation = self.snapshot.generation + 1;
        let clients = match prepared.settings.tracked_clients_max == self.settings.tracked_clients_max {
            true => Arc::clone(&self.snapshot.clients),
            // What open connections hold stays counted in the former table.
            false => Clients::new(prepared.settings.tracked_clients_max),
        };
        let snapshot = Arc::new(snapshot(generation, &prepared, &groups, tickets, clients)?);
        tickets.maintain();

        // From here on nothing can fail.
        self.addresses = self.sockets.apply(change);
        if let Some(tickets) = other_tickets {
            self.tickets = tickets;
        }
        self.logs.apply(&prepared.settings.logs);
        self.settings = prepared.settings;
        self.stamps = prepared.stamps;
        self.snapshot = snapshot;
        self.published = SystemTime::now();
        for (mailbox, sockets) in living.iter().zip(shares) {
            mailbox.send(Command::Adopt { snapshot: Arc::clone(&self.snapshot), sockets });
        }
        Ok(generation)
    }

    /// The logs beside that of the process.
    pub(super) fn logs(&self) -> &Logs {
        &self.logs
    }

    /// Takes note of an administrative act in the audit log, with what is in service now.
    pub(super) fn audit(&mut self, event: AuditEvent, by: Actor, detail: Option<String>) {
        let certificates = self.snapshot.listeners.iter().flat_map(certificate_facts);
        let certificates = certificates.take(AUDIT_CERTIFICATES_MAX).collect();
        self.logs.audit(event, by, detail, &self.settings.shown.sha256, certificates);
    }

    /// How short memory is, as the workers are told.
    pub(super) fn pressure(&self) -> PressureCell {
        self.pressure.clone()
    }

    /// What is in service.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What the files looked like from which the snapshot was made.
    pub(super) fn stamps(&self) -> &Stamps {
        &self.stamps
    }

    /// What is in service, for the status.
    pub(super) fn view(&self) -> SnapshotView {
        let listener = |(plan, address): (&ListenerPlan, &SocketAddr)| ListenerView {
            name: plan.settings.name.clone(),
            address: *address,
            backend: plan.backend.name.clone(),
            certificate_not_after: first_end(&plan.settings.tls),
        };
        SnapshotView {
            generation: self.snapshot.generation,
            published: self.published,
            listeners: self.snapshot.listeners.iter().zip(&self.addresses).map(listener).collect(),
            expiry: expiry::view(self.snapshot.listeners.iter().map(|plan| &plan.settings)),
        }
    }

    /// Where each listener listens, in the order of the configuration; a port of 0 is resolved.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What the workers say; the first caller gets it.
    pub(super) fn take_notices(&mut self) -> Option<UnboundedReceiver<(usize, Notice)>> {
        self.notices.take()
    }

    /// How the workers wait for their sockets.
    pub fn ring(&self) -> Ring {
        self.ring
    }

    /// What the kernel can do for TLS.
    pub fn capabilities(&self) -> &Arc<ktls::Capabilities> {
        &self.snapshot.capabilities
    }

    /// The ticket ring as it is shown.
    pub fn ticket_ring(&self) -> Arc<RingTelemetry> {
        self.tickets.telemetry()
    }

    /// Keeps the ticket ring up to date with the clock and its file. Says when that ended the tickets that were out.
    pub fn maintain_tickets(&mut self) -> Option<String> {
        self.tickets.maintain()
    }

    /// Looks at the file of the ticket ring at once. Says when that ended the tickets that were out.
    ///
    /// # Errors
    /// [`KeeperError`]; the former keys stay in use.
    pub(super) fn reread_tickets(&mut self) -> Result<Option<String>, KeeperError> {
        self.tickets.reread()
    }

    /// The counters of each worker.
    pub fn metrics(&self) -> &[Arc<WorkerMetrics>] {
        &self.metrics
    }

    /// Where each worker shows that it goes on.
    pub(super) fn pulses(&self) -> &[Arc<PulseCell>] {
        &self.pulses
    }

    /// Tells every worker to stop accepting, and to end when its connections have ended or the time is over. Called
    /// again, it sets the time anew.
    pub fn drain(&mut self, timeout: Duration) {
        self.sockets.close();
        for worker in self.workers.iter().flatten() {
            worker.mailbox.send(Command::Drain { timeout, queued: Queued::Accept });
        }
    }

    /// Lets go of the sockets that a failed worker has closed for good: nobody is to inherit them.
    pub(super) fn forget_closed_sockets(&mut self) {
        self.sockets.forget_closed();
    }

    /// Has systemd keep the sockets for the next process.
    pub(super) fn store_sockets(&mut self) {
        self.sockets.store();
    }

    /// What a process that takes over gets, but for the admin endpoint.
    pub(super) fn handover(&self) -> io::Result<Handover> {
        Ok(Handover { listeners: self.sockets.twins()?, admin: None, ring: self.tickets.export() })
    }

    /// As [`Server::drain`], but leaves the connections that wait to the process that took over.
    pub(super) fn hand_over(&mut self, timeout: Duration) {
        self.sockets.close();
        for worker in self.workers.iter().flatten() {
            worker.mailbox.send(Command::Drain { timeout, queued: Queued::Leave });
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

/// Certificates that an audit record names at most; those of directories with thousands are left out.
const AUDIT_CERTIFICATES_MAX: usize = 64;

/// The fingerprints of a listener's certificates.
fn certificate_facts(plan: &ListenerPlan) -> impl Iterator<Item = CertificateFact> {
    let fact = |identity: &Identity| {
        let digest = identity.leaf().digest(MessageDigest::sha256()).ok()?;
        let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(CertificateFact { listener: plan.settings.name.clone(), sha256 })
    };
    plan.settings.tls.identities.identities().iter().filter_map(fact)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
impl Server {
    /// A server over threads that only look like workers: what the control loop does with their ends.
    pub(super) fn over_threads(threads: Vec<std::thread::JoinHandle<Result<(), WorkerError>>>) -> Self {
        let workers: Vec<_> = threads.into_iter().map(|thread| Some(worker::Handle::over_thread(thread))).collect();
        Self {
            metrics: workers.iter().map(|_| Arc::default()).collect(),
            pulses: workers.iter().map(|_| Arc::default()).collect(),
            ring: Ring::Epoll,
            settings: Settings::sample(workers.len()),
            snapshot: Arc::new(Snapshot {
                generation: FIRST_GENERATION,
                connections_max: 1,
                handshakes_max: 1,
                buffer_bytes_max: 0,
                listeners: Vec::new(),
                tickets: crate::ticket::TicketSettings::default(),
                capabilities: Arc::new(ktls::Capabilities::unasked()),
                clients: Clients::new(1),
            }),
            published: SystemTime::now(),
            sockets: Sockets::default(),
            addresses: Vec::new(),
            stamps: Stamps::default(),
            tickets: Tickets::none(),
            logs: Logs::start(&Settings::sample(workers.len()), 0, None).unwrap().0,
            notices: None,
            pressure: PressureCell::default(),
            workers,
        }
    }
}

/// The generation that a process starts with.
const FIRST_GENERATION: u64 = 1;

fn snapshot(
    generation: u64,
    prepared: &Prepared,
    groups: &[SocketGroup],
    tickets: &mut Tickets,
    clients: Arc<Clients>,
) -> Result<Snapshot, StartError> {
    let settings = &prepared.settings;
    let backend = |index: &usize| settings.backends[*index].clone();
    let mut listeners = Vec::new();
    for (listener, sockets) in settings.listeners.iter().zip(groups) {
        listeners.push(ListenerPlan {
            settings: listener.clone(),
            ticket_keys: tickets.of(listener, &settings.backends)?,
            backend: backend(&listener.backend),
            section_backends: listener.section_backends.iter().map(backend).collect(),
            sockets: *sockets,
        });
    }
    Ok(Snapshot {
        generation,
        connections_max: settings.workers.connections_max,
        handshakes_max: settings.workers.handshakes_max,
        buffer_bytes_max: settings.workers.buffer_bytes_max,
        listeners,
        tickets: tickets::issuing(&settings.tickets),
        capabilities: Arc::clone(&prepared.capabilities),
        clients,
    })
}

/// The first last second of validity among the certificates of a listener.
fn first_end(tls: &tls::Settings) -> SystemTime {
    tls.identities.identities().iter().map(Identity::not_after).min().unwrap_or(SystemTime::UNIX_EPOCH)
}

fn bind_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process listens there",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "; no interface has this address",
        _ => "",
    }
}
