//! Administration over HTTP: metrics, probes, status.

mod settings;

pub use settings::Settings;
