//! Coarse deadlines for connections: one wheel per worker, turned every [`TICK`].
//!
//! Moving a deadline, which every byte of traffic does, writes one cell: no clock is read and no list is touched. When
//! the wheel reaches the place of an entry whose deadline has moved, it puts the entry where it now belongs.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// The resolution of every deadline: it passes at most twice this much late.
pub const TICK: Duration = Duration::from_millis(100);

/// Places of the wheel; a deadline further away than this many ticks comes by more than once.
const PLACES: usize = 512;

/// The deadlines of one worker.
pub struct Wheel {
    started: Instant,
    now: Cell<u64>,
    places: RefCell<Vec<Vec<Rc<Entry>>>>,
}

/// The deadline of one connection, which has one at a time.
pub struct Watch {
    wheel: Rc<Wheel>,
    entry: Rc<Entry>,
}

/// Makes the deadline of one connection pass before its time, from elsewhere on its worker.
#[derive(Clone)]
pub struct Trigger {
    entry: Rc<Entry>,
}

/// The deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired;

struct Entry {
    /// The tick at which the deadline passes.
    deadline: Cell<u64>,
    /// What [`Watch::touch`] adds to the present.
    allowance: Cell<u64>,
    is_expired: Cell<bool>,
    /// The deadline was made to pass before its time.
    is_pulled: Cell<bool>,
    /// What the deadline is for is waiting for traffic: [`Wheel::end_idle`] may end it.
    is_idle: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// Index of the place that holds the entry; [`PLACES`] when none does.
    place: Cell<usize>,
    position: Cell<usize>,
}

impl Wheel {
    /// An empty wheel whose first tick is `now`.
    pub fn new(now: Instant) -> Rc<Self> {
        let places = (0..PLACES).map(|_| Vec::new()).collect();
        Rc::new(Self { started: now, now: Cell::new(0), places: RefCell::new(places) })
    }

    /// A deadline that passes after `allowance` unless it is moved.
    pub fn watch(self: &Rc<Self>, allowance: Duration) -> Watch {
        let entry = Rc::new(Entry {
            deadline: Cell::new(0),
            allowance: Cell::new(0),
            is_expired: Cell::new(false),
            is_pulled: Cell::new(false),
            is_idle: Cell::new(false),
            waker: RefCell::new(None),
            place: Cell::new(PLACES),
            position: Cell::new(0),
        });
        let watch = Watch { wheel: Rc::clone(self), entry };
        watch.allow(allowance);
        watch
    }

    /// Whole seconds since the wheel was made, as of its last turn.
    pub fn seconds(&self) -> u64 {
        self.now.get() * TICK.as_millis() as u64 / 1000
    }

    /// Turns the wheel to `now` and wakes the tasks whose deadlines have passed.
    pub fn advance_at(&self, now: Instant) {
        let target = ticks(now.saturating_duration_since(self.started));
        // After a long stall one round sees every place; further ones would see the same.
        let first = (self.now.get() + 1).max(target.saturating_sub(PLACES as u64));
        for tick in first..=target {
            self.now.set(tick);
            let due = std::mem::take(&mut self.places.borrow_mut()[place_of(tick)]);
            for entry in due {
                if entry.deadline.get() > tick {
                    self.insert(entry);
                } else {
                    entry.is_expired.set(true);
                    entry.place.set(PLACES);
                    if let Some(waker) = entry.waker.take() {
                        waker.wake();
                    }
                }
            }
        }
        self.now.set(target.max(self.now.get()));
    }

    /// Makes the deadlines pass of the `count` entries that have been idle longest, and for `idle_min` at least: those that
    /// [`Watch::allow_idle`] set. Looks at every entry.
    pub fn end_idle(&self, count: usize, idle_min: Duration) {
        let latest = self.now.get().saturating_sub(ticks(idle_min));
        let touched = |entry: &Rc<Entry>| entry.deadline.get().saturating_sub(entry.allowance.get());
        let is_idle = |entry: &&Rc<Entry>| entry.is_idle.get() && !entry.is_expired.get() && touched(entry) <= latest;
        let places = self.places.borrow();
        let mut idle: Vec<_> = places.iter().flatten().filter(is_idle).map(Rc::clone).collect();
        drop(places);
        if idle.len() > count {
            idle.select_nth_unstable_by_key(count, touched);
            idle.truncate(count);
        }
        idle.into_iter().for_each(|entry| Trigger { entry }.pull());
    }

