//! A run, from the plan to the result.
//!
//! Order: check the plan, one probe connection, start the threads (they prepare their connections), warm up, measure,
//! drain, and conclude. Work, cost and time are read together at the start and at the end of the measurement.

mod conclude;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::cost::{self, Processes};
use crate::engine::kernel_tls;
use crate::engine::probe::probe;
use crate::engine::runtime::Engine;
use crate::engine::tally::{Control, Counters, Counts, Phase, ThreadReport};
use crate::engine::worker::{Event, Job};
use crate::machine;
use crate::plan::{Plan, Records};
use crate::result::{RunResult, Scenario};

/// Why a run gave no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The plan contradicts itself or names something that OpenSSL does not know.
    #[error("{0}")]
    Plan(String),
    /// The target did not take the first connection.
    #[error("target {target} cannot be reached: {reason}")]
    Unreachable {
        /// `host:port`.
        target: String,
        /// What failed, in words, with the remedy.
        reason: String,
    },
    /// The target took the connection, but no handshake came about.
    #[error("TLS handshake with {target} failed: {reason}")]
    Handshake {
        /// `host:port`.
        target: String,
        /// What failed, in words, with the remedy.
        reason: String,
    },
    /// A process given with `--pid` is not there.
    #[error("process {pid} (--pid) cannot be watched: {source}")]
    Pid {
        /// The process.
        pid: i32,
        /// What reading it said.
        source: io::Error,
    },
    /// This machine refused something the client needs.
    #[error("{what}: {source}")]
    Local {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// More connections than this process may have open.
    #[error("{connections} connections need {needed} descriptors, the limit is {limit}; raise it with ulimit -n")]
    Descriptors {
        /// Asked connections.
        connections: usize,
        /// Descriptors for them.
        needed: u64,
        /// The hard limit.
        limit: u64,
    },
    /// A bug of this program.
    #[error("a client thread panicked; this is a bug of sluice-load")]
    Panicked,
}

/// What a run shows while it goes on.
pub trait Watch: Sync {
    /// Called about ten times per second.
    fn tick(&self, live: &Live);
    /// `true` ends the run; what was measured is reported.
    fn interrupted(&self) -> bool;
}

/// Live figures.
#[derive(Clone, Copy, Debug, Default)]
pub struct Live {
    /// Seconds since the measurement began.
    pub elapsed_seconds: f64,
    /// Units of work finished.
    pub work: u64,
    /// Payload bytes moved.
    pub bytes: u64,
    /// Connections open now.
    pub open: u64,
    /// Failures.
    pub errors: u64,
}

/// A watch that shows nothing and never interrupts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Watch for Quiet {
    fn tick(&self, _live: &Live) {}

    fn interrupted(&self) -> bool {
        false
    }
}

/// Runs `plan` to its end and measures it. `watch` sees live figures a few times per second and can end the run.
pub fn run(plan: &Plan, watch: &dyn Watch) -> Result<RunResult, RunError> {
    plan.check().map_err(RunError::Plan)?;
    raise_descriptor_limit(plan.connections)?;
    let negotiated = probe(plan)?;
    if plan.tls.as_ref().is_some_and(|tls| tls.records == Records::Kernel) {
        kernel_tls::check(negotiated.as_ref())?;
    }
    let target = Processes::new(&plan.pids).map_err(|(pid, source)| RunError::Pid { pid, source })?;
    let engine = plan.engine.unwrap_or_else(Engine::detect);
    let pss_before = target.pss_bytes();

    let mut crew = Crew::start(plan, engine)?;
    crew.await_ready(watch, plan)?;
    let started = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let client = Processes::this();
    let meter = Meter { crew: &crew, target: &target, client: &client };
    let mut begin = meter.read();
    if !plan.warmup.is_zero() {
        crew.control.enter(Phase::WarmUp);
        crew.watch_until(Instant::now() + plan.warmup, watch, |_| Flow::Go);
        begin = meter.read();
    }
    crew.control.enter(Phase::Measure);
    let slices = crew.measure(plan, &begin, watch);
    let was_interrupted = watch.interrupted();
    // Memory first: when draining begins, the connections go.
    let pss_after = target.pss_bytes();
    let end = meter.read_last(plan);
    let report = crew.join()?;
    Ok(conclude::result(conclude::Ingredients {
        plan,
        started,
        engine,
        negotiated,
        begin,
        end,
        slices,
        report,
        pss: (pss_before, pss_after),
        was_interrupted,
    }))
}

