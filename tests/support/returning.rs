//! Client programs that come back: each connects twice, and offers the session of the first connection with the second.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::http::get_request;
use super::suite::Version;
use super::tool::{self, Output};

/// A client program that we did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    OpenSsl,
    GnuTls,
    Curl,
    Python,
}

impl Program {
    pub(crate) const ALL: [Self; 4] = [Self::OpenSsl, Self::GnuTls, Self::Curl, Self::Python];

    /// The versions in which it offers its session to good purpose.
    pub(crate) fn versions(self) -> &'static [Version] {
        match self {
            // In TLS 1.2 curl 7.88 offers its session in vain, to nginx as well.
            Self::Curl => &[Version::Tls13],
            _ => &Version::ALL,
        }
    }

    /// Fetches `/file` from `address` over the second connection, and with some programs over the first one too. It
    /// trusts `ca` alone, and ends with an error where a handshake, or the verification of a certificate, fails.
    pub(crate) fn fetch_twice(self, address: SocketAddr, version: Version, ca: &Path) -> Output {
        match self {
            Self::OpenSsl => openssl(address, version, ca),
            Self::GnuTls => gnutls(address, version, ca),
            Self::Curl => curl(address, version, ca),
            Self::Python => python(address, version, ca),
        }
    }
}

/// An address whose connections go to the nodes in turn, as behind a load balancer.
pub(crate) fn balancer(nodes: &[SocketAddr]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let nodes = nodes.to_vec();
    std::thread::spawn(move || {
        for (client, node) in listener.incoming().zip(nodes.iter().cycle()) {
            let (client, server) = (client.unwrap(), TcpStream::connect(node).unwrap());
            forward(client.try_clone().unwrap(), server.try_clone().unwrap());
            forward(server, client);
        }
    });
    address
}

fn forward(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
}

fn openssl(address: SocketAddr, version: Version, ca: &Path) -> Output {
    let folder = TempDir::new().unwrap();
    let session = folder.path().join("session");
    let option = if version == Version::Tls12 { "-tls1_2" } else { "-tls1_3" };
    let connect = |file_option: &str| {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-nocommands", option, "-servername", "localhost"]);
        command.args(["-verify_return_error", "-connect", &address.to_string(), file_option]).arg(&session);
        tool::run(command.arg("-CAfile").arg(ca), &get_request("file"))
    };
    let first = connect("-sess_out");
    assert!(first.success && session.exists(), "{version:?}: {}", first.stderr);
    connect("-sess_in")
}

fn gnutls(address: SocketAddr, version: Version, ca: &Path) -> Output {
    let priority = format!("NORMAL:-VERS-ALL:+VERS-TLS{}", version.number());
    let mut command = Command::new("gnutls-cli");
    command.args(["--resume", "--waitresumption", "--priority", &priority, "--port", &address.port().to_string()]);
    command.arg("--x509cafile").arg(ca).arg("localhost");
    tool::run(&mut command, &get_request("file"))
}

fn curl(address: SocketAddr, version: Version, ca: &Path) -> Output {
    let url = format!("https://localhost:{}/file", address.port());
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--http1.1", "--tls-max", version.number()]);
    command.args([&format!("--tlsv{}", version.number()), "--header", "Connection: close", "--cacert"]).arg(ca);
    command.args(["--resolve", &format!("localhost:{}:127.0.0.1", address.port()), &url, &url]);
    tool::run(&mut command, b"")
}

fn python(address: SocketAddr, version: Version, ca: &Path) -> Output {
    const PROGRAM: &str = "
import socket, ssl, sys
port, version, ca = int(sys.argv[1]), sys.argv[2], sys.argv[3]
context = ssl.create_default_context(cafile=ca)
context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
session = None
for _ in range(2):
    with socket.create_connection(('127.0.0.1', port), 30) as plain:
        with context.wrap_socket(plain, server_hostname='localhost', session=session) as secure:
            secure.sendall(b'GET /file HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n')
            while data := secure.recv(4096):
                sys.stdout.buffer.write(data)
            session = secure.session
";
    let name = if version == Version::Tls12 { "TLSv1_2" } else { "TLSv1_3" };
    let mut command = Command::new("python3");
    tool::run(command.args(["-c", PROGRAM, &address.port().to_string(), name]).arg(ca), b"")
}
