//! The life of the process: listeners, snapshots, signals.

mod settings;

pub use settings::Settings;
