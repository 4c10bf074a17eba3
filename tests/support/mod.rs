//! What the tests of the running proxy share: Sluice itself, nginx and scripted backends, certificates and clients.
//!
//! Everything lives in a directory of the test and on ports that the test holds; nothing is left running when a test
//! ends, and what the processes logged is printed when it fails.

#![allow(dead_code, reason = "each file of tests uses a part of this")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

pub(crate) mod backend;
pub(crate) mod body;
pub(crate) mod certificate;
pub(crate) mod client;
pub(crate) mod crowd;
pub(crate) mod haproxy;
pub(crate) mod http;
pub(crate) mod nginx;
pub(crate) mod port;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod record;
pub(crate) mod returning;
pub(crate) mod ring;
pub(crate) mod suite;
pub(crate) mod tcp;
pub(crate) mod tool;

use std::time::{Duration, Instant};

/// How long anything that must happen may take before the test fails: generous, because the kernel tests run on emulated
/// machines, 10 to 20 times slower, that share busy processors.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);

const LOOK_PAUSE_MIN: Duration = Duration::from_millis(2);
const LOOK_PAUSE_MAX: Duration = Duration::from_millis(100);

/// Looks at `condition` until it gives a value; fails the test at the deadline.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        let waited = begun.elapsed();
        assert!(waited < DEADLINE, "waited {DEADLINE:?} in vain: {what}");
        // Looking takes the CPU of who is waited for: the longer it takes, the more seldom.
        std::thread::park_timeout((waited / 16).clamp(LOOK_PAUSE_MIN, LOOK_PAUSE_MAX));
    }
}

/// Waits until `condition` holds; fails the test at the deadline.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}
