//! The life of the process: listeners, workers, signals.

mod settings;
mod start;

pub use settings::Settings;
pub use start::{Ended, Server, StartError};
