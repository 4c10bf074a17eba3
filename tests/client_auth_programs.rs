//! Foreign clients prove who they are: openssl s_client, curl, gnutls-cli, Python and rustls, in both versions; each is let
//! in with a good certificate and refused without one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod pki_support;
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use pki_support::{Authority, Profile};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use support::backend;
use support::http::get_request;
use support::nginx::Nginx;
use support::proxy::{Options, Proxy};
use support::suite::Version;
use support::tool;
use tempfile::TempDir;

/// Sluice that asks its clients, in front of an nginx with a file.
struct World {
    _nginx: Nginx,
    proxy: Proxy,
    directory: TempDir,
    chain: PathBuf,
    key: PathBuf,
}

const CONTENT: &[u8] = b"for those who are known";

impl World {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = Authority::root("Clients root");
        let ca = root.write(directory.path(), "root.pem");
        let credentials = root.intermediate("Clients intermediate").issue(&Profile::client("client"));
        let (chain, key) = credentials.write(directory.path(), "client");
        let nginx = Nginx::start();
        nginx.publish("file", CONTENT);
        let proxy = Proxy::start(&Options {
            tls_lines: format!("client_auth = {{ mode = \"required\", ca = {ca:?} }}"),
            ..Options::to([nginx.address()])
        });
        Self { _nginx: nginx, proxy, directory, chain, key }
    }

    fn port(&self) -> String {
        self.proxy.address().port().to_string()
    }
}

fn s_client(world: &World, version: Version) -> Command {
    let version = if version == Version::Tls12 { "-tls1_2" } else { "-tls1_3" };
    let mut command = Command::new("openssl");
    command.args(["s_client", "-quiet", "-nocommands", version, "-servername", "localhost", "-connect"]);
    command.arg(world.proxy.address().to_string()).arg("-CAfile").arg(world.proxy.ca());
    command
}

#[test]
fn openssl_s_client_is_let_in_and_refused_and_resumes() {
    let world = World::start();
    for version in Version::ALL {
        let session = world.directory.path().join(version.number());
        for option in ["-sess_out", "-sess_in"] {
            let mut command = s_client(&world, version);
            command.arg("-cert").arg(&world.chain).arg("-cert_chain").arg(&world.chain).arg("-key").arg(&world.key);
            let output = tool::run(command.arg(option).arg(&session), &get_request("file"));
            assert_eq!(output.http_body(), CONTENT, "{version:?} {option}: {}", output.text());
        }
        let output = tool::run(&mut s_client(&world, version), &get_request("file"));
        assert!(output.text().contains("alert") && !output.text().contains("200 OK"), "{}", output.text());
    }
    let resumed = world.proxy.metric("sluice_client_certificates_total{result=\"resumed\"}");
    assert_eq!(resumed, 2, "once in each version");
}

#[test]
fn curl_is_let_in_and_refused() {
    let world = World::start();
    let curl = |version: Version| {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--http1.1"]).arg("--cacert").arg(world.proxy.ca());
        command.arg(format!("--tlsv{}", version.number())).args(["--tls-max", version.number()]);
        command.args(["--resolve", &format!("localhost:{}:127.0.0.1", world.port())]);
        command.arg(format!("https://localhost:{}/file", world.port()));
        command
    };
    for version in Version::ALL {
        let output = tool::run(curl(version).arg("--cert").arg(&world.chain).arg("--key").arg(&world.key), b"");
        assert_eq!(output.stdout, CONTENT, "{version:?}: {}", output.text());
        let output = tool::run(&mut curl(version), b"");
        assert!(!output.success && output.stdout.is_empty(), "{version:?}: {}", output.text());
    }
}

#[test]
fn gnutls_cli_is_let_in_and_refused() {
    let world = World::start();
    let gnutls = |version: Version| {
        let priority = format!("NORMAL:-VERS-ALL:+VERS-TLS{}", version.number());
        let mut command = Command::new("gnutls-cli");
        command.args(["--priority", &priority, "--port", &world.port(), "--x509cafile"]).arg(world.proxy.ca());
        command.args(["--sni-hostname", "localhost", "--verify-hostname", "localhost"]);
        command
    };
    for version in Version::ALL {
        let mut command = gnutls(version);
        command.arg("--x509certfile").arg(&world.chain).arg("--x509keyfile").arg(&world.key).arg("127.0.0.1");
        let output = tool::run(&mut command, &get_request("file"));
        assert!(output.text().contains(std::str::from_utf8(CONTENT).unwrap()), "{version:?}: {}", output.text());
        let output = tool::run(gnutls(version).arg("127.0.0.1"), &get_request("file"));
        assert!(!output.text().contains("200 OK"), "{version:?}: {}", output.text());
    }
}

#[test]
fn rustls_is_let_in_and_refused_and_resumes() {
    let world = World::start();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let builder = || {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(world.proxy.ca()).unwrap()).unwrap();
            let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
            builder.with_protocol_versions(&[version]).unwrap().with_root_certificates(roots)
        };
        let chain = CertificateDer::pem_file_iter(&world.chain).unwrap().map(Result::unwrap).collect();
        let known = builder().with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&world.key).unwrap()).unwrap();
        let known = Arc::new(known);
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let (answer, kind) = fetch(&world, &known).unwrap();
            assert!(answer.ends_with(CONTENT), "{version:?}");
            assert_eq!(kind, Some(expected), "{version:?}");
        }
        let unknown = Arc::new(builder().with_no_client_auth());
        assert!(fetch(&world, &unknown).is_err(), "{version:?}");
    }
}

fn fetch(world: &World, config: &Arc<ClientConfig>) -> std::io::Result<(Vec<u8>, Option<HandshakeKind>)> {
    let socket = TcpStream::connect(world.proxy.address()).unwrap();
    backend::bound(&socket);
    let connection = ClientConnection::new(Arc::clone(config), "localhost".try_into().unwrap()).unwrap();
    let mut tls = StreamOwned::new(connection, socket);
    tls.write_all(&get_request("file"))?;
    let mut answer = Vec::new();
    tls.read_to_end(&mut answer)?;
    Ok((answer, tls.conn.handshake_kind()))
}
