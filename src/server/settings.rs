//! The resolved configuration of the process: what `config` builds and everything else is started from.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::logs::LogSettings;
use crate::telemetry::Configuration;
use crate::telemetry::output::Target;
use crate::{admin, backend, ticket, worker};

/// Everything that a configuration file decides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The workers.
    pub workers: worker::Settings,
    /// The admin endpoint.
    pub admin: admin::Settings,
    /// Session tickets.
    pub tickets: ticket::Settings,
    /// At least one listener.
    pub listeners: Vec<worker::ListenerSettings>,
    /// At least one backend.
    pub backends: Vec<backend::Settings>,
    /// Memory that the process may have in RAM before it gives something up; none: no bound.
    pub memory_max_bytes: Option<u64>,
    /// Clients that limits per client tell apart at the same time.
    pub tracked_clients_max: usize,
    /// The user that the process becomes when it is started as root.
    pub user: Option<User>,
    /// Whether files are confined.
    pub sandbox: Sandbox,
    /// Whether the memory of the process may be written to a file.
    pub core_dumps: CoreDumps,
    /// How long a drain waits for open connections.
    pub drain_timeout: Duration,
    /// The access log and the audit log.
    pub logs: LogSettings,
    /// What is shown of all this.
    pub shown: Arc<Configuration>,
}

/// A user of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// The number of its group.
    pub gid: u32,
}

/// Whether the process confines itself to the files that the configuration names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// Where the kernel can.
    #[default]
    Auto,
    /// No.
    Off,
    /// Yes, or refuse to start.
    Required,
}

/// Whether the kernel may write the memory of the process to a file when it crashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CoreDumps {
    /// No: keys and traffic are in it.
    #[default]
    Refuse,
    /// As the limits of the process say.
    Allow,
}

impl Settings {
    /// Every file that is read again while the process runs.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let tls = self.admin.tls.iter().flat_map(|tls| [tls.chain.clone(), tls.key.clone(), tls.client_ca.clone()]);
        let listeners = self.listeners.iter().flat_map(|listener| listener.tls.files());
        let ours = self.logs.syslog.tls.certificate.iter().flat_map(|(chain, key)| [chain, key]);
        let collectors = self.logs.syslog.tls.ca.iter().chain(ours).cloned();
        listeners.chain(tls).chain(self.tickets.key_files.iter().cloned()).chain(collectors).collect()
    }

    /// The folders in which files are made while the process runs.
    pub(super) fn written_folders(&self) -> Vec<PathBuf> {
        let socket = match &self.admin.address {
            Some(admin::Address::Unix(path)) => Some(path),
            _ => None,
        };
        let targets = self.logs.access.target.iter().chain(&self.logs.audit.copy).chain([&self.logs.process.target]);
        let logs = targets.filter_map(|target| match target {
            Target::File(path) => Some(path),
            _ => None,
        });
        let files = self.tickets.ring.iter().chain(socket).chain(&self.logs.audit.file).chain(logs);
        files.filter_map(|file| file.parent()).map(PathBuf::from).collect()
    }
}

/// Reads the configuration anew; called for each reload, on a thread of its own.
pub type Reader = Arc<dyn Fn() -> Result<Reading, Unusable> + Send + Sync>;

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Reading {
    /// What it comes to.
    pub settings: Settings,
    /// What the operator should look at, one line each.
    pub warnings: Vec<String>,
}

/// A configuration that cannot be used.
#[derive(Clone, Debug)]
pub struct Unusable {
    /// Every error, one line each, for the log.
    pub lines: Vec<String>,
    /// The same as `sluice check` shows it.
    pub rendered: String,
}

#[cfg(test)]
impl Settings {
    /// Settings with nothing to serve, for tests.
    pub(super) fn sample(worker_count: usize) -> Self {
        Self {
            workers: worker::Settings::for_cpus((0..worker_count).collect()),
            admin: admin::Settings::default(),
            tickets: ticket::Settings { ring: None, key_files: Vec::new(), lifetime: Duration::ZERO, count: 1 },
            listeners: Vec::new(),
            backends: Vec::new(),
            memory_max_bytes: None,
            tracked_clients_max: 1,
            user: None,
            sandbox: Sandbox::Off,
            core_dumps: CoreDumps::Allow,
            drain_timeout: Duration::from_secs(60),
            logs: LogSettings::default(),
            shown: Arc::new(Configuration::none()),
        }
    }
}
