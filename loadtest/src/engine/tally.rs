//! Counting: live counters that the main thread reads, and per-thread histograms that are merged at the end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::result::{ErrorClass, Latency, Scenario};

/// What all threads of a run obey.
#[derive(Debug)]
pub struct Control {
    phase: AtomicU8,
    budget: AtomicI64,
    ended: OnceLock<Instant>,
}

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Connections and sessions are made; no work yet.
    Prepare,
    /// Work is done and counted, latencies are dropped.
    WarmUp,
    /// Everything is recorded.
    Measure,
    /// No new work; what was started may finish.
    Drain,
}

impl Control {
    /// A run of at most `requests` units of work.
    pub fn new(requests: Option<u64>) -> Arc<Self> {
        let budget = requests.map_or(i64::MAX, |count| i64::try_from(count).unwrap_or(i64::MAX));
        Arc::new(Self { phase: AtomicU8::new(0), budget: AtomicI64::new(budget), ended: OnceLock::new() })
    }

    /// The current phase.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Prepare,
            1 => Phase::WarmUp,
            2 => Phase::Measure,
            _ => Phase::Drain,
        }
    }

    /// Moves on.
    pub fn enter(&self, phase: Phase) {
        if phase == Phase::Drain {
            self.ended.get_or_init(Instant::now);
        }
        self.phase.store(phase as u8, Relaxed);
    }

    /// Takes one unit of work, unless there is none left or the run is over.
    pub fn claim(&self) -> bool {
        self.phase() != Phase::Drain && self.budget.load(Relaxed) > 0 && self.budget.fetch_sub(1, Relaxed) > 0
    }

    /// When [`Phase::Drain`] began.
    pub fn ended_at(&self) -> Option<Instant> {
        self.ended.get().copied()
    }

    /// No more work can be claimed.
    pub fn is_over(&self) -> bool {
        self.phase() == Phase::Drain || self.budget.load(Relaxed) <= 0
    }
}

/// Live counters of one thread, written by it alone.
#[derive(Debug, Default)]
pub struct Counters {
    operations: [AtomicU64; KINDS],
    sent: AtomicU64,
    received: AtomicU64,
    errors: AtomicU64,
    open: AtomicU64,
    handshakes: AtomicU64,
    offered: AtomicU64,
    resumed: AtomicU64,
}

/// A reading of [`Counters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Finished operations, by [`kind_index`].
    pub operations: [u64; KINDS],
    /// Payload bytes to the target.
    pub sent: u64,
    /// Payload bytes from the target.
    pub received: u64,
    /// Failures.
    pub errors: u64,
    /// Connections open now.
    pub open: u64,
    /// Finished handshakes that were an operation.
    pub handshakes: u64,
    /// Of those, how many offered a ticket.
    pub offered: u64,
    /// Of those, how many resumed.
    pub resumed: u64,
}

impl Counters {
    /// What they say now. Counters that belong together may be one unit of work apart.
    pub fn read(&self) -> Counts {
        Counts {
            operations: std::array::from_fn(|kind| self.operations[kind].load(Relaxed)),
            sent: self.sent.load(Relaxed),
            received: self.received.load(Relaxed),
            errors: self.errors.load(Relaxed),
            open: self.open.load(Relaxed),
            handshakes: self.handshakes.load(Relaxed),
            offered: self.offered.load(Relaxed),
            resumed: self.resumed.load(Relaxed),
        }
    }
}

impl Counts {
    /// Units of work of `scenario`.
    pub fn work(&self, scenario: Scenario) -> u64 {
        match scenario {
            Scenario::Transfer => self.sent + self.received,
            Scenario::Mixed => self.operations.iter().sum(),
            Scenario::Idle => self.open,
            other => self.operations[kind_index(other)],
        }
    }

    fn zip(self, other: Self, apply: fn(u64, u64) -> u64) -> Self {
        Self {
            operations: std::array::from_fn(|kind| apply(self.operations[kind], other.operations[kind])),
            sent: apply(self.sent, other.sent),
            received: apply(self.received, other.received),
            errors: apply(self.errors, other.errors),
            open: apply(self.open, other.open),
            handshakes: apply(self.handshakes, other.handshakes),
            offered: apply(self.offered, other.offered),
            resumed: apply(self.resumed, other.resumed),
        }
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.zip(other, u64::wrapping_add)
    }
}

