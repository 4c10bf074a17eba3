//! Command line of `sluice-load`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::compare;

/// Load harness for TLS termination proxies.
#[derive(Debug, Parser)]
#[command(name = "sluice-load", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy and its peers in turn with equal settings
    Compare(compare::Args),
}

/// Parses the command line and runs it.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Compare(args) => compare::main(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("sluice-load: {error:#}");
        ExitCode::from(2)
    })
}
