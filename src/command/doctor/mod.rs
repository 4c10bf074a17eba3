//! `sluice doctor`: is this machine fit to serve, and what to do where it is not?
//!
//! Each subject reads facts and judges them; judging is pure. Nothing is changed, and nothing is sent but over loopback.

mod configuration;
mod cpu;
mod finding;
mod io_uring;
mod kernel;
mod kernel_tls;
mod library;
mod limits;
mod network;
mod plan;
mod report;
mod source;
mod text;

use std::env;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use crate::config::{self, Style};
use crate::ktls;

use super::Exit;
use finding::Finding;
use plan::Plan;
use report::Report;

/// The options of `sluice doctor`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Judge the machine for this configuration file, and the file too
    #[arg(long = "config", short = 'c', value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Examines the machine, and prints what was found on standard output. Fails where something is broken, and only then.
///
/// Limits are those of this process: they tell something about the service where this runs as the service does.
pub fn run(arguments: &Arguments) -> Exit {
    let report = examine(arguments);
    let output = if arguments.json { report.json() } else { text::render(&report, style()) };
    match io::stdout().write_all(output.as_bytes()).and_then(|()| io::stdout().flush()) {
        Ok(()) => {}
        // The reader went away, as `head` does; the exit status is still the verdict.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: cannot write to standard output: {error}");
            return Exit::Unavailable;
        }
    }
    if report.is_broken() { Exit::Failed } else { Exit::Ok }
}

fn examine(arguments: &Arguments) -> Report {
    let checked = arguments.config.as_deref().map(config::check);
    let settings = checked.as_ref().and_then(|checked| checked.settings.as_ref());
    let plan = settings.map(Plan::of);
    let plan = plan.as_ref();
    // The ring first: nothing that comes later can have used up what it needs.
    let io_uring = io_uring::Facts::read();
    let capabilities = ktls::probe();
    let mut findings: Vec<Finding> = Vec::new();
    findings.extend(kernel::judge(&capabilities, plan));
    findings.extend(io_uring::judge(&io_uring, plan));
    findings.extend(kernel_tls::judge(&capabilities, plan));
    findings.extend(limits::judge(&limits::Facts::read(), plan));
    findings.extend(network::judge(&network::Facts::read(), plan));
    findings.extend(cpu::judge(&cpu::Facts::read()));
    findings.extend(library::judge(&library::Facts::read()));
    if let Some(checked) = &checked {
        findings.extend(configuration::judge_diagnostics(&checked.diagnostics));
        let certificates = configuration::Certificate::read_all(settings);
        findings.extend(configuration::judge_certificates(&certificates, SystemTime::now()));
    }
    Report { findings, capabilities }
}

fn style() -> Style {
    // https://no-color.org: set and not empty.
    let wants_plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if io::stdout().is_terminal() && !wants_plain { Style::Coloured } else { Style::Plain }
}
