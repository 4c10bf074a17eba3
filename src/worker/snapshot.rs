//! What one configuration has the workers serve.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::WorkerError;
use super::context::{Listener, Route};
use super::settings::ListenerSettings;
use crate::backend::{self, Servers};
use crate::guard::Clients;
use crate::ktls;
use crate::ticket::TicketSettings;
use crate::tls;

/// One configuration as the workers serve it: immutable, the same for all of them. A connection keeps what it was
/// accepted under.
pub struct Snapshot {
    /// Its number; each snapshot that is published has a greater one than those before.
    pub generation: u64,
    /// Largest number of open connections per worker.
    pub connections_max: usize,
    /// Largest number of handshakes under way per worker.
    pub handshakes_max: usize,
    /// Bytes of large relay buffers that a worker lends at most.
    pub buffer_bytes_max: usize,
    /// The listeners.
    pub listeners: Vec<ListenerPlan>,
    /// How tickets are issued.
    pub tickets: TicketSettings,
    /// What the kernel can do for TLS.
    pub capabilities: Arc<ktls::Capabilities>,
    /// What each client holds, for all workers.
    pub clients: Arc<Clients>,
}

/// One listener of a snapshot.
pub struct ListenerPlan {
    /// What it is configured with.
    pub settings: ListenerSettings,
    /// The keys of its tickets; none: no tickets.
    pub ticket_keys: Option<tls::TicketKeys>,
    /// Where its connections go.
    pub backend: backend::Settings,
    /// Where those of each section of its TLS go.
    pub section_backends: Vec<backend::Settings>,
    /// The listening sockets that its connections come from.
    pub sockets: SocketGroup,
}

/// The listening sockets of one address, over all workers. They stay while snapshots come and go, for as long as a
/// listener has the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketGroup {
    /// Another one for each.
    pub number: u64,
    /// Several workers accept from one socket of it.
    pub is_shared: bool,
}

/// A listener ready to serve on one worker.
pub(super) struct Version {
    pub(super) listener: Rc<Listener>,
    /// Apart from the listener, which a connection holds on to until its end: certificates and contexts are needed up to
    /// the end of its handshake.
    pub(super) tls: Rc<tls::Context>,
}

impl Snapshot {
    /// Builds every listener of the snapshot for one worker; `open_count` gives the cell in which the connections of
    /// some sockets are counted, those under former snapshots included.
    pub(super) fn build(
        &self,
        worker: usize,
        open_count: impl Fn(SocketGroup) -> Rc<Cell<usize>>,
    ) -> Result<Vec<(SocketGroup, Version)>, WorkerError> {
        let build = |plan: &ListenerPlan| Ok((plan.sockets, self.build_one(plan, worker, open_count(plan.sockets))?));
        self.listeners.iter().map(build).collect()
    }

    fn build_one(
        &self,
        plan: &ListenerPlan,
        worker: usize,
        open_count: Rc<Cell<usize>>,
    ) -> Result<Version, WorkerError> {
        let settings = &plan.settings;
        let tickets = plan.ticket_keys.as_ref().map(|keys| (keys, &self.tickets));
        let tls = context(settings, tickets)?;
        let (route, section_routes) = routes(plan, worker)?;
        let listener = Listener {
            name: settings.name.clone(),
            route,
            section_routes,
            proxy_protocol_from: settings.proxy_protocol_from.clone(),
            kernel_tls: settings.kernel_tls,
            capabilities: Arc::clone(&self.capabilities),
            records_per_key: settings.records_per_key,
            timeouts: settings.timeouts,
            connections_max: settings.connections_max.unwrap_or(usize::MAX),
            open_count,
            client_limits: settings.client_limits.clone().map(|limits| (Arc::clone(&self.clients), limits)),
        };
        Ok(Version { listener: Rc::new(listener), tls: Rc::new(tls) })
    }
}

/// The way to the backend of a listener and to that of each section. Sections of one backend share it, so that its
/// servers take turns among all their connections.
fn routes(plan: &ListenerPlan, worker: usize) -> Result<(Rc<Route>, Vec<Rc<Route>>), WorkerError> {
    let mut known: HashMap<usize, Rc<Route>> = HashMap::new();
    let mut route = |index: usize, backend: &backend::Settings| {
        if let Some(route) = known.get(&index) {
            return Ok(Rc::clone(route));
        }
        let servers = Servers::new(backend, worker)?;
        let (connect_timeout, proxy_protocol) = (backend.connect_timeout, backend.proxy_protocol);
        let route = Rc::new(Route { servers, connect_timeout, proxy_protocol });
        known.insert(index, Rc::clone(&route));
        Ok::<_, WorkerError>(route)
    };
    let default = route(plan.settings.backend, &plan.backend)?;
    let sections = plan.settings.section_backends.iter().zip(&plan.section_backends);
    let sections = sections.map(|(index, backend)| route(*index, backend)).collect::<Result<_, _>>()?;
    Ok((default, sections))
}

/// Builds what a worker would build, and drops it again: so that a snapshot on which a worker would fail is found out
/// before it is published. `backends` are all that the settings point at.
///
/// # Errors
/// [`WorkerError`], as the worker would have it.
pub fn try_out(settings: &ListenerSettings, backends: &[backend::Settings]) -> Result<(), WorkerError> {
    context(settings, None)?;
    for index in std::iter::once(&settings.backend).chain(&settings.section_backends) {
        Servers::new(&backends[*index], 0)?;
    }
    Ok(())
}

fn context(
    settings: &ListenerSettings,
    tickets: Option<(&tls::TicketKeys, &TicketSettings)>,
) -> Result<tls::Context, WorkerError> {
    tls::Context::build(&settings.tls, tickets)
        .map_err(|source| WorkerError::Context { listener: settings.name.clone(), source })
}
