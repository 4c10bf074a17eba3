//! Runs the proxy and its peers in turn with equal settings.

use std::process::ExitCode;

/// Arguments of `compare`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the comparison; the exit code is documented in the README.
pub fn main(_args: &Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("compare is not in this build")
}
