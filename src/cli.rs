//! The command line.

use clap::{Parser, Subcommand};
use sluice::command::{Exit, check, demo, doctor, run, tickets};

/// TLS termination proxy: io_uring workers, OpenSSL handshakes, kernel TLS records
#[derive(Debug, Parser)]
#[command(name = "sluice", version, after_help = exit_codes(), subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve
    Run(run::Arguments),
    /// Check a configuration, and the files that it names
    Check(check::Arguments),
    /// Judge this machine: kernel, io_uring, kernel TLS, limits, network, CPUs
    Doctor(doctor::Arguments),
    /// Session-ticket rings: make, show, ratchet, revoke
    Tickets(tickets::TicketsArgs),
    /// Try it: throw-away certificate, built-in backend
    Demo(demo::Arguments),
}

fn exit_codes() -> String {
    let lines = Exit::ALL.map(|(exit, meaning)| format!("  {:<3} {meaning}", exit.code()));
    format!("Exit codes:\n{}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
