//! Sluice, the real binary, with a configuration of the test's.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::certificate::{self, Files, KeyKind};
use super::port::Port;
use super::process::Process;
use super::{DEADLINE, wait_for, wait_until};

/// What a test wants to have configured.
#[derive(Clone)]
pub(crate) struct Options {
    /// Backend servers, as the configuration spells them.
    pub(crate) servers: Vec<String>,
    pub(crate) policy: &'static str,
    pub(crate) key: KeyKind,
    pub(crate) alpn: Vec<&'static str>,
    /// Lines of `[listener.tls]` in the place of the usual certificate.
    pub(crate) certificates: Option<String>,
    /// What stands behind `[listener.tls]`: sections of the listener, and more backends.
    pub(crate) sections: String,
    pub(crate) workers: usize,
    pub(crate) io: &'static str,
    pub(crate) kernel_tls: String,
    /// What a direction carries before `auto` and `required` hand it over; none: the default.
    pub(crate) kernel_tls_after: Option<String>,
    /// How bulk moves in the kernel; none: the default.
    pub(crate) kernel_tls_bulk: Option<&'static str>,
    /// Records under one AES-GCM key; none: the default.
    pub(crate) records_per_key: Option<u64>,
    pub(crate) connections_max: usize,
    /// Keys of `[tickets]`, as the configuration spells them.
    pub(crate) tickets: String,
    /// What the wall clock of the process shows beside the right time, as libfaketime takes it: `+3600s`.
    pub(crate) clock: Option<&'static str>,
    /// A file that says so, and may be changed while the process runs.
    pub(crate) clock_file: Option<PathBuf>,
    /// More of its environment.
    pub(crate) environment: Vec<(&'static str, PathBuf)>,
    /// Limits, as arguments of prlimit.
    pub(crate) limits: Vec<String>,
    /// Further keys of the process.
    pub(crate) server_keys: String,
    /// Further keys of the workers.
    pub(crate) worker_keys: String,
    /// Further keys of the listener, and sections below it, as the configuration spells them.
    pub(crate) listener: String,
    pub(crate) handshake_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    /// Further keys of `[listener.tls]` and of the backend, as the configuration spells them.
    pub(crate) tls_lines: String,
    pub(crate) backend_lines: String,
    /// A file that makes a worker panic as soon as it exists: see `src/worker/fault.rs`.
    pub(crate) panic_trigger: Option<PathBuf>,
    /// RLIMIT_NOFILE; none: whatever the test has.
    pub(crate) descriptors_max: Option<u32>,
    /// The folder of the cgroup that it runs in; none: that of the test.
    pub(crate) cgroup: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            policy: "intermediate",
            key: KeyKind::EcdsaP256,
            alpn: vec!["http/1.1"],
            certificates: None,
            sections: String::new(),
            workers: 1,
            io: "auto",
            // The same tests prove the other engines: SLUICE_TEST_KERNEL_TLS=always cargo test
            kernel_tls: std::env::var("SLUICE_TEST_KERNEL_TLS").unwrap_or_else(|_| "off".into()),
            kernel_tls_after: std::env::var("SLUICE_TEST_KERNEL_TLS_AFTER").ok(),
            kernel_tls_bulk: None,
            records_per_key: None,
            connections_max: 4096,
            tickets: String::new(),
            clock: None,
            clock_file: None,
            environment: Vec::new(),
            limits: Vec::new(),
            server_keys: String::new(),
            worker_keys: String::new(),
            listener: String::new(),
            handshake_timeout: DEADLINE,
            idle_timeout: DEADLINE,
            close_timeout: DEADLINE,
            connect_timeout: Duration::from_secs(5),
            tls_lines: String::new(),
            backend_lines: String::new(),
            panic_trigger: None,
            descriptors_max: None,
            cgroup: None,
        }
    }
}

impl Options {
    /// The usual ones, in front of these servers.
    pub(crate) fn to(servers: impl IntoIterator<Item = impl ToString>) -> Self {
        Self { servers: servers.into_iter().map(|server| server.to_string()).collect(), ..Self::default() }
    }
}

