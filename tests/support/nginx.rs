//! nginx as the backend: files to fetch, and a place to put files.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::port::Port;
use super::process::{Process, newer_program};

/// A running nginx that speaks plain HTTP.
pub(crate) struct Nginx {
    _process: Process,
    port: Port,
    directory: TempDir,
}

impl Nginx {
    /// Starts nginx in a directory of its own.
    pub(crate) fn start() -> Self {
        Self::start_with(|directory, address| {
            format!(
                "http {{ {} server {{ listen {address}; root {}/files; dav_methods PUT; }} }}",
                http(directory),
                directory.display()
            )
        })
    }

    /// Starts nginx with these blocks in its configuration.
    pub(crate) fn start_with(blocks: impl FnOnce(&Path, SocketAddr) -> String) -> Self {
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
        let stream_module = "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n";
        Self::run(Command::new("nginx").env("PATH", path), |directory, address| {
            stream_module.to_owned() + &configuration(directory, &blocks(directory, address))
        })
    }

    /// As [`start_with`](Self::start_with), for what needs a newer one than that of this machine's Debian; without streams.
    pub(crate) fn start_newer_with(blocks: impl FnOnce(&Path, SocketAddr) -> String) -> Self {
        Self::run(&mut Command::new(newer_program("nginx")), |directory, address| {
            configuration(directory, &blocks(directory, address))
        })
    }

    fn run(command: &mut Command, configuration: impl FnOnce(&Path, SocketAddr) -> String) -> Self {
        let directory = TempDir::with_prefix("sluice-nginx-").unwrap();
        let port = Port::reserve();
        let config = directory.path().join("nginx.conf");
        for name in ["files", "temporary"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        std::fs::write(&config, configuration(directory.path(), port.address())).unwrap();
        command.arg("-p").arg(directory.path()).arg("-c").arg(&config);
        let process = Process::start("nginx", command, directory.path(), port.address());
        Self { _process: process, port, directory }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Puts a file where `GET /NAME` finds it.
    pub(crate) fn publish(&self, name: &str, body: &[u8]) {
        std::fs::write(self.file(name), body).unwrap();
    }

    /// What `PUT /NAME` left.
    pub(crate) fn uploaded(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.file(name)).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join("files").join(name)
    }
}

/// What every http block needs to stay within the test's directory.
pub(crate) fn http(directory: &Path) -> String {
    let at = directory.display();
    format!(
        r#"
    access_log off;
    client_body_temp_path {at}/temporary/body;
    proxy_temp_path {at}/temporary/proxy;
    fastcgi_temp_path {at}/temporary/fastcgi;
    uwsgi_temp_path {at}/temporary/uwsgi;
    scgi_temp_path {at}/temporary/scgi;
    client_max_body_size 0;
"#
    )
}

fn configuration(directory: &Path, blocks: &str) -> String {
    let at = directory.display();
    // One process and no change of user: the test's directory belongs to whoever runs the test.
    format!(
        r#"
daemon off;
master_process off;
pid {at}/nginx.pid;
error_log stderr;
events {{ worker_connections 2048; }}
{blocks}
"#
    )
}
