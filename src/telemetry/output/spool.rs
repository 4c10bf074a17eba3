//! Lines on their way to an output: what it does not take now is offered again or counted as lost, and said once.

use std::fmt::Display;
use std::io::Write;
use std::time::{Duration, Instant};

use super::{Line, Output, SyslogSettings, Target};
use crate::telemetry::cell::{ByLabel, Label};
use crate::telemetry::label::{LogName, LogResult};

/// How long a collector that could not be reached is left alone.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Lines that are written in one go.
const BATCH_LINES_MAX: usize = 1024;

/// The lines of one log that are not written yet, and the output that they go to.
pub(in crate::telemetry) struct Spool {
    log: LogName,
    output: Output,
    lines: Vec<Line>,
    retry_at: Option<Instant>,
    /// Lines lost since the output last worked.
    lost: u64,
    is_failing: bool,
}

/// What became of the lines of each log; the thread that writes a log is the writer of its cells.
#[derive(Debug, Default)]
pub struct LogCounters {
    /// Lines by log and by what became of them.
    pub lines: ByLabel<LogName, ByLabel<LogResult>>,
}

impl Spool {
    pub(in crate::telemetry) fn new(log: LogName, target: &Target, syslog: &SyslogSettings) -> Self {
        Self::over(log, Output::new(target, syslog, log.label()))
    }

    pub(in crate::telemetry) fn over(log: LogName, output: Output) -> Self {
        Self { log, output, lines: Vec::new(), retry_at: None, lost: 0, is_failing: false }
    }

    /// Whether everything is done with.
    pub(in crate::telemetry) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether there is room for another batch: an output that takes nothing leaves the lines where they come from.
    pub(in crate::telemetry) fn has_room(&self) -> bool {
        self.lines.len() < BATCH_LINES_MAX
    }

    pub(in crate::telemetry) fn push(&mut self, line: impl Into<Line>) {
        self.lines.push(line.into());
    }

    pub(in crate::telemetry) fn reopen(&mut self) {
        self.output.reopen();
    }

    /// Writes what is there, unless the output is left alone for a while; false when lines are left.
    pub(in crate::telemetry) fn write(&mut self, counters: &LogCounters) -> bool {
        if self.lines.is_empty() {
            return true;
        }
        let now = Instant::now();
        if self.retry_at.is_some_and(|at| now < at) {
            return false;
        }
        let delivery = self.output.write(&self.lines);
        self.lines.drain(..delivery.done);
        let written = delivery.done - delivery.lost;
        counters.lines.of(self.log).of(LogResult::Written).add(written as u64);
        self.lose(delivery.lost, counters);
        self.retry_at = (!self.lines.is_empty()).then(|| now + RETRY_PAUSE);
        match delivery.error {
            Some(error) if !self.is_failing => {
                self.is_failing = true;
                self.say_failed(&error);
            }
            None if self.is_failing => {
                self.is_failing = false;
                self.say_recovered();
                self.lost = 0;
            }
            _ => {}
        }
        self.lines.is_empty()
    }

    /// Gives up what is left.
    pub(in crate::telemetry) fn abandon(&mut self, counters: &LogCounters) {
        self.lose(self.lines.len(), counters);
        self.lines.clear();
    }

    /// The log of the process cannot tell of itself: standard error is what is left.
    fn say_failed(&self, error: &dyn Display) {
        const FAILED: &str = "log output failed: what it does not take is lost";
        match self.log {
            LogName::Process => drop(writeln!(std::io::stderr(), "{FAILED} log=\"process\" error={error}")),
            log => tracing::error!(log = log.label(), %error, "{FAILED}"),
        }
    }

    fn say_recovered(&self) {
        const RECOVERED: &str = "log output works again";
        let lost = self.lost;
        match self.log {
            LogName::Process => drop(writeln!(std::io::stderr(), "{RECOVERED} log=\"process\" lost={lost}")),
            log => tracing::warn!(log = log.label(), lost, "{RECOVERED}"),
        }
    }

    fn lose(&mut self, count: usize, counters: &LogCounters) {
        self.lost += count as u64;
        counters.lines.of(self.log).of(LogResult::Lost).add(count as u64);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::net::TcpListener;

    use super::*;

    fn counts(counters: &LogCounters) -> (u64, u64) {
        let of = |result| counters.lines.of(LogName::Access).of(result).value();
        (of(LogResult::Written), of(LogResult::Lost))
    }

    #[test]
    fn full_disk_is_counted_and_later_lines_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let counters = LogCounters::default();
        let target = Target::File(path.clone());
        let mut spool = Spool::new(LogName::Access, &target, &SyslogSettings::default());
        spool.push(b"one".to_vec());
        assert!(spool.write(&counters));
        assert_eq!(counts(&counters), (0, 1));
        std::fs::remove_file(&path).unwrap();
        spool.reopen();
        spool.push(b"two".to_vec());
        assert!(spool.write(&counters));
        assert_eq!(counts(&counters), (1, 1));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
    }

    #[test]
    fn collector_that_is_away_gets_the_lines_when_it_is_back() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let counters = LogCounters::default();
        let mut spool = Spool::new(LogName::Access, &Target::SyslogTcp(address), &SyslogSettings::default());
        spool.push(b"one".to_vec());
        assert!(!spool.write(&counters));
        assert_eq!(counts(&counters), (0, 0), "neither written nor lost");

        let listener = TcpListener::bind(address).unwrap();
        spool.retry_at = None;
        assert!(spool.write(&counters));
        let mut reader = BufReader::new(listener.accept().unwrap().0);
        let mut length = Vec::new();
        reader.read_until(b' ', &mut length).unwrap();
        let length: usize = String::from_utf8(length).unwrap().trim().parse().unwrap();
        let mut message = vec![0; length];
        reader.read_exact(&mut message).unwrap();
        assert!(String::from_utf8(message).unwrap().ends_with(" access - one"));

        // It goes away for good: the line is not handed to a connection that is known to be closed.
        drop((reader, listener));
        spool.push(b"two".to_vec());
        let deadline = Instant::now() + Duration::from_secs(30);
        while spool.write(&counters) {
            // The end of the connection has not come yet.
            assert!(Instant::now() < deadline);
            spool.push(b"two".to_vec());
        }
        spool.abandon(&counters);
        assert_eq!(counts(&counters).1, 1);
    }
}
