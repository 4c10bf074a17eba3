//! A wall clock that is set while the process runs, forward and back, by libfaketime: nothing that waits goes by it, and what
//! is valid until a date does.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::backend::Backend;
use support::body::End;
use support::client::{Client, assert_echoes};
use support::proxy::{Options, Proxy};
use support::wait_until;
use tempfile::TempDir;

/// Epochs of the ticket ring in three days are more than this: an epoch is hours, not days.
const EPOCHS_IN_3_DAYS_MIN: u64 = 5;

/// A clock that the test sets.
struct Clock {
    folder: TempDir,
}

impl Clock {
    fn new() -> Self {
        let clock = Self { folder: tempfile::tempdir().unwrap() };
        clock.set("+0s");
        clock
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("clock")
    }

    /// Sets it so far from the right time.
    fn set(&self, offset: &str) {
        // Renamed, so that nobody reads half of it.
        let new = self.folder.path().join("new");
        std::fs::write(&new, offset).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }

    /// A proxy that goes by it.
    fn proxy(&self, options: Options) -> Proxy {
        // The clock lies outside of what the sandbox lets the proxy see.
        let server_keys = "sandbox = \"off\"".to_owned();
        Proxy::start(&Options { clock_file: Some(self.file()), server_keys, ..options })
    }
}

#[test]
fn clock_that_is_set_ends_no_connection_and_moves_no_timeout() {
    const IDLE: Duration = Duration::from_secs(3);
    let clock = Clock::new();
    let proxy = clock.proxy(Options { idle_timeout: IDLE, ..Options::to([Backend::echo()]) });
    for offset in ["+3d", "-30d", "+0s"] {
        let (mut busy, mut idle) = (Client::of(&proxy).connect(), Client::of(&proxy).connect());
        assert_echoes(&mut busy);
        assert_echoes(&mut idle);
        let begun = Instant::now();
        clock.set(offset);
        assert_echoes(&mut busy);
        assert_echoes(&mut Client::of(&proxy).connect());
        assert_eq!(idle.drain().end, End::CloseNotify, "{offset}");
        let waited = begun.elapsed();
        // The wheel turns each 100 ms.
        assert!(waited > IDLE - Duration::from_millis(200), "{offset}: ended after {waited:?}");
    }
    wait_until("all have ended", || proxy.connections_open() == 0);
    // The idle ones and those that were left in each turn.
    assert!(proxy.closed("idle_timeout") >= 3);
}

#[test]
fn tickets_end_by_the_clock_and_one_that_goes_back_has_the_ring_made_anew() {
    let clock = Clock::new();
    let proxy = clock.proxy(Options::to([Backend::echo()]));
    let first_epoch = proxy.metric("sluice_ticket_ring_epoch");
    let (first, second) = (clock.folder.path().join("first"), clock.folder.path().join("second"));
    assert!(!resumes(&proxy, None, Some(&first)));
    assert!(resumes(&proxy, Some(&first), None));
    clock.set("+11h");
    assert!(resumes(&proxy, Some(&first), None), "12 hours are not over");
    clock.set("+13h");
    assert!(!resumes(&proxy, Some(&first), None), "12 hours are over");

    // The ring follows the clock, and does not come back: keys of the past are gone for good.
    clock.set("+3d");
    let standing = |name: &str| proxy.metric(&format!("sluice_ticket_ring_standing{{standing=\"{name}\"}}")) == 1;
    let epoch = || proxy.metric("sluice_ticket_ring_epoch");
    wait_until("the ring has followed", || epoch() >= first_epoch + EPOCHS_IN_3_DAYS_MIN && standing("current"));
    // Nobody else has a ring that is in memory, so a new one takes its place.
    let replaced = || proxy.metric("sluice_ticket_ring_events_total{event=\"replaced\"}");
    assert_eq!(replaced(), 0);
    clock.set("+0s");
    wait_until("it is seen", || replaced() == 1 && standing("current"));
    assert!(!resumes(&proxy, Some(&first), None), "a full handshake, and no harm done");
    assert!(!resumes(&proxy, None, Some(&second)));
    assert!(resumes(&proxy, Some(&second), None));
}

#[test]
fn certificate_that_a_clock_step_lets_expire_is_told_and_served_on() {
    let clock = Clock::new();
    let proxy = clock.proxy(Options::to([Backend::echo()]));
    let mut open = Client::of(&proxy).connect();
    assert!(!proxy.log().contains("a certificate has expired"));
    clock.set("+31d");
    wait_until("it is said", || proxy.log().contains("a certificate has expired: clients refuse it"));
    assert_echoes(&mut open);
    // A client with the right time takes it.
    assert_echoes(&mut Client::of(&proxy).connect());
    assert_eq!(proxy.metric("sluice_panics_total"), 0);
}

/// A TLS 1.2 handshake by openssl, with the session in `from`; whether it was a resumption. The session goes to `to`.
fn resumes(proxy: &Proxy, from: Option<&Path>, to: Option<&Path>) -> bool {
    let mut client = Command::new("openssl");
    client.args(["s_client", "-connect", &proxy.address().to_string(), "-servername", "localhost", "-tls1_2"]);
    from.map(|path| client.arg("-sess_in").arg(path));
    to.map(|path| client.arg("-sess_out").arg(path));
    let output = client.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("New, TLSv1") || text.contains("Reused, TLSv1"), "{text}");
    text.contains("Reused, TLSv1")
}