impl Sub for Counts {
    type Output = Self;

    /// The difference; a counter that fell (open connections) gives 0.
    fn sub(self, earlier: Self) -> Self {
        self.zip(earlier, u64::saturating_sub)
    }
}

/// What one thread records.
#[derive(Debug)]
pub struct Tally {
    control: Arc<Control>,
    counters: Arc<Counters>,
    histograms: RefCell<Histograms>,
    errors: RefCell<BTreeMap<ErrorClass, u64>>,
    suite: Cell<Option<&'static str>>,
    other_suite: Cell<Option<&'static str>>,
}

/// Latencies in nanoseconds, by [`kind_index`].
pub type Histograms = [Option<Histogram<u64>>; KINDS];

impl Tally {
    /// An empty tally.
    pub fn new(control: Arc<Control>, counters: Arc<Counters>) -> Self {
        Self {
            control,
            counters,
            histograms: RefCell::default(),
            errors: RefCell::default(),
            suite: Cell::new(None),
            other_suite: Cell::new(None),
        }
    }

    /// One operation finished that was due at `intended`.
    pub fn finished(&self, kind: Scenario, intended: Instant) {
        self.counters.operations[kind_index(kind)].fetch_add(1, Relaxed);
        if self.control.phase() == Phase::Measure {
            self.record(kind, intended.elapsed());
        }
    }

    /// A latency alone.
    pub fn record(&self, kind: Scenario, latency: Duration) {
        let mut histograms = self.histograms.borrow_mut();
        let slot = &mut histograms[kind_index(kind)];
        if slot.is_none() {
            *slot = Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, LATENCY_DIGITS).ok();
        }
        if let Some(histogram) = slot {
            histogram.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1));
        }
    }

    /// A handshake that counts finished.
    pub fn handshake(&self, offered: bool, resumed: bool) {
        self.counters.handshakes.fetch_add(1, Relaxed);
        self.counters.offered.fetch_add(u64::from(offered), Relaxed);
        self.counters.resumed.fetch_add(u64::from(resumed), Relaxed);
    }

    /// A handshake, counted or not, negotiated `suite`.
    pub fn negotiated(&self, suite: &'static str) {
        match self.suite.get() {
            None => self.suite.set(Some(suite)),
            Some(first) if first != suite => self.other_suite.set(Some(suite)),
            Some(_) => {}
        }
    }

    /// Payload went out.
    pub fn sent(&self, count: u64) {
        self.counters.sent.fetch_add(count, Relaxed);
    }

    /// Payload came in.
    pub fn received(&self, count: u64) {
        self.counters.received.fetch_add(count, Relaxed);
    }

    /// Something failed.
    pub fn failed(&self, class: ErrorClass) {
        self.counters.errors.fetch_add(1, Relaxed);
        *self.errors.borrow_mut().entry(class).or_default() += 1;
    }

    /// A connection is open.
    pub fn opened(&self) {
        self.counters.open.fetch_add(1, Relaxed);
    }

    /// A connection is not open any more.
    pub fn closed(&self) {
        self.counters.open.fetch_sub(1, Relaxed);
    }

    /// Hands over what was recorded.
    pub fn take(&self) -> ThreadReport {
        ThreadReport {
            histograms: self.histograms.take(),
            errors: self.errors.take(),
            suites: [self.suite.get(), self.other_suite.get()],
        }
    }
}

