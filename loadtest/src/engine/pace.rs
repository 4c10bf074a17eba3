//! When work starts: at once in closed loop, at its appointed time in open loop.
//!
//! The open loop never waits for the target: arrival `n` of a thread is due at `start + n / rate` whatever the target
//! does. A connection that comes late to an arrival still counts from the time it was due, so that a stall shows in
//! every arrival that it delayed and not only in the few that were on the wire (no coordinated omission).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::TcpStream as StdStream;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use monoio::net::TcpStream;
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::engine::tally::{Control, Phase};

/// Hands out work to the connections of one thread.
#[derive(Debug)]
pub struct Gate {
    control: Arc<Control>,
    arrivals: Option<Arrivals>,
    ended: Cell<bool>,
}

#[derive(Debug)]
struct Arrivals {
    schedule: Schedule,
    released: Cell<u64>,
    taken: Cell<u64>,
    waiting: RefCell<VecDeque<Waker>>,
}

/// Due times of one thread's arrivals.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Time zero.
    pub start: Instant,
    /// Arrivals per second of this thread.
    pub rate: f64,
    /// Shift of the first arrival in arrivals, 0 to 1, so that threads take turns.
    pub shift: f64,
}

impl Schedule {
    /// When arrival `n` is due.
    #[allow(clippy::cast_precision_loss, reason = "arrivals stay far below 2^53")]
    pub fn due(&self, n: u64) -> Instant {
        self.start + Duration::from_secs_f64((n as f64 + self.shift) / self.rate)
    }

    /// Arrivals that are due at `now`.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to at least 0, see due()")]
    pub fn due_count(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.start).as_secs_f64();
        (elapsed * self.rate - self.shift + 1.0).max(0.0) as u64
    }
}

impl Gate {
    /// A gate for a closed loop, or with a `schedule` for an open one (which needs [`Gate::pace`] running).
    pub fn new(control: Arc<Control>, schedule: Option<Schedule>) -> Rc<Self> {
        let arrivals = schedule.map(|schedule| Arrivals {
            schedule,
            released: Cell::new(0),
            taken: Cell::new(0),
            waiting: RefCell::default(),
        });
        Rc::new(Self { control, arrivals, ended: Cell::new(false) })
    }

    /// Waits for work; gives the time it was due, or `None` when the run is over.
    ///
    /// Cancel safety: an arrival is taken only when the future completes.
    pub async fn next(&self) -> Option<Instant> {
        let Some(arrivals) = &self.arrivals else {
            return (!self.ended.get() && self.control.claim()).then(Instant::now);
        };
        poll_fn(|context| {
            if self.ended.get() || self.control.is_over() {
                return Poll::Ready(None);
            }
            let n = arrivals.taken.get();
            if n < arrivals.released.get() {
                arrivals.taken.set(n + 1);
                return Poll::Ready(self.control.claim().then(|| arrivals.schedule.due(n)));
            }
            arrivals.waiting.borrow_mut().push_back(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Nobody gets work any more; those who wait are told so.
    pub fn end(&self) {
        self.ended.set(true);
        if let Some(arrivals) = &self.arrivals {
            arrivals.waiting.borrow_mut().drain(..).for_each(Waker::wake);
        }
    }

    /// [`Gate::end`] was called.
    pub fn is_ended(&self) -> bool {
        self.ended.get()
    }

    /// How long the arrivals that were due at `end` and that no connection took had waited by then.
    pub fn unstarted(&self, end: Instant) -> Vec<Duration> {
        let Some(arrivals) = &self.arrivals else { return Vec::new() };
        let due = arrivals.schedule.due_count(end).min(arrivals.taken.get() + UNSTARTED_MAX);
        (arrivals.taken.get()..due).map(|n| end.saturating_duration_since(arrivals.schedule.due(n))).collect()
    }

    /// Releases arrivals when they are due, until the run is over. Does nothing in a closed loop.
    ///
    /// Sleeps on a timer descriptor: the runtime's own timers are a millisecond coarse, which would be most of the
    /// latency of a fast target.
    pub async fn pace(&self) -> io::Result<()> {
        let Some(arrivals) = &self.arrivals else { return Ok(()) };
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        // Only its readiness is used, which the runtime offers for sockets and any descriptor in their clothes.
        let clock = TcpStream::from_std(StdStream::from(timer.as_fd().try_clone_to_owned()?))?;
        while !self.ended.get() && self.control.phase() != Phase::Drain {
            let now = Instant::now();
            let due = arrivals.schedule.due_count(now);
            let fresh = due.saturating_sub(arrivals.released.get());
            arrivals.released.set(due);
            for _ in 0..fresh {
                let Some(waker) = arrivals.waiting.borrow_mut().pop_front() else { break };
                waker.wake();
            }
            let pause = arrivals.schedule.due(due).saturating_duration_since(now).clamp(PAUSE_MIN, PAUSE_MAX);
            let pause = TimeSpec::nanoseconds(i64::try_from(pause.as_nanos()).unwrap_or(i64::MAX));
            timer.set(Expiration::OneShot(pause), TimerSetTimeFlags::empty())?;
            clock.readable(false).await?;
        }
        Ok(())
    }
}

/// Bounds how many tasks of a thread do something at the same time.
#[derive(Debug)]
pub struct Permits {
    free: Cell<usize>,
    waiting: RefCell<VecDeque<Waker>>,
}

/// One of [`Permits`]; dropping it lets the next one in.
#[derive(Debug)]
pub struct Permit<'a>(&'a Permits);

impl Permits {
    /// So many at a time.
    pub fn new(count: usize) -> Self {
        Self { free: Cell::new(count), waiting: RefCell::default() }
    }

    /// Waits for a permit.
    pub async fn take(&self) -> Permit<'_> {
        poll_fn(|context| {
            if self.free.get() > 0 {
                self.free.set(self.free.get() - 1);
                return Poll::Ready(Permit(self));
            }
            self.waiting.borrow_mut().push_back(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.free.set(self.0.free.get() + 1);
        if let Some(waker) = self.0.waiting.borrow_mut().pop_front() {
            waker.wake();
        }
    }
}

/// Shortest sleep: below it several arrivals are released together.
const PAUSE_MIN: Duration = Duration::from_micros(20);
/// Longest sleep, so that the end of a run is noticed.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// Most unstarted arrivals that are reported, per thread.
const UNSTARTED_MAX: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

    use super::*;

    fn schedule(rate: f64) -> Schedule {
        Schedule { start: Instant::now(), rate, shift: 0.0 }
    }

    #[test]
    fn arrivals_are_due_at_their_rate_from_the_start() {
        let schedule = schedule(1000.0);
        assert_eq!(schedule.due_count(schedule.start), 1);
        let later = schedule.start + Duration::from_micros(10_500);
        assert_eq!(schedule.due_count(later), 11);
        assert!(schedule.due(10) <= later && schedule.due(11) > later);
    }

    #[test]
    fn arrivals_that_nobody_took_are_reported_with_their_age() {
        let schedule = schedule(10.0);
        let gate = Gate::new(Control::new(None), Some(schedule));
        let ages = gate.unstarted(schedule.start + Duration::from_millis(250));
        assert_eq!(ages.len(), 3);
        assert_eq!(ages[0], Duration::from_millis(250));
    }

    #[test]
    fn closed_loop_has_no_unstarted_arrivals() {
        let gate = Gate::new(Control::new(None), None);
        assert!(gate.unstarted(Instant::now()).is_empty());
    }
}
