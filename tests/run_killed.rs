//! kill -9 at any moment of a reload, an upgrade or a rewrite of the ring: the next start works.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod run_support;

use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use run_support::{Backend, Options, Proxy, wait_until};

/// Lives of the process, each ended at another moment.
const LIVES: u64 = 12;
/// The latest moment, in milliseconds: about as long as an upgrade takes.
const MOMENT_MAX_MS: u64 = 250;

fn sluice(arguments: &[&str], ring: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.args(arguments).arg("--ring").arg(ring).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
fn killed_at_any_moment_it_starts_again_with_its_ring() {
    let backend = Backend::start();
    let prepared = Proxy::prepare(&Options { cpus: "0,1", ..Options::to(backend.address) });
    let ring = prepared.directory().join("ring");
    assert!(sluice(&["tickets", "new"], &ring).status().unwrap().success());
    prepared.append("[tickets]\nring = \"ring\"\n");
    // A group of its own, so that a successor dies with it.
    let grouped = |executable: &Path| {
        let mut command = Command::new(executable);
        command.process_group(0);
        command
    };
    let mut proxy = prepared.run_with(grouped);
    for life in 0..LIVES {
        backend.proceed();
        let output = proxy.curl(&[]).output().unwrap();
        assert!(output.stdout == Backend::body(), "life {life}: {}", String::from_utf8_lossy(&output.stderr));
        backend.wait_for_half();

        let revocation = match life % 3 {
            0 => {
                proxy.signal(Signal::SIGHUP);
                None
            }
            1 => {
                proxy.signal(Signal::SIGUSR2);
                None
            }
            _ => {
                let revocation = sluice(&["tickets", "revoke"], &ring).spawn().unwrap();
                proxy.signal(Signal::SIGHUP);
                Some(revocation)
            }
        };
        // The moment is what is tested; the seed of the sequence is its place in it.
        let moment = life.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) >> 33;
        thread::sleep(Duration::from_millis(moment % MOMENT_MAX_MS));
        if let Some(mut revocation) = revocation {
            let _ = revocation.kill();
            revocation.wait().unwrap();
        }
        killpg(Pid::from_raw(proxy.pid() as i32), Signal::SIGKILL).unwrap();
        let addresses = [proxy.address(), proxy.admin()];
        proxy.wait();
        // A successor is no child of ours, and may take a moment longer to die.
        wait_until(
            "nobody listens any more",
            || addresses.iter().all(|address| TcpStream::connect(address).is_err()).then_some(()),
            String::new,
        );
        assert!(sluice(&["tickets", "show"], &ring).status().unwrap().success(), "life {life}: the ring is whole");
        proxy.restart(grouped);
    }
}