/// A running Sluice.
pub(crate) struct Proxy {
    process: Process,
    port: Port,
    admin: Port,
    files: Files,
    _directory: TempDir,
    idle_descriptors: usize,
    may_panic: bool,
}

/// How Sluice ended that refused to start.
pub(crate) struct Refused {
    pub(crate) code: Option<i32>,
    pub(crate) log: String,
}

/// What the process holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) descriptors: usize,
    pub(crate) memory_bytes: usize,
}

impl Proxy {
    /// Starts Sluice and waits until it serves.
    pub(crate) fn start(options: &Options) -> Self {
        let directory = TempDir::with_prefix("sluice-test-").unwrap();
        let files = certificate::issue(directory.path(), options.key);
        let (port, admin) = (Port::reserve(), Port::reserve());
        let config = directory.path().join("sluice.toml");
        std::fs::write(&config, configuration(options, &files, port.address(), admin.address())).unwrap();
        let mut command = command(&config, options);
        set_clock(options, &mut command);
        command.envs(options.environment.iter().map(|(name, value)| (name, value)));
        if let Some(trigger) = &options.panic_trigger {
            command.env("SLUICE_FAULT_PANIC", trigger);
        }
        let process = Process::start("sluice", &mut command, directory.path(), port.address());
        let mut proxy = Self {
            process,
            port,
            admin,
            files,
            _directory: directory,
            idle_descriptors: 0,
            may_panic: options.panic_trigger.is_some(),
        };
        // The connection that proved that it listens; what a test counts begins after it.
        wait_until("Sluice has seen the first connection", || {
            proxy.handshakes_failed("closed_silently") + proxy.closed("proxy_header_refused") == 1
        });
        wait_until("it is idle", || proxy.connections_open() == 0);
        proxy.idle_descriptors = wait_for("the number of its descriptors stands", || proxy.steady_descriptors());
        proxy
    }

