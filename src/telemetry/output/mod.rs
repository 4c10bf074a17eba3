//! Where log lines go: a stream, a file, the journal, or a syslog collector.
//!
//! Each output is used on a thread of its own. It may be slow, full or dead: what it does not take is lost and counted,
//! and nobody but that thread ever waits for it.

mod file;
mod journal;
mod spool;
mod syslog;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

pub use spool::LogCounters;
pub(super) use spool::Spool;
pub use syslog::{Facility, SyslogSettings, TlsError, TlsFiles};

use file::LogFile;
use journal::Journal;
use syslog::Collector;

/// Where the lines of a log go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file that is appended to, and opened anew when it was renamed or when the process is told to.
    File(PathBuf),
    /// The journal, or another socket that speaks its protocol.
    Journal(PathBuf),
    /// A syslog daemon on this machine, by datagrams (RFC 5424).
    SyslogUnix(PathBuf),
    /// A syslog collector by UDP (RFC 5426).
    SyslogUdp(SocketAddr),
    /// A syslog collector by TCP, messages counted in octets (RFC 6587 section 3.4.1).
    SyslogTcp(SocketAddr),
    /// A syslog collector by TLS (RFC 5425).
    SyslogTls(SocketAddr),
}

/// The socket of the journal of the system.
pub const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

/// An open output; it opens what it needs by itself, when there is something to write.
pub(super) struct Output {
    kind: Kind,
}

enum Kind {
    Stream(Box<dyn Write + Send>),
    File(LogFile),
    Journal(Journal),
    Syslog(Box<Collector>),
}

/// One line of a log, without its line break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: Vec<u8>,
    pub(super) severity: Severity,
}

/// How grave a line is, by the numbers of RFC 5424 section 6.2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    Error = 3,
    Warning = 4,
    Informational = 6,
    Debug = 7,
}

/// A record: nothing is wrong that it tells of.
impl From<Vec<u8>> for Line {
    fn from(text: Vec<u8>) -> Self {
        Self { text, severity: Severity::Informational }
    }
}

/// What became of some lines.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    /// How many from the first on are done with; the others are to be offered again after a pause.
    pub(super) done: usize,
    /// How many of those were not written.
    pub(super) lost: usize,
    /// Why.
    pub(super) error: Option<io::Error>,
}

impl Output {
    /// `log` names the log to collectors that take several.
    pub(super) fn new(target: &Target, syslog: &SyslogSettings, log: &'static str) -> Self {
        let kind = match target {
            Target::Stdout => Kind::Stream(Box::new(io::stdout())),
            Target::Stderr => Kind::Stream(Box::new(io::stderr())),
            Target::File(path) => Kind::File(LogFile::at(path)),
            Target::Journal(path) => Kind::Journal(Journal::at(path, log)),
            Target::SyslogUnix(_) | Target::SyslogUdp(_) | Target::SyslogTcp(_) | Target::SyslogTls(_) => {
                Kind::Syslog(Box::new(Collector::new(target, syslog, log)))
            }
        };
        Self { kind }
    }

    /// A stream of the test's.
    #[cfg(test)]
    pub(super) fn over(stream: impl Write + Send + 'static) -> Self {
        Self { kind: Kind::Stream(Box::new(stream)) }
    }

    /// Writes lines.
    pub(super) fn write(&mut self, lines: &[Line]) -> Delivery {
        match &mut self.kind {
            Kind::Stream(stream) => write_joined(stream, lines),
            Kind::File(file) => file.write(lines),
            Kind::Journal(journal) => journal.write(lines),
            Kind::Syslog(collector) => collector.write(lines),
        }
    }

    /// Opens anew what was renamed away.
    pub(super) fn reopen(&mut self) {
        if let Kind::File(file) = &mut self.kind {
            file.close();
        }
    }
}

impl Delivery {
    fn complete(count: usize) -> Self {
        Self { done: count, ..Self::default() }
    }

    /// Offers each line to `send`, and goes on behind the one that is not taken.
    fn one_by_one(lines: &[Line], mut send: impl FnMut(&Line) -> io::Result<()>) -> Self {
        let mut delivery = Self::complete(lines.len());
        for line in lines {
            if let Err(error) = send(line) {
                delivery.lost += 1;
                delivery.error.get_or_insert(error);
            }
        }
        delivery
    }
}

fn write_joined(stream: &mut dyn Write, lines: &[Line]) -> Delivery {
    match stream.write_all(&joined(lines)).and_then(|()| stream.flush()) {
        Ok(()) => Delivery::complete(lines.len()),
        Err(error) => Delivery { done: lines.len(), lost: lines.len(), error: Some(error) },
    }
}

fn joined(lines: &[Line]) -> Vec<u8> {
    let mut text = Vec::with_capacity(lines.iter().map(|line| line.text.len() + 1).sum());
    for line in lines {
        text.extend_from_slice(&line.text);
        text.push(b'\n');
    }
    text
}
