//! Session tickets: the key ring.

mod settings;

pub use settings::Settings;
