//! What a configuration asks of the machine.

use crate::backend::ServerAddress;
use crate::ktls;
use crate::server::Settings;
use crate::worker::{IoDriver, Steering};

/// The parts of the settings that the machine is judged by.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) io: IoDriver,
    pub(super) cpus: Vec<usize>,
    pub(super) steering: Steering,
    pub(super) worker_count: usize,
    /// Per worker.
    pub(super) connections_max: usize,
    pub(super) listeners: Vec<Listener>,
    pub(super) backends: Vec<Backend>,
}

#[derive(Clone, Debug)]
pub(super) struct Listener {
    pub(super) name: String,
    pub(super) kernel_tls: ktls::Settings,
}

#[derive(Clone, Debug)]
pub(super) struct Backend {
    pub(super) name: String,
    /// Servers that each connection needs a local port for.
    pub(super) tcp_count: usize,
    pub(super) unix_count: usize,
}

impl Plan {
    pub(super) fn of(settings: &Settings) -> Self {
        let listener = |listener: &crate::worker::ListenerSettings| Listener {
            name: listener.name.clone(),
            kernel_tls: listener.kernel_tls,
        };
        let backend = |backend: &crate::backend::Settings| {
            let is_tcp = |server: &&ServerAddress| matches!(server, ServerAddress::Tcp(_));
            let tcp_count = backend.servers.iter().filter(is_tcp).count();
            Backend { name: backend.name.clone(), tcp_count, unix_count: backend.servers.len() - tcp_count }
        };
        Self {
            io: settings.workers.io,
            cpus: settings.workers.cpus.clone(),
            steering: settings.workers.steering,
            worker_count: settings.workers.cpus.len(),
            connections_max: settings.workers.connections_max,
            listeners: settings.listeners.iter().map(listener).collect(),
            backends: settings.backends.iter().map(backend).collect(),
        }
    }

    /// Connections that all workers together may hold.
    pub(super) fn connections_total(&self) -> usize {
        self.worker_count.saturating_mul(self.connections_max)
    }

    /// Whether any listener may hand directions to the kernel.
    pub(super) fn wants_kernel_tls(&self) -> bool {
        self.listeners.iter().any(|listener| listener.kernel_tls.mode != ktls::Mode::Off)
    }
}

/// Without a configuration kernel TLS is taken as wanted: that is the default of a listener.
pub(super) fn wants_kernel_tls(plan: Option<&Plan>) -> bool {
    plan.is_none_or(Plan::wants_kernel_tls)
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// Two workers with 10 000 connections each, one listener `edge`, one backend `app` with one TCP server.
    pub(crate) fn plan(mode: ktls::Mode) -> Plan {
        let kernel_tls = ktls::Settings {
            mode,
            promote_after_bytes: ktls::Settings::PROMOTE_AFTER_BYTES,
            bulk: ktls::Bulk::Auto,
            known_bugs: ktls::KnownBugs::Refuse,
        };
        Plan {
            io: IoDriver::Auto,
            cpus: vec![0, 1],
            steering: Steering::Hash,
            worker_count: 2,
            connections_max: 10_000,
            listeners: vec![Listener { name: "edge".to_owned(), kernel_tls }],
            backends: vec![Backend { name: "app".to_owned(), tcp_count: 1, unix_count: 0 }],
        }
    }
}