    /// Makes every deadline pass.
    pub fn end_all(&self) {
        let all: Vec<_> = self.places.borrow().iter().flatten().map(Rc::clone).collect();
        all.into_iter().for_each(|entry| entry.expire());
    }

    /// Puts an entry at its deadline, or one round ahead when that is further away.
    fn insert(&self, entry: Rc<Entry>) {
        let now = self.now.get();
        let tick = entry.deadline.get().clamp(now + 1, now + PLACES as u64 - 1);
        let place = place_of(tick);
        let entries = &mut self.places.borrow_mut()[place];
        entry.place.set(place);
        entry.position.set(entries.len());
        entries.push(entry);
    }

    fn remove(&self, entry: &Entry) {
        let place = entry.place.get();
        if place == PLACES {
            return;
        }
        entry.place.set(PLACES);
        let entries = &mut self.places.borrow_mut()[place];
        entries.swap_remove(entry.position.get());
        if let Some(moved) = entries.get(entry.position.get()) {
            moved.position.set(entry.position.get());
        }
    }
}

impl Watch {
    /// Sets a new deadline: `allowance` from now, and again from each [`Watch::touch`].
    pub fn allow(&self, allowance: Duration) {
        self.entry.is_idle.set(false);
        // One tick because the present one has begun, another because a worker that was busy turns the wheel late.
        self.entry.allowance.set(ticks(allowance).max(1) + 2);
        self.touch();
        if !self.entry.is_expired.get() {
            // The entry may lie behind the new deadline; bring it forward.
            self.wheel.remove(&self.entry);
            self.wheel.insert(Rc::clone(&self.entry));
        }
    }

    /// As [`Watch::allow`], for something that may be ended before its time when it has been idle long.
    pub fn allow_idle(&self, allowance: Duration) {
        self.allow(allowance);
        self.entry.is_idle.set(true);
    }

    /// Whether the deadline was made to pass before its time.
    pub fn was_pulled(&self) -> bool {
        self.entry.is_pulled.get()
    }

    /// As [`Watch::allow`], also after the deadline has passed.
    pub fn restart(&self, allowance: Duration) {
        self.entry.is_expired.set(false);
        self.entry.is_pulled.set(false);
        self.allow(allowance);
    }

    /// Moves the deadline: there was progress.
    pub fn touch(&self) {
        self.entry.deadline.set(self.wheel.now.get() + self.entry.allowance.get());
    }

    /// A further deadline on the same wheel.
    pub fn another(&self, allowance: Duration) -> Self {
        self.wheel.watch(allowance)
    }

    /// What makes this deadline pass.
    pub fn trigger(&self) -> Trigger {
        Trigger { entry: Rc::clone(&self.entry) }
    }

    /// Runs `future` until it is done or the deadline has passed; the caller drops it then.
    ///
    /// Cancel safety: that of `future`.
    ///
    /// # Errors
    /// [`Expired`] when the deadline has passed.
    pub fn guard<F: Future>(&self, mut future: Pin<&mut F>) -> impl Future<Output = Result<F::Output, Expired>> {
        // The future is borrowed: an async function that took it would hold it twice, as argument and pinned.
        std::future::poll_fn(move |context| self.poll_guarded(future.as_mut(), context))
    }

    fn poll_guarded<F: Future>(
        &self,
        future: Pin<&mut F>,
        context: &mut Context<'_>,
    ) -> Poll<Result<F::Output, Expired>> {
        if self.entry.is_expired.get() {
            return Poll::Ready(Err(Expired));
        }
        let mut waker = self.entry.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        drop(waker);
        future.poll(context).map(Ok)
    }
}

impl Trigger {
    /// Makes the deadline pass now.
    pub fn pull(&self) {
        self.entry.is_pulled.set(true);
        self.entry.expire();
    }
}

impl Entry {
    fn expire(&self) {
        self.is_expired.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl std::fmt::Debug for Trigger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trigger").field("is_expired", &self.entry.is_expired.get()).finish()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.wheel.remove(&self.entry);
    }
}

fn place_of(tick: u64) -> usize {
    (tick % PLACES as u64) as usize
}

