//! `sluice demo`: the main job on one machine with nothing to configure.

mod backend;
mod certificate;
mod check;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openssl::ssl::SslVersion;

use super::Exit;
use crate::guard::Clients;
use crate::server::{LogSettings, Server, Settings, StartError};
use crate::telemetry::{Configuration, Direction, Label};
use crate::{admin, ktls, ticket, tls, worker};

/// The options of `sluice demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    pub listen: SocketAddr,
    /// Check itself through the socket (TLS 1.2 and 1.3, 4 MiB each way, every byte compared), then exit
    #[arg(long)]
    pub once: bool,
}

/// Why the demo did not run.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error("throw-away certificate: {0}")]
    Certificate(#[from] openssl::error::ErrorStack),
    #[error("throw-away certificate: {0}")]
    Identity(String),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Start(#[from] StartError),
    #[error("{version}: {source}")]
    Check { version: &'static str, source: check::CheckError },
    #[error("{0}")]
    Worker(#[from] crate::server::Ended),
}

/// Runs the demo: until ctrl-C, or with `--once` until it has checked itself.
pub fn run(arguments: &Arguments) -> Exit {
    match demo(arguments) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            eprintln!("sluice demo: {error}");
            Exit::Failed
        }
    }
}

fn demo(arguments: &Arguments) -> Result<(), DemoError> {
    let directory = Directory::make()?;
    let certificates = certificate::make()?;
    let authority = directory.write("ca.pem", &certificates.authority)?;
    let chain = directory.write("server.pem", &certificates.chain)?;
    let key = directory.write("server.key", &certificates.key)?;
    let settings = settings(arguments.listen, backend::start()?, chain, key)?;
    let mut server = Server::start(&settings)?;
    let address = server.addresses().first().copied().unwrap_or(arguments.listen);

    let result = introduce(&server, address, &authority).and_then(|()| {
        if arguments.once {
            println!("self-check passed: 4 MiB each way over TLS 1.2 and TLS 1.3, every byte compared");
            return Ok(());
        }
        println!(
            "\nTry it:\n  curl --cacert {} https://localhost:{}/\nStop with ctrl-C.",
            authority.display(),
            address.port()
        );
        wait_for_stop()
    });
    server.drain(Duration::from_secs(1));
    server.wait()?;
    result
}

/// Goes through the socket once with each version and says what was negotiated.
fn introduce(server: &Server, address: SocketAddr, authority: &Path) -> Result<(), DemoError> {
    println!(
        "sluice {} on {address}, {}, {}",
        env!("CARGO_PKG_VERSION"),
        server.ring().name(),
        openssl::version::version()
    );
    for (version, name) in [(SslVersion::TLS1_3, "TLS 1.3"), (SslVersion::TLS1_2, "TLS 1.2")] {
        let promoted_before = promoted(server);
        let negotiated =
            check::check(address, authority, version).map_err(|source| DemoError::Check { version: name, source })?;
        let engine = match promoted(server) - promoted_before {
            0 => "in userspace",
            _ => "by the kernel where bulky, else in userspace",
        };
        let check::Negotiated { version, suite, group } = negotiated;
        println!("{version}  {suite}  {group}  records protected {engine}");
    }
    Ok(())
}

/// Directions that the kernel has taken over so far.
fn promoted(server: &Server) -> u64 {
    let directions = |metrics: &crate::telemetry::WorkerMetrics| -> u64 {
        Direction::ALL.iter().map(|direction| metrics.kernel_tls_promoted.of(*direction).value()).sum()
    };
    server.metrics().iter().map(|metrics| directions(metrics)).sum()
}

fn wait_for_stop() -> Result<(), DemoError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            result = tokio::signal::ctrl_c() => result,
            _ = terminate.recv() => Ok(()),
        }
    })?)
}

fn settings(listen: SocketAddr, backend: SocketAddr, chain: PathBuf, key: PathBuf) -> Result<Settings, DemoError> {
    let certificates = tls::CertificateSources::one(tls::CertificateFiles::pem(chain, key));
    let identities = tls::identity::Table::load(&certificates);
    let identities = identities.map_err(|errors| DemoError::Identity(format!("{errors:?}")))?;
    Ok(Settings {
        workers: worker::Settings::for_cpus(vec![0]),
        admin: admin::Settings::default(),
        tickets: ticket::Settings { ring: None, key_files: Vec::new(), lifetime: Duration::from_secs(3600), count: 2 },
        listeners: vec![worker::ListenerSettings {
            name: "demo".into(),
            address: listen,
            backend: 0,
            connections_max: None,
            client_limits: None,
            section_backends: Vec::new(),
            tls: tls::Settings {
                protocol: tls::Protocol::of(tls::Policy::Intermediate),
                certificates,
                identities: Arc::new(identities),
                compression: tls::compression::CompressionMode::Auto,
                ocsp: tls::stapling::OcspMode::Off,
                unknown_server_name: tls::UnknownServerName::Default,
                alpn: vec!["http/1.1".into()],
                client_auth: None,
                sections: Vec::new(),
            },
            kernel_tls: ktls::Settings {
                mode: ktls::Mode::Auto,
                promote_after_bytes: ktls::Settings::PROMOTE_AFTER_BYTES,
                bulk: ktls::Bulk::Auto,
                known_bugs: ktls::KnownBugs::Refuse,
            },
            records_per_key: worker::RECORDS_PER_KEY_MAX,
            proxy_protocol_from: None,
            timeouts: worker::Timeouts::default(),
        }],
        backends: vec![crate::backend::Settings {
            name: "demo".into(),
            servers: vec![crate::backend::ServerAddress::Tcp(backend)],
            connect_timeout: Duration::from_secs(5),
            proxy_protocol: None,
        }],
        memory_max_bytes: None,
        tracked_clients_max: Clients::TRACKED_MAX,
        user: None,
        sandbox: crate::server::Sandbox::Off,
        core_dumps: crate::server::CoreDumps::Allow,
        drain_timeout: Duration::from_secs(1),
        logs: LogSettings::default(),
        shown: Arc::new(Configuration::none()),
    })
}

/// A directory for the demo's files that only this user may enter; dropped, it is removed.
struct Directory(PathBuf);

impl Directory {
    fn make() -> io::Result<Self> {
        Ok(Self(nix::unistd::mkdtemp(&std::env::temp_dir().join("sluice-demo-XXXXXX"))?))
    }

    fn write(&self, name: &str, content: &[u8]) -> io::Result<PathBuf> {
        let path = self.0.join(name);
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
