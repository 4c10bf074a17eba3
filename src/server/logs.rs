//! The logs: of connections, of what operators do, and of the process itself, which was there before all others.

use std::io;
use std::sync::{Arc, Mutex};

use super::settings::Settings;
use crate::telemetry::access::{AccessLog, AccessRing, AccessSettings};
use crate::telemetry::audit::{Actor, AuditEvent, AuditLog, AuditRecord, AuditSettings, CertificateFact, Head};
use crate::telemetry::diagnostics::{DiagnosticsHandle, DiagnosticsSettings};
use crate::telemetry::output::{LogCounters, SyslogSettings};

/// What the logs are configured with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// The access log.
    pub access: AccessSettings,
    /// The audit log.
    pub audit: AuditSettings,
    /// The log of the process.
    pub process: DiagnosticsSettings,
    /// What all of them do with a syslog collector.
    pub syslog: SyslogSettings,
}

/// The logs of a running process.
pub(super) struct Logs {
    settings: LogSettings,
    access: AccessLog,
    audit: AuditLog,
    counters: Arc<LogCounters>,
    /// None where the process has none that can be changed, such as a test.
    process: Option<DiagnosticsHandle>,
    /// SHA-256 of the configuration that the last audit record told of.
    configuration: Option<String>,
    /// The certificates that it told of.
    certificates: Option<Vec<CertificateFact>>,
}

impl Logs {
    /// Starts those that are not there yet; the ring of each worker comes back, too.
    pub(super) fn start(
        settings: &Settings,
        worker_count: usize,
        process: Option<DiagnosticsHandle>,
    ) -> io::Result<(Self, Vec<AccessRing>)> {
        let settings = &settings.logs;
        let counters = process.as_ref().map(DiagnosticsHandle::counters).unwrap_or_default();
        let audit = AuditLog::start(&settings.audit, &settings.syslog, Arc::clone(&counters))?;
        let (mut access, rings) = AccessLog::new(worker_count, Arc::clone(&counters));
        access.apply(&settings.access, &settings.syslog)?;
        let settings = settings.clone();
        let logs = Self { settings, access, audit, counters, process, configuration: None, certificates: None };
        Ok((logs, rings))
    }

    /// Makes them as a new configuration has them. The audit log stays where it was until the next start.
    pub(super) fn apply(&mut self, settings: &LogSettings) {
        if settings.audit != self.settings.audit {
            tracing::warn!("[audit_log] has changed: the change takes effect at the next start");
        }
        let process = self.process.as_ref();
        if let Some(process) =
            process.filter(|_| (&settings.process, &settings.syslog) != (&self.settings.process, &self.settings.syslog))
        {
            process.apply(&settings.process, &settings.syslog);
        }
        let is_same = settings.access == self.settings.access && settings.syslog == self.settings.syslog;
        if !is_same && let Err(error) = self.access.apply(&settings.access, &settings.syslog) {
            tracing::error!(%error, "the access log cannot be changed: no thread is left");
            return;
        }
        self.settings = LogSettings { audit: self.settings.audit.clone(), ..settings.clone() };
    }

    /// Opens files anew that were renamed away.
    pub(super) fn reopen(&self) {
        self.access.reopen();
        self.process.iter().for_each(DiagnosticsHandle::reopen);
    }

    /// Takes note of an administrative act, after which `configuration` and `certificates` are in service.
    pub(super) fn audit(
        &mut self,
        event: AuditEvent,
        by: Actor,
        detail: Option<String>,
        configuration: &str,
        certificates: Vec<CertificateFact>,
    ) {
        let configuration_before = self.configuration.replace(configuration.to_owned());
        let certificates_before = self.certificates.replace(certificates.clone());
        self.audit.record(AuditRecord {
            event,
            by,
            detail,
            configuration_before: configuration_before.filter(|before| before != configuration),
            configuration: Some(configuration.to_owned()),
            certificates_before: certificates_before.filter(|before| *before != certificates).unwrap_or_default(),
            certificates,
        });
    }

    /// What became of the lines.
    pub(super) fn counters(&self) -> Arc<LogCounters> {
        Arc::clone(&self.counters)
    }

    /// Where the chain of the audit log stands.
    pub(super) fn audit_head(&self) -> Arc<Mutex<Option<Head>>> {
        self.audit.head()
    }
}