fn ticks(duration: Duration) -> u64 {
    (duration.as_millis() / TICK.as_millis()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    fn poll(watch: &Watch) -> Option<Expired> {
        let mut context = Context::from_waker(Waker::noop());
        match watch.poll_guarded(pin!(std::future::pending::<()>()), &mut context) {
            Poll::Ready(Err(expired)) => Some(expired),
            Poll::Ready(Ok(())) | Poll::Pending => None,
        }
    }

    fn wheel() -> (Rc<Wheel>, Instant) {
        let start = Instant::now();
        (Wheel::new(start), start)
    }

    #[test]
    fn deadline_passes_once_and_within_two_ticks_and_never_early() {
        let (wheel, start) = wheel();
        let watch = wheel.watch(Duration::from_secs(1));
        wheel.advance_at(start + Duration::from_millis(1100));
        assert_eq!(poll(&watch), None);
        wheel.advance_at(start + Duration::from_millis(1200));
        assert_eq!(poll(&watch), Some(Expired));
    }

    #[test]
    fn touched_deadline_moves_by_its_allowance() {
        let (wheel, start) = wheel();
        let watch = wheel.watch(Duration::from_secs(60));
        for second in 1..600 {
            wheel.advance_at(start + Duration::from_secs(second));
            watch.touch();
            assert_eq!(poll(&watch), None, "at {second} s");
        }
        wheel.advance_at(start + Duration::from_secs(661));
        assert_eq!(poll(&watch), Some(Expired));
    }

    #[test]
    fn shorter_allowance_takes_effect_at_once() {
        let (wheel, start) = wheel();
        let watch = wheel.watch(Duration::from_secs(3600));
        watch.allow(Duration::from_secs(1));
        wheel.advance_at(start + Duration::from_secs(2));
        assert_eq!(poll(&watch), Some(Expired));
    }

    #[test]
    fn pulled_trigger_passes_the_deadline_at_once_and_a_restart_undoes_it() {
        let (wheel, start) = wheel();
        let watch = wheel.watch(Duration::from_secs(3600));
        watch.trigger().pull();
        assert_eq!(poll(&watch), Some(Expired));
        watch.restart(Duration::from_secs(1));
        assert_eq!(poll(&watch), None);
        wheel.advance_at(start + Duration::from_secs(2));
        assert_eq!(poll(&watch), Some(Expired));
    }

    #[test]
    fn those_that_were_idle_longest_are_ended_first_and_no_others() {
        let (wheel, start) = wheel();
        let busy = wheel.watch(Duration::from_secs(60));
        let idle: Vec<_> = (1..=5)
            .map(|second| {
                let watch = wheel.watch(Duration::from_secs(60));
                watch.allow_idle(Duration::from_secs(3600));
                wheel.advance_at(start + Duration::from_secs(second));
                watch
            })
            .collect();
        idle[0].touch();
        wheel.end_idle(2, Duration::from_secs(1));
        let ended: Vec<_> = idle.iter().map(|watch| poll(watch).is_some()).collect();
        assert_eq!(ended, [false, true, true, false, false]);
        wheel.end_idle(10, Duration::from_secs(2));
        let ended: Vec<_> = idle.iter().map(Watch::was_pulled).collect();
        assert_eq!(ended, [false, true, true, true, false]);
        assert_eq!(poll(&busy), None);
    }

    #[test]
    fn dropped_watch_leaves_nothing_behind() {
        let (wheel, start) = wheel();
        let mut watches: Vec<_> = (0..100).map(|_| wheel.watch(Duration::from_secs(5))).collect();
        while watches.len() > 1 {
            watches.swap_remove(watches.len() / 2);
        }
        assert_eq!(wheel.places.borrow().iter().map(Vec::len).sum::<usize>(), 1);
        wheel.advance_at(start + Duration::from_secs(6));
        assert_eq!(poll(&watches[0]), Some(Expired));
        drop(watches);
        assert_eq!(wheel.places.borrow().iter().map(Vec::len).sum::<usize>(), 0);
    }

    #[test]
    fn stalled_worker_catches_up_with_every_deadline() {
        let (wheel, start) = wheel();
        let near = wheel.watch(Duration::from_secs(1));
        let far = wheel.watch(Duration::from_secs(100_000));
        wheel.advance_at(start + Duration::from_secs(50_000));
        assert_eq!(poll(&near), Some(Expired));
        assert_eq!(poll(&far), None);
    }
}
