//! Foreign client programs fetch files from nginx and put files there, with every version and suite.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::process::Command;

use support::body;
use support::certificate::KeyKind;
use support::http::{get_request, put_request};
use support::nginx::Nginx;
use support::proxy::{Options, Proxy};
use support::suite::{Suite, Version};
use support::tool::{self, Dialog};

const LEN: usize = 200_000;

/// Sluice with a key of each kind in front of one nginx, which has a file to fetch.
struct World {
    nginx: Nginx,
    proxies: Vec<(KeyKind, Proxy)>,
    content: Vec<u8>,
}

impl World {
    fn start() -> Self {
        let nginx = Nginx::start();
        let content = body::bytes(LEN, 1);
        nginx.publish("file", &content);
        let start = |key| (key, Proxy::start(&Options { key, ..Options::to([nginx.address()]) }));
        let proxies = [KeyKind::EcdsaP256, KeyKind::Rsa2048].map(start).into();
        Self { nginx, proxies, content }
    }

    /// Runs `download` and `upload` with every suite, and compares what arrives.
    fn check(&self, download: impl Fn(&Proxy, Suite) -> Vec<u8>, upload: impl Fn(&Proxy, Suite, &str, &[u8])) {
        for (key, proxy) in &self.proxies {
            for suite in Suite::with_key(*key) {
                assert!(download(proxy, suite) == self.content, "download with {} and {key:?}", suite.iana);
                let name = format!("{key:?}-{}", suite.iana);
                upload(proxy, suite, &name, &self.content);
                assert!(self.nginx.uploaded(&name) == self.content, "upload with {} and {key:?}", suite.iana);
            }
        }
    }
}

#[test]
fn openssl_s_client_transfers_files_with_every_suite() {
    let s_client = |proxy: &Proxy, suite: Suite, request: &[u8]| {
        let (version, option) = match suite.version {
            Version::Tls12 => ("-tls1_2", "-cipher"),
            Version::Tls13 => ("-tls1_3", "-ciphersuites"),
        };
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-nocommands", version, option, suite.openssl]);
        command.args(["-servername", "localhost", "-verify_return_error", "-connect", &proxy.address().to_string()]);
        let output = tool::run(command.arg("-CAfile").arg(proxy.ca()), request);
        assert!(output.success, "{}: {}", suite.iana, output.stderr);
        output
    };
    World::start().check(
        |proxy, suite| s_client(proxy, suite, &get_request("file")).http_body().to_vec(),
        |proxy, suite, name, content| drop(s_client(proxy, suite, &put_request(name, content))),
    );
}

#[test]
fn curl_transfers_files_with_every_suite() {
    let curl = |proxy: &Proxy, suite: Suite, name: &str| {
        let version = suite.version.number();
        let option = match suite.version {
            Version::Tls12 => "--ciphers",
            Version::Tls13 => "--tls13-ciphers",
        };
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--http1.1", option, suite.openssl]);
        command.arg(format!("--tlsv{version}")).args(["--tls-max", version]).arg("--cacert").arg(proxy.ca());
        command.arg(format!("https://localhost:{}/{name}", proxy.address().port()));
        command.args(["--resolve", &format!("localhost:{}:127.0.0.1", proxy.address().port())]);
        command
    };
    World::start().check(
        |proxy, suite| {
            let output = tool::run(&mut curl(proxy, suite, "file"), b"");
            assert!(output.success, "{}: {}", suite.iana, output.stderr);
            output.stdout
        },
        |proxy, suite, name, content| {
            let mut dialog = Dialog::start(curl(proxy, suite, name).args(["--upload-file", "-"]));
            dialog.feed(content);
            let output = dialog.finish();
            assert!(output.success, "{}: {}", suite.iana, output.stderr);
        },
    );
}

