//! Kernel TLS: what the kernel can do, and handing a direction over to it.

mod absence;
mod bug;
pub mod control;
mod driver;
pub mod install;
pub mod policy;
pub mod probe;
mod settings;

pub use crate::telemetry::kernel_tls::Statistics;
pub use absence::Absence;
pub use bug::{KnownBug, Reach, known_bugs};
pub use install::{Direction, InstallError, attach_ulp, install};
pub use policy::{Candidate, Decision, KeepReason, RequirementUnmet};
pub use probe::{Capabilities, probe};
pub use settings::{Bulk, KnownBugs, Mode, Settings};
