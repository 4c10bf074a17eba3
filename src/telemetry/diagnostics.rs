//! The log of the process: through a bounded queue and a thread of its own to its output, which is standard error unless the
//! configuration has another one.
//!
//! A worker that logs never waits for whoever reads the log: with the queue full the line is dropped and counted.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::label::LogName;
use super::output::{Line, LogCounters, Severity, Spool, SyslogSettings, Target};

/// Lines that wait for the output at most; one more is dropped.
const QUEUED_LINES_MAX: usize = 4096;
/// How long the end of the process waits for the output to take what is queued.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How often an output that takes nothing is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What a log line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Time, level, message, then `key=value` pairs
    #[default]
    Text,
    /// One JSON object per line
    Json,
}

/// What the log of the process is configured with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiagnosticsSettings {
    /// A level, or module=level pairs.
    pub filter: String,
    /// What a line looks like.
    pub format: Format,
    /// Where it goes.
    pub target: Target,
}

/// What whoever starts the process asks for, whatever the configuration has.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// The filter.
    pub filter: Option<String>,
    /// What a line looks like.
    pub format: Option<Format>,
}

/// Why the log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum DiagnosticsError {
    /// Configuration: the filter.
    #[error("log filter {filter:?}: {source}; allowed: {FILTER_FORM}")]
    Filter {
        /// What was found.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// The machine: no thread is left.
    #[error("the log thread cannot be started: {0}")]
    Thread(io::Error),
    /// A bug: there is a log already.
    #[error("the log was started twice")]
    Twice,
}

/// What a filter may be, in words.
pub const FILTER_FORM: &str =
    "a level (error, warn, info, debug, trace, off), or module=level pairs separated by commas";

/// The log; dropped, it waits a moment for the output to take what is queued.
#[derive(Debug)]
pub struct Diagnostics {
    handle: DiagnosticsHandle,
}

/// Changes the log while it runs.
#[derive(Clone, Debug)]
pub struct DiagnosticsHandle {
    queue: SyncSender<Entry>,
    filter: reload::Handle<EnvFilter, Registry>,
    overrides: Overrides,
    counters: Arc<LogCounters>,
}

impl Default for DiagnosticsSettings {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: Format::Text, target: Target::Stderr }
    }
}

/// Whether a filter can be used.
///
/// # Errors
/// [`DiagnosticsError::Filter`].
pub fn check_filter(filter: &str) -> Result<(), DiagnosticsError> {
    parse(filter).map(drop)
}

