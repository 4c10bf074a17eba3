//! Command line of `sluice-load`: arguments in, [`Plan`] or a message out, and the exit codes.

mod load;

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use crate::backend;
use crate::compare;
use crate::plan::{Direction, Plan};
use crate::progress::Progress;
use crate::result::{RunResult, Scenario};
use crate::run::{self, RunError};
use crate::text;

use self::load::{LoadArgs, Weight};

/// Load harness for TLS termination proxies.
///
/// Measures work per CPU-second of the target (--pid), memory per connection and latency, and says what is doubtful
/// about its own figures.
///
/// Exit codes: 0 done; 1 done, but some work failed; 2 usage; 3 target unreachable; 4 handshake or certificate
/// refused; 5 a local resource is missing; 130 interrupted (what was measured is printed).
#[derive(Debug, Parser)]
#[command(name = "sluice-load", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Full handshakes, one per connection
    Handshake(HandshakeArgs),
    /// Handshakes that offer a ticket
    Resume(HandshakeArgs),
    /// HTTP/1.1 requests on kept-alive connections
    Request(RequestArgs),
    /// Bulk bodies, down, up or both
    Transfer(TransferArgs),
    /// Open connections that do nothing; memory per connection of the target
    Idle(HandshakeArgs),
    /// A weighted mix of the others
    Mixed(MixedArgs),
    /// A plain HTTP/1.1 server to stand behind a proxy; prints its address
    Backend(BackendArgs),
    /// Run the proxy and its peers in turn with equal settings
    Compare(compare::Args),
    /// Show what `compare` would run
    Plan(compare::PlanArgs),
    /// Write the report of an earlier comparison again
    Report(compare::ReportArgs),
}

#[derive(Debug, Args)]
struct HandshakeArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// GET requests on each connection after its handshake
    #[arg(long, value_name = "N", default_value_t = 0)]
    requests_per_connection: u64,
    /// Path of these requests; without it /bytes/1024 of the built-in backend
    #[arg(long)]
    path: Option<String>,
}

#[derive(Debug, Args)]
struct RequestArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// Request path; without it /bytes/BODY of the built-in backend
    #[arg(long)]
    path: Option<String>,
    /// Body size that the built-in backend is asked for
    #[arg(long, value_name = "BYTES", default_value_t = 1024)]
    body: u64,
}

#[derive(Debug, Args)]
struct TransferArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// Request path; without it /bytes/BODY and /upload of the built-in backend
    #[arg(long)]
    path: Option<String>,
    /// Body size
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20)]
    body: u64,
    /// Which way the bodies go; `both` gives each way half of the connections
    #[arg(long, value_enum, default_value_t = Direction::Down)]
    direction: Direction,
}

#[derive(Debug, Args)]
struct MixedArgs {
    #[command(flatten)]
    transfer: TransferArgs,
    /// Weights of the operations
    #[arg(long, value_name = "OPERATION=WEIGHT", value_delimiter = ',', required = true)]
    weights: Vec<Weight>,
}

#[derive(Debug, Args)]
struct BackendArgs {
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// CPUs, one thread on each
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
}

/// Parses the command line and runs it.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Handshake(args) => args.run(Scenario::Handshake),
        Command::Resume(args) => args.run(Scenario::Resume),
        Command::Idle(args) => args.run(Scenario::Idle),
        Command::Request(args) => args.run(),
        Command::Transfer(args) => args.run(),
        Command::Mixed(args) => args.run(),
        Command::Backend(args) => args.run(),
        Command::Compare(args) => compare::main(&args),
        Command::Plan(args) => compare::plan(&args),
        Command::Report(args) => compare::report(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("sluice-load: {error:#}");
        exit_code(&error)
    })
}

impl HandshakeArgs {
    fn run(self, scenario: Scenario) -> anyhow::Result<ExitCode> {
        let mut plan = self.load.plan(scenario)?;
        plan.requests_per_connection = self.requests_per_connection;
        plan.path = self.path;
        execute(&plan, &self.load)
    }
}

impl RequestArgs {
    fn run(self) -> anyhow::Result<ExitCode> {
        let mut plan = self.load.plan(Scenario::Request)?;
        plan.path = self.path;
        plan.body_bytes = self.body;
        execute(&plan, &self.load)
    }
}

impl TransferArgs {
    fn plan(&self, scenario: Scenario) -> anyhow::Result<Plan> {
        let mut plan = self.load.plan(scenario)?;
        plan.path.clone_from(&self.path);
        plan.body_bytes = self.body;
        plan.direction = self.direction;
        Ok(plan)
    }

    fn run(self) -> anyhow::Result<ExitCode> {
        execute(&self.plan(Scenario::Transfer)?, &self.load)
    }
}

impl MixedArgs {
    fn run(self) -> anyhow::Result<ExitCode> {
        let mut plan = self.transfer.plan(Scenario::Mixed)?;
        plan.weights = self.weights.iter().map(|weight| (weight.scenario, weight.value)).collect();
        execute(&plan, &self.transfer.load)
    }
}

impl BackendArgs {
    fn run(self) -> anyhow::Result<ExitCode> {
        backend::serve(self.listen, self.threads, &self.cpus).with_context(|| format!("backend on {}", self.listen))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn execute(plan: &Plan, args: &LoadArgs) -> anyhow::Result<ExitCode> {
    let progress = Progress::new(plan).context("cannot watch for ctrl-C")?;
    let outcome = run::run(plan, &progress);
    progress.finish();
    let result = outcome?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&result)?);
    } else {
        print!("{}", text::report(&result));
    }
    Ok(result_code(&result))
}

fn result_code(result: &RunResult) -> ExitCode {
    match (result.interrupted, result.errors.is_empty()) {
        (true, _) => ExitCode::from(130),
        (false, false) => ExitCode::from(1),
        (false, true) => ExitCode::SUCCESS,
    }
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(match error.downcast_ref::<RunError>() {
        Some(RunError::Unreachable { .. }) => 3,
        Some(RunError::Handshake { .. }) => 4,
        Some(RunError::Local { .. } | RunError::Descriptors { .. } | RunError::Pid { .. } | RunError::Panicked) => 5,
        Some(RunError::Plan(_)) | None => 2,
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn command_line_contradicts_itself_nowhere() {
        super::Cli::command().debug_assert();
    }
}
