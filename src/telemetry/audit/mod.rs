//! The audit log: who changed what about the running process, as a chain of records that shows when it was tampered with.
//!
//! Records go to a file that only its owner may read, synced one by one, by a thread of their own. The chain is continued
//! by the next process, and by two at a time during an upgrade: each record is appended under a lock, to the record that
//! is last in the file then.

mod chain;
mod file;

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;

pub use chain::{Fault, Head, Link};

use super::cell::Label;
use super::label::{LogName, LogResult};
use super::output::{LogCounters, Spool, SyslogSettings, Target};
use file::ChainFile;

/// Records that wait to be written at most; one more is lost. There is one for each act of an operator.
const QUEUED_RECORDS_MAX: usize = 256;
/// How often copies are offered again to a collector that was away.
const RETRY: Duration = Duration::from_secs(1);
/// How long the end of the process waits for the last records.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// What the audit log is configured with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditSettings {
    /// The file of the chain; none: there is none.
    pub file: Option<PathBuf>,
    /// Where a copy of each record goes.
    pub copy: Option<Target>,
}

/// What happened.
#[derive(Clone, Debug, Serialize)]
pub struct AuditRecord {
    /// What was done.
    pub event: AuditEvent,
    /// Who did it.
    pub by: Actor,
    /// What came of it, where that is not plain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// SHA-256 of the configuration file before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration_before: Option<String>,
    /// SHA-256 of the configuration file that is in force now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
    /// SHA-256 fingerprints of the certificates in service before, where others are now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates_before: Vec<CertificateFact>,
    /// SHA-256 fingerprints of the certificates in service now, by listener.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateFact>,
}

/// A certificate in service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateFact {
    /// The listener.
    pub listener: String,
    /// SHA-256 over its DER form, in hexadecimal.
    pub sha256: String,
}

/// What an audit record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditEvent {
    /// The process serves.
    Start,
    /// A new configuration is in force.
    Reload,
    /// A new configuration was refused.
    ReloadRefused,
    /// Certificates were exchanged.
    CertificatesChanged,
    /// Certificate files changed, and the new ones are refused.
    CertificatesRefused,
    /// Another set of ticket keys is in force: revoked or replaced.
    TicketsRevoked,
    /// A successor takes over.
    Upgrade,
    /// A successor failed to start.
    UpgradeRefused,
    /// A drain begins.
    Drain,
    /// Open connections are cut.
    Stop,
    /// The process ends.
    End,
}

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// The process itself: at its start, by a timer, or because a file has changed.
    Process {
        /// Its number.
        pid: u32,
        /// Its user.
        uid: u32,
    },
    /// Whoever sent a signal.
    Signal {
        /// The signal.
        signal: &'static str,
        /// The process that sent it; none where the kernel did, or did not say.
        #[serde(skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
        /// Its user.
        #[serde(skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
    },
    /// A client of the admin endpoint.
    Admin(AdminPeer),
}

/// A client of the admin endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AdminPeer {
    /// Its address, or `unix`.
    pub address: String,
    /// The process at the other end of a unix socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The subject of its certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

/// The audit log of the process; dropped, it waits a moment for what is queued to be written.
#[derive(Debug)]
pub struct AuditLog {
    orders: Option<SyncSender<Order>>,
    counters: Arc<LogCounters>,
    head: Arc<Mutex<Option<Head>>>,
}

