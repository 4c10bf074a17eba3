//! Processes that a test starts, and stops by their id.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{DEADLINE, wait_for, wait_until};

/// A build of a server that is newer than that of this machine's Debian (`scripts/fetch-servers`).
pub(crate) fn newer_program(name: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/servers/bin").join(name);
    assert!(program.is_file(), "{} is not there: run `scripts/setup test`", program.display());
    program
}

/// A server process. Dropped, it is stopped; its log is printed when the test is failing.
pub(crate) struct Process {
    child: Child,
    name: &'static str,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs in a log file of `directory`, and waits until `address` accepts connections.
    pub(crate) fn start(name: &'static str, command: &mut Command, directory: &Path, address: SocketAddr) -> Self {
        let log = directory.join(format!("{name}.log"));
        let output = File::create(&log).unwrap();
        let child = spawn(command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output));
        let mut process = Self { child, name, log };
        wait_for("server accepts connections", || {
            let ended = process.child.try_wait().unwrap();
            assert!(ended.is_none(), "{name} ended at once ({ended:?}):\n{}", process.log());
            TcpStream::connect(address).ok()
        });
        process
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Everything logged so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Stops the process while `act` runs, so that it sees everything that `act` does at once.
    pub(crate) fn freeze<T>(&self, act: impl FnOnce() -> T) -> T {
        kill(self.pid(), Signal::SIGSTOP).unwrap();
        wait_until("process is stopped", || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
            stat.rsplit_once(')').unwrap().1.trim_start().starts_with('T')
        });
        let result = act();
        kill(self.pid(), Signal::SIGCONT).unwrap();
        result
    }

    fn stop(&mut self) {
        let _ = kill(self.pid(), Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.stop();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(60).collect();
            eprintln!("--- end of the log of {} ---", self.name);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Starts a program of a Debian package.
pub(crate) fn spawn(command: &mut Command) -> Child {
    command.spawn().unwrap_or_else(|error| {
        let program = command.get_program().to_string_lossy().into_owned();
        match error.kind() {
            ErrorKind::NotFound => panic!("{program} is not installed: run `make test`, which installs it"),
            _ => panic!("{program}: {error}"),
        }
    })
}

/// Waits for a client program to end by itself; ends it and fails the test at the deadline.
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("client program did not end within {DEADLINE:?}");
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
