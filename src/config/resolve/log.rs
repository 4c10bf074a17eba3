//! `[log]`, `[access_log]`, `[audit_log]` and `[syslog]`.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::server::LogSettings;
use crate::telemetry::access::AccessSettings;
use crate::telemetry::audit::AuditSettings;
use crate::telemetry::diagnostics::{DiagnosticsSettings, Format};
use crate::telemetry::output::{SyslogSettings, Target, TlsFiles};

use super::super::diagnostic::Diagnostic;
use super::super::limit;
use super::super::raw;
use super::super::report::Report;
use super::super::scalar::{Field, LogFilter, LogOutput, ProcessLogOutput, Written};
use super::{Environment, check_port};

pub(super) fn resolve(file: &raw::File, environment: &Environment, report: &mut Report) -> LogSettings {
    let process = process(&file.log, environment, report);
    let access = target(&file.access_log.output, environment, report);
    let every = report.bounded(&file.access_log.sample, &limit::ACCESS_LOG_SAMPLE);
    let copy = target(&file.audit_log.output, environment, report);
    let audit_file = report.get(&file.audit_log.file).map(|(path, span)| {
        let path = environment.absolute(&path);
        check_folder(&path, &span, report);
        path
    });
    let targets = [Some(&process.target), access.as_ref(), copy.as_ref()];
    let syslog = syslog(&file.syslog, targets, environment, report);
    LogSettings {
        access: AccessSettings { target: access, every: u32::try_from(every).unwrap_or(u32::MAX) },
        audit: AuditSettings { file: audit_file, copy },
        process,
        syslog,
    }
}

fn process(raw: &raw::Log, environment: &Environment, report: &mut Report) -> DiagnosticsSettings {
    let default = DiagnosticsSettings::default();
    let written = report.get(&raw.output);
    let target = written.map(|(ProcessLogOutput(target), span)| located(target, &span, environment, report));
    DiagnosticsSettings {
        filter: report.get(&raw.level).map_or(default.filter, |(LogFilter(filter), _)| filter),
        format: report.get_or(&raw.format, Format::Text),
        target: target.unwrap_or(default.target),
    }
}

fn target(field: &Field<LogOutput>, environment: &Environment, report: &mut Report) -> Option<Target> {
    let (LogOutput(target), span) = report.get(field)?;
    Some(located(target?, &span, environment, report))
}

/// With absolute paths, in folders that exist, and with ports.
fn located(target: Target, span: &Range<usize>, environment: &Environment, report: &mut Report) -> Target {
    match target {
        Target::File(path) => {
            let path = environment.absolute(&path);
            check_folder(&path, span, report);
            Target::File(path)
        }
        Target::Journal(path) => Target::Journal(environment.absolute(&path)),
        Target::SyslogUnix(path) => Target::SyslogUnix(environment.absolute(&path)),
        other => {
            if let Target::SyslogUdp(address) | Target::SyslogTcp(address) | Target::SyslogTls(address) = other {
                check_port(address, span, report);
            }
            other
        }
    }
}

fn check_folder(path: &Path, span: &Range<usize>, report: &mut Report) {
    let folder = path.parent().unwrap_or(path);
    if path.is_dir() || !folder.is_dir() {
        let what = if path.is_dir() { "names a folder" } else { "names a file in a folder that does not exist" };
        let finding = Diagnostic::error(format!("`{}` {what}", report.path(span))).help(format!(
            "create the folder for the user that runs the proxy: install -d -m 0750 {}",
            folder.display()
        ));
        report.push_at(finding, span, format!("found {}", path.display()));
    }
}

fn syslog(
    raw: &raw::Syslog,
    targets: [Option<&Target>; 3],
    environment: &Environment,
    report: &mut Report,
) -> SyslogSettings {
    let path = |written: Option<Written<PathBuf>>| written.map(|(path, span)| (environment.absolute(&path), span));
    let (ca, chain, key) = (path(report.get(&raw.ca)), path(report.get(&raw.chain)), path(report.get(&raw.key)));
    let span = [&ca, &chain, &key].into_iter().flatten().map(|(_, span)| span.clone()).next();
    let certificate = match (chain, key) {
        (Some((chain, _)), Some((key, _))) => Some((chain, key)),
        (Some((_, span)), None) | (None, Some((_, span))) => {
            let finding = Diagnostic::error("`syslog.chain` and `syslog.key` belong together");
            report.push_at(finding.help("name both files, or neither"), &span, "the other one is missing");
            None
        }
        (None, None) => None,
    };
    let server_name = report.get(&raw.server_name).map(|(name, _)| name);
    let tls = TlsFiles { ca: ca.map(|(path, _)| path), server_name, certificate };
    let uses_tls = targets.into_iter().flatten().any(|target| matches!(target, Target::SyslogTls(_)));
    // Without files there is nothing to try, and OpenSSL would read all authorities that the machine trusts.
    match span.map(|span| (tls.connector(), span)) {
        Some((Err(error), span)) => {
            let finding = Diagnostic::error("a file of `[syslog]` cannot be used");
            report.push_at(finding, &span, error.to_string());
        }
        Some((Ok(_), span)) if !uses_tls => {
            let finding = Diagnostic::warning("the files of `[syslog]` have no effect");
            report.push_at(
                finding.help("remove them, or set an output to \"syslog+tls:..\""),
                &span,
                "no output uses TLS",
            );
        }
        Some((Ok(_), _)) | None => {}
    }
    SyslogSettings { facility: report.get_or(&raw.facility, Default::default()), tls }
}
