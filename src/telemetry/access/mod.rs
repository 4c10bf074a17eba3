//! The access log: one line of JSON for each connection that has ended, or for each n-th.
//!
//! A worker puts a record into its own bounded ring and goes on; a thread looks at the rings twenty times a second,
//! makes lines of what it finds and writes them. With the ring full the record is dropped and counted. A worker never
//! wakes that thread, and never waits for it.

mod record;

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::Duration;

pub use record::{HandshakeFailure, Hello, Moved, Record, Session, version_names};

use super::cell::Counter;
use super::label::LogName;
use super::output::{LogCounters, Spool, SyslogSettings, Target};

/// Records that wait in the ring of one worker at most; one more is dropped.
const QUEUED_RECORDS_MAX: usize = 4096;
/// How often the thread looks at the rings.
const TURN: Duration = Duration::from_millis(50);
/// How long the end of the process waits for what is queued to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// What the access log is configured with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessSettings {
    /// Where it goes; none: there is no access log.
    pub target: Option<Target>,
    /// Each how manieth connection is logged: 1 is every one.
    pub every: u32,
}

impl Default for AccessSettings {
    fn default() -> Self {
        Self { target: None, every: 1 }
    }
}

/// The access log of the process; dropped, it waits a moment for what is queued to be written.
#[derive(Debug)]
pub struct AccessLog {
    /// 0: nothing is logged.
    every: Arc<AtomicU32>,
    counters: Arc<LogCounters>,
    /// Until the thread has them.
    rings: Vec<Receiver<Box<Record>>>,
    thread: Option<Sender<Order>>,
}

/// A worker's end of the access log.
#[derive(Debug)]
pub struct AccessRing {
    every: Arc<AtomicU32>,
    /// Connections since the last one that was logged.
    skipped: Cell<u32>,
    records: SyncSender<Box<Record>>,
}

enum Order {
    Write(Box<Spool>),
    Stop,
    Reopen,
    /// Everything queued has been written when the channel is closed.
    Flush(#[allow(dead_code, reason = "closed by being dropped")] SyncSender<()>),
}

impl AccessLog {
    /// A log that is off, and the ring of each worker. The counters are the process's.
    pub fn new(worker_count: usize, counters: Arc<LogCounters>) -> (Self, Vec<AccessRing>) {
        let every = Arc::new(AtomicU32::new(0));
        let ring = |_| {
            let (records, ring) = mpsc::sync_channel(QUEUED_RECORDS_MAX);
            (AccessRing::new(Arc::clone(&every), records), ring)
        };
        let (senders, rings) = (0..worker_count).map(ring).unzip();
        (Self { every, counters, rings, thread: None }, senders)
    }

