//! The listeners of a worker: which sockets it accepts from, and what it serves there at present.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::WorkerError;
use super::accept;
use super::context::{Listener, WorkerContext};
use super::recess::Recess;
use super::settings::Steering;
use super::snapshot::{Snapshot, SocketGroup, Version};
use super::steering;
use crate::sys::socket::Acceptor;
use crate::tls;

/// The stations of a worker, one for each group of sockets.
pub(super) struct Stations {
    worker: Rc<WorkerContext>,
    index: usize,
    /// Which connections its sockets are to get, and the CPU of the worker.
    steering: (Steering, usize),
    stations: Vec<(SocketGroup, Rc<Station>)>,
}

/// Where the connections of one address find the listener that serves them at present.
pub(super) struct Station {
    version: RefCell<Version>,
    is_closed: Cell<bool>,
    is_shared: bool,
}

impl Stations {
    /// No station yet.
    pub(super) fn new(worker: Rc<WorkerContext>, index: usize, steering: (Steering, usize)) -> Self {
        Self { worker, index, steering, stations: Vec::new() }
    }

    /// Serves `snapshot` from now on: new listeners on `sockets`, changed ones where they are, removed ones no more.
    /// Where it fails, everything stays as it was.
    pub(super) fn adopt(
        &mut self,
        snapshot: &Snapshot,
        sockets: Vec<(SocketGroup, OwnedFd)>,
    ) -> Result<(), WorkerError> {
        let open_count = |group| match self.of(group) {
            Some(station) => Rc::clone(&station.version.borrow().listener.open_count),
            None => Rc::default(),
        };
        let versions = snapshot.build(self.index, open_count)?;
        let (steering, cpu) = self.steering;
        let acceptor = |(group, socket)| {
            steering::set(&socket, steering, cpu)?;
            Ok((group, Acceptor::new(socket)?, Recess::new()?))
        };
        let acceptors: Vec<_> = sockets
            .into_iter()
            .map(acceptor)
            .collect::<Result<_, _>>()
            .map_err(|source| WorkerError::Start { index: self.index, source })?;

        self.worker.configure(snapshot.connections_max, snapshot.handshakes_max, snapshot.buffer_bytes_max);
        let mut before = std::mem::take(&mut self.stations);
        for (group, version) in versions {
            let kept = before.iter().position(|(other, _)| *other == group).map(|at| before.swap_remove(at).1);
            let station = match kept {
                Some(station) => {
                    station.version.replace(version);
                    station
                }
                None => Rc::new(Station {
                    version: RefCell::new(version),
                    is_closed: Cell::new(false),
                    is_shared: group.is_shared,
                }),
            };
            self.stations.push((group, station));
        }
        for (_, removed) in before {
            removed.is_closed.set(true);
        }
        self.worker.wake_all();
        for (group, acceptor, recess) in acceptors {
            if let Some(station) = self.of(group) {
                monoio::spawn(accept::run(acceptor, recess, Rc::clone(station), Rc::clone(&self.worker)));
            }
        }
        Ok(())
    }

    fn of(&self, group: SocketGroup) -> Option<&Rc<Station>> {
        self.stations.iter().find(|(other, _)| *other == group).map(|(_, station)| station)
    }
}

impl Station {
    /// The listener as a connection that is accepted now gets it.
    pub(super) fn current(&self) -> (Rc<Listener>, Rc<tls::Context>) {
        let version = self.version.borrow();
        (Rc::clone(&version.listener), Rc::clone(&version.tls))
    }

    /// The listener without what its handshakes need.
    pub(super) fn listener(&self) -> Rc<Listener> {
        Rc::clone(&self.version.borrow().listener)
    }

    /// Whether other workers accept from the same sockets.
    pub(super) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Whether the listener was removed: accepting ends.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.get()
    }
}
