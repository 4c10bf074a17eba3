//! The handshakes of one worker: how many may be under way, and whose turn it is when there are more than the CPU can do.
//!
//! Two things are short in a flood of handshakes, and each has its own rule. **Places**: a handshake that waits for its
//! client costs memory but no CPU, and whoever wants to can open any number. At the bound the one that has waited longest
//! gives way to a new connection, so that silent clients push out each other and nobody else. **CPU**: the messages that
//! ask for public-key cryptography are worked on in turn, for [`TURN_TIME`] until everything else of the worker has had
//! its turn, too. Those that wait are bounded: beyond [`Handshakes::is_backlogged`] new connections stay in the kernel's
//! queue, where they cost nothing. What resumes a session goes first, but not alone.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::timer::Trigger;

/// How long handshakes are worked on before other work of the worker gets its turn. One that has begun is finished.
pub const TURN_TIME: Duration = Duration::from_millis(1);
/// Handshakes that may wait for the CPU before accepting pauses: below 0.1 s of work with ECDSA.
const WAITING_MAX: usize = 256;
/// Accepting goes on when this many wait.
const WAITING_LOW: usize = WAITING_MAX / 2;
/// Of so many turns one goes to a full handshake, as long as there are both.
const FULL_EVERY: u32 = 4;

/// The handshakes of one worker.
#[derive(Debug)]
pub struct Handshakes {
    open_max: Cell<usize>,
    open_count: Cell<usize>,
    /// In the order in which they began; those that are over are left in it until they come to the front.
    begun: RefCell<VecDeque<Rc<Entry>>>,
    waiting: [RefCell<VecDeque<Rc<Entry>>>; 2],
    waiting_count: Cell<usize>,
    /// Somebody has a turn that he has not ended.
    is_granted: Cell<bool>,
    turns_granted: Cell<u32>,
    /// CPU time since everybody else had a turn.
    spent: Cell<Duration>,
    /// Who gives everybody else a turn.
    recess: RefCell<Option<Waker>>,
    /// Who waits for the backlog to shrink.
    backlog: RefCell<Vec<Waker>>,
}

/// One handshake under way; dropped, it is over.
#[derive(Debug)]
pub struct Attempt {
    handshakes: Rc<Handshakes>,
    entry: Rc<Entry>,
}

/// What a handshake is about to cost, as far as its client says. It may lie: see [`FULL_EVERY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// A session is to be resumed.
    Resumption,
    /// A certificate is to be shown.
    Full,
}

/// The right to use the CPU; dropped, it is the next one's.
#[derive(Debug)]
pub struct Turn<'a> {
    handshakes: &'a Handshakes,
    entry: &'a Entry,
    started: Instant,
    /// Whether others were before it.
    pub has_waited: bool,
}

#[derive(Debug)]
struct Entry {
    stage: Cell<Stage>,
    deadline: Trigger,
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The client is to send something.
    WaitsForClient,
    /// It waits for its turn.
    WaitsForTurn,
    /// Its turn has come.
    HasTurn,
    /// It had to give way.
    GaveWay,
    Over,
}

impl Handshakes {
    /// A worker's handshakes, `open_max` of them at most.
    pub fn new(open_max: usize) -> Rc<Self> {
        Rc::new(Self {
            open_max: Cell::new(open_max),
            open_count: Cell::new(0),
            begun: RefCell::default(),
            waiting: Default::default(),
            waiting_count: Cell::new(0),
            is_granted: Cell::new(false),
            turns_granted: Cell::new(0),
            spent: Cell::new(Duration::ZERO),
            recess: RefCell::default(),
            backlog: RefCell::default(),
        })
    }

    /// Sets the bound; those that are beyond one that is lowered stay until they end.
    pub fn set_open_max(&self, open_max: usize) {
        self.open_max.set(open_max);
    }

