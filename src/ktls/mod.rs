//! Kernel TLS: what the kernel can do, and handing a direction over to it.

mod absence;
mod bug;
pub mod control;
pub mod install;
pub mod policy;
pub mod probe;
pub mod statistics;

pub use absence::Absence;
pub use bug::{KnownBug, Reach, known_bugs};
pub use install::{Direction, InstallError, attach_ulp, install};
pub use probe::{Capabilities, probe};
pub use statistics::Statistics;
