//! The `sluice` command.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use sluice::{command, config};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // First of all: OpenSSL takes an allocator only before it has allocated.
    sluice::sys::allocator::adopt_openssl();
    let exit = match cli::Cli::parse().command {
        cli::Command::Check(arguments) => command::check::run(&arguments),
        cli::Command::Run(arguments) => match config::load(&arguments.config.config) {
            Err(diagnostics) => {
                command::print_diagnostics(&diagnostics);
                command::Exit::Failed
            }
            Ok(_) => not_built("run"),
        },
        cli::Command::Demo(arguments) => command::demo::run(&arguments),
    };
    exit.into()
}

/// Until the data path is there.
fn not_built(command: &str) -> command::Exit {
    eprintln!("error: this build has no `sluice {command}` yet");
    command::Exit::Unavailable
}
