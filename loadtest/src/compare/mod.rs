//! Runs the proxy and its peers in turn with equal settings.
//!
//! Order of a comparison: [`proxy`] finds who takes part, [`session`] runs every scenario round by round (each run
//! starts its proxy anew through [`instance`]), [`ratio`] concludes, and [`crate::report`] writes it down.

pub mod build;
pub mod certificate;
pub mod config;
pub mod environment;
pub mod instance;
pub mod outline;
pub mod probe;
pub mod process;
pub mod progress;
pub mod proxy;
pub mod ratio;
pub mod scenario;
pub mod schema;
pub mod session;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};

use self::progress::Progress;
use self::proxy::{Build, Candidate, Search};
use self::scenario::Case;
use self::schema::{Absent, Comparison};
use self::session::Session;
use crate::report;
use crate::run::Watch as _;

/// Arguments of `compare`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Directory for compare.json, table.md and index.html
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    selection: Selection,
}

/// Arguments of `plan`.
#[derive(Clone, Debug, clap::Args)]
pub struct PlanArgs {
    #[command(flatten)]
    selection: Selection,
}

/// Arguments of `report`.
#[derive(Clone, Debug, clap::Args)]
pub struct ReportArgs {
    /// compare.json of an earlier comparison
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// Directory for table.md and index.html
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// What takes part in a comparison, and how long.
#[derive(Clone, Debug, clap::Args)]
struct Selection {
    /// Program of Sluice; without it the one beside this program, then the one on PATH
    #[arg(long, value_name = "PATH")]
    sluice: Option<PathBuf>,
    /// Adds a build of a peer, e.g. haproxy-3.4=/opt/haproxy-3.4/sbin/haproxy; repeatable
    #[arg(long, value_name = "NAME=PATH")]
    peer_binary: Vec<Build>,
    /// Only these proxies (nginx means all of nginx's modes)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Which of the proxies the others are compared with
    #[arg(long, value_name = "NAME", default_value = "sluice")]
    subject: String,
    /// Only these scenarios; without it the standard set. See `plan --scenarios all`
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    scenarios: Vec<String>,
    /// How often each proxy runs each scenario
    #[arg(long, default_value_t = ROUNDS, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1000))]
    rounds: usize,
    /// Measured seconds of each run
    #[arg(long, default_value_t = SECONDS, value_parser = parse_seconds)]
    seconds: f64,
    /// Seconds before the measurement whose work is not counted
    #[arg(long, default_value_t = WARMUP_SECONDS, value_parser = parse_warmup)]
    warmup: f64,
    /// CPU of the proxy under test; without it the first CPU
    #[arg(long, value_name = "CPU")]
    proxy_cpu: Option<usize>,
    /// CPUs of client and backend; without it all the others
    #[arg(long, value_name = "CPU", value_delimiter = ',')]
    load_cpus: Vec<usize>,
    /// Adds a +ktls variant of every proxy that can hand its records to the kernel, and +auto of one that decides itself
    #[arg(long)]
    kernel_tls: bool,
    /// What readers of the report should know, e.g. that CPU time was counted in instructions
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

/// Runs the comparison. Exit code 0: everything ran and every best-peer ratio is believed; 1: something did not;
/// 130: the user interrupted. The report is written in each case.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let chosen = args.selection.choose()?;
    let selection = &args.selection;
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let directory = tempfile::Builder::new().prefix("sluice-compare-").tempdir().context("no temporary directory")?;
    let progress = Progress::new().context("cannot watch for ctrl-C")?;
    raise_descriptor_limit();
    let started = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let environment = environment::describe(selection.note.as_deref());
    // Nothing of this process, its threads included, may run beside the proxy.
    process::bind_to(&chosen.load_cpus)?;