#[test]
fn gnutls_cli_transfers_files_with_every_suite() {
    let directory = tempfile::tempdir().unwrap();
    let gnutls_cli = |proxy: &Proxy, suite: Suite, request: &[u8]| {
        let key_exchange = match (suite.version, suite.key) {
            (Version::Tls13, _) => "",
            (Version::Tls12, KeyKind::EcdsaP256) => ":-KX-ALL:+ECDHE-ECDSA",
            (Version::Tls12, KeyKind::Rsa2048) => ":-KX-ALL:+ECDHE-RSA",
        };
        let (version, cipher) = (suite.version.number(), suite.gnutls);
        let priority = format!("NORMAL:-VERS-ALL:+VERS-TLS{version}:-CIPHER-ALL:+{cipher}{key_exchange}");
        let mut command = Command::new("gnutls-cli");
        command.args(["--priority", &priority, "--port", &proxy.address().port().to_string()]);
        command.arg("--logfile").arg(directory.path().join("log")).arg("--x509cafile").arg(proxy.ca());
        let output = tool::run(
            command.args(["--sni-hostname", "localhost", "--verify-hostname", "localhost", "127.0.0.1"]),
            request,
        );
        assert!(output.success, "{}: {}", suite.iana, output.text());
        output
    };
    World::start().check(
        |proxy, suite| gnutls_cli(proxy, suite, &get_request("file")).http_body().to_vec(),
        |proxy, suite, name, content| drop(gnutls_cli(proxy, suite, &put_request(name, content))),
    );
}

/// Verifies the certificate, sends the request from its input, and insists on close_notify.
const PYTHON_CLIENT: &str = r#"
import socket, ssl, sys
port, ca, version, ciphers, length = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5])
context = ssl.create_default_context(cafile=ca)
context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
if version == "TLSv1_2":
    context.set_ciphers(ciphers)
request = sys.stdin.buffer.read(length)
with socket.create_connection(("127.0.0.1", port)) as plain:
    with context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as tls:
        tls.sendall(request)
        while data := tls.recv(10000):
            sys.stdout.buffer.write(data)
"#;

#[test]
fn python_ssl_transfers_files_with_every_suite() {
    let python = |proxy: &Proxy, suite: Suite, request: &[u8]| {
        let version = match suite.version {
            Version::Tls12 => "TLSv1_2",
            Version::Tls13 => "TLSv1_3",
        };
        let mut command = Command::new("python3");
        command.args(["-c", PYTHON_CLIENT, &proxy.address().port().to_string()]).arg(proxy.ca());
        let output = tool::run(command.args([version, suite.openssl, &request.len().to_string()]), request);
        assert!(output.success, "{}: {}", suite.iana, output.stderr);
        output
    };
    World::start().check(
        |proxy, suite| python(proxy, suite, &get_request("file")).http_body().to_vec(),
        |proxy, suite, name, content| drop(python(proxy, suite, &put_request(name, content))),
    );
}

#[test]
fn openssl_s_client_resumes_sessions_of_each_version() {
    let World { nginx, proxies, .. } = &World::start();
    // Small enough for one record: between two, s_client reports to the same output that it waits.
    nginx.publish("small", b"the whole of a small file");
    let directory = tempfile::tempdir().unwrap();
    for (key, proxy) in proxies {
        for version in ["-tls1_2", "-tls1_3"] {
            let session = directory.path().join(format!("{key:?}{version}"));
            for (option, expected) in [("-sess_out", "\nNew, "), ("-sess_in", "\nReused, ")] {
                let mut command = Command::new("openssl");
                command.args(["s_client", "-ign_eof", "-nocommands", version, "-servername", "localhost"]);
                command.args(["-connect", &proxy.address().to_string(), option]).arg(&session);
                let output = tool::run(command.arg("-CAfile").arg(proxy.ca()), &get_request("small"));
                assert!(output.text().contains(expected), "{key:?} {version} {option}: {}", output.stderr);
                assert!(output.text().contains("the whole of a small file"), "{key:?} {version} {option}");
            }
        }
    }
}