#[derive(Debug)]
enum Order {
    Write(SystemTime, Box<AuditRecord>),
    /// Everything before it has been written when the channel is closed.
    Flush(#[allow(dead_code, reason = "closed by being dropped")] SyncSender<()>),
}

impl Actor {
    /// The process itself.
    pub fn process() -> Self {
        Self::Process { pid: std::process::id(), uid: nix::unistd::getuid().as_raw() }
    }
}

impl AuditLog {
    /// Starts the log; off where the settings name neither a file nor an output.
    ///
    /// # Errors
    /// When the file cannot be opened for appending, or no thread is left.
    pub fn start(settings: &AuditSettings, syslog: &SyslogSettings, counters: Arc<LogCounters>) -> io::Result<Self> {
        let head = Arc::default();
        if *settings == AuditSettings::default() {
            return Ok(Self { orders: None, counters, head });
        }
        let file = settings.file.as_ref().map(|path| ChainFile::open(path)).transpose()?;
        let copy = settings.copy.as_ref().map(|target| Spool::new(LogName::Audit, target, syslog));
        let (orders, inbox) = mpsc::sync_channel(QUEUED_RECORDS_MAX);
        let writer = Writer { file, copy, head: Arc::clone(&head), counters: Arc::clone(&counters), lost: 0 };
        std::thread::Builder::new().name("audit-log".to_owned()).spawn(move || writer.run(&inbox))?;
        Ok(Self { orders: Some(orders), counters, head })
    }

    /// Takes note; never waits.
    pub fn record(&self, record: AuditRecord) {
        let Some(orders) = &self.orders else { return };
        if let Err(TrySendError::Full(_)) = orders.try_send(Order::Write(SystemTime::now(), Box::new(record))) {
            self.counters.lines.of(LogName::Audit).of(LogResult::Lost).increment();
        }
    }

    /// The last record that was written; shared with whoever shows it.
    pub fn head(&self) -> Arc<Mutex<Option<Head>>> {
        Arc::clone(&self.head)
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        let Some(orders) = &self.orders else { return };
        let (done, is_done) = mpsc::sync_channel(1);
        if orders.try_send(Order::Flush(done)).is_ok() {
            let _ = is_done.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

/// The thread's own.
struct Writer {
    file: Option<ChainFile>,
    copy: Option<Spool>,
    head: Arc<Mutex<Option<Head>>>,
    counters: Arc<LogCounters>,
    /// Records that could not be written since the last one that was.
    lost: u64,
}

/// A record, and what has to be said about the log itself.
#[derive(Serialize)]
struct Content<'a> {
    #[serde(flatten)]
    record: &'a AuditRecord,
    /// Records that were lost before this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost_before: Option<u64>,
    /// What the end of the file was when it was not what this process had left there.
    #[serde(skip_serializing_if = "Option::is_none")]
    file_was: Option<String>,
}

impl Writer {
    fn run(mut self, inbox: &Receiver<Order>) {
        loop {
            match inbox.recv_timeout(RETRY) {
                Ok(Order::Write(time, record)) => self.write(time, &record),
                Ok(Order::Flush(done)) => {
                    self.offer_copies();
                    drop(done);
                }
                Err(mpsc::RecvTimeoutError::Timeout) => self.offer_copies(),
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn offer_copies(&mut self) {
        if let Some(copy) = &mut self.copy {
            copy.write(&self.counters);
        }
    }

    fn write(&mut self, time: SystemTime, record: &AuditRecord) {
        let before = self.head.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let time = humantime::format_rfc3339_millis(time).to_string();
        let lost_before = (self.lost > 0).then_some(self.lost);
        let follow = |head: &Head, file_was: Option<String>| {
            head.follow(&time, &Content { record, lost_before, file_was }).map_err(io::Error::other)
        };
        let written = match &mut self.file {
            Some(file) => file.append(before.as_ref(), follow),
            None => follow(&before.unwrap_or_else(Head::genesis), None),
        };
        let cells = self.counters.lines.of(LogName::Audit);
        match written {
            Ok((line, head)) => {
                if self.file.is_some() {
                    cells.of(LogResult::Written).increment();
                }
                self.lost = 0;
                *self.head.lock().unwrap_or_else(PoisonError::into_inner) = Some(head);
                if let Some(copy) = &mut self.copy {
                    if !copy.has_room() {
                        copy.abandon(&self.counters);
                    }
                    copy.push(line);
                    copy.write(&self.counters);
                }
            }
            Err(error) => {
                self.lost += 1;
                cells.of(LogResult::Lost).increment();
                tracing::error!(log = LogName::Audit.label(), %error, event = ?record.event, "audit record lost");
            }
        }
    }
}
