//! A client thread: prepares its slots, waits for the start, works, and hands over what it recorded.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use crate::engine::client_tls::{Client, Sessions};
use crate::engine::pace::{Gate, Permits, Schedule};
use crate::engine::runtime::{Engine, pin_to};
use crate::engine::socket::{SWEEP_INTERVAL, Thread};
use crate::engine::tally::{Control, Counters, Phase, Tally, ThreadReport};
use crate::plan::Plan;
use crate::result::Scenario;
use crate::run::RunError;
use crate::scenario::{Context, OPENING_MAX, Requests, Slot};

/// What a thread gets.
#[derive(Debug)]
pub struct Job {
    /// What to run.
    pub plan: Arc<Plan>,
    /// Number of this thread.
    pub index: usize,
    /// How it waits.
    pub engine: Engine,
    /// What it obeys.
    pub control: Arc<Control>,
    /// Where it counts.
    pub counters: Arc<Counters>,
    /// Where it tells how far it is.
    pub events: Sender<Event>,
}

/// What a thread tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// All slots are prepared.
    Ready,
    /// All slots have ended, then.
    Finished(Instant),
}

impl Job {
    /// Runs the thread to its end.
    pub fn run(self) -> Result<ThreadReport, RunError> {
        if !self.plan.cpus.is_empty() {
            let cpu = self.plan.cpus[self.index % self.plan.cpus.len()];
            pin_to(cpu).map_err(|source| RunError::Local { what: "pinning a thread to its CPU", source })?;
        }
        let sessions = if self.plan.resumes() { Sessions::Keep } else { Sessions::Drop };
        let client = match &self.plan.tls {
            Some(tls) => {
                Some(Client::new(tls, self.plan.host(), sessions).map_err(|error| RunError::Plan(error.to_string()))?)
            }
            None => None,
        };
        let engine = self.engine;
        engine
            .block_on(self.main(client))
            .map_err(|source| RunError::Local { what: "setting up the event loop", source })?
    }

    async fn main(self, client: Option<Client>) -> Result<ThreadReport, RunError> {
        let thread = Thread::new(self.plan.timeout);
        let context = Rc::new(Context {
            plan: Arc::clone(&self.plan),
            thread: Rc::clone(&thread),
            client,
            tally: Tally::new(Arc::clone(&self.control), Arc::clone(&self.counters)),
            permits: Permits::new(OPENING_MAX),
            requests: Requests::new(&self.plan),
        });
        monoio::spawn(sweep(Rc::clone(&thread), Arc::clone(&self.control), self.grace()));
        let slots = self.prepare(&context).await;
        // The main thread is gone only when the run has failed, and then nobody needs to know.
        let _ = self.events.send(Event::Ready);
        while self.control.phase() == Phase::Prepare {
            monoio::time::sleep(START_INTERVAL).await;
        }
        let gate = Gate::new(Arc::clone(&self.control), self.schedule());
        let pacer = monoio::spawn(pace(Rc::clone(&gate)));
        let watcher = monoio::spawn(watch_end(Rc::clone(&gate), Arc::clone(&self.control)));
        let tasks: Vec<_> = slots.into_iter().map(|slot| monoio::spawn(slot.work(Rc::clone(&gate)))).collect();
        let mut done = Vec::with_capacity(tasks.len());
        for task in tasks {
            done.push(task.await);
        }
        let end = Instant::now();
        let _ = self.events.send(Event::Finished(end));
        gate.end();
        watcher.await;
        for age in gate.unstarted(self.control.ended_at().unwrap_or(end)) {
            context.tally.record(self.plan.scenario, age);
        }
        let farewells: Vec<_> = done.into_iter().map(|slot| monoio::spawn(slot.close())).collect();
        for farewell in farewells {
            farewell.await;
        }
        pacer.await.map_err(|source| RunError::Local { what: "sleeping until an arrival is due", source })?;
        Ok(context.tally.take())
    }

    async fn prepare(&self, context: &Rc<Context>) -> Vec<Slot> {
        let indexes = (self.index..self.plan.connections).step_by(self.plan.threads);
        let tasks: Vec<_> = indexes
            .map(|index| {
                let mut slot = Slot::new(Rc::clone(context), index);
                monoio::spawn(async move {
                    slot.prepare().await;
                    slot
                })
            })
            .collect();
        let mut slots = Vec::with_capacity(tasks.len());
        for task in tasks {
            slots.push(task.await);
        }
        slots
    }

    #[allow(clippy::cast_precision_loss, reason = "thread numbers are small")]
    fn schedule(&self) -> Option<Schedule> {
        let threads = self.plan.threads as f64;
        self.plan.rate.map(|rate| Schedule {
            start: Instant::now(),
            rate: rate / threads,
            shift: self.index as f64 / threads,
        })
    }

    /// How long started work may take after the end of the run.
    fn grace(&self) -> Duration {
        if self.plan.scenario == Scenario::Idle { Duration::ZERO } else { self.plan.timeout.min(GRACE_MAX) }
    }
}

/// Keeps the thread's clock, and ends its sockets when the grace after the run is over.
async fn sweep(thread: Rc<Thread>, control: Arc<Control>, grace: Duration) {
    let mut draining_since = None;
    while !thread.is_halted() {
        monoio::time::sleep(SWEEP_INTERVAL).await;
        let now = Instant::now();
        thread.sweep(now);
        if control.phase() == Phase::Drain && now.duration_since(*draining_since.get_or_insert(now)) >= grace {
            thread.halt();
        }
    }
}

async fn pace(gate: Rc<Gate>) -> std::io::Result<()> {
    gate.pace().await
}

/// Ends the gate when the run is over.
async fn watch_end(gate: Rc<Gate>, control: Arc<Control>) {
    while !control.is_over() && !gate.is_ended() {
        monoio::time::sleep(END_INTERVAL).await;
    }
    gate.end();
}

const START_INTERVAL: Duration = Duration::from_millis(1);
const END_INTERVAL: Duration = Duration::from_millis(20);
/// Longest time for started work after the end of a run.
const GRACE_MAX: Duration = Duration::from_secs(2);
