//! What the process says about itself when it starts.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;

use super::settings::Settings;
use super::start::Server;
use crate::admin;
use crate::ktls;
use crate::telemetry::{
    GenerationCell, KernelTlsView, PhaseCell, Process, ReloadView, SnapshotView, WorkerStateCell, WorkerView,
};
use crate::worker::Ring;

/// The facts about a process whose workers have just been started.
pub(super) fn process(settings: &Settings, server: &Server, started: (SystemTime, Instant)) -> Process {
    let (driver, ring_flags) = driver_and_flags(server.ring());
    let worker = |((cpu, metrics), pulse): ((&usize, &Arc<_>), &Arc<_>)| WorkerView {
        cpu: *cpu,
        metrics: Arc::clone(metrics),
        state: WorkerStateCell::new(),
        pulse: Arc::clone(pulse),
        generation: GenerationCell::default(),
    };
    Process {
        version: env!("CARGO_PKG_VERSION"),
        openssl: openssl::version::version(),
        kernel: kernel_release(),
        driver,
        ring_flags,
        started: started.0,
        started_at: started.1,
        workers: settings.workers.cpus.iter().zip(server.metrics()).zip(server.pulses()).map(worker).collect(),
        snapshot: ArcSwap::from_pointee(server.view()),
        reloads: ReloadView::default(),
        stapling: Arc::default(),
        ticket_ring: server.ticket_ring(),
        kernel_tls: kernel_tls(server),
        logs: server.logs().counters(),
        audit_head: server.logs().audit_head(),
        configuration: Arc::clone(&settings.shown).into(),
        memory: Arc::default(),
        phase: PhaseCell::new(),
        drain: arc_swap::ArcSwapOption::empty(),
    }
}

/// Logs one line about the whole, then one per address that is listened on.
pub(super) fn log(process: &Process, admin: Option<&admin::Address>) {
    let cpus = join(process.workers.iter().map(|worker| worker.cpu.to_string()));
    let snapshot = process.snapshot.load();
    let listeners = join(snapshot.listeners.iter().map(|listener| format!("{}={}", listener.name, listener.address)));
    tracing::info!(
        version = %process.version,
        kernel = %process.kernel,
        io = %process.driver,
        ring_flags = %process.ring_flags.join("|"),
        openssl = %process.openssl,
        workers = process.workers.len(),
        cpus = %cpus,
        listeners = %listeners,
        admin = %admin.map_or_else(|| "off".to_owned(), |address| address.to_string()),
        "sluice started"
    );
    for listener in &snapshot.listeners {
        tracing::info!(listener = %listener.name, address = %listener.address, "listening");
    }
    if let Some(address) = admin {
        tracing::info!(address = %address, "admin listening");
    }
}

fn kernel_tls(server: &Server) -> KernelTlsView {
    let capabilities = server.capabilities();
    let absence = capabilities.absent.as_ref();
    KernelTlsView {
        is_wanted: absence != Some(&ktls::Absence::Unasked),
        absent: absence.map(|absence| format!("{absence}; {}", absence.remedy())),
        known_bugs: capabilities.known_bugs.iter().map(|bug| bug.id.to_owned()).collect(),
    }
}

/// Logs the addresses that are listened on since a reload, and those that are no longer.
pub(super) fn log_changes(before: &SnapshotView, after: &SnapshotView) {
    let is_in = |view: &SnapshotView, address| view.listeners.iter().any(|listener| listener.address == address);
    for listener in after.listeners.iter().filter(|listener| !is_in(before, listener.address)) {
        tracing::info!(listener = %listener.name, address = %listener.address, "listening");
    }
    for listener in before.listeners.iter().filter(|listener| !is_in(after, listener.address)) {
        tracing::info!(listener = %listener.name, address = %listener.address, "no longer listening");
    }
}

fn driver_and_flags(ring: Ring) -> (&'static str, &'static [&'static str]) {
    match ring {
        Ring::DeferTaskrun => ("io_uring", &["SINGLE_ISSUER", "DEFER_TASKRUN"]),
        Ring::CoopTaskrun => ("io_uring", &["COOP_TASKRUN", "TASKRUN_FLAG"]),
        Ring::Plain => ("io_uring", &[]),
        Ring::Epoll => ("epoll", &[]),
    }
}

fn join(words: impl Iterator<Item = String>) -> String {
    let mut text = String::new();
    for (position, word) in words.enumerate() {
        let comma = if position == 0 { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}{word}");
    }
    text
}

fn kernel_release() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    release.map_or_else(|_| "unknown".to_owned(), |release| release.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_flags_in_the_summary_are_those_that_the_ring_names() {
        for ring in [Ring::DeferTaskrun, Ring::CoopTaskrun, Ring::Plain, Ring::Epoll] {
            let (driver, flags) = driver_and_flags(ring);
            assert!(ring.name().starts_with(driver));
            assert!(ring.name().contains(&flags.join("|")));
        }
    }

    #[test]
    fn kernel_release_is_the_running_kernels() {
        assert!(kernel_release().starts_with(|letter: char| letter.is_ascii_digit()), "{}", kernel_release());
    }
}