    /// Begins a handshake, whose task `deadline` ends when it has to give way. At the bound another one has to.
    pub fn begin(self: &Rc<Self>, deadline: Trigger) -> Attempt {
        if self.open_count.get() >= self.open_max.get() {
            self.make_room();
        }
        let entry = Rc::new(Entry { stage: Cell::new(Stage::WaitsForClient), deadline, waker: RefCell::default() });
        let mut begun = self.begun.borrow_mut();
        if begun.len() > 2 * self.open_count.get() + BEGUN_SLACK {
            begun.retain(|entry| !entry.is_over());
        }
        begun.push_back(Rc::clone(&entry));
        self.open_count.set(self.open_count.get() + 1);
        Attempt { handshakes: Rc::clone(self), entry }
    }

    /// How many are under way.
    pub fn open_count(&self) -> usize {
        self.open_count.get()
    }

    /// How many wait for the CPU.
    pub fn waiting_count(&self) -> usize {
        self.waiting_count.get()
    }

    /// Whether so many wait for the CPU that no more should be begun.
    pub fn is_backlogged(&self) -> bool {
        self.waiting_count.get() >= self.waiting_max()
    }

    /// Waits until the backlog has shrunk.
    ///
    /// Cancel safety: safe.
    pub async fn backlog_shrunk(&self) {
        let low = WAITING_LOW.min(self.waiting_max().saturating_sub(1));
        std::future::poll_fn(|context| {
            if self.waiting_count.get() <= low {
                return Poll::Ready(());
            }
            let mut wakers = self.backlog.borrow_mut();
            if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                wakers.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// Waits until the handshakes have used up their time.
    ///
    /// Cancel safety: safe.
    pub async fn recess_due(&self) {
        std::future::poll_fn(|context| {
            if self.spent.get() >= TURN_TIME {
                return Poll::Ready(());
            }
            *self.recess.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Everybody else has had a turn: the handshakes have new time.
    pub fn resume(&self) {
        self.spent.set(Duration::ZERO);
        self.grant_next();
    }

    fn waiting_max(&self) -> usize {
        WAITING_MAX.min(self.open_max.get())
    }

    /// Lets the handshake give way that has waited for its client longest.
    fn make_room(&self) {
        let mut begun = self.begun.borrow_mut();
        while begun.front().is_some_and(|entry| entry.is_over()) {
            begun.pop_front();
        }
        let oldest = begun.iter().find(|entry| entry.stage.get() == Stage::WaitsForClient);
        if let Some(entry) = oldest {
            entry.stage.set(Stage::GaveWay);
            self.open_count.set(self.open_count.get() - 1);
            entry.deadline.pull();
        }
    }

    fn poll_turn(&self, entry: &Rc<Entry>, cost: impl FnOnce() -> Cost, context: &mut Context<'_>) -> Poll<()> {
        match entry.stage.get() {
            Stage::HasTurn => return Poll::Ready(()),
            Stage::WaitsForTurn | Stage::GaveWay | Stage::Over => {}
            Stage::WaitsForClient if self.may_begin_at_once() => {
                self.is_granted.set(true);
                entry.stage.set(Stage::HasTurn);
                return Poll::Ready(());
            }
            Stage::WaitsForClient => {
                entry.stage.set(Stage::WaitsForTurn);
                self.waiting_count.set(self.waiting_count.get() + 1);
                self.waiting[cost() as usize].borrow_mut().push_back(Rc::clone(entry));
            }
        }
        *entry.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }

    fn may_begin_at_once(&self) -> bool {
        self.waiting_count.get() == 0 && !self.is_granted.get() && self.spent.get() < TURN_TIME
    }

    fn end_turn(&self, started: Instant) {
        self.spent.set(self.spent.get() + started.elapsed());
        self.is_granted.set(false);
        if self.spent.get() < TURN_TIME {
            self.grant_next();
        } else if let Some(waker) = self.recess.take() {
            waker.wake();
        }
    }

    /// Gives the turn to the next one, if there is time.
    fn grant_next(&self) {
        if self.is_granted.get() {
            return;
        }
        while let Some(entry) = self.next_waiting() {
            if entry.stage.get() != Stage::WaitsForTurn {
                continue;
            }
            self.is_granted.set(true);
            self.leave_queue();
            entry.stage.set(Stage::HasTurn);
            if let Some(waker) = entry.waker.take() {
                waker.wake();
            }
            return;
        }
    }

    fn next_waiting(&self) -> Option<Rc<Entry>> {
        let turn = self.turns_granted.get();
        self.turns_granted.set(turn.wrapping_add(1));
        let [resumptions, full] = &self.waiting;
        let (first, second) = if turn.is_multiple_of(FULL_EVERY) { (full, resumptions) } else { (resumptions, full) };
        let next = first.borrow_mut().pop_front();
        next.or_else(|| second.borrow_mut().pop_front())
    }

    fn leave_queue(&self) {
        self.waiting_count.set(self.waiting_count.get() - 1);
        if self.waiting_count.get() <= WAITING_LOW {
            for waker in self.backlog.take() {
                waker.wake();
            }
        }
    }
}

impl Entry {
    fn is_over(&self) -> bool {
        matches!(self.stage.get(), Stage::Over | Stage::GaveWay)
    }
}

/// Entries that are over and kept all the same, so that looking through them is rare.
const BEGUN_SLACK: usize = 64;

impl Attempt {
    /// Waits for the CPU. The turn is to be dropped before anything else is waited for. `cost` is asked where there are
    /// others.
    ///
    /// Cancel safety: safe when the attempt is dropped, too; the turn is then the next one's.
    pub async fn turn(&self, cost: impl Fn() -> Cost) -> Turn<'_> {
        let mut has_waited = false;
        std::future::poll_fn(|context| {
            let poll = self.handshakes.poll_turn(&self.entry, &cost, context);
            has_waited |= poll.is_pending();
            poll
        })
        .await;
        Turn { handshakes: &self.handshakes, entry: &self.entry, started: Instant::now(), has_waited }
    }

    /// Whether it had to give way to a new one.
    pub fn gave_way(&self) -> bool {
        self.entry.stage.get() == Stage::GaveWay
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let handshakes = &self.handshakes;
        match self.entry.stage.replace(Stage::Over) {
            // Counted when it gave way.
            Stage::GaveWay | Stage::Over => return,
            Stage::WaitsForClient => {}
            Stage::WaitsForTurn => handshakes.leave_queue(),
            // Granted, and dropped before it knew.
            Stage::HasTurn => {
                handshakes.is_granted.set(false);
                handshakes.grant_next();
            }
        }
        handshakes.open_count.set(handshakes.open_count.get() - 1);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.entry.stage.set(Stage::WaitsForClient);
        self.handshakes.end_turn(self.started);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};

    use super::*;
    use crate::timer::{Watch, Wheel};

    const OPEN_MAX: usize = 8;

    struct Bench {
        wheel: Rc<Wheel>,
        handshakes: Rc<Handshakes>,
    }

    impl Bench {
        fn new() -> Self {
            Self { wheel: Wheel::new(Instant::now()), handshakes: Handshakes::new(OPEN_MAX) }
        }

        fn begin(&self) -> (Watch, Attempt) {
            let watch = self.wheel.watch(Duration::from_secs(10));
            let attempt = self.handshakes.begin(watch.trigger());
            (watch, attempt)
        }

        /// Uses up the time of the handshakes.
        fn exhaust(&self) {
            self.handshakes.end_turn(Instant::now().checked_sub(TURN_TIME).unwrap_or_else(Instant::now));
        }
    }

    fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    fn is_expired(watch: &Watch) -> bool {
        poll(pin!(watch.guard(pin!(std::future::pending::<()>())))).is_some()
    }

    #[test]
    fn handshake_that_waited_longest_for_its_client_gives_way_at_the_bound() {
        let bench = Bench::new();
        let mut open: Vec<_> = (0..OPEN_MAX).map(|_| bench.begin()).collect();
        // The first one waits for the CPU: that is not its client's fault.
        bench.exhaust();
        let mut first = Box::pin(open[0].1.turn(|| Cost::Full));
        assert!(poll(first.as_mut()).is_none());
        let next = bench.begin();
        assert_eq!(bench.handshakes.open_count(), OPEN_MAX);
        let gave_way: Vec<_> = open.iter().map(|(_, attempt)| attempt.gave_way()).collect();
        assert_eq!(gave_way.iter().position(|gave_way| *gave_way), Some(1), "{gave_way:?}");
        assert_eq!(gave_way.iter().filter(|gave_way| **gave_way).count(), 1);
        assert!(is_expired(&open[1].0) && !is_expired(&open[2].0) && !is_expired(&next.0));
        drop(first);
        open.clear();
        assert_eq!(bench.handshakes.open_count(), 1);
        drop(next);
        assert_eq!(bench.handshakes.open_count(), 0);
    }

    #[test]
    fn turns_are_free_until_the_time_is_used_up_and_then_come_in_order() {
        let bench = Bench::new();
        let open: Vec<_> = (0..3).map(|_| bench.begin()).collect();
        assert!(!poll(pin!(open[0].1.turn(|| Cost::Full))).is_none_or(|turn| turn.has_waited));
        bench.exhaust();
        assert!(poll(pin!(bench.handshakes.recess_due())).is_some());
        let mut waiting: Vec<_> = open.iter().map(|(_, attempt)| Box::pin(attempt.turn(|| Cost::Full))).collect();
        assert!(waiting.iter_mut().all(|turn| poll(turn.as_mut()).is_none()));
        assert_eq!(bench.handshakes.waiting_count(), 3);

        bench.handshakes.resume();
        assert!(poll(waiting[1].as_mut()).is_none(), "one at a time");
        let turn = poll(waiting[0].as_mut());
        assert!(turn.as_ref().is_some_and(|turn| turn.has_waited));
        drop(turn);
        assert!(poll(waiting[2].as_mut()).is_none());
    }

    #[test]
    fn granted_turn_of_a_handshake_that_ends_is_the_next_ones() {
        let bench = Bench::new();
        bench.exhaust();
        let (first, second) = (bench.begin(), bench.begin());
        {
            let mut waiting = pin!(first.1.turn(|| Cost::Full));
            assert!(poll(waiting.as_mut()).is_none());
        }
        let mut turn = pin!(second.1.turn(|| Cost::Full));
        assert!(poll(turn.as_mut()).is_none());
        bench.handshakes.resume();
        assert!(poll(turn.as_mut()).is_none(), "it is the first one's");
        drop(first);
        assert!(poll(turn.as_mut()).is_some());
        assert_eq!(bench.handshakes.waiting_count(), 0);
    }

    #[test]
    fn resumptions_go_first_but_not_alone() {
        let bench = Bench::new();
        bench.exhaust();
        let costs = [Cost::Full, Cost::Full, Cost::Resumption, Cost::Resumption, Cost::Resumption, Cost::Resumption];
        let open: Vec<_> = costs.iter().map(|_| bench.begin()).collect();
        let mut waiting: Vec<_> =
            open.iter().zip(costs).map(|((_, attempt), cost)| Some(Box::pin(attempt.turn(move || cost)))).collect();
        for turn in waiting.iter_mut().flatten() {
            assert!(poll(turn.as_mut()).is_none());
        }
        let mut order = Vec::new();
        while order.len() < costs.len() {
            bench.handshakes.resume();
            for (slot, cost) in waiting.iter_mut().zip(costs) {
                if let Some(waiting) = slot
                    && let Some(turn) = poll(waiting.as_mut())
                {
                    order.push(cost);
                    drop(turn);
                    *slot = None;
                }
            }
        }
        let full: Vec<_> =
            order.iter().enumerate().filter(|(_, cost)| **cost == Cost::Full).map(|(at, _)| at).collect();
        assert_eq!(full, [0, 4], "every fourth: {order:?}");
    }

    #[test]
    fn backlog_is_bounded_and_told_when_it_has_shrunk() {
        let bench = Bench::new();
        bench.exhaust();
        let open: Vec<_> = (0..OPEN_MAX).map(|_| bench.begin()).collect();
        let mut waiting: Vec<_> = open.iter().map(|(_, attempt)| Box::pin(attempt.turn(|| Cost::Full))).collect();
        for turn in &mut waiting {
            assert!(!bench.handshakes.is_backlogged());
            assert!(poll(turn.as_mut()).is_none());
        }
        assert!(bench.handshakes.is_backlogged());
        assert!(poll(pin!(bench.handshakes.backlog_shrunk())).is_none());
        drop(waiting);
        drop(open);
        assert!(!bench.handshakes.is_backlogged());
        assert!(poll(pin!(bench.handshakes.backlog_shrunk())).is_some());
    }
}
