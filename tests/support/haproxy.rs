//! HAProxy, with a configuration of the test's.

use std::net::SocketAddr;
use std::process::Command;

use tempfile::TempDir;

use super::port::Port;
use super::process::{Process, newer_program};

/// A running HAProxy.
pub(crate) struct Haproxy {
    process: Process,
    port: Port,
    _directory: TempDir,
}

impl Haproxy {
    /// Starts HAProxy with these sections in its configuration, and waits until it listens.
    pub(crate) fn start_with(sections: impl FnOnce(SocketAddr) -> String) -> Self {
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
        Self::run(Command::new("haproxy").env("PATH", path), sections)
    }

    /// As [`start_with`](Self::start_with), for what needs a newer one than that of this machine's Debian.
    pub(crate) fn start_newer_with(sections: impl FnOnce(SocketAddr) -> String) -> Self {
        Self::run(&mut Command::new(newer_program("haproxy")), sections)
    }

    fn run(command: &mut Command, sections: impl FnOnce(SocketAddr) -> String) -> Self {
        let directory = TempDir::with_prefix("sluice-haproxy-").unwrap();
        let port = Port::reserve();
        let config = directory.path().join("haproxy.cfg");
        let defaults = "defaults\n timeout connect 30s\n timeout client 30s\n timeout server 30s\n";
        std::fs::write(&config, format!("global\n maxconn 100\n{defaults}{}\n", sections(port.address()))).unwrap();
        command.arg("-db").arg("-f").arg(&config);
        let process = Process::start("haproxy", command, directory.path(), port.address());
        Self { process, port, _directory: directory }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Everything logged so far.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }
}
