//! `sluice run`: serve.

use std::env;
use std::path::Path;
use std::sync::Arc;

use super::{ConfigOption, Exit, print_diagnostics};
use crate::admin::BindError;
use crate::config::{self, Severity, Style};
use crate::server::{
    self, Confinement, Ended, Foundation, Reading, ServeError, Settings, Signals, StartError, Unusable,
};
use crate::telemetry::diagnostics::{self, Format, Overrides};
use crate::worker::WorkerError;

/// The options of `sluice run`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigOption,
    /// What to log: a level, or module=level pairs separated by commas [default: $SLUICE_LOG, or log.level of the
    /// configuration]
    #[arg(long, value_name = "FILTER")]
    pub log_level: Option<String>,
    /// What a log line looks like [default: log.format of the configuration]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<Format>,
}

/// Serves until it is told to end. Mistakes in the configuration go to standard error as `sluice check` shows them,
/// everything else goes to the log.
pub fn run(arguments: &Arguments) -> Exit {
    let config = &arguments.config.config;
    let config::Checked { settings, diagnostics } = config::check(config);
    let Some(settings) = settings else {
        print_diagnostics(&diagnostics);
        return Exit::Failed;
    };
    // Before the log, whose thread is the first one: what is given up is given up by all.
    let confinement = match Confinement::confine(&settings, config) {
        Ok(confinement) => confinement,
        Err(error) => {
            eprintln!("error: {error}");
            return Exit::Unavailable;
        }
    };
    let signals = match Signals::hold() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("error: signals cannot be received: {error}");
            return Exit::Unavailable;
        }
    };
    let overrides = Overrides { filter: filter(arguments.log_level.as_deref()), format: arguments.log_format };
    let log = match diagnostics::start(&settings.logs.process, overrides, &settings.logs.syslog) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("error: {error}");
            return Exit::Usage;
        }
    };
    for warning in diagnostics.iter() {
        tracing::warn!("{}", diagnostics.line(warning));
    }
    confinement.log();
    let exit = serve(&settings, config, Foundation { signals, log: Some(log.handle()) });
    drop(log);
    exit
}

fn serve(settings: &Settings, config: &Path, foundation: Foundation) -> Exit {
    tracing::info!(config = %config.display(), "configuration loaded");
    let file = config.to_owned();
    match server::serve(settings, Arc::new(move || reread(&file)), foundation) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            let exit = exit_of(&error);
            tracing::error!(exit = exit.code(), "{error}");
            exit
        }
    }
}

/// Reads the configuration for a reload.
fn reread(file: &Path) -> Result<Reading, Unusable> {
    let config::Checked { settings, diagnostics } = config::check(file);
    let lines = |severity| {
        let findings = diagnostics.iter().filter(move |finding| finding.severity == severity);
        findings.map(|finding| diagnostics.line(finding)).collect()
    };
    match settings {
        Some(settings) => Ok(Reading { settings, warnings: lines(Severity::Warning) }),
        None => Err(Unusable { lines: lines(Severity::Error), rendered: diagnostics.render(Style::Plain) }),
    }
}

fn exit_of(error: &ServeError) -> Exit {
    match error {
        ServeError::Start(StartError::Identity { .. } | StartError::Listener(_))
        | ServeError::Admin(BindError::NotLoopback(_) | BindError::NotASocket(_) | BindError::Tls(_)) => Exit::Failed,
        ServeError::Worker { source: Ended::Failed(error), .. } => match error {
            WorkerError::Context { .. } | WorkerError::Address(_) => Exit::Failed,
            WorkerError::Pin { .. } | WorkerError::Start { .. } => Exit::Unavailable,
        },
        ServeError::Start(_) | ServeError::Admin(_) | ServeError::Runtime(_) | ServeError::Inherit(_) => {
            Exit::Unavailable
        }
        ServeError::Worker { source: Ended::Panicked, .. }
        | ServeError::WorkerLeft { .. }
        | ServeError::Stuck { .. } => Exit::Internal,
    }
}

/// The filter of the command line, or that of the environment.
fn filter(option: Option<&str>) -> Option<String> {
    let from_environment = || env::var(FILTER_VARIABLE).ok().filter(|filter| !filter.is_empty());
    option.map(str::to_owned).or_else(from_environment)
}

/// The environment variable that holds the log filter where the command line has none.
const FILTER_VARIABLE: &str = "SLUICE_LOG";
