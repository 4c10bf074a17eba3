//! One running proxy with its configuration: started for each run, so that no run inherits memory, caches or load from
//! another, and stopped with everything it started.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::certificate::Identity;
use super::config::{self, Terms};
use super::process::{Launch, Process, with_affinity};
use super::proxy::{Candidate, Product};
use super::schema::Tickets;

/// What every proxy of a comparison shares.
#[derive(Clone, Debug)]
pub struct Ground<'a> {
    /// The comparison's own directory.
    pub directory: &'a Path,
    /// Where the plain backend listens.
    pub backend: SocketAddr,
    /// CPU of the proxy.
    pub proxy_cpu: usize,
}

/// A proxy that accepts connections.
#[derive(Debug)]
pub struct Instance {
    process: Process,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Instance {
    /// Starts `candidate` and waits until it accepts connections, at most [`READY_WAIT_MAX`].
    pub fn start(
        candidate: &Candidate,
        ground: &Ground<'_>,
        identity: &Identity,
        tickets: Tickets,
    ) -> anyhow::Result<Self> {
        let prepared = Prepared::new(candidate, ground, identity, tickets)?;
        let process = Process::start(&Launch {
            name: candidate.name.clone(),
            program: candidate.build.binary.clone(),
            arguments: candidate.serve_arguments(&prepared.config, ground.directory),
            environment: prepared.environment,
            cpus: vec![ground.proxy_cpu],
            directory: ground.directory.to_owned(),
        })?;
        let mut instance = Self { process, address: prepared.address };
        wait_until_ready(&mut instance.process, instance.address)?;
        Ok(instance)
    }

    /// Id of its first process.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// What it wrote last.
    pub fn last_words(&self) -> String {
        self.process.last_words()
    }
}

/// Runs the program's own check of the configuration that it would get. `Ok` for a program that has none.
pub fn check(candidate: &Candidate, ground: &Ground<'_>, identity: &Identity, tickets: Tickets) -> anyhow::Result<()> {
    let prepared = Prepared::new(candidate, ground, identity, tickets)?;
    let Some(arguments) = candidate.check_arguments(&prepared.config, ground.directory) else {
        return Ok(());
    };
    let mut command = Command::new(&candidate.build.binary);
    command.args(arguments).envs(prepared.environment);
    // On the CPU that it will have: a proxy may check that too.
    let output = with_affinity(&[ground.proxy_cpu], || command.output())?;
    let output = output.with_context(|| format!("cannot run {}", candidate.build.binary.display()))?;
    if !output.status.success() {
        let text = format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        bail!("it refuses its configuration: {}", text.trim());
    }
    Ok(())
}

/// Waits until `process` accepts connections at `address`.
pub fn wait_until_ready(process: &mut Process, address: SocketAddr) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_WAIT_MAX;
    loop {
        if let Some(status) = process.ended()? {
            bail!("{} ended at once ({status}): {}", process.name(), process.last_words());
        }
        match TcpStream::connect_timeout(&address, CONNECT_WAIT_MAX) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= deadline => {
                bail!("{} does not accept at {address} ({error}): {}", process.name(), process.last_words());
            }
            Err(_) => thread::sleep(READY_POLL_INTERVAL),
        }
    }
}

/// A port of 127.0.0.1 that was free a moment ago.
pub fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?.port())
}

struct Prepared {
    config: std::path::PathBuf,
    address: SocketAddr,
    environment: Vec<(&'static str, OsString)>,
}

impl Prepared {
    fn new(candidate: &Candidate, ground: &Ground<'_>, identity: &Identity, tickets: Tickets) -> anyhow::Result<Self> {
        let port = free_port()?;
        let config = config::write(
            candidate,
            &Terms {
                port,
                admin_port: if candidate.product == Product::Sluice { free_port()? } else { 0 },
                backend: ground.backend,
                identity,
                tickets,
                proxy_cpu: ground.proxy_cpu,
                directory: ground.directory,
            },
        )?;
        let library = config::write_library_config(ground.directory, tickets)?;
        let environment = vec![("OPENSSL_CONF", library.into_os_string())];
        Ok(Self { config, address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), environment })
    }
}

/// Longest wait for a proxy that was just started.
const READY_WAIT_MAX: Duration = Duration::from_secs(10);
/// Longest wait for one connection to it; loopback answers at once or not at all.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(1);
/// How often it is tried.
const READY_POLL_INTERVAL: Duration = Duration::from_millis(5);
