//! What every connection of a worker works with.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::mailbox::Queued;
use super::proxy_header::UniqueIds;
use super::settings::Timeouts;
use crate::backend::Servers;
use crate::guard::{Admission, ClientLimits, Clients, Handshakes, Pressure, Refusal, Seat};
use crate::ktls;
use crate::network::Networks;
use crate::proxy_protocol;
use crate::relay::{BufferPool, PipePool};
use crate::sys::allocator;
use crate::telemetry::access::AccessRing;
use crate::telemetry::{RefusalReason, WorkerMetrics};
use crate::timer::Wheel;

/// The worker's own things; nothing in it is shared with another thread but the counters.
pub(super) struct WorkerContext {
    pub(super) pool: Rc<BufferPool>,
    pub(super) pipes: Rc<PipePool>,
    pub(super) wheel: Rc<Wheel>,
    pub(super) metrics: Arc<WorkerMetrics>,
    pub(super) access_log: AccessRing,
    pub(super) failure_log: LogLimit,
    pub(super) unique_ids: UniqueIds,
    pub(super) refusal_log: LogLimit,
    pub(super) handshakes: Rc<Handshakes>,
    open_count: Cell<usize>,
    connections_max: Cell<usize>,
    draining: Cell<Option<Queued>>,
    pressure: Cell<Pressure>,
    is_winding_up: Cell<bool>,
    /// The second in which memory was last given back because it is short.
    gave_back: Cell<u64>,
    /// Who waits for room, for accepting to end, or for the last connection to end.
    waiting: RefCell<Vec<Waker>>,
}

/// One listener as this worker serves it.
pub(super) struct Listener {
    pub(super) name: String,
    /// Where connections go.
    pub(super) route: Rc<Route>,
    /// Where those of each section go.
    pub(super) section_routes: Vec<Rc<Route>>,
    pub(super) proxy_protocol_from: Option<Networks>,
    pub(super) kernel_tls: ktls::Settings,
    pub(super) capabilities: Arc<ktls::Capabilities>,
    pub(super) records_per_key: u64,
    pub(super) timeouts: Timeouts,
    pub(super) connections_max: usize,
    /// Open connections of the same sockets, under whatever snapshot.
    pub(super) open_count: Rc<Cell<usize>>,
    /// What one client may have, and the table in which it is counted.
    pub(super) client_limits: Option<(Arc<Clients>, ClientLimits)>,
}

/// A backend as this worker sees it.
pub(super) struct Route {
    pub(super) servers: Servers,
    pub(super) connect_timeout: Duration,
    pub(super) proxy_protocol: Option<proxy_protocol::Send>,
}

/// A place among the connections of the worker, the listener and the client; dropped, it is free again.
pub(super) struct Place {
    pub(super) worker: Rc<WorkerContext>,
    pub(super) listener: Rc<Listener>,
    seat: Cell<Option<Seat>>,
}

impl Listener {
    /// Where a connection goes whose server_name belongs to this section, or to none.
    pub(super) fn route(&self, section: Option<usize>) -> &Route {
        section.and_then(|section| self.section_routes.get(section)).unwrap_or(&self.route)
    }

    /// Lets a client in, if its limits allow; the seat is its connection's as long as it is kept.
    pub(super) fn admit(&self, client: IpAddr, metrics: &WorkerMetrics) -> Result<Option<Seat>, RefusalReason> {
        let Some((clients, limits)) = &self.client_limits else { return Ok(None) };
        match clients.admit_at(&self.name, client, limits, Instant::now()) {
            Ok(Admission::Seated(seat)) => Ok(Some(seat)),
            Ok(Admission::Exempt) => Ok(None),
            Ok(Admission::Untracked) => {
                metrics.clients_untracked.increment();
                Ok(None)
            }
            Err(Refusal::Connections) => Err(RefusalReason::ClientConnections),
            Err(Refusal::Rate) => Err(RefusalReason::ClientRate),
        }
    }
}

impl WorkerContext {
    /// A worker that may have no connection until it is configured.
    pub(super) fn new(metrics: Arc<WorkerMetrics>, access_log: AccessRing) -> Rc<Self> {
        Rc::new(Self {
            pool: BufferPool::new(0),
            pipes: Rc::default(),
            wheel: Wheel::new(Instant::now()),
            metrics,
            access_log,
            failure_log: LogLimit::default(),
            // Keyed at random, hence a random number.
            unique_ids: UniqueIds::new(RandomState::new().build_hasher().finish()),
            refusal_log: LogLimit::default(),
            handshakes: Handshakes::new(0),
            open_count: Cell::new(0),
            connections_max: Cell::new(0),
            draining: Cell::new(None),
            pressure: Cell::new(Pressure::None),
            is_winding_up: Cell::new(false),
            gave_back: Cell::new(0),
            waiting: RefCell::default(),
        })
    }