/// Everything that is read together.
#[derive(Clone, Debug)]
struct Moment {
    at: Instant,
    counts: Counts,
    target: cost::Reading,
    client: cost::Reading,
    machine: machine::Reading,
}

struct Meter<'a> {
    crew: &'a Crew,
    target: &'a Processes,
    client: &'a Processes,
}

impl Meter<'_> {
    fn read(&self) -> Moment {
        let members = self.target.members();
        self.read_members(&members)
    }

    /// The last reading: draining begins with it, so that what the harness does afterwards costs the target nothing
    /// that is counted. Idle connections would not outlive that.
    fn read_last(&self, plan: &Plan) -> Moment {
        let members = self.target.members();
        if plan.scenario == Scenario::Idle {
            let moment = self.read_members(&members);
            self.crew.control.enter(Phase::Drain);
            return moment;
        }
        self.crew.control.enter(Phase::Drain);
        let moment = self.read_members(&members);
        // Without work there was no time either.
        Moment { at: self.crew.finished_at().unwrap_or(moment.at), ..moment }
    }

    fn read_members(&self, members: &BTreeSet<i32>) -> Moment {
        Moment {
            at: Instant::now(),
            counts: self.crew.counts(),
            target: Processes::read(members),
            client: self.client.read_roots(),
            machine: machine::Reading::now(),
        }
    }
}

/// The client's threads.
struct Crew {
    control: Arc<Control>,
    counters: Vec<Arc<Counters>>,
    events: Receiver<Event>,
    threads: Vec<JoinHandle<Result<ThreadReport, RunError>>>,
    finished: std::cell::RefCell<Vec<Instant>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Go,
    Stop,
}

