//! The `sluice` command.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use sluice::command;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // First of all: OpenSSL takes an allocator only before it has allocated.
    sluice::sys::allocator::adopt_openssl();
    sluice::sys::allocator::refuse_huge_pages();
    sluice::sys::allocator::map_reserved_range();
    let exit = match cli::Cli::parse().command {
        cli::Command::Check(arguments) => command::check::run(&arguments),
        cli::Command::Run(arguments) => command::run::run(&arguments),
        cli::Command::Audit(arguments) => command::audit::run(&arguments),
        cli::Command::Doctor(arguments) => command::doctor::run(&arguments),
        cli::Command::Tickets(arguments) => return command::tickets::run(arguments),
        cli::Command::Demo(arguments) => command::demo::run(&arguments),
    };
    exit.into()
}
