//! The resolved configuration of the process: what `config` builds and everything else is started from.

use std::sync::Arc;
use std::time::Duration;

use super::logs::LogSettings;
use crate::telemetry::Configuration;
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
    /// How long a drain waits for open connections.
    pub drain_timeout: Duration,
    /// The access log and the audit log.
    pub logs: LogSettings,
    /// What is shown of all this.
    pub shown: Arc<Configuration>,
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
            drain_timeout: Duration::from_secs(60),
            logs: LogSettings::default(),
            shown: Arc::new(Configuration::none()),
        }
    }
}
