//! What the process gives up before it starts its first thread: the user that it was started as, capabilities, the way
//! back to either, files that are none of its business, and core dumps. Threads inherit it, and so does the successor of
//! an upgrade.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability, CapsHashSet};
use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus,
};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, geteuid, initgroups, setgid, setuid};

use super::limit;
use super::settings::{CoreDumps, Sandbox, Settings, User};
use super::watch;
use crate::tls::stapling::OcspMode;

/// What was given up, and what could not be, to be logged once there is a log.
#[derive(Debug, Default)]
pub struct Confinement {
    notes: Vec<String>,
    warnings: Vec<String>,
}

/// Why the process does not start.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// Configuration: only root can become somebody else.
    #[error("the process runs as user {is} and cannot become {wanted}: start it as root, or leave out server.user")]
    NotRoot {
        /// The number of the present user.
        is: u32,
        /// The name in the configuration.
        wanted: String,
    },
    /// The machine.
    #[error("{what}: {source} (server.user)")]
    Drop {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Configuration: what root has read just now, the user could not read again.
    #[error("user {user} cannot read {}: {source}; a reload would fail on it: let the user read it (server.user)", path.display())]
    Unreadable {
        /// The user.
        user: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel has no Landlock, where the configuration demands it.
    #[error(
        "files cannot be confined: {reason}; use a kernel from 5.13 with landlock in its lsm= list (server.sandbox)"
    )]
    Sandbox {
        /// What is missing.
        reason: String,
    },
}

/// The environment variable that tells the successor of an upgrade that the sandbox is around it already: the kernel
/// stacks no more than sixteen.
const CONFINED_VARIABLE: &str = "SLUICE_CONFINED";
/// Locked memory that the rings of one worker may need on kernels before 5.12.
const MEMLOCK_BYTES_PER_WORKER: u64 = 8 << 20;

impl Confinement {
    /// Confines the process as the settings say; `config` is the file that they come from. To be called before the first
    /// thread is started.
    ///
    /// # Errors
    /// [`ConfineError`]; the process must end then.
    pub fn confine(settings: &Settings, config: &Path) -> Result<Self, ConfineError> {
        let mut confinement = Self::default();
        confinement.become_user(settings)?;
        // So that nothing that is executed from here on gets back what was given up.
        prctl::set_no_new_privs().map_err(|error| ConfineError::Drop { what: "no_new_privs", source: error.into() })?;
        confinement.confine_files(settings, config)?;
        if settings.core_dumps == CoreDumps::Refuse
            && let Err(error) = prctl::set_dumpable(false)
        {
            confinement.warnings.push(format!("core dumps cannot be refused: {error}"));
        }
        Ok(confinement)
    }

    /// Logs what was done.
    pub fn log(&self) {
        self.notes.iter().for_each(|note| tracing::info!("{note}"));
        self.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    }

    fn become_user(&mut self, settings: &Settings) -> Result<(), ConfineError> {
        let Some(user) = &settings.user else {
            if geteuid().is_root() {
                self.warnings.push("the process runs as root: name a user for it (server.user)".to_owned());
            }
            return Ok(());
        };
        if geteuid() == Uid::from_raw(user.uid) {
            return Ok(());
        }
        if !geteuid().is_root() {
            return Err(ConfineError::NotRoot { is: geteuid().as_raw(), wanted: user.name.clone() });
        }
        raise_limits(settings);
        let kept = needed(settings);
        change_user(user, &kept)?;
        for path in settings.files() {
            if let Err(source) = std::fs::File::open(&path)
                // OCSP responses need not be there.
                && source.kind() != io::ErrorKind::NotFound
            {
                return Err(ConfineError::Unreadable { user: user.name.clone(), path, source });
            }
        }
        let names: Vec<_> = kept.iter().map(ToString::to_string).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        self.notes.push(format!("running as user {}, capabilities kept: {names}", user.name));
        Ok(())
    }

    fn confine_files(&mut self, settings: &Settings, config: &Path) -> Result<(), ConfineError> {
        if settings.sandbox == Sandbox::Off || std::env::var_os(CONFINED_VARIABLE).is_some() {
            return Ok(());
        }
        let places = Places::of(settings, config);
        let reason = match places.confine() {
            Ok(RulesetStatus::FullyEnforced) => {
                self.notes.push(format!("files are confined (Landlock): {} folders", places.count()));
                return Ok(());
            }
            Ok(RulesetStatus::PartiallyEnforced) => {
                self.notes.push("files are confined as far as this kernel's Landlock goes".to_owned());
                return Ok(());
            }
            Ok(RulesetStatus::NotEnforced) => "the kernel has no Landlock".to_owned(),
            Err(error) => error.to_string(),
        };
        if settings.sandbox == Sandbox::Required {
            return Err(ConfineError::Sandbox { reason });
        }
        self.warnings.push(format!("files are not confined: {reason} (server.sandbox)"));
        Ok(())
    }
}

/// The environment of a successor, which the sandbox of this process is around, too.
pub(super) fn successor_variable(settings: &Settings) -> Option<&'static str> {
    let is_confined = settings.sandbox != Sandbox::Off || std::env::var_os(CONFINED_VARIABLE).is_some();
    is_confined.then_some(CONFINED_VARIABLE)
}

