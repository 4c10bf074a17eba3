//! The life of the process: listeners, workers, signals, reloads, upgrades.

mod aside;
mod compression;
mod confine;
mod control;
mod expiry;
mod handover;
mod inherit;
mod limit;
mod logs;
mod memory;
mod notify;
mod reload;
mod settings;
mod signal;
mod snapshot;
mod sockets;
mod stall;
mod stapling;
mod start;
mod succession;
mod summary;
mod tickets;
mod upgrade;
mod watch;

pub(crate) use limit::needed as descriptors_needed;
pub(crate) use sockets::LISTEN_BACKLOG;

pub use confine::{ConfineError, Confinement};
pub use control::{Foundation, ServeError, serve};
pub use handover::HandoverError;
pub use inherit::InheritError;
pub use logs::LogSettings;
pub use settings::{CoreDumps, Reader, Reading, Sandbox, Settings, Unusable, User};
pub use signal::Signals;
pub use start::{Ended, Server, StartError};
