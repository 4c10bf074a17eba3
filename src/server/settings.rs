//! The resolved configuration of the process: what `config` builds and everything else is started from.

use std::sync::Arc;
use std::time::Duration;

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
    /// Clients that limits per client tell apart at the same time.
    pub tracked_clients_max: usize,
    /// How long a drain waits for open connections.
    pub drain_timeout: Duration,
    /// What is shown of all this.
    pub shown: Arc<Configuration>,
}