/// Starts the log of the process: every `tracing` event that passes the filter becomes a line.
///
/// # Errors
/// [`DiagnosticsError`].
pub fn start(
    settings: &DiagnosticsSettings,
    overrides: Overrides,
    syslog: &SyslogSettings,
) -> Result<Diagnostics, DiagnosticsError> {
    let (filter, filter_handle) = reload::Layer::new(parse(overrides.filter.as_deref().unwrap_or(&settings.filter))?);
    let counters = Arc::<LogCounters>::default();
    let spool = Spool::new(LogName::Process, &settings.target, syslog);
    let queue = start_writer(spool, Arc::clone(&counters)).map_err(DiagnosticsError::Thread)?;
    let is_colourful = match settings.target {
        Target::Stderr => io::stderr().is_terminal(),
        Target::Stdout => io::stdout().is_terminal(),
        _ => false,
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_ansi(is_colourful)
        // Telling about a failed write on the stream that failed would panic.
        .log_internal_errors(false)
        .with_writer(Lines { queue: queue.clone() });
    let registry = tracing_subscriber::registry().with(filter);
    let started = match overrides.format.unwrap_or(settings.format) {
        Format::Text => registry.with(lines).try_init(),
        Format::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    started.map_err(|_| DiagnosticsError::Twice)?;
    Ok(Diagnostics { handle: DiagnosticsHandle { queue, filter: filter_handle, overrides, counters } })
}

/// Lines of the log of the process dropped because its output did not take them fast enough, since the process started.
pub fn dropped_line_count() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

impl Diagnostics {
    /// For whoever is to change it.
    pub fn handle(&self) -> DiagnosticsHandle {
        self.handle.clone()
    }
}

impl DiagnosticsHandle {
    /// Makes the log as another configuration has it, but for its format, which stays until the process ends.
    pub fn apply(&self, settings: &DiagnosticsSettings, syslog: &SyslogSettings) {
        if self.overrides.filter.is_none()
            && let Ok(filter) = parse(&settings.filter)
        {
            // Fails only where the log is gone.
            let _ = self.filter.reload(filter);
        }
        self.order(Entry::Output(Box::new(Spool::new(LogName::Process, &settings.target, syslog))));
    }

    /// Opens a file anew that was renamed away.
    pub fn reopen(&self) {
        self.order(Entry::Reopen);
    }

    /// What became of the lines.
    pub fn counters(&self) -> Arc<LogCounters> {
        Arc::clone(&self.counters)
    }

    fn order(&self, entry: Entry) {
        // With the queue full the output takes nothing; nobody is to wait for that.
        if self.queue.try_send(entry).is_err() {
            tracing::warn!("the log of the process is behind and stays as it is; reload again when it has caught up");
        }
    }
}

impl Drop for Diagnostics {
    fn drop(&mut self) {
        let (done, is_done) = mpsc::sync_channel(1);
        // With the queue full, the output takes nothing, and waiting would be in vain.
        if self.handle.queue.try_send(Entry::Flush(done)).is_ok() {
            let _ = is_done.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

fn parse(filter: &str) -> Result<EnvFilter, DiagnosticsError> {
    EnvFilter::try_new(filter).map_err(|source| DiagnosticsError::Filter { filter: filter.to_owned(), source })
}

enum Entry {
    Line(Line),
    Output(Box<Spool>),
    Reopen,
    /// Everything before it has been written when the channel is closed.
    Flush(SyncSender<()>),
}

/// Makes a writer for each line.
struct Lines {
    queue: SyncSender<Entry>,
}

/// Takes one line, as the subscriber writes it: in one piece.
struct LineWriter<'a> {
    queue: &'a SyncSender<Entry>,
    severity: Severity,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter { queue: &self.queue, severity: Severity::Informational }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Self::Writer {
        let severity = match *event.level() {
            Level::ERROR => Severity::Error,
            Level::WARN => Severity::Warning,
            Level::INFO => Severity::Informational,
            _ => Severity::Debug,
        };
        LineWriter { queue: &self.queue, severity }
    }
}

impl Write for LineWriter<'_> {
    fn write(&mut self, written: &[u8]) -> io::Result<usize> {
        let line = Line { text: one_line(written), severity: self.severity };
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Entry::Line(line)) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(written.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Without its line break, and with any other one made visible: nothing that is logged can pretend to be a line.
fn one_line(written: &[u8]) -> Vec<u8> {
    let text = written.strip_suffix(b"\n").unwrap_or(written);
    let mut line = Vec::with_capacity(text.len());
    for part in text.split_inclusive(|byte| *byte == b'\n') {
        match part.strip_suffix(b"\n") {
            Some(part) => line.extend([part, b"\\n"].concat()),
            None => line.extend(part),
        }
    }
    line
}

/// Counts for the process, as its log is the process's.
static DROPPED: AtomicU64 = AtomicU64::new(0);

fn start_writer(spool: Spool, counters: Arc<LogCounters>) -> io::Result<SyncSender<Entry>> {
    let (queue, entries) = mpsc::sync_channel(QUEUED_LINES_MAX);
    std::thread::Builder::new().name("log".to_owned()).spawn(move || write_lines(&entries, spool, &counters))?;
    Ok(queue)
}

fn write_lines(entries: &Receiver<Entry>, mut spool: Spool, counters: &LogCounters) {
    let mut told = 0;
    loop {
        if !spool.has_room() {
            // What comes meanwhile waits in the queue.
            std::thread::park_timeout(RETRY);
            spool.write(counters);
            continue;
        }
        // A collector that is away is tried again even when nothing is logged.
        let entry = match spool.is_empty() {
            true => entries.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => entries.recv_timeout(RETRY),
        };
        match entry {
            Ok(Entry::Line(line)) => spool.push(line),
            Ok(Entry::Output(next)) => {
                spool.write(counters);
                std::mem::replace(&mut spool, *next).abandon(counters);
            }
            Ok(Entry::Reopen) => spool.reopen(),
            Ok(Entry::Flush(done)) => {
                spool.write(counters);
                drop(done);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let count = dropped_line_count();
        if count > told {
            let text = format!("{} log lines dropped: they were not taken fast enough", count - told);
            spool.push(Line { text: text.into_bytes(), severity: Severity::Warning });
            told = count;
        }
        spool.write(counters);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
mod tests {
    use std::sync::Mutex;

    use super::super::output::Output;
    use super::super::{LogResult, label::LogName};
    use super::*;

    /// An output that takes nothing until it is opened.
    #[derive(Clone, Default)]
    struct Gate {
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.taken.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Waits until everything that was queued before has been written.
    fn flush(queue: &SyncSender<Entry>) {
        let mut flushed = Entry::Flush(mpsc::sync_channel(1).0);
        while let Err(TrySendError::Full(entry)) = queue.try_send(flushed) {
            flushed = entry;
            std::thread::yield_now();
        }
        let (done, is_done) = mpsc::sync_channel(1);
        queue.send(Entry::Flush(done)).unwrap();
        assert!(is_done.recv().is_err(), "the writer closes the channel");
    }

    #[test]
    fn stalled_output_drops_and_counts_lines_and_blocks_nobody() {
        let gate = Gate::default();
        let closed = gate.taken.lock().unwrap();
        let counters = Arc::<LogCounters>::default();
        let spool = Spool::over(LogName::Process, Output::over(gate.clone()));
        let queue = start_writer(spool, Arc::clone(&counters)).unwrap();
        let lines = Lines { queue: queue.clone() };
        // One more than the queue holds may be in the writer's hands.
        for _ in 0..QUEUED_LINES_MAX + 11 {
            lines.make_writer().write_all(b"a line\n").unwrap();
        }
        let dropped = dropped_line_count();
        assert!((10..=11).contains(&dropped), "{dropped}");
        drop(closed);

        flush(&queue);
        let text = String::from_utf8(gate.taken.lock().unwrap().clone()).unwrap();
        assert!(text.contains(&format!("{dropped} log lines dropped")), "{text}");
        assert_eq!(text.matches("a line\n").count(), QUEUED_LINES_MAX + 11 - dropped as usize);
        let written = counters.lines.of(LogName::Process).of(LogResult::Written).value();
        assert_eq!(written, text.lines().count() as u64);
    }

    #[test]
    fn output_that_is_exchanged_gets_what_comes_afterwards() {
        let (first, second) = (Gate::default(), Gate::default());
        let spool = |gate: &Gate| Spool::over(LogName::Process, Output::over(gate.clone()));
        let queue = start_writer(spool(&first), Arc::default()).unwrap();
        let lines = Lines { queue: queue.clone() };
        lines.make_writer().write_all(b"before\n").unwrap();
        queue.send(Entry::Output(Box::new(spool(&second)))).unwrap();
        lines.make_writer().write_all(b"after\n").unwrap();
        flush(&queue);
        let text = |gate: &Gate| String::from_utf8(gate.taken.lock().unwrap().clone()).unwrap();
        assert_eq!((text(&first).as_str(), text(&second).as_str()), ("before\n", "after\n"));
    }

    #[test]
    fn line_break_in_a_line_is_made_visible() {
        assert_eq!(one_line(b"a\n"), b"a");
        assert_eq!(one_line(b"a\nb\n\n"), b"a\\nb\\n");
        assert_eq!(one_line(b""), b"");
    }

    #[test]
    fn bad_filter_is_refused_with_what_is_allowed() {
        let error = check_filter("sluice=loud").unwrap_err().to_string();
        assert!(error.contains("\"sluice=loud\"") && error.contains("error, warn, info"), "{error}");
        check_filter("info,sluice::worker=debug").unwrap();
    }
}
