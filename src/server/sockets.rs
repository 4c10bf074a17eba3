//! The listening sockets of the process: bound by the control thread, one per worker and address, and kept for as long as
//! a listener has the address, whatever else of it changes.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use super::inherit::Inherited;
use super::notify;
use super::start::StartError;
use crate::sys::socket;
use crate::worker::{ListenerSettings, SocketGroup};

/// Connections that may wait to be accepted, per worker and listener; the kernel caps it at net.core.somaxconn.
pub(crate) const LISTEN_BACKLOG: i32 = 4096;

/// Every listening socket. Each is the twin of one that a worker accepts from, so that it can be handed on; a socket is
/// closed when both are.
#[derive(Default)]
pub(super) struct Sockets {
    groups: Vec<Group>,
    next: u64,
    /// The names under which sockets lie in systemd's store.
    stored: BTreeSet<String>,
}

/// The sockets of one address.
struct Group {
    id: SocketGroup,
    /// The address as the configuration has it.
    configured: SocketAddr,
    /// The address as the kernel has it: a port of 0 is resolved.
    address: SocketAddr,
    sockets: Vec<OwnedFd>,
}

/// The sockets for another set of listeners; dropped, it leaves everything as it was.
pub(super) struct Change {
    places: Vec<Place>,
}

/// Where the sockets of one listener come from.
enum Place {
    Kept(SocketGroup),
    Fresh(Group),
}

impl Sockets {
    /// Binds what the listeners need and is neither there nor inherited. Nothing that is there is touched.
    pub(super) fn prepare(
        &mut self,
        listeners: &[ListenerSettings],
        worker_count: usize,
        inherited: &mut Inherited,
    ) -> Result<Change, StartError> {
        let mut places: Vec<Place> = Vec::new();
        for listener in listeners {
            let is_taken = |id| places.iter().any(|place| matches!(place, Place::Kept(other) if *other == id));
            let kept = self.groups.iter().find(|group| group.configured == listener.address && !is_taken(group.id));
            let place = match kept {
                Some(group) => Place::Kept(group.id),
                None => {
                    self.next += 1;
                    let sockets = inherited.take_listeners(listener.address);
                    Place::Fresh(Group::bind(self.next, listener, worker_count, sockets)?)
                }
            };
            places.push(place);
        }
        Ok(Change { places })
    }

    /// Carries the change out, and gives the address of each listener. The twins of sockets that no listener has any more
    /// are closed.
    pub(super) fn apply(&mut self, change: Change) -> Vec<SocketAddr> {
        let mut before = std::mem::take(&mut self.groups);
        for place in change.places {
            match place {
                Place::Kept(id) => {
                    if let Some(at) = before.iter().position(|group| group.id == id) {
                        self.groups.push(before.swap_remove(at));
                    }
                }
                Place::Fresh(group) => self.groups.push(group),
            }
        }
        self.groups.iter().map(|group| group.address).collect()
    }

    /// Has systemd's store hold what there is, and nothing else.
    pub(super) fn store(&mut self) {
        let before = std::mem::take(&mut self.stored);
        for group in &self.groups {
            let name = group.name();
            if !before.contains(&name) {
                notify::store(&name, &group.sockets);
            }
            self.stored.insert(name);
        }
        before.difference(&self.stored).for_each(|name| notify::forget(name));
    }

    /// More twins, for a process that takes over.
    pub(super) fn twins(&self) -> io::Result<Vec<(SocketAddr, Vec<OwnedFd>)>> {
        let twins = |group: &Group| {
            let twins = group.sockets.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
            Ok((group.address, twins))
        };
        self.groups.iter().map(twins).collect()
    }

    /// Closes the twins of sockets that listen no more, as a failed worker leaves its own: neither a successor nor systemd's
    /// store is to have them.
    pub(super) fn forget_closed(&mut self) {
        let mut is_stale = false;
        for group in &mut self.groups {
            let before = group.sockets.len();
            group.sockets.retain(socket::is_listening);
            if group.sockets.len() < before && self.stored.remove(&group.name()) {
                notify::forget(&group.name());
                is_stale = true;
            }
        }
        // All sockets of an address have one name in the store: those that are left go back.
        if is_stale {
            self.store();
        }
    }

    /// Closes every twin: when the workers close theirs, the sockets are gone.
    pub(super) fn close(&mut self) {
        self.groups.clear();
    }
}

impl Change {
    /// The group of each listener.
    pub(super) fn groups(&self) -> Vec<SocketGroup> {
        let id = |place: &Place| match place {
            Place::Kept(id) => *id,
            Place::Fresh(group) => group.id,
        };
        self.places.iter().map(id).collect()
    }

    /// At each worker's place its sockets of the groups that are new.
    pub(super) fn for_workers(&self, worker_count: usize) -> io::Result<Vec<Vec<(SocketGroup, OwnedFd)>>> {
        let mut workers: Vec<Vec<_>> = (0..worker_count).map(|_| Vec::new()).collect();
        for place in &self.places {
            let Place::Fresh(group) = place else { continue };
            // More workers than sockets share; more sockets than workers are shared out, so that none is left over.
            for turn in 0..group.sockets.len().max(worker_count) {
                let socket = group.sockets[turn % group.sockets.len()].try_clone()?;
                workers[turn % worker_count].push((group.id, socket));
            }
        }
        Ok(workers)
    }
}

impl Group {
    /// The address in letters that a name in systemd's store may have.
    fn name(&self) -> String {
        self.address.to_string().replace(':', "-")
    }

    /// The inherited sockets in their order, and behind them as many new ones as workers go without.
    fn bind(
        number: u64,
        listener: &ListenerSettings,
        worker_count: usize,
        mut sockets: Vec<OwnedFd>,
    ) -> Result<Self, StartError> {
        let configured = listener.address;
        let mut address = configured;
        while sockets.len() < worker_count {
            let error = |source| StartError::Listen { listener: listener.name.clone(), address, source };
            let socket = match socket::listen(address, LISTEN_BACKLOG) {
                Ok(socket) => socket,
                Err(error) if !sockets.is_empty() => {
                    // As with a socket of systemd that has no SO_REUSEPORT, or that another user has bound.
                    tracing::warn!(
                        listener = listener.name, %address, %error, sockets = sockets.len(),
                        "workers share inherited sockets: no more can be bound beside them (ReusePort= of the unit)"
                    );
                    break;
                }
                Err(source) => return Err(error(source)),
            };
            // With port 0 the first socket decides for the others.
            address.set_port(local_port(&socket).map_err(error)?);
            sockets.push(socket);
        }
        let id = SocketGroup { number, is_shared: sockets.len() < worker_count };
        Ok(Self { id, configured, address, sockets })
    }
}

fn local_port(socket: &OwnedFd) -> io::Result<u16> {
    let address: nix::sys::socket::SockaddrStorage = nix::sys::socket::getsockname(socket.as_raw_fd())?;
    let v4 = address.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::port);
    v4.or_else(|| address.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::port))
        .ok_or_else(|| io::ErrorKind::Unsupported.into())
}
