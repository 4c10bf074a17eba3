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
mod profile;
mod report;
mod source;
mod text;

use std::env;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::config::{self, Machine, Style};
use crate::ktls;

use super::Exit;
use finding::Finding;
use plan::Plan;
use profile::Comparison;
use report::Report;

/// The options of `sluice doctor`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Judge the machine for this configuration file, and the file too
    #[arg(long = "config", short = 'c', value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Compare the machine with a profile of tuning/profiles, or with a file of your own
    #[arg(long, value_name = "NAME|FILE")]
    pub profile: Option<String>,
    /// The NIC of the profile [default: that of the default route]
    #[arg(long, value_name = "NAME", requires = "profile", value_parser = interface)]
    pub interface: Option<String>,
    /// Print what would make the machine fit the profile, for tuning/apply
    #[arg(long, requires = "profile", conflicts_with = "json")]
    pub changes: bool,
    /// Look for the profile in /proc and /sys below DIR, a copy of those of a machine, and at nothing else
    #[arg(long, value_name = "DIR", requires = "profile", default_value = "/", hide_default_value = true)]
    pub root: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The name of an interface, which goes into paths and into commands that people copy.
fn interface(text: &str) -> Result<String, String> {
    let is_good = |c: u8| c.is_ascii_alphanumeric() || b"._-:@".contains(&c);
    let is_name =
        (1..=INTERFACE_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_good) && !text.starts_with('.');
    if is_name {
        Ok(text.to_owned())
    } else {
        Err(format!("allowed: 1 to {INTERFACE_BYTES_MAX} letters, digits, `.`, `_`, `-`"))
    }
}

/// Longest name of an interface: IFNAMSIZ of Linux, less the end.
const INTERFACE_BYTES_MAX: usize = 15;

/// Examines the machine, and prints what was found on standard output. Fails where something is broken, and only then.
///
/// Limits are those of this process: they tell something about the service where this runs as the service does.
pub fn run(arguments: &Arguments) -> Exit {
    let comparison = match arguments.profile.as_deref().map(|name| compare_with(name, arguments)).transpose() {
        Ok(comparison) => comparison,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            return Exit::Usage;
        }
    };
    if let Some(comparison) = comparison.as_ref().filter(|_| arguments.changes) {
        let machine = machine_below(&arguments.root);
        return print(&comparison.judge(&machine, None).changes()).map_or_else(|exit| exit, |()| Exit::Ok);
    }
    let report = examine(arguments, comparison.as_ref());
    let output = if arguments.json { report.json() } else { text::render(&report, style()) };
    let verdict = if report.is_broken() { Exit::Failed } else { Exit::Ok };
    print(&output).map_or_else(|exit| exit, |()| verdict)
}

fn print(output: &str) -> Result<(), Exit> {
    match io::stdout().write_all(output.as_bytes()).and_then(|()| io::stdout().flush()) {
        Ok(()) => Ok(()),
        // The reader went away, as `head` does; the exit status is still the verdict.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: cannot write to standard output: {error}");
            Err(Exit::Unavailable)
        }
    }
}

fn compare_with<'a>(name: &str, arguments: &'a Arguments) -> Result<Comparison<'a>, profile::Error> {
    Comparison::new(name, arguments.interface.as_deref(), &arguments.root)
}

/// This machine, or the one whose files are below `root`: there every CPU counts as ours.
fn machine_below(root: &Path) -> Machine {
    if root == Path::new("/") { Machine::read() } else { Machine::read_below(root, None) }
}

fn examine(arguments: &Arguments, comparison: Option<&Comparison<'_>>) -> Report {
    let checked = arguments.config.as_deref().map(config::check);
    let settings = checked.as_ref().and_then(|checked| checked.settings.as_ref());
    let plan = settings.map(Plan::of);
    let plan = plan.as_ref();
    let compare = |comparison: &Comparison<'_>| comparison.judge(&machine_below(&arguments.root), plan).findings;
    if let Some(comparison) = comparison.filter(|_| arguments.root != Path::new("/")) {
        // Of another machine nothing else is known.
        return Report { findings: compare(comparison), capabilities: ktls::Capabilities::unasked() };
    }
    // The ring first: nothing that comes later can have used up what it needs.
    let io_uring = io_uring::Facts::read();
    let capabilities = ktls::probe();
    let mut findings: Vec<Finding> = Vec::new();
    findings.extend(kernel::judge(&capabilities, plan));
    findings.extend(io_uring::judge(&io_uring, plan));
    findings.extend(kernel_tls::judge(&capabilities, plan));
    findings.extend(limits::judge(&limits::Facts::read(), plan));
    findings.extend(network::judge(&network::Facts::read(), plan));
    findings.extend(cpu::judge(&cpu::Facts::read(plan), plan));
    findings.extend(library::judge(&library::Facts::read()));
    if let Some(checked) = &checked {
        findings.extend(configuration::judge_diagnostics(&checked.diagnostics));
        let certificates = configuration::Certificate::read_all(settings);
        findings.extend(configuration::judge_certificates(&certificates, SystemTime::now()));
    }
    findings.extend(comparison.map(compare).unwrap_or_default());
    Report { findings, capabilities }
}

fn style() -> Style {
    // https://no-color.org: set and not empty.
    let wants_plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if io::stdout().is_terminal() && !wants_plain { Style::Coloured } else { Style::Plain }
}