    /// Makes it as configured, from the next connection on.
    ///
    /// # Errors
    /// When no thread is left; the log is as before then.
    pub fn apply(&mut self, settings: &AccessSettings, syslog: &SyslogSettings) -> io::Result<()> {
        match &settings.target {
            None => {
                self.every.store(0, Ordering::Relaxed);
                self.order(Order::Stop);
            }
            Some(target) => {
                self.start()?;
                self.order(Order::Write(Box::new(Spool::new(LogName::Access, target, syslog))));
                self.every.store(settings.every.max(1), Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Opens a file anew that was renamed away.
    pub fn reopen(&self) {
        self.order(Order::Reopen);
    }

    fn start(&mut self) -> io::Result<()> {
        if self.thread.is_some() {
            return Ok(());
        }
        let (orders, inbox) = mpsc::channel();
        let (rings, counters) = (std::mem::take(&mut self.rings), Arc::clone(&self.counters));
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || run(&inbox, &rings, &counters))?;
        self.thread = Some(orders);
        Ok(())
    }

    fn order(&self, order: Order) {
        // The thread ends with the process, never before this end of the channel.
        let _ = self.thread.as_ref().map(|thread| thread.send(order));
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let (done, is_done) = mpsc::sync_channel(1);
            self.order(Order::Flush(done));
            let _ = is_done.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

impl AccessRing {
    fn new(every: Arc<AtomicU32>, records: SyncSender<Box<Record>>) -> Self {
        Self { every, skipped: Cell::new(0), records }
    }

    /// Whether the connection that begins now is to be logged.
    pub fn wants_next(&self) -> bool {
        let every = self.every.load(Ordering::Relaxed);
        let skipped = self.skipped.get() + 1;
        let is_due = every != 0 && skipped >= every;
        self.skipped.set(if is_due || every == 0 { 0 } else { skipped });
        is_due
    }

    /// Leaves a record for the thread that writes; counted as dropped where the ring is full.
    pub fn push(&self, record: Box<Record>, dropped: &Counter) {
        if self.records.try_send(record).is_err() {
            dropped.increment();
        }
    }
}

fn run(inbox: &Receiver<Order>, rings: &[Receiver<Box<Record>>], counters: &LogCounters) {
    let mut spool: Option<Box<Spool>> = None;
    loop {
        let order = match &spool {
            None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(_) => inbox.recv_timeout(TURN),
        };
        match order {
            Ok(Order::Write(next)) => {
                finish(spool.replace(next), rings, counters);
            }
            Ok(Order::Stop) => finish(spool.take(), rings, counters),
            Ok(Order::Reopen) => spool.iter_mut().for_each(|spool| spool.reopen()),
            Ok(Order::Flush(done)) => {
                spool.iter_mut().for_each(|spool| empty(rings, spool, counters));
                drop(done);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        spool.iter_mut().for_each(|spool| empty(rings, spool, counters));
    }
}

fn finish(former: Option<Box<Spool>>, rings: &[Receiver<Box<Record>>], counters: &LogCounters) {
    if let Some(mut former) = former {
        empty(rings, &mut former, counters);
        former.abandon(counters);
    }
}

/// Writes until the rings are empty or the output takes no more. What stays in a ring keeps its place there.
fn empty(rings: &[Receiver<Box<Record>>], spool: &mut Spool, counters: &LogCounters) {
    loop {
        let mut is_empty = true;
        for ring in rings {
            while spool.has_room()
                && let Ok(record) = ring.try_recv()
            {
                spool.push(record.to_line());
                is_empty = false;
            }
        }
        if !spool.write(counters) || is_empty {
            return;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::record::tests::sample;
    use super::*;
    use crate::telemetry::label::LogResult;

    #[test]
    fn ring_that_nobody_empties_drops_and_counts_and_blocks_nobody() {
        let (_log, rings) = AccessLog::new(1, Arc::default());
        let dropped = Counter::default();
        for id in 0..QUEUED_RECORDS_MAX + 10 {
            rings[0].push(Box::new(sample(id)), &dropped);
        }
        assert_eq!(dropped.value(), 10);
    }

    #[test]
    fn log_that_is_off_wants_nothing_and_one_in_three_wants_every_third() {
        let (mut log, rings) = AccessLog::new(1, Arc::default());
        assert!(!(0..10).any(|_| rings[0].wants_next()));
        let folder = tempfile::tempdir().unwrap();
        let target = Some(Target::File(folder.path().join("access.log")));
        log.apply(&AccessSettings { target, every: 3 }, &SyslogSettings::default()).unwrap();
        let wanted: Vec<_> = (0..6).map(|_| rings[0].wants_next()).collect();
        assert_eq!(wanted, [false, false, true, false, false, true]);
        log.apply(&AccessSettings::default(), &SyslogSettings::default()).unwrap();
        assert!(!(0..10).any(|_| rings[0].wants_next()));
    }

    #[test]
    fn records_of_every_worker_are_written_before_the_log_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let counters = Arc::<LogCounters>::default();
        let (mut log, rings) = AccessLog::new(2, Arc::clone(&counters));
        let settings = AccessSettings { target: Some(Target::File(path.clone())), every: 1 };
        log.apply(&settings, &SyslogSettings::default()).unwrap();
        let dropped = Counter::default();
        for id in 0..3000 {
            rings[id % 2].push(Box::new(sample(id)), &dropped);
        }
        drop(log);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 3000);
        assert_eq!(counters.lines.of(LogName::Access).of(LogResult::Written).value(), 3000);
        assert_eq!(dropped.value(), 0);
    }
}
