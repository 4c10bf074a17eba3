//! Upgrades: the executable on disk is started anew with the same arguments, gets every listening socket and the ticket
//! ring, and says when it serves; then this process drains. The queues of the sockets go on without a gap, since both
//! processes have the same sockets.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::handover::{self, Handover, HandoverError};
use super::inherit::CHANNEL_VARIABLE;

/// How long the new process may take until it serves: it reads every certificate first. Then it is ended, and this one
/// serves on.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a new process that has given up may take to end; it is ended then.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// How this process was started, to start another one the same way.
#[derive(Clone, Debug)]
pub(super) struct Invocation {
    executable: PathBuf,
    arguments: Vec<OsString>,
    /// A variable that is set for the successor.
    variable: Option<&'static str>,
}

/// Why there is no successor. This process serves on.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpgradeError {
    #[error("listening sockets cannot be shared: {0}")]
    Twins(io::Error),
    #[error("starting the new process panicked: this is a bug, please report it")]
    Panicked,
    #[error("no thread to wait for the new process on: {0}; look at the limits of the service (TasksMax=, memory)")]
    Thread(io::Error),
    #[error("no channel to the new process: {0}")]
    Channel(io::Error),
    #[error("{} cannot be started: {source}", executable.display())]
    Spawn { executable: PathBuf, source: io::Error },
    #[error("the new process ended before it served ({status}); its own messages say why")]
    Ended { status: ExitStatus },
    #[error("the new process did not serve within {START_TIMEOUT:?} and was ended")]
    TimedOut,
    #[error("the new process was ended: {0}")]
    Handover(HandoverError),
}

impl Invocation {
    /// To be called before the working directory changes.
    pub(super) fn current(variable: Option<&'static str>) -> Self {
        let mut arguments = std::env::args_os();
        let name = arguments.next().unwrap_or_default();
        Self { executable: executable(&name), arguments: arguments.collect(), variable }
    }

    /// What is started.
    pub(super) fn executable(&self) -> &Path {
        &self.executable
    }

    /// Starts the successor, hands everything over and waits until it serves; gives its process id. Blocks.
    pub(super) fn upgrade(&self, handover: &Handover) -> Result<u32, UpgradeError> {
        let (channel, far) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|error| UpgradeError::Channel(error.into()))?;
        let mut child = self.spawn(far)?;
        let handed = handover::send(&channel, handover).and_then(|()| handover::wait_ready(&channel, START_TIMEOUT));
        match handed {
            Ok(()) => {
                let pid = child.id();
                // So that it does not stay a zombie should it end before this process does.
                let waiter = std::thread::Builder::new().name("successor".to_owned());
                let _ = waiter.spawn(move || child.wait());
                Ok(pid)
            }
            Err(error) => Err(end(&mut child, error)),
        }
    }

    fn spawn(&self, channel: OwnedFd) -> Result<Child, UpgradeError> {
        let error = |source| UpgradeError::Spawn { executable: self.executable.clone(), source };
        // The one descriptor that is inherited beside the standard streams. Nothing else is started meanwhile.
        fcntl(&channel, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|number| error(number.into()))?;
        let mut command = Command::new(&self.executable);
        command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .env(CHANNEL_VARIABLE, channel.as_raw_fd().to_string())
            // What systemd told this process is not for the next one, except that the watchdog is.
            .env_remove("WATCHDOG_PID")
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES");
        if let Some(variable) = self.variable {
            command.env(variable, "1");
        }
        command.spawn().map_err(error)
    }
}

/// What to say of a new process that does not serve; it is ended if it has not ended.
fn end(child: &mut Child, error: HandoverError) -> UpgradeError {
    let deadline = std::time::Instant::now() + EXIT_TIMEOUT;
    // One that gave up by itself has closed the channel and is about to end.
    while matches!(error, HandoverError::Closed | HandoverError::Io(_)) && std::time::Instant::now() < deadline {
        match child.try_wait() {
            Ok(Some(status)) => return UpgradeError::Ended { status },
            Ok(None) if is_timeout(&error) => break,
            Ok(None) => std::thread::park_timeout(Duration::from_millis(10)),
            Err(_) => break,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    if is_timeout(&error) { UpgradeError::TimedOut } else { UpgradeError::Handover(error) }
}

fn is_timeout(error: &HandoverError) -> bool {
    matches!(error, HandoverError::Io(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// The path under which the process was started: what lies there by the time of the upgrade is the new version. What the
/// kernel knows of the running one leads to the old version, be it a deleted file or the former target of a link.
pub(super) fn executable(name: &OsStr) -> PathBuf {
    let path = Path::new(name);
    let found = if path.components().count() > 1 {
        std::path::absolute(path).ok()
    } else {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&folders).map(|folder| folder.join(path)).find(|path| is_executable(path))
    };
    found.or_else(|| std::env::current_exe().ok()).unwrap_or_else(|| path.to_owned())
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn executable_is_the_path_of_the_start_not_what_it_leads_to() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("current");
        std::os::unix::fs::symlink("/bin/sh", &link).unwrap();
        assert_eq!(executable(link.as_os_str()), link);
        assert!(executable(OsStr::new("sh")).ends_with("sh"));
        assert_eq!(executable(OsStr::new("no-such-program")), std::env::current_exe().unwrap());
    }

    fn invocation(script: &str) -> Invocation {
        Invocation { executable: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()], variable: None }
    }

    #[test]
    fn successor_that_ends_is_told_with_its_status() {
        let error = invocation("exit 3").upgrade(&Handover::default()).unwrap_err();
        assert!(matches!(error, UpgradeError::Ended { status } if status.code() == Some(3)), "{error}");
    }

    #[test]
    fn successor_that_cannot_be_started_is_named() {
        let missing = Invocation { executable: "/no/such/file".into(), arguments: Vec::new(), variable: None };
        let error = missing.upgrade(&Handover::default()).unwrap_err();
        assert!(error.to_string().starts_with("/no/such/file cannot be started: "), "{error}");
    }
}