    /// Starts Sluice where it must refuse to start, and waits until it has ended.
    pub(crate) fn refused(options: &Options) -> Refused {
        let directory = TempDir::with_prefix("sluice-test-").unwrap();
        let files = certificate::issue(directory.path(), options.key);
        let (port, admin) = (Port::reserve(), Port::reserve());
        let config = directory.path().join("sluice.toml");
        std::fs::write(&config, configuration(options, &files, port.address(), admin.address())).unwrap();
        let mut command = command(&config, options);
        set_clock(options, &mut command);
        let output = command.output().unwrap();
        Refused { code: output.status.code(), log: String::from_utf8_lossy(&output.stderr).into_owned() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The authority that issued its certificate, PEM.
    pub(crate) fn ca(&self) -> &Path {
        &self.files.ca
    }

    /// Keeps it from running while `act` runs: it finds everything that `act` did at once.
    pub(crate) fn freeze<T>(&self, act: impl FnOnce() -> T) -> T {
        self.process.freeze(act)
    }

    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// What `GET /status` answers: JSON.
    pub(crate) fn status(&self) -> String {
        let answer = get(self.admin.address(), "/status");
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// The whole answer to a GET of the admin endpoint.
    pub(crate) fn ask_admin(&self, path: &str) -> String {
        get(self.admin.address(), path)
    }

    /// One sample of the exposition, written as there: name and labels.
    pub(crate) fn metric(&self, sample: &str) -> u64 {
        let exposition = scrape(self.admin.address());
        let line = exposition.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        let value = line.unwrap_or_else(|| panic!("no sample {sample} in\n{exposition}"));
        value.trim().parse::<f64>().unwrap() as u64
    }

    /// All samples of this name together.
    pub(crate) fn metric_sum(&self, name: &str) -> u64 {
        let exposition = scrape(self.admin.address());
        let samples = exposition.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
        samples.map(|sample| sample.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap() as u64).sum()
    }

    pub(crate) fn connections_open(&self) -> u64 {
        self.metric("sluice_connections_open")
    }

    /// Connections that ended for this reason.
    pub(crate) fn closed(&self, reason: &str) -> u64 {
        self.metric(&format!("sluice_connections_closed_total{{reason=\"{reason}\"}}"))
    }

    /// Handshakes that failed for this reason.
    pub(crate) fn handshakes_failed(&self, reason: &str) -> u64 {
        self.metric(&format!("sluice_handshakes_failed_total{{reason=\"{reason}\"}}"))
    }

    /// Waits until a connection was counted under this reason.
    pub(crate) fn wait_closed(&self, reason: &str) {
        wait_until(&format!("a connection is counted as {reason}"), || self.closed(reason) > 0);
    }

    pub(crate) fn wait_handshake_failed(&self, reason: &str) {
        wait_until(&format!("a handshake is counted as {reason}"), || self.handshakes_failed(reason) > 0);
    }

    /// What it holds now: descriptors, those of a scrape that just ended perhaps included, and anonymous memory, which
    /// unlike the rest is not shared with the proxies of other tests.
    pub(crate) fn usage(&self) -> Usage {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.process.pid())).unwrap();
        let anonymous = rollup.lines().find_map(|line| line.strip_prefix("Pss_Anon:")).unwrap();
        let kib: usize = anonymous.trim().trim_end_matches(" kB").parse().unwrap();
        Usage { descriptors: self.descriptors(), memory_bytes: kib * 1024 }
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.pid())).unwrap().count()
    }

    /// Memory that it has in RAM, what it shares with others included.
    pub(crate) fn resident_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    pub(crate) fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Descriptors that it held before the test's first connection.
    pub(crate) fn idle_descriptors(&self) -> usize {
        self.idle_descriptors
    }

    /// Scrapes come and go: the number that is seen several times in a row.
    fn steady_descriptors(&self) -> Option<usize> {
        let first = self.descriptors();
        let is_steady = (0..5).all(|_| {
            std::thread::park_timeout(Duration::from_millis(2));
            self.descriptors() == first
        });
        is_steady.then_some(first)
    }

    /// CPU time spent so far by all its threads.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.pid())).unwrap();
        // The name in parentheses may hold blanks; utime and stime are fields 14 and 15 (proc(5)).
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // USER_HZ is 100 on every architecture that Linux exposes through /proc.
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let log = self.process.log();
        if !std::thread::panicking() && !self.may_panic {
            assert!(!log.contains("panicked at"), "a connection or worker panicked:\n{log}");
            assert!(!log.contains("ended by a bug"), "a connection was ended by a bug:\n{log}");
        }
    }
}

fn command(config: &Path, options: &Options) -> Command {
    // A measurement wants the optimised one.
    let binary = std::env::var("SLUICE_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_sluice").to_owned());
    let mut command = match (options.descriptors_max, &options.cgroup) {
        (None, None) if options.limits.is_empty() => Command::new(&binary),
        (None, None) => {
            let mut limited = Command::new("prlimit");
            limited.args(&options.limits).arg(&binary);
            limited
        }
        (Some(max), _) => {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("ulimit -n {max}; exec \"$0\" \"$@\""), &binary]);
            shell
        }
        (None, Some(group)) => {
            let mut shell = Command::new("sh");
            shell.args(["-c", "echo $$ >\"$0/cgroup.procs\" && exec \"$@\""]).arg(group).arg(&binary);
            shell
        }
    };
    command.args(["run", "--config"]).arg(config).env("SLUICE_LOG", "info,sluice=debug");
    command
}

