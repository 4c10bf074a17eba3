//! Where log lines go: standard error, through a bounded queue and a thread of its own.
//!
//! A worker that logs never waits for whoever reads the log: with the queue full the line is dropped and counted.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// Lines that wait for standard error at most; one more is dropped.
const QUEUED_LINES_MAX: usize = 4096;
/// How long the end of the process waits for standard error to take what is queued.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// What a log line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Time, level, message, then `key=value` pairs
    #[default]
    Text,
    /// One JSON object per line
    Json,
}

/// Why the log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum DiagnosticsError {
    /// Configuration: the filter.
    #[error(
        "log filter {filter:?}: {source}; allowed: a level (error, warn, info, debug, trace, off), or module=level pairs separated by commas"
    )]
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

/// The log; dropped, it waits a moment for standard error to take what is queued.
#[derive(Debug)]
pub struct Diagnostics {
    queue: SyncSender<Entry>,
}

/// Starts the log of the process: every `tracing` event that passes `filter` becomes a line.
///
/// # Errors
/// [`DiagnosticsError`].
pub fn start(filter: &str, format: Format) -> Result<Diagnostics, DiagnosticsError> {
    let parsed =
        EnvFilter::try_new(filter).map_err(|source| DiagnosticsError::Filter { filter: filter.to_owned(), source })?;
    let queue = start_writer(io::stderr()).map_err(DiagnosticsError::Thread)?;
    let lines = queue.clone();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        // Telling about a failed write on the stream that failed would panic.
        .log_internal_errors(false)
        .with_writer(move || Line { queue: lines.clone() });
    let started = match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|_| DiagnosticsError::Twice)?;
    Ok(Diagnostics { queue })
}

/// Log lines dropped because standard error was not read fast enough, since the process started.
pub fn dropped_line_count() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

impl Drop for Diagnostics {
    fn drop(&mut self) {
        let (done, is_done) = mpsc::sync_channel(1);
        // With the queue full, standard error is not being read, and waiting would be in vain.
        if self.queue.try_send(Entry::Flush(done)).is_ok() {
            let _ = is_done.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    /// Everything before it has been written when the channel is closed.
    Flush(SyncSender<()>),
}

/// Takes one line, as the subscriber writes it: in one piece.
struct Line {
    queue: SyncSender<Entry>,
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Entry::Line(line.to_vec())) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Counts for the process, as standard error is the process's.
static DROPPED: AtomicU64 = AtomicU64::new(0);

fn start_writer(output: impl Write + Send + 'static) -> io::Result<SyncSender<Entry>> {
    let (queue, entries) = mpsc::sync_channel(QUEUED_LINES_MAX);
    std::thread::Builder::new().name("log".to_owned()).spawn(move || write_lines(&entries, output))?;
    Ok(queue)
}

fn write_lines(entries: &Receiver<Entry>, mut output: impl Write) {
    let mut told = 0;
    while let Ok(entry) = entries.recv() {
        match entry {
            // Where standard error is gone, there is nobody to tell.
            Entry::Line(line) => drop(output.write_all(&line)),
            Entry::Flush(done) => drop(done),
        }
        let count = dropped_line_count();
        if count > told {
            let _ = writeln!(output, "{} log lines dropped: standard error was not read fast enough", count - told);
            told = count;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
mod tests {
    use std::sync::{Arc, Mutex};

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

    #[test]
    fn stalled_output_drops_and_counts_lines_and_blocks_nobody() {
        let gate = Gate::default();
        let closed = gate.taken.lock().unwrap();
        let queue = start_writer(gate.clone()).unwrap();
        let mut line = Line { queue: queue.clone() };
        // One more than the queue holds may be in the writer's hands.
        for _ in 0..QUEUED_LINES_MAX + 11 {
            line.write_all(b"a line\n").unwrap();
        }
        let dropped = dropped_line_count();
        assert!((10..=11).contains(&dropped), "{dropped}");
        drop(closed);

        let mut flushed = Entry::Flush(mpsc::sync_channel(1).0);
        while let Err(TrySendError::Full(entry)) = queue.try_send(flushed) {
            flushed = entry;
            std::thread::yield_now();
        }
        let (done, is_done) = mpsc::sync_channel(1);
        queue.send(Entry::Flush(done)).unwrap();
        assert!(is_done.recv().is_err(), "the writer closes the channel");
        let text = String::from_utf8(gate.taken.lock().unwrap().clone()).unwrap();
        assert!(text.contains(&format!("{dropped} log lines dropped")), "{text}");
        assert_eq!(text.matches("a line\n").count(), QUEUED_LINES_MAX + 11 - dropped as usize);
    }

    #[test]
    fn bad_filter_is_refused_with_what_is_allowed() {
        let error = start("sluice=loud", Format::Text).unwrap_err().to_string();
        assert!(error.contains("\"sluice=loud\"") && error.contains("error, warn, info"), "{error}");
    }
}
