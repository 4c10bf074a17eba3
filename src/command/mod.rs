//! The commands of `sluice`.
