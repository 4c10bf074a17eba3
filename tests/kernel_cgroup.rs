//! The memory ceiling that a cgroup sets, on real kernels: read from the group above that holds the limit, followed while
//! the process runs, and obeyed before the kernel kills.
//!
//! Groups are the machine's, so they are made only in the guests of `scripts/test-kernel`, which are ours alone.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use socket2::SockRef;
use support::backend::{self, Backend};
use support::body::End;
use support::client::{Client, Tls, assert_echoes};
use support::proxy::{Options, Proxy};
use support::wait_until;

/// What the group may have when the process starts.
const ROOMY_BYTES: u64 = 1 << 30;
/// What it may have then: far more than the process, and far less than the process with all clients that stall.
const TIGHT_BYTES: u64 = 128 << 20;
/// Of the limit, in hundredths: the ceiling of the process.
const SHARE: u64 = 75;
/// Clients that read nothing: each fills a buffer of the proxy and some megabytes of the kernel's.
const STALLED_MAX: usize = 120;
/// A group that grows less than this while `SETTLED` passes has settled.
const SETTLED_BYTES: u64 = 256 << 10;
const SETTLED: Duration = Duration::from_millis(100);

/// A group with a limit, and one without in it, where the process runs: as systemd does with a slice and a service.
/// Dropped, both are gone.
struct Groups {
    slice: PathBuf,
}

impl Groups {
    fn in_guest() -> Option<Self> {
        std::env::var_os("SLUICE_KERNEL_GUEST")?;
        let root = Path::new("/sys/fs/cgroup");
        let groups = Self { slice: root.join("sluice.slice") };
        fs::create_dir(&groups.slice).unwrap();
        for folder in [root, &groups.slice] {
            fs::write(folder.join("cgroup.subtree_control"), "+memory").expect("cgroup v2 counts memory");
        }
        fs::create_dir(groups.service()).unwrap();
        Some(groups)
    }

    fn service(&self) -> PathBuf {
        self.slice.join("sluice.service")
    }

    fn limit(&self, bytes: u64) {
        fs::write(self.slice.join("memory.max"), bytes.to_string()).unwrap();
    }

    /// What is held there and cannot be dropped.
    fn held(&self) -> u64 {
        let read = |name| fs::read_to_string(self.slice.join(name)).unwrap();
        let stat = read("memory.stat");
        let of = |name| stat.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse::<u64>().unwrap();
        read("memory.current").trim().parse::<u64>().unwrap() - of("active_file ") - of("inactive_file ")
    }

    fn wait_settled(&self) {
        let mut last = 0;
        wait_until("memory stands", || {
            thread::park_timeout(SETTLED);
            let now = self.held();
            std::mem::replace(&mut last, now).abs_diff(now) < SETTLED_BYTES
        });
    }

    /// How often the kernel found no memory for the group, and killed somebody for it.
    fn kills(&self) -> u64 {
        let events = fs::read_to_string(self.slice.join("memory.events")).unwrap();
        let of = |name| events.lines().find_map(|line| line.strip_prefix(name)).expect("a count of it");
        ["oom ", "oom_kill "].map(|name| of(name).trim().parse::<u64>().unwrap()).iter().sum()
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for folder in [self.service(), self.slice.clone()] {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// One test, because the group is one.
#[test]
fn limit_of_the_cgroup_is_a_ceiling_that_is_obeyed_in_steps_before_the_kernel_kills() {
    let Some(groups) = Groups::in_guest() else { return };
    groups.limit(ROOMY_BYTES);
    let (backend, _) = Backend::listen().serve(backend::endless_or_echo);
    let proxy = Proxy::start(&Options {
        cgroup: Some(groups.service()),
        idle_timeout: Duration::from_secs(600),
        // Who does not read takes no close_notify either.
        close_timeout: Duration::from_secs(1),
        ..Options::to([backend])
    });
    let ceiling = || proxy.metric("sluice_memory_ceiling_bytes");
    wait_until("the limit is seen", || ceiling() == ROOMY_BYTES / 100 * SHARE);
    assert!(proxy.log().contains("from=\"memory.max of its cgroup\""), "{}", proxy.log());
    let mut open = Client::of(&proxy).connect();
    assert_echoes(&mut open);

    groups.limit(TIGHT_BYTES);
    wait_until("the new limit is seen", || ceiling() == TIGHT_BYTES / 100 * SHARE);
    let steps = |step| proxy.metric(&format!("sluice_memory_steps_total{{step=\"{step}\"}}"));
    assert_eq!(["buffers", "accepting", "idle"].map(steps), [0; 3]);
    let mut stalled = Vec::new();
    while steps("accepting") == 0 {
        assert!(stalled.len() < STALLED_MAX, "memory was never short");
        let client = Client::of(&proxy);
        // On its own, because it waits where nobody is let in.
        stalled.push(thread::spawn(move || stall(&client)));
        groups.wait_settled();
    }
    assert!(steps("buffers") > 0);
    let log = proxy.log();
    assert!(
        log.contains("memory is short: no large relay buffers") && log.contains("(memory.max of its cgroup)"),
        "{log}"
    );
    let in_process = proxy.resident_bytes() as u64;
    assert!(in_process < TIGHT_BYTES / 2, "the kernel's buffers made it short: {in_process} bytes are the process's");

    // A ceiling just below what is held.
    groups.limit(groups.held() / SHARE * 98);
    wait_until("the last step is reached", || steps("idle") > 0);
    // It said nothing for longer than anybody else.
    assert_eq!(open.drain().end, End::CloseNotify);
    proxy.wait_closed("memory_short");

    groups.limit(ROOMY_BYTES);
    drop(stalled.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>());
    wait_until("memory is not short any more", || proxy.metric("sluice_memory_pressure") == 0);
    assert_echoes(&mut Client::of(&proxy).connect());
    assert_eq!((proxy.metric("sluice_panics_total"), groups.kills()), (0, 0));
}

/// A client that asks for everything and reads nothing; none where it was closed before it could ask.
fn stall(client: &Client) -> Option<Tls> {
    let mut tls = client.try_connect().ok()?;
    // Only now: a handshake through so small a buffer takes its time.
    SockRef::from(tls.socket()).set_recv_buffer_size(4096).unwrap();
    tls.try_send(b"d").ok()?;
    Some(tls)
}
