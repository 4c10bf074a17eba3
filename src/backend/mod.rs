//! Backends: choice of a server, dialling.

mod settings;

pub use settings::{ServerAddress, Settings};
