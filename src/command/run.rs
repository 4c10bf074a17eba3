//! `sluice run`: serve.

use super::ConfigOption;

/// The options of `sluice run`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigOption,
}
