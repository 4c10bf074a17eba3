//! What is counted about the memory of the process.

use super::cell::{ByLabel, Gauge};
use crate::label_enum;

label_enum! {
    /// What is given up as memory comes near its ceiling.
    pub enum MemoryStep as "step" {
        /// Large relay buffers.
        Buffers = "buffers",
        /// Accepting.
        Accepting = "accepting",
        /// Idle connections.
        Idle = "idle",
    }
}

/// Written by the control thread.
#[derive(Debug, Default)]
pub struct MemoryMetrics {
    /// Steps that are in force: 0 to 3.
    pub pressure: Gauge,
    /// Times that each step was reached.
    pub steps: ByLabel<MemoryStep>,
    /// The ceiling that is in force, in bytes; 0 where there is none.
    pub ceiling: Gauge,
}

impl MemoryMetrics {
    /// Memory that the process has in RAM (`VmRSS`); none where the kernel does not tell.
    pub fn resident_bytes() -> Option<u64> {
        let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
        let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
        Some(pages.saturating_mul(u64::try_from(page).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_of_this_process_is_plausible() {
        let resident = MemoryMetrics::resident_bytes().unwrap_or_default();
        assert!((1 << 20..1 << 40).contains(&resident), "{resident}");
    }
}
