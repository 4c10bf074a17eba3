//! `sluice check`: is this configuration good?

use std::io::{self, Write};

use crate::config::{self, Severity};
use crate::server::Settings;

use super::{ConfigOption, Exit, print_diagnostics};

/// The options of `sluice check`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigOption,
    /// Print the JSON schema of the configuration file and check nothing
    #[arg(long, conflicts_with = "config")]
    pub schema: bool,
}

/// Prints one line where the configuration can be used, and what is wrong with it where not. Warnings go to standard
/// error and leave the exit status alone.
pub fn run(arguments: &Arguments) -> Exit {
    let output = if arguments.schema {
        config::schema()
    } else {
        let path = &arguments.config.config;
        let config::Checked { settings, diagnostics } = config::check(path);
        print_diagnostics(&diagnostics);
        let (errors, warnings) = (diagnostics.count(Severity::Error), diagnostics.count(Severity::Warning));
        let Some(settings) = settings else {
            let counts = format!("{}, {}", counted(errors, "error"), counted(warnings, "warning"));
            let _ = writeln!(io::stderr(), "{}: cannot be used: {counts}", path.display());
            return Exit::Failed;
        };
        format!("{}: {}, {}\n", path.display(), summary(&settings), counted(warnings, "warning"))
    };
    match io::stdout().write_all(output.as_bytes()).and_then(|()| io::stdout().flush()) {
        Ok(()) => Exit::Ok,
        // The reader went away, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: cannot write to standard output: {error}");
            Exit::Unavailable
        }
    }
}

fn summary(settings: &Settings) -> String {
    let listeners = counted(settings.listeners.len(), "listener");
    let backends = counted(settings.backends.len(), "backend");
    let workers = counted(settings.workers.cpus.len(), "worker");
    format!("good: {listeners}, {backends}, {workers}")
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}
