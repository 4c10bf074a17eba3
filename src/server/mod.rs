//! The life of the process: listeners, workers, signals.

mod control;
mod limit;
mod settings;
mod signal;
mod start;
mod summary;
mod tickets;

pub(crate) use limit::needed as descriptors_needed;
pub(crate) use start::LISTEN_BACKLOG;

pub use control::{ServeError, serve};
pub use settings::Settings;
pub use start::{Ended, Server, StartError};