/// Puts the process in front of another wall clock than ours.
fn set_clock(options: &Options, command: &mut Command) {
    match (options.clock, &options.clock_file) {
        (None, None) => return,
        (Some(offset), _) => command.env("LD_PRELOAD", faketime("libfaketime.so.1")).env("FAKETIME", offset),
        // Read with each look at the clock, which only this library lets one thread do at a time.
        (None, Some(file)) => command
            .env("LD_PRELOAD", faketime("libfaketimeMT.so.1"))
            .env("FAKETIME_TIMESTAMP_FILE", file)
            .env("FAKETIME_NO_CACHE", "1")
            .env("NO_FAKE_STAT", "1"),
    };
    // Timers go by the clock that is never set.
    command.env("DONT_FAKE_MONOTONIC", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
}

/// A library of Debian's libfaketime, in the folder of the machine's architecture.
fn faketime(name: &str) -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().filter_map(Result::ok);
    let mut libraries = folders.map(|folder| folder.path().join("faketime").join(name));
    libraries.find(|library| library.exists()).expect("faketime is installed: run `make test`, which installs it")
}

fn configuration(options: &Options, files: &Files, address: SocketAddr, admin: SocketAddr) -> String {
    let mut text = String::new();
    write!(
        text,
        r#"
[server]
# So that a test which is not root can look at memory and descriptors.
core_dumps = "allow"
drain_timeout = "0s"
{server_keys}

[workers]
count = {workers}
cpus = "{cpus}"
io = "{io}"
connections_max = {connections_max}
{worker_keys}

[admin]
address = "{admin}"

[tickets]
{tickets}

[[listener]]
name = "edge"
address = "{address}"
backend = "app"
kernel_tls = "{kernel_tls}"
{kernel_tls_after}{kernel_tls_bulk}{records_per_key}handshake_timeout = "{handshake}ms"
idle_timeout = "{idle}ms"
close_timeout = "{close}ms"
{listener}
[listener.tls]
policy = "{policy}"
{certificates}
alpn = {alpn:?}
{tls_lines}
{sections}

[[backend]]
name = "app"
servers = {servers:?}
connect_timeout = "{connect}ms"
{backend_lines}
"#,
        workers = options.workers,
        cpus = cpus(options.workers),
        io = options.io,
        connections_max = options.connections_max,
        tickets = options.tickets,
        server_keys = options.server_keys,
        worker_keys = options.worker_keys,
        listener = options.listener,
        kernel_tls = options.kernel_tls,
        // With the other modes it would be warned about.
        kernel_tls_after = match &options.kernel_tls_after {
            Some(bytes) if ["auto", "required"].contains(&options.kernel_tls.as_str()) => {
                format!("kernel_tls_after = {bytes:?}\n")
            }
            _ => String::new(),
        },
        kernel_tls_bulk =
            options.kernel_tls_bulk.map_or_else(String::new, |bulk| format!("kernel_tls_bulk = {bulk:?}\n")),
        records_per_key =
            options.records_per_key.map_or_else(String::new, |records| format!("records_per_key = {records}\n")),
        tls_lines = options.tls_lines,
        backend_lines = options.backend_lines,
        policy = options.policy,
        certificates = options.certificates.clone().unwrap_or_else(|| {
            format!("certificates = [ {{ chain = {:?}, key = {:?} }} ]", files.chain, files.key)
        }),
        sections = options.sections,
        alpn = options.alpn,
        handshake = options.handshake_timeout.as_millis(),
        idle = options.idle_timeout.as_millis(),
        close = options.close_timeout.as_millis(),
        servers = options.servers,
        connect = options.connect_timeout.as_millis(),
    )
    .unwrap();
    text
}

/// CPUs that we may use, in turn, so that tests that run side by side do not all pin their workers to the first one.
fn cpus(count: usize) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let allowed: Vec<_> = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap()).collect();
    let first = NEXT.fetch_add(count, Ordering::Relaxed);
    let chosen: Vec<_> =
        (first..first + count.min(allowed.len())).map(|at| allowed[at % allowed.len()].to_string()).collect();
    chosen.join(",")
}

fn scrape(admin: SocketAddr) -> String {
    get(admin, "/metrics")
}

fn get(admin: SocketAddr, path: &str) -> String {
    let mut stream = wait_for("admin endpoint accepts connections", || TcpStream::connect(admin).ok());
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
