//! A machine that has switched io_uring off: the proxy serves on epoll and says why, or refuses where it must not.
//!
//! The switch is the machine's, so it is turned only in the guests of `scripts/test-kernel`, which are ours alone. On any
//! other machine the test looks at the driver that the proxy chose there.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::fs;

use support::backend::Backend;
use support::client::Client;
use support::proxy::{Options, Proxy};

const SWITCH: &str = "/proc/sys/kernel/io_uring_disabled";

/// Switches io_uring off for everybody; dropped, it is as it was.
struct SwitchedOff(String);

impl SwitchedOff {
    fn in_guest() -> Option<Self> {
        std::env::var_os("SLUICE_EXPECT_KTLS")?;
        let before = fs::read_to_string(SWITCH).unwrap();
        fs::write(SWITCH, "2").unwrap();
        Some(Self(before))
    }
}

impl Drop for SwitchedOff {
    fn drop(&mut self) {
        fs::write(SWITCH, &self.0).unwrap();
    }
}

/// One test, because the switch is one.
#[test]
fn io_uring_that_is_switched_off_gives_epoll_with_cause_and_remedy_or_a_refusal() {
    let options = Options::to([Backend::echo()]);
    let Some(off) = SwitchedOff::in_guest() else {
        let proxy = Proxy::start(&options);
        assert!(proxy.log().contains("io=io_uring") || proxy.log().contains("io_uring is not available"));
        return;
    };
    let proxy = Proxy::start(&options);
    let log = proxy.log();
    assert!(log.contains("io=epoll"), "{log}");
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("io_uring is not available")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains("kernel.io_uring_disabled") && warnings[0].contains("workers.io"), "{log}");
    let mut client = Client::of(&proxy).connect();
    client.send(b"served all the same");
    assert_eq!(client.receive(19), b"served all the same");

    let refused = Proxy::refused(&Options { io: "uring", ..options });
    assert_eq!(refused.code, Some(69), "{}", refused.log);
    assert!(refused.log.contains("kernel.io_uring_disabled"), "{}", refused.log);
    drop(off);
}
