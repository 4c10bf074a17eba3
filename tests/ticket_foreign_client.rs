//! Clients that we did not write resume on another node: `openssl s_client`, GnuTLS and Python, over loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod skip_support;
mod ticket_common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use openssl::ssl::{Ssl, SslContext, SslStream, SslVersion};
use skip_support::skip;
use sluice::ticket::{ManualClock, TicketSettings};
use ticket_common::*;

const DEADLINE: Duration = Duration::from_secs(20);
const VERSIONS: [(SslVersion, &str); 2] = [(SslVersion::TLS1_2, "1.2"), (SslVersion::TLS1_3, "1.3")];

/// Two nodes with one ring.
fn nodes(version: SslVersion) -> [SslContext; 2] {
    let clock = ManualClock::at(real_now());
    let ring = new_ring(clock.now());
    let node = || server(version, &keys_at(&ring, scope("edge"), clock.now()), &TicketSettings::default(), &clock);
    [node(), node()]
}

/// Serves one connection: handshake, one read, an answer, close_notify. Tells whether it was a resumption.
fn serve(listener: &TcpListener, context: &SslContext) -> bool {
    let mut ready = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(DEADLINE).unwrap();
    assert_eq!(poll(&mut ready, timeout).unwrap(), 1, "the client connects");
    let (socket, _): (TcpStream, _) = listener.accept().unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut stream = SslStream::new(Ssl::new(context).unwrap(), socket).unwrap();
    stream.accept().unwrap();
    let resumed = stream.ssl().session_reused();
    let _ = stream.read(&mut [0; 64]);
    let _ = stream.write_all(b"answer\n");
    let _ = stream.shutdown();
    resumed
}

fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        skip(&format!("{program} is not installed"));
    }
    found
}

/// Starts a client that is killed at the deadline, and feeds it a line.
fn client(arguments: &[&str]) -> std::process::Child {
    let mut child = Command::new("timeout")
        .arg(DEADLINE.as_secs().to_string())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.as_mut().unwrap().write_all(b"question\n").unwrap();
    child
}

#[test]
fn openssl_s_client_resumes_on_another_node() {
    if !is_installed("openssl") {
        return;
    }
    for (version, name) in VERSIONS {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("session");
        let [a, b] = nodes(version);
        let resumed = |context: &SslContext, option: &str, file: &Path| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let mut child =
                client(&["openssl", "s_client", "-quiet", "-connect", &address, option, file.to_str().unwrap()]);
            let resumed = serve(&listener, context);
            child.wait().unwrap();
            resumed
        };
        assert!(!resumed(&a, "-sess_out", &file), "TLS {name}");
        assert!(file.exists(), "TLS {name}: the client got a ticket");
        assert!(resumed(&b, "-sess_in", &file), "TLS {name}");
    }
}

#[test]
fn gnutls_client_resumes_on_another_node() {
    if !is_installed("gnutls-cli") {
        return;
    }
    for (version, name) in VERSIONS {
        let [a, b] = nodes(version);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        // Connects twice, the second time with what it got the first time.
        let arguments = ["gnutls-cli", "--resume", "--insecure", "--waitresumption", "-p", &port, "127.0.0.1"];
        let mut child = client(&arguments);
        assert!(!serve(&listener, &a), "TLS {name}");
        assert!(serve(&listener, &b), "TLS {name}");
        child.wait().unwrap();
    }
}

#[test]
fn python_client_resumes_on_another_node() {
    const PROGRAM: &str = "
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
session = None
for _ in range(2):
    with socket.create_connection(('127.0.0.1', int(sys.argv[1])), 10) as plain:
        with context.wrap_socket(plain, session=session) as secure:
            secure.sendall(b'question')
            secure.recv(64)
            session = secure.session
            if not secure.session.has_ticket:
                sys.exit('no ticket')
";
    if !is_installed("python3") {
        return;
    }
    for (version, name) in VERSIONS {
        let [a, b] = nodes(version);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let mut child = client(&["python3", "-c", PROGRAM, &port]);
        assert!(!serve(&listener, &a), "TLS {name}");
        assert!(serve(&listener, &b), "TLS {name}");
        assert!(child.wait().unwrap().success(), "TLS {name}");
    }
}
