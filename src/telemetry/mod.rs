//! Counters of the workers, the catalogue of every metric, and their exposition.

mod cell;

pub use cell::{ByLabel, Counter, Gauge, Label, label_enum};
