//! `sluice-load`: see `sluice-load --help` and the crate's README.

use std::process::ExitCode;

fn main() -> ExitCode {
    sluice_loadtest::cli::main()
}