impl Crew {
    fn start(plan: &Plan, engine: Engine) -> Result<Self, RunError> {
        let control = Control::new(plan.requests);
        let (sender, events) = channel();
        let plan = Arc::new(plan.clone());
        let counters: Vec<Arc<Counters>> = (0..plan.threads).map(|_| Arc::default()).collect();
        let mut threads = Vec::with_capacity(plan.threads);
        for (index, counters) in counters.iter().enumerate() {
            let job = Job {
                plan: Arc::clone(&plan),
                index,
                engine,
                control: Arc::clone(&control),
                counters: Arc::clone(counters),
                events: sender.clone(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("load-{index}"))
                .spawn(move || job.run())
                .map_err(|source| RunError::Local { what: "starting a client thread", source })?;
            threads.push(thread);
        }
        Ok(Self { control, counters, events, threads, finished: std::cell::RefCell::default() })
    }

    /// Waits until every thread has prepared its slots, has failed, or the user has had enough.
    fn await_ready(&mut self, watch: &dyn Watch, plan: &Plan) -> Result<(), RunError> {
        let deadline = Instant::now() + plan.timeout * 2 + PREPARE_TIMEOUT;
        let mut ready = 0;
        while ready < self.threads.len() && Instant::now() < deadline && !watch.interrupted() {
            match self.events.recv_timeout(TICK) {
                Ok(Event::Ready) => ready += 1,
                Ok(Event::Finished(_)) => {}
                Err(RecvTimeoutError::Timeout) => watch.tick(&self.live(Instant::now(), &Counts::default(), plan)),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if let Some(failed) = self.threads.iter().position(JoinHandle::is_finished) {
                self.control.enter(Phase::Drain);
                join(self.threads.swap_remove(failed))?;
            }
        }
        Ok(())
    }

    fn counts(&self) -> Counts {
        self.counters.iter().map(|counters| counters.read()).fold(Counts::default(), |sum, counts| sum + counts)
    }

    fn live(&self, since: Instant, begin: &Counts, plan: &Plan) -> Live {
        let now = self.counts();
        let grown = now - *begin;
        let work = if plan.scenario == Scenario::Idle { now.open } else { grown.work(plan.scenario) };
        Live {
            elapsed_seconds: since.elapsed().as_secs_f64(),
            work,
            bytes: grown.sent + grown.received,
            open: now.open,
            errors: now.errors,
        }
    }

    /// The measurement proper; gives the work per slice of time, see [`crate::doubt::Evidence::slices`].
    fn measure(&self, plan: &Plan, begin: &Moment, watch: &dyn Watch) -> Vec<f64> {
        let mut end = begin.at + plan.duration;
        if plan.scenario == Scenario::Idle {
            self.watch_until(begin.at + plan.timeout * 2 + PREPARE_TIMEOUT, watch, |crew| {
                watch.tick(&crew.live(begin.at, &begin.counts, plan));
                let counts = crew.counts();
                let is_tried = counts.open + counts.errors - begin.counts.errors >= plan.connections as u64;
                if is_tried { Flow::Stop } else { Flow::Go }
            });
            end = Instant::now() + plan.duration;
        }
        let mut slices = Slices::new(plan, begin);
        self.watch_until(end, watch, |crew| {
            watch.tick(&crew.live(begin.at, &begin.counts, plan));
            slices.look(&crew.counts());
            Flow::Go
        });
        slices.rates
    }

    /// Calls `tick` every [`TICK`] until `end`, all threads have finished, `tick` stops or the user interrupts.
    fn watch_until(&self, end: Instant, watch: &dyn Watch, mut tick: impl FnMut(&Self) -> Flow) {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || watch.interrupted() || self.is_finished() {
                return;
            }
            match self.events.recv_timeout(left.min(TICK)) {
                Ok(Event::Finished(at)) => self.finished.borrow_mut().push(at),
                Ok(Event::Ready) => {}
                Err(RecvTimeoutError::Timeout) => {
                    if tick(self) == Flow::Stop {
                        return;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn is_finished(&self) -> bool {
        self.finished.borrow().len() >= self.threads.len()
    }

    /// When the last thread ran out of work, if all have.
    fn finished_at(&self) -> Option<Instant> {
        self.is_finished().then(|| self.finished.borrow().iter().max().copied()).flatten()
    }

    fn join(self) -> Result<ThreadReport, RunError> {
        let mut report = ThreadReport::default();
        for thread in self.threads {
            report.merge(join(thread)?);
        }
        Ok(report)
    }
}

fn join(thread: JoinHandle<Result<ThreadReport, RunError>>) -> Result<ThreadReport, RunError> {
    thread.join().map_err(|_| RunError::Panicked)?
}

/// Cuts the measurement into slices, to see how even it was.
struct Slices {
    scenario: Scenario,
    target: Option<cost::Reading>,
    length: Duration,
    last: (Instant, u64, Duration),
    rates: Vec<f64>,
}

impl Slices {
    fn new(plan: &Plan, begin: &Moment) -> Self {
        let target = (!plan.pids.is_empty()).then(|| begin.target.clone());
        let cpu = begin.target.cpu();
        Self {
            scenario: plan.scenario,
            target,
            length: (plan.duration / SLICES).max(TICK),
            last: (begin.at, begin.counts.work(plan.scenario), cpu),
            rates: Vec::new(),
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "work of one slice is far below 2^53")]
    fn look(&mut self, counts: &Counts) {
        let now = Instant::now();
        let (then, work_then, cpu_then) = self.last;
        if now.duration_since(then) < self.length || self.rates.len() >= SLICES_MAX {
            return;
        }
        let work = counts.work(self.scenario);
        let cpu = self.target.as_ref().map_or(Duration::ZERO, Processes::cpu_of);
        let spent = if self.target.is_some() { cpu.saturating_sub(cpu_then) } else { now.duration_since(then) };
        if !spent.is_zero() {
            self.rates.push(work.saturating_sub(work_then) as f64 / spent.as_secs_f64());
        }
        self.last = (now, work, cpu);
    }
}

/// Makes room for `connections` descriptors, up to the hard limit.
fn raise_descriptor_limit(connections: usize) -> Result<(), RunError> {
    let local = |errno: nix::Error| RunError::Local { what: "reading the descriptor limit", source: errno.into() };
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(local)?;
    let needed = connections as u64 + DESCRIPTORS_SPARE;
    if needed > hard {
        return Err(RunError::Descriptors { connections, needed, limit: hard });
    }
    if needed > soft {
        setrlimit(Resource::RLIMIT_NOFILE, needed, hard).map_err(local)?;
    }
    Ok(())
}

/// How often live figures are shown.
const TICK: Duration = Duration::from_millis(100);
/// Slices of a measurement, and most of them when it runs longer than planned.
const SLICES: u32 = 10;
const SLICES_MAX: usize = 1000;
/// Time for the connections before the measurement, on top of two time-outs.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(30);
/// Descriptors for everything but the connections: rings, timers, files, the backend in the same process.
const DESCRIPTORS_SPARE: u64 = 256;
