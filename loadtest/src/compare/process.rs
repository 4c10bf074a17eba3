//! Processes that a comparison starts: bound to CPUs, with their output in a file, stopped by id with everything they
//! started.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// What to start.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Name for messages and for the output file.
    pub name: String,
    /// Program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables that are set besides those of this process.
    pub environment: Vec<(&'static str, OsString)>,
    /// The CPUs that it and its children may use.
    pub cpus: Vec<usize>,
    /// Directory of the output file.
    pub directory: PathBuf,
}

/// A running process. Dropping it stops it and everything it started.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: PathBuf,
    is_stopped: bool,
}

impl Process {
    /// Starts `launch` as the leader of a process group of its own, so that ctrl-C on the terminal reaches only this
    /// process, which then stops the others in order.
    pub fn start(launch: &Launch) -> anyhow::Result<Self> {
        let output = launch.directory.join(format!("{}.out", launch.name));
        let file = File::create(&output).with_context(|| format!("cannot write {}", output.display()))?;
        let mut command = Command::new(&launch.program);
        command.args(&launch.arguments).envs(launch.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        let child = with_affinity(&launch.cpus, || command.spawn())?
            .with_context(|| format!("cannot start {}", launch.program.display()))?;
        Ok(Self { name: launch.name.clone(), child, output, is_stopped: false })
    }

    /// Its id; also the id of its process group.
    pub fn pid(&self) -> i32 {
        Pid::from_raw(self.child.id().cast_signed()).as_raw()
    }

    /// How it ended, when it did.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// The last lines that it wrote, for error messages.
    pub fn last_words(&self) -> String {
        tail(&self.output).unwrap_or_default()
    }

    /// Name for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks it to end, waits up to [`STOP_WAIT_MAX`], then kills what is left of its group. Does nothing the second
    /// time.
    pub fn stop(&mut self) {
        if std::mem::replace(&mut self.is_stopped, true) {
            return;
        }
        let leader = Pid::from_raw(self.pid());
        // Failure means that it is gone already, which is what is wanted.
        let _ = kill(leader, Signal::SIGTERM);
        let deadline = Instant::now() + STOP_WAIT_MAX;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(POLL_INTERVAL);
        }
        // Workers whose master is gone: the group keeps its id as long as one of them lives.
        let _ = killpg(leader, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The CPUs that this thread may use, ascending.
pub fn allowed_cpus() -> anyhow::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0)).context("cannot read the CPU affinity")?;
    Ok((0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect())
}

/// Binds this thread, and what it starts from now on, to `cpus`.
pub fn bind_to(cpus: &[usize]) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu).with_context(|| format!("no CPU {cpu}: at most {} are supported", CpuSet::count()))?;
    }
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot use CPUs {cpus:?}"))
}

/// Does `action` with this thread bound to `cpus`. A child inherits the affinity of the thread that starts it.
pub fn with_affinity<T>(cpus: &[usize], action: impl FnOnce() -> T) -> anyhow::Result<T> {
    let before = allowed_cpus()?;
    bind_to(cpus)?;
    let outcome = action();
    bind_to(&before)?;
    Ok(outcome)
}

/// The end of the file at `path`, at most [`LAST_WORDS_BYTES_MAX`].
pub fn tail(path: &Path) -> io::Result<String> {
    let size = fs::metadata(path)?.len();
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(size.saturating_sub(LAST_WORDS_BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.take(LAST_WORDS_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// How long a process may take to end after SIGTERM. Proxies that drain would wait for idle connections for ever.
const STOP_WAIT_MAX: Duration = Duration::from_secs(2);
/// How often an ending process is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// How much of a process's output goes into an error message.
const LAST_WORDS_BYTES_MAX: u64 = 2000;