    let outcome = session::run(
        Session {
            candidates: chosen.candidates,
            cases: chosen.cases,
            rounds: selection.rounds,
            duration: selection.duration(),
            warmup: selection.warmup(),
            proxy_cpu: chosen.proxy_cpu,
            load_cpus: chosen.load_cpus.clone(),
            directory: directory.path(),
            subject: &selection.subject,
        },
        &progress,
    )?;
    let comparison = Comparison {
        schema_version: schema::SCHEMA_VERSION,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        started,
        elapsed_seconds: outcome.elapsed.as_secs_f64(),
        interrupted: progress.interrupted(),
        command_line: std::env::args().collect(),
        environment,
        settings: schema::Settings {
            rounds: selection.rounds,
            seconds: selection.seconds,
            warmup_seconds: selection.warmup,
            proxy_cpu: chosen.proxy_cpu,
            load_cpus: chosen.load_cpus,
            tls13_suites: config::TLS13_SUITES.to_owned(),
            tls12_suites: config::TLS12_SUITES.to_owned(),
            groups: config::GROUPS.to_owned(),
        },
        proxies: outcome.proxies,
        absent: [chosen.absent, outcome.absent].concat(),
        scenarios: outcome.scenarios,
    };
    report::write(&comparison, &args.out)?;
    print!("{}", report::table::text(&comparison));
    println!("\nWritten to {}: compare.json, table.md, index.html", args.out.display());
    Ok(exit_code(&comparison, &selection.subject))
}

/// Prints what a comparison with the same arguments would do.
pub fn plan(args: &PlanArgs) -> anyhow::Result<ExitCode> {
    let selection = &args.selection;
    let chosen = selection.choose()?;
    print!(
        "{}",
        outline::outline(
            &chosen.candidates,
            &chosen.absent,
            &chosen.cases,
            selection.rounds,
            (selection.duration(), selection.warmup()),
            (chosen.proxy_cpu, &chosen.load_cpus),
        )
    );
    Ok(ExitCode::SUCCESS)
}

/// Writes table and page of an earlier comparison anew.
pub fn report(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    let comparison = report::read(&args.from)?;
    report::write(&comparison, &args.out)?;
    print!("{}", report::table::text(&comparison));
    Ok(ExitCode::SUCCESS)
}

struct Chosen {
    candidates: Vec<Candidate>,
    absent: Vec<Absent>,
    cases: Vec<Case>,
    proxy_cpu: usize,
    load_cpus: Vec<usize>,
}

impl Selection {
    fn choose(&self) -> anyhow::Result<Chosen> {
        let (candidates, absent) = proxy::discover(&Search {
            sluice: self.sluice.clone(),
            builds: self.peer_binary.clone(),
            only: self.only.clone(),
            with_kernel_tls: self.kernel_tls,
        });
        for wanted in &self.only {
            let one = std::slice::from_ref(wanted);
            let is_known = candidates.iter().map(|found| &found.name).chain(absent.iter().map(|gone| &gone.name));
            if !is_known.into_iter().any(|name| proxy::is_selected(one, name) || wanted.starts_with(name.as_str())) {
                let found: Vec<&str> = candidates.iter().map(|found| found.name.as_str()).collect();
                bail!("--only {wanted}: no such proxy; found {}", found.join(", "));
            }
        }
        if candidates.is_empty() {
            let reasons: Vec<String> = absent.iter().map(|gone| format!("{}: {}", gone.name, gone.reason)).collect();
            bail!("no proxy to run ({})", reasons.join("; "));
        }
        let (proxy_cpu, load_cpus) = self.cpus()?;
        Ok(Chosen { candidates, absent, cases: self.cases()?, proxy_cpu, load_cpus })
    }

    fn cases(&self) -> anyhow::Result<Vec<Case>> {
        let known = || scenario::ALL.map(|case| case.name).join(", ");
        if let Some(name) = self.scenarios.iter().find(|name| *name != "all" && Case::named(name).is_none()) {
            bail!("--scenarios {name}: no such scenario; known are {}", known());
        }
        let is_wanted = |case: &Case| match self.scenarios.as_slice() {
            [] => case.is_standard,
            names => names.iter().any(|name| name == case.name || name == "all"),
        };
        Ok(scenario::ALL.into_iter().filter(is_wanted).collect())
    }

    fn cpus(&self) -> anyhow::Result<(usize, Vec<usize>)> {
        let allowed = process::allowed_cpus()?;
        if let Some(cpu) = self.load_cpus.iter().chain(&self.proxy_cpu).find(|cpu| !allowed.contains(cpu)) {
            bail!("CPU {cpu} is not among those this process may use ({allowed:?})");
        }
        let free = |cpu: &usize| !self.load_cpus.contains(cpu);
        let proxy_cpu = self.proxy_cpu.or_else(|| allowed.iter().copied().find(free));
        let proxy_cpu = proxy_cpu.or(allowed.first().copied()).context("this process may use no CPU")?;
        let mut load_cpus = self.load_cpus.clone();
        if load_cpus.is_empty() {
            load_cpus = allowed.into_iter().filter(|cpu| *cpu != proxy_cpu).collect();
        }
        if load_cpus.is_empty() {
            // One CPU: work per CPU-second still holds, rates and latencies do not; the runs say client-bound.
            load_cpus.push(proxy_cpu);
        }
        Ok((proxy_cpu, load_cpus))
    }

    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup)
    }
}

fn exit_code(comparison: &Comparison, subject: &str) -> ExitCode {
    if comparison.interrupted {
        return ExitCode::from(130);
    }
    let has_failures = comparison.scenarios.iter().flat_map(|scenario| &scenario.runs).any(|run| run.failure.is_some());
    let is_refused = |scenario: &schema::ScenarioComparison| {
        let best = scenario.ratios.iter().find(|ratio| Some(&ratio.peer) == scenario.best_peer.as_ref());
        best.is_some_and(|ratio| ratio.spread.is_none())
    };
    let is_without_subject = comparison.absent.iter().any(|absent| absent.name == subject);
    let is_doubtful = has_failures || is_without_subject || comparison.scenarios.iter().any(is_refused);
    if is_doubtful { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// A thousand connections are two thousand descriptors in a proxy; the soft limit is often 1024. Failing is fine: the
/// run then says which connections are missing.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(DESCRIPTORS_WANTED), hard);
    }
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    parse_between(text, 0.05, 3600.0)
}

fn parse_warmup(text: &str) -> Result<f64, String> {
    parse_between(text, 0.0, 600.0)
}

fn parse_between(text: &str, min: f64, max: f64) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("{text:?} is not a number of seconds"))?;
    if (min..=max).contains(&value) { Ok(value) } else { Err(format!("{value} s is not between {min} and {max} s")) }
}

/// Rounds of the standard set; with [`SECONDS`] and all peers it ends within 15 minutes.
const ROUNDS: usize = 5;
/// Measured seconds of each run of the standard set.
const SECONDS: f64 = 2.0;
/// Warm-up of each run of the standard set.
const WARMUP_SECONDS: f64 = 0.3;
/// Enough for every scenario; some systems have a hard limit of a billion, which makes old daemons slow to start.
const DESCRIPTORS_WANTED: u64 = 65_536;
