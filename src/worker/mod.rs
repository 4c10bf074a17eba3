//! Workers: one pinned thread per CPU, each with its own runtime and listeners.

mod settings;

pub use settings::{IoDriver, ListenerSettings, Settings, Timeouts};
