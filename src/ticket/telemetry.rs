//! Where the callbacks of a thread count.

use std::cell::RefCell;
use std::sync::Arc;

pub use crate::telemetry::{
    KeySource, RingEvent, RingFacts, RingStanding, RingStatus, RingTelemetry, TicketCounters, TicketIssue,
    TicketOpening,
};

impl TicketCounters {
    /// The counters to which callbacks on the calling thread add.
    ///
    /// A thread's own because a cell has one writer, while a context may serve several workers.
    pub fn of_this_thread() -> Arc<Self> {
        COUNTERS.with_borrow(Arc::clone)
    }

    /// Makes the callbacks on the calling thread add to `counters` from now on.
    pub fn adopt(counters: Arc<Self>) {
        COUNTERS.set(counters);
    }
}

/// Adds to the counters of the calling thread; nothing happens on a thread that is being torn down.
pub(super) fn count(add: impl FnOnce(&TicketCounters)) {
    let _ = COUNTERS.try_with(|counters| add(&counters.borrow()));
}

thread_local! {
    static COUNTERS: RefCell<Arc<TicketCounters>> = RefCell::default();
}
