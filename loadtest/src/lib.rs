//! Load harness for TLS termination proxies: a black-box client that measures work per CPU-second of the target,
//! and says what is doubtful about its own figures.
//!
//! The library exists for the binary `sluice-load` and its tests. Start reading at [`run::run`]: it orders a run.

pub mod cli;
pub mod compare;
pub mod plan;
pub mod report;
pub mod result;
pub mod run;