/// What a thread hands over at the end.
#[derive(Debug, Default)]
pub struct ThreadReport {
    /// Latencies.
    pub histograms: Histograms,
    /// Failures by class.
    pub errors: BTreeMap<ErrorClass, u64>,
    /// The first suite negotiated, and another one if there was any.
    pub suites: [Option<&'static str>; 2],
}

impl ThreadReport {
    /// Adds `other`.
    pub fn merge(&mut self, other: Self) {
        for (mine, theirs) in self.histograms.iter_mut().zip(other.histograms) {
            match (mine.as_mut(), theirs) {
                (Some(mine), Some(theirs)) => {
                    // Both have the same bounds, so that adding cannot fail.
                    let _ = mine.add(theirs);
                }
                (None, theirs) => *mine = theirs,
                (Some(_), None) => {}
            }
        }
        for (class, count) in other.errors {
            *self.errors.entry(class).or_default() += count;
        }
        for suite in other.suites.into_iter().flatten() {
            match self.suites {
                [None, _] => self.suites[0] = Some(suite),
                [Some(first), None] if first != suite => self.suites[1] = Some(suite),
                _ => {}
            }
        }
    }

    /// Latency over all kinds of operation.
    pub fn latency(&self) -> Option<Latency> {
        let mut all: Option<Histogram<u64>> = None;
        for histogram in self.histograms.iter().flatten() {
            match &mut all {
                None => all = Some(histogram.clone()),
                Some(all) => {
                    let _ = all.add(histogram);
                }
            }
        }
        all.as_ref().and_then(summary)
    }

    /// Latency of one kind.
    pub fn latency_of(&self, kind: Scenario) -> Option<Latency> {
        self.histograms[kind_index(kind)].as_ref().and_then(summary)
    }
}

/// Index of a scenario in counters and histograms. `mixed` has none of its own.
pub fn kind_index(kind: Scenario) -> usize {
    match kind {
        Scenario::Handshake => 0,
        Scenario::Resume => 1,
        Scenario::Request => 2,
        Scenario::Transfer => 3,
        Scenario::Idle | Scenario::Mixed => 4,
    }
}

#[allow(clippy::cast_precision_loss, reason = "nanoseconds below 2^53 are 104 days")]
fn summary(histogram: &Histogram<u64>) -> Option<Latency> {
    if histogram.is_empty() {
        return None;
    }
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e9;
    Some(Latency {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: histogram.max() as f64 / 1e9,
        mean: histogram.mean() / 1e9,
        count: histogram.len(),
    })
}

/// Kinds of operation.
pub const KINDS: usize = 5;
/// Larger latencies count as this one: an hour.
const LATENCY_NANOS_MAX: u64 = 3_600_000_000_000;
/// Significant decimal digits that a histogram keeps.
const LATENCY_DIGITS: u8 = 3;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

    use super::*;

    fn tally(control: &Arc<Control>) -> Tally {
        Tally::new(Arc::clone(control), Arc::default())
    }

    #[test]
    fn budget_is_claimed_exactly_once_per_unit() {
        let control = Control::new(Some(3));
        assert_eq!((0..10).filter(|_| control.claim()).count(), 3);
        assert!(control.is_over());
    }

    #[test]
    fn nothing_is_claimed_while_draining() {
        let control = Control::new(None);
        assert!(control.claim());
        control.enter(Phase::Drain);
        assert!(!control.claim());
    }

    #[test]
    fn latency_during_warm_up_is_dropped_but_the_work_counts() {
        let control = Control::new(None);
        let tally = tally(&control);
        tally.finished(Scenario::Request, Instant::now());
        assert_eq!(tally.counters.read().work(Scenario::Request), 1);
        assert_eq!(tally.take().latency(), None);
    }

    #[test]
    fn histograms_of_threads_merge_into_one_latency() {
        let control = Control::new(None);
        let mut whole = ThreadReport::default();
        for millis in [1, 100] {
            let tally = tally(&control);
            (0..50).for_each(|_| tally.record(Scenario::Request, Duration::from_millis(millis)));
            whole.merge(tally.take());
        }
        let latency = whole.latency().unwrap();
        assert_eq!(latency.count, 100);
        assert!((latency.p50 - 0.001).abs() < 0.0001 && (latency.p99 - 0.1).abs() < 0.001, "{latency:?}");
    }

    #[test]
    fn second_suite_is_kept_when_handshakes_differ() {
        let control = Control::new(None);
        let tally = tally(&control);
        tally.negotiated("A");
        tally.negotiated("A");
        tally.negotiated("B");
        assert_eq!(tally.take().suites, [Some("A"), Some("B")]);
    }
}
