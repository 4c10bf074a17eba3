//! Load harness for TLS termination proxies: a black-box client that measures work per CPU-second of the target,
//! and says what is doubtful about its own figures.
//!
//! The library exists for the binary `sluice-load` and its tests. Start reading at [`run::run`]: it orders a run.

pub mod backend;
pub mod cli;
pub mod compare;
pub mod cost;
pub mod doubt;
pub mod engine;
pub mod machine;
pub mod plan;
pub mod progress;
pub mod report;
pub mod result;
pub mod run;
pub mod scenario;
mod sys;
pub mod text;