    /// Sets the limits. Connections and buffers beyond a limit that is lowered stay until they end.
    pub(super) fn configure(&self, connections_max: usize, handshakes_max: usize, buffer_bytes_max: usize) {
        self.connections_max.set(connections_max);
        self.handshakes.set_open_max(handshakes_max);
        self.pool.set_large_bytes_max(buffer_bytes_max);
    }

    /// Whether one more connection may be accepted from `listener`.
    pub(super) fn has_room(&self, listener: &Listener) -> bool {
        self.open_count.get() < self.connections_max.get() && listener.open_count.get() < listener.connections_max
    }

    /// Ends accepting because the worker has failed.
    pub(super) fn start_winding_up(&self) {
        self.is_winding_up.set(true);
        self.start_draining(Queued::Accept);
    }

    /// Whether the worker has failed.
    pub(super) fn is_winding_up(&self) -> bool {
        self.is_winding_up.get()
    }

    /// Whether memory is too short for new connections.
    pub(super) fn is_memory_short(&self) -> bool {
        self.pressure.get() >= Pressure::Accepting
    }

    /// Does what the memory of the process calls for; to be called with each turn of the wheel.
    pub(super) fn obey(&self, pressure: Pressure) {
        if self.pressure.replace(pressure) != pressure {
            self.pool.lend_large(pressure < Pressure::Buffers);
            self.wake_all();
        }
        // What connections have freed meanwhile would count as used otherwise.
        let second = self.wheel.seconds();
        if pressure > Pressure::None && self.gave_back.replace(second) != second {
            allocator::give_back();
        }
        let count = pressure.closed_per_look(self.open_count.get());
        if count > 0 {
            self.wheel.end_idle(count, IDLE_MIN);
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.get().is_some()
    }

    /// Whether another process accepts what waits.
    pub(super) fn leaves_queued(&self) -> bool {
        self.draining.get() == Some(Queued::Leave)
    }

    pub(super) fn open_count(&self) -> usize {
        self.open_count.get()
    }

    /// Takes a place for a connection that was accepted.
    pub(super) fn take_place(self: &Rc<Self>, listener: &Rc<Listener>, seat: Option<Seat>) -> Place {
        listener.open_count.set(listener.open_count.get() + 1);
        self.open_count.set(self.open_count.get() + 1);
        self.metrics.connections_accepted.increment();
        self.metrics.connections_open.add(1);
        Place { worker: Rc::clone(self), listener: Rc::clone(listener), seat: Cell::new(seat) }
    }

    pub(super) fn start_draining(&self, queued: Queued) {
        self.draining.set(Some(queued));
        self.wake_all();
    }

    /// Waits until `condition` holds; it is looked at again whenever a connection ends, a snapshot
    /// is taken up, memory becomes more or less short, or the drain begins.
    ///
    /// Cancel safety: safe.
    pub(super) async fn until(&self, condition: impl Fn(&Self) -> bool) {
        std::future::poll_fn(|context| {
            if condition(self) {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// Has everybody who waits look again.
    pub(super) fn wake_all(&self) {
        for waker in self.waiting.take() {
            waker.wake();
        }
    }
}

impl Place {
    /// Keeps the seat of a client that a PROXY protocol header named, as long as the place.
    pub(super) fn keep(&self, seat: Option<Seat>) {
        self.seat.set(seat);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.listener.open_count.set(self.listener.open_count.get() - 1);
        self.worker.open_count.set(self.worker.open_count.get() - 1);
        self.worker.metrics.connections_open.add(-1);
        if !self.worker.waiting.borrow().is_empty() {
            self.worker.wake_all();
        }
    }
}

/// How long a connection must have been idle to be closed because memory is short.
const IDLE_MIN: Duration = Duration::from_secs(1);

/// Lets a bounded number of lines per second through, so that an attack does not turn into a flood of log lines; every
/// failure is counted in the metrics all the same.
#[derive(Default)]
pub(super) struct LogLimit {
    second: Cell<u64>,
    passed_count: Cell<u32>,
    suppressed_count: Cell<u64>,
}

/// Lines per second and worker about failed handshakes, and as many about refused connections.
const LOG_LINES_PER_SECOND_MAX: u32 = 20;

impl LogLimit {
    /// Whether a line may be written at `second`; if so, how many were suppressed since the last one.
    pub(super) fn pass_at(&self, second: u64) -> Option<u64> {
        if self.second.replace(second) != second {
            self.passed_count.set(0);
        }
        if self.passed_count.get() >= LOG_LINES_PER_SECOND_MAX {
            self.suppressed_count.set(self.suppressed_count.get() + 1);
            return None;
        }
        self.passed_count.set(self.passed_count.get() + 1);
        Some(self.suppressed_count.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_limit_suppresses_a_flood_and_says_how_much() {
        let limit = LogLimit::default();
        let passed = (0..100).filter(|_| limit.pass_at(7).is_some()).count();
        assert_eq!(passed, LOG_LINES_PER_SECOND_MAX as usize);
        assert_eq!(limit.pass_at(8), Some(100 - u64::from(LOG_LINES_PER_SECOND_MAX)));
        assert_eq!(limit.pass_at(8), Some(0));
    }
}
