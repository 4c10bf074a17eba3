//! Counters of the workers, the catalogue of every metric, and their exposition.

mod cell;
mod label;
mod worker;

pub use cell::{ByLabel, Counter, Gauge, Label, label_enum};
pub use label::{
    AcceptError, CloseReason, DialResult, Direction, FailureReason, Kind, RelayPath, Version,
};
pub use worker::WorkerMetrics;
