//! What became of reloads, changed certificates and upgrades: counted, and the last one remembered for the status.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;

use super::cell::{ByLabel, Counter, label_enum};

label_enum! {
    /// How a reload ended.
    pub enum ReloadResult as "result" {
        /// The new configuration is in service.
        Applied = "applied",
        /// The configuration has errors; the former one stays in service.
        Refused = "refused",
        /// The machine stood in the way, for instance an address in use; the former one stays in service.
        Failed = "failed",
    }
}

label_enum! {
    /// What came of changed certificate files, for one listener.
    pub enum SwapResult as "result" {
        /// The new certificate is in service.
        Swapped = "swapped",
        /// The files cannot be used; the former certificate stays in service.
        Kept = "kept",
    }
}

/// The reloads of the process; written by the control thread.
#[derive(Debug, Default)]
pub struct ReloadView {
    /// How many ended in which way.
    pub results: ByLabel<ReloadResult>,
    /// What came of changed certificate files.
    pub swaps: ByLabel<SwapResult>,
    /// Upgrades that came to nothing.
    pub upgrades_failed: Counter,
    last: ArcSwapOption<LastReload>,
}

/// How the last reload ended.
#[derive(Clone, Debug)]
pub struct LastReload {
    /// When.
    pub at: SystemTime,
    /// Who asked for it: a signal, the admin endpoint, or changed files.
    pub cause: &'static str,
    /// How it ended.
    pub result: ReloadResult,
    /// Warnings, or what stood in the way.
    pub details: Vec<String>,
}

impl ReloadView {
    /// Remembers a reload as the last one.
    pub fn remember(&self, last: LastReload) {
        self.last.store(Some(Arc::new(last)));
    }

    /// The last one, if there was any.
    pub fn last(&self) -> Option<Arc<LastReload>> {
        self.last.load_full()
    }
}
