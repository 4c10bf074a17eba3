//! The commands of `sluice`.

pub mod tickets;