/// While the process may: descriptors for every connection, and locked memory for old kernels' rings.
fn raise_limits(settings: &Settings) {
    let worker_count = settings.workers.cpus.len();
    let descriptors = limit::needed(worker_count, settings.workers.connections_max);
    let memory = MEMLOCK_BYTES_PER_WORKER * worker_count as u64;
    for (resource, needed) in [(Resource::RLIMIT_NOFILE, descriptors), (Resource::RLIMIT_MEMLOCK, memory)] {
        if let Ok((_, hard)) = getrlimit(resource)
            && hard < needed
        {
            // What the kernel refuses (fs.nr_open) shows in the log, where the limit is compared with the need.
            let _ = setrlimit(resource, needed, needed);
        }
    }
}

/// Ports below 1024 are bound by the new user, at the start and with every reload.
fn needed(settings: &Settings) -> CapsHashSet {
    let is_low = settings.listeners.iter().any(|listener| listener.address.port() < PORT_UNPRIVILEGED_MIN);
    if is_low { CapsHashSet::from([Capability::CAP_NET_BIND_SERVICE]) } else { CapsHashSet::new() }
}

const PORT_UNPRIVILEGED_MIN: u16 = 1024;

fn change_user(user: &User, kept: &CapsHashSet) -> Result<(), ConfineError> {
    let error = |what| move |error: nix::Error| ConfineError::Drop { what, source: error.into() };
    let caps_error =
        |what| move |error: caps::errors::CapsError| ConfineError::Drop { what, source: io::Error::other(error) };
    // The bounding set first, while there is a capability to do it with.
    for capability in caps::all().difference(kept) {
        // One that this kernel does not know is none to drop.
        let _ = caps::drop(None, CapSet::Bounding, *capability);
    }
    prctl::set_keepcaps(true).map_err(error("keeping capabilities"))?;
    let name = std::ffi::CString::new(user.name.as_str())
        .map_err(|source| ConfineError::Drop { what: "user name", source: source.into() })?;
    initgroups(&name, Gid::from_raw(user.gid)).map_err(error("supplementary groups"))?;
    setgid(Gid::from_raw(user.gid)).map_err(error("changing the group"))?;
    setuid(Uid::from_raw(user.uid)).map_err(error("changing the user"))?;
    prctl::set_keepcaps(false).map_err(error("keeping capabilities"))?;
    // Changing the user has emptied the effective ones. Inheritable and ambient, so that the successor of an upgrade has
    // them too.
    for set in [CapSet::Inheritable, CapSet::Permitted, CapSet::Effective] {
        caps::set(None, set, kept).map_err(caps_error("capabilities"))?;
    }
    for capability in kept {
        caps::raise(None, CapSet::Ambient, *capability).map_err(caps_error("ambient capabilities"))?;
    }
    Ok(())
}

/// Where the process may read, execute and write.
struct Places {
    read: BTreeSet<PathBuf>,
    execute: BTreeSet<PathBuf>,
    write: BTreeSet<PathBuf>,
}

impl Places {
    fn of(settings: &Settings, config: &Path) -> Self {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut read: BTreeSet<PathBuf> = SYSTEM_READ.iter().map(PathBuf::from).collect();
        read.extend(watch::folders(&absolute(config)));
        for file in settings.files() {
            read.extend(watch::folders(&absolute(&file)));
        }
        if settings.listeners.iter().any(|listener| listener.tls.ocsp == OcspMode::Fetch) {
            // Responders have names, and what knows them is mostly a link that leads out of /etc.
            read.extend(watch::folders(Path::new("/etc/resolv.conf")));
        }
        let mut execute: BTreeSet<PathBuf> = SYSTEM_EXECUTE.iter().map(PathBuf::from).collect();
        // Where the next version is to be found.
        let name = std::env::args_os().next().unwrap_or_default();
        execute.extend(watch::folders(&super::upgrade::executable(&name)));
        let mut write: BTreeSet<PathBuf> = SYSTEM_WRITE.iter().map(PathBuf::from).collect();
        write.extend(settings.written_folders());
        Self { read, execute, write }
    }

    fn count(&self) -> usize {
        self.read.len() + self.execute.len() + self.write.len()
    }

    fn confine(&self) -> Result<RulesetStatus, landlock::RulesetError> {
        let abi = ABI::V5;
        let execute = AccessFs::from_read(abi);
        let read = execute & !AccessFs::Execute;
        let write = AccessFs::from_all(abi) & !AccessFs::Execute;
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(abi))?
            .create()?;
        for (folders, access) in [(&self.read, read), (&self.execute, execute), (&self.write, write)] {
            for folder in folders {
                // What is not there needs no rule.
                let Ok(descriptor) = PathFd::new(folder) else { continue };
                let access = if folder.is_dir() { access } else { access & AccessFs::from_file(abi) };
                rules = rules.add_rule(PathBeneath::new(descriptor, access))?;
            }
        }
        Ok(rules.restrict_self()?.ruleset)
    }
}

/// What the language, the C library and OpenSSL look at, and what the metrics come from.
const SYSTEM_READ: &[&str] = &["/etc", "/proc", "/sys"];
/// Programs and libraries: of the present version and the next.
const SYSTEM_EXECUTE: &[&str] = &["/usr", "/lib", "/lib64", "/bin", "/opt"];
/// The standard input of a successor.
const SYSTEM_WRITE: &[&str] = &["/dev/null"];
