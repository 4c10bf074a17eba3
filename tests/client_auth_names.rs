//! Names of one listener that ask their clients for different things: none of them is reached through another.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod pki_support;
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use openssl::ssl::{Ssl, SslAcceptor, SslContext, SslFiletype, SslMethod, SslStream, SslVersion};
use pki_support::{Authority, Profile};
use support::backend::{self, Backend};
use support::certificate::{Authority as ServerAuthority, p256_key};
use support::client::connect_plain;
use support::proxy::{Options, Proxy};
use support::suite::Version;
use support::{tool, wait_until};
use tempfile::TempDir;

const DAY: i64 = 86_400;

/// A server that says who it is to whoever sends a request, and closes.
fn server(name: &'static str) -> SocketAddr {
    let serve = move |mut stream: TcpStream| {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read_exact(&mut byte).is_err() {
                return;
            }
            request.push(byte[0]);
        }
        let body = format!("this is {name}");
        let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        let _ = stream.write_all((head + &body).as_bytes());
    };
    Backend::listen().serve(serve).0
}

/// A certificate and its key, in files.
type Files = (PathBuf, PathBuf);

/// Files of clients, and of a proxy with several names.
struct World {
    directory: TempDir,
    root: Authority,
    /// For `guarded.test` and names below `wild.test`.
    client: Files,
    /// For `partner.test`.
    partner: Files,
    certificates: String,
    ca: PathBuf,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let (root, other) = (Authority::root("Clients root"), Authority::root("Partners root"));
        root.write(path, "root.pem");
        other.write(path, "other.pem");
        let client = root.issue(&Profile::client("client")).write(path, "client");
        let partner = other.issue(&Profile::client("partner")).write(path, "partner");
        let authority = ServerAuthority::new();
        let ca = authority.write(path);
        // Two, so that the choice of a certificate goes along.
        let names: [(&str, &[&str]); 2] =
            [("open", &["localhost", "open.test"]), ("guarded", &["guarded.test", "*.wild.test", "partner.test"])];
        let entries = names.map(|(stem, names)| {
            let (chain, key) = authority.issue(path, stem, &p256_key(), names);
            format!("{{ chain = {chain:?}, key = {key:?} }}")
        });
        let certificates = format!("certificates = [{}]", entries.join(", "));
        Self { directory, root, client, partner, certificates, ca }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A listener that asks nobody but those who ask for certain names.
    fn proxy(&self) -> Proxy {
        self.proxy_with("", "")
    }

    /// The same with more about the guarded names, and with something that the listener asks of everybody else.
    fn proxy_with(&self, more: &str, tls_lines: &str) -> Proxy {
        let [root, other] = ["root.pem", "other.pem"].map(|name| self.path().join(name));
        let backends: String =
            [("guarded", server("guarded")), ("partner", server("partner")), ("open", server("open"))]
                .iter()
                .map(|(name, address)| {
                    format!("[[backend]]\nname = \"{name}\"\nservers = [\"{address}\"]\nconnect_timeout = \"60s\"\n")
                })
                .collect();
        let sections = format!(
            r#"
[[listener.server_name]]
names = ["guarded.test", "*.wild.test"]
backend = "guarded"
client_auth = {{ ca = {root:?}{more} }}

[[listener.server_name]]
names = ["partner.test"]
backend = "partner"
[listener.server_name.client_auth]
ca = {other:?}

[[listener.server_name]]
names = ["open.wild.test", "open.test"]
backend = "open"
client_auth.mode = "off"

{backends}"#
        );
        Proxy::start(&Options {
            certificates: Some(self.certificates.clone()),
            tls_lines: tls_lines.to_owned(),
            sections,
            ..Options::to([server("default")])
        })
    }

    /// What a program gets from the server behind a name, with everything that it says.
    fn fetch(&self, proxy: &Proxy, program: Program, version: Version, name: &str, identity: Option<&Files>) -> String {
        let (number, port) = (version.number(), proxy.address().port().to_string());
        let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n");
        let mut command = match program {
            Program::SClient => {
                let version = if version == Version::Tls12 { "-tls1_2" } else { "-tls1_3" };
                let mut command = Command::new("openssl");
                command.args(["s_client", "-quiet", "-nocommands", version, "-servername", name, "-connect"]);
                command.arg(proxy.address().to_string());
                if let Some((chain, key)) = identity {
                    command.arg("-cert").arg(chain).arg("-key").arg(key);
                }
                command
            }
            Program::Curl => {
                let mut command = Command::new("curl");
                command.args(["--silent", "--show-error", "--fail", "--cacert"]).arg(&self.ca);
                command.args([&format!("--tlsv{number}"), "--tls-max", number]);
                command.args(["--resolve", &format!("{name}:{port}:127.0.0.1"), &format!("https://{name}:{port}/")]);
                if let Some((chain, key)) = identity {
                    command.arg("--cert").arg(chain).arg("--key").arg(key);
                }
                command
            }
            Program::GnutlsCli => {
                let mut command = Command::new("gnutls-cli");
                command.args(["--priority", &format!("NORMAL:-VERS-ALL:+VERS-TLS{number}"), "--port", &port]);
                command.args(["--sni-hostname", name, "--verify-hostname", name, "--x509cafile"]).arg(&self.ca);
                if let Some((chain, key)) = identity {
                    command.arg("--x509certfile").arg(chain).arg("--x509keyfile").arg(key);
                }
                command.arg("127.0.0.1");
                command
            }
            Program::Python => return self.python(proxy, version, identity, &[name]).join("\n"),
        };
        tool::run(&mut command, request.as_bytes()).text()
    }

    /// How connections of Python for these names go, each with the session of the last one that had one.
    fn python(&self, proxy: &Proxy, version: Version, identity: Option<&Files>, names: &[&str]) -> Vec<String> {
        let version = if version == Version::Tls12 { "TLSv1_2" } else { "TLSv1_3" };
        let mut command = pki_support::python(PROGRAM, version, identity.map(|(chain, key)| (&**chain, &**key)));
        let output = tool::run(command.arg(proxy.address().port().to_string()).args(names), b"");
        assert!(output.success, "{}", output.text());
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }
}

#[derive(Clone, Copy, Debug)]
enum Program {
    SClient,
    Curl,
    GnutlsCli,
    Python,
}

impl Program {
    const ALL: [Self; 4] = [Self::SClient, Self::Curl, Self::GnutlsCli, Self::Python];
}

const PROGRAM: &str = "
port, *names = arguments
for name in names:
    try:
        with socket.create_connection(('127.0.0.1', int(port)), 30) as plain:
            with context.wrap_socket(plain, session=session, server_hostname=name) as secure:
                secure.sendall(b'GET / HTTP/1.1\\r\\n\\r\\n')
                answer = b''
                while chunk := secure.recv(1000):
                    answer += chunk
                print('resumed:' if secure.session_reused else 'full:', answer.split(b'\\r\\n\\r\\n')[1].decode())
                session = secure.session
    except ssl.SSLError as error:
        print(error.reason)
";

/// What Python says of the alert that a client without a certificate gets.
fn refusal(version: Version) -> &'static str {
    match version {
        Version::Tls12 => "SSLV3_ALERT_HANDSHAKE_FAILURE",
        Version::Tls13 => "TLSV13_ALERT_CERTIFICATE_REQUIRED",
    }
}

fn counted(proxy: &Proxy, result: &str) -> u64 {
    proxy.metric(&format!("sluice_client_certificates_total{{result=\"{result}\"}}"))
}

#[test]
fn every_program_reaches_a_guarded_name_with_its_certificate_and_never_without() {
    let world = World::new();
    let proxy = world.proxy();
    for program in Program::ALL {
        for version in Version::ALL {
            for (name, with, without) in [
                ("guarded.test", &world.client, Some(&world.partner)),
                ("a.wild.test", &world.client, None),
                ("partner.test", &world.partner, Some(&world.client)),
            ] {
                let expected = if name == "partner.test" { "this is partner" } else { "this is guarded" };
                let got = world.fetch(&proxy, program, version, name, Some(with));
                assert!(got.contains(expected), "{program:?} {version:?} {name}: {got}");
                let got = world.fetch(&proxy, program, version, name, without);
                assert!(!got.contains("this is"), "{program:?} {version:?} {name}: {got}");
            }
            for (name, expected) in [("localhost", "this is default"), ("open.wild.test", "this is open")] {
                let got = world.fetch(&proxy, program, version, name, None);
                assert!(got.contains(expected), "{program:?} {version:?} {name}: {got}");
            }
        }
    }
    let cases = 2 * Program::ALL.len() as u64;
    assert_eq!((counted(&proxy, "accepted"), counted(&proxy, "absent")), (3 * cases, 0));
    wait_until("the refusals are counted", || {
        (counted(&proxy, "missing"), counted(&proxy, "unknown_ca")) == (cases, 2 * cases)
    });
}

#[test]
fn no_spelling_of_a_name_gets_around_its_certificate() {
    let world = World::new();
    let proxy = world.proxy();
    let ask = |version: Version, arguments: &[&str], identity: Option<&Files>| {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-nocommands", "-connect", &proxy.address().to_string()]);
        command.arg(if version == Version::Tls12 { "-tls1_2" } else { "-tls1_3" }).args(arguments);
        if let Some((chain, key)) = identity {
            command.arg("-cert").arg(chain).arg("-key").arg(key);
        }
        tool::run(&mut command, b"GET / HTTP/1.1\r\nHost: guarded.test\r\n\r\n").text()
    };
    for version in Version::ALL {
        for name in ["guarded.test", "GUARDED.test", "guarded.test.", "a.wild.test", "A.WILD.TEST.", "-.wild.test"] {
            let got = ask(version, &["-servername", name], Some(&world.client));
            assert!(got.contains("this is guarded"), "{version:?} {name}: {got}");
            let got = ask(version, &["-servername", name], None);
            assert!(got.contains("alert") && !got.contains("this is"), "{version:?} {name}: {got}");
        }
        // None of these is the name: whatever they are, they are not served as it.
        for name in [
            "guarded.test..",
            ".guarded.test",
            "xguarded.test",
            "192.0.2.1",
            "[::1]",
            "wild.test",
            "b.a.wild.test",
            "*",
        ] {
            let got = ask(version, &["-servername", name], None);
            assert!(got.contains("this is default"), "{version:?} {name}: {got}");
        }
        let got = ask(version, &["-noservername"], None);
        assert!(got.contains("this is default"), "{version:?} without a name: {got}");
        // The name itself goes before the pattern, whatever its case.
        let got = ask(version, &["-servername", "Open.Wild.Test."], None);
        assert!(got.contains("this is open"), "{version:?}: {got}");
    }
}

#[test]
fn session_of_one_name_never_resumes_where_another_thing_is_asked() {
    let world = World::new();
    let proxy = world.proxy();
    let scope = || proxy.metric("sluice_tickets_opened_total{result=\"scope\"}");
    for version in Version::ALL {
        let before = scope();
        let names = ["localhost", "localhost", "guarded.test", "guarded.test", "localhost", "guarded.test"];
        let went = world.python(&proxy, version, Some(&world.client), &names);
        let expected = [
            "full: this is default",
            "resumed: this is default",
            "full: this is guarded",
            "resumed: this is guarded",
            "full: this is default",
            "full: this is guarded",
        ];
        assert_eq!(went, expected, "{version:?}");
        assert_eq!(scope() - before, 3, "it is the key of the ticket that is another, and not the name alone");
        let went = world.python(&proxy, version, None, &["localhost", "localhost", "guarded.test", "open.wild.test"]);
        let [first, second, refused, open] = &went[..] else { panic!("{went:?}") };
        assert_eq!([first, second], ["full: this is default", "resumed: this is default"], "{version:?}");
        assert_eq!((refused.as_str(), open.as_str()), (refusal(version), "full: this is open"), "{version:?}");
        // Within a section the name still counts.
        let went = world.python(&proxy, version, Some(&world.client), &["guarded.test", "a.wild.test", "a.wild.test"]);
        let expected = ["full: this is guarded", "full: this is guarded", "resumed: this is guarded"];
        assert_eq!(went, expected, "{version:?}");
    }
}

#[test]
fn section_can_be_open_on_a_listener_that_asks() {
    let world = World::new();
    let other = world.path().join("other.pem");
    let proxy = world.proxy_with("", &format!("client_auth = {{ ca = {other:?} }}"));
    for version in Version::ALL {
        let went = world.python(&proxy, version, None, &["open.test", "open.test", "localhost", "nobody.test"]);
        let expected = ["full: this is open", "resumed: this is open", refusal(version), refusal(version)];
        assert_eq!(went, expected, "{version:?}");
        let went = world.python(&proxy, version, Some(&world.partner), &["localhost", "localhost", "open.test"]);
        assert_eq!(went, ["full: this is default", "resumed: this is default", "full: this is open"], "{version:?}");
        let unknown = "TLSV1_ALERT_UNKNOWN_CA";
        let went = world.python(&proxy, version, Some(&world.client), &["localhost", "guarded.test"]);
        assert_eq!(went, [unknown, "full: this is guarded"], "{version:?}: each has authorities of its own");
    }
}

#[test]
fn revocation_list_of_a_section_is_taken_up_without_a_reload() {
    let world = World::new();
    let list = world.path().join("clients.crl");
    std::fs::write(&list, world.root.revocation_list(&[], DAY)).unwrap();
    let proxy = world.proxy_with(&format!(", crl = [{list:?}]"), "");
    let connect = || world.python(&proxy, Version::Tls13, Some(&world.client), &["guarded.test", "guarded.test"]);
    assert_eq!(connect(), ["full: this is guarded", "resumed: this is guarded"]);
    let certificate = openssl::x509::X509::from_pem(&std::fs::read(&world.client.0).unwrap()).unwrap();
    let next = world.path().join("next.crl");
    std::fs::write(&next, world.root.revocation_list(&[&certificate], DAY)).unwrap();
    std::fs::rename(&next, &list).unwrap();
    wait_until("the client is refused", || connect() == ["SSLV3_ALERT_CERTIFICATE_REVOKED"; 2]);
    let went = world.python(&proxy, Version::Tls13, Some(&world.partner), &["partner.test"]);
    assert_eq!(went, ["full: this is partner"], "other names are as they were");
}

/// A handshake of TLS 1.3 in which the client is asked for its hello again, because it offers its key share for a group
/// that we do not have, and asks for another name then.
fn ask_for_two_names(address: SocketAddr, first: &str, second: &'static str) -> Result<SslStream<TcpStream>, String> {
    let mut builder = SslContext::builder(SslMethod::tls_client()).unwrap();
    builder.set_min_proto_version(Some(SslVersion::TLS1_3)).unwrap();
    builder.set_groups_list("P-521:X25519").unwrap();
    // Called while a hello is written, behind its server_name: the next one has the other name.
    builder.set_psk_client_callback(move |ssl, _, _, _| ssl.set_hostname(second).map(|()| 0));
    let mut ssl = Ssl::new(&builder.build()).unwrap();
    ssl.set_hostname(first).unwrap();
    let socket = TcpStream::connect(address).unwrap();
    backend::bound(&socket);
    ssl.connect(socket).map_err(|error| error.to_string())
}

#[test]
fn client_that_changes_the_name_in_its_second_hello_is_refused() {
    let world = World::new();
    // A server that does not look goes by the second name.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_certificate_file(world.path().join("open.pem"), SslFiletype::PEM).unwrap();
    acceptor.set_private_key_file(world.path().join("open.key"), SslFiletype::PEM).unwrap();
    acceptor.set_groups_list("X25519").unwrap();
    let acceptor = acceptor.build();
    let naive = std::thread::spawn(move || {
        let stream = acceptor.accept(listener.accept().unwrap().0).unwrap();
        stream.ssl().servername(openssl::ssl::NameType::HOST_NAME).map(str::to_owned)
    });
    ask_for_two_names(address, "open.test", "guarded.test").unwrap();
    assert_eq!(naive.join().unwrap().as_deref(), Some("guarded.test"));

    let proxy = world.proxy();
    for (first, second) in [("open.test", "guarded.test"), ("guarded.test", "open.test"), ("open.test", "OPEN.test")] {
        let error = ask_for_two_names(proxy.address(), first, second).expect_err("refused");
        assert!(error.contains("illegal parameter"), "{first}, {second}: {error}");
    }
    let mut tls = ask_for_two_names(proxy.address(), "open.test", "open.test").unwrap();
    tls.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    tls.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("this is open"), "a second hello as such is good: {answer}");
    assert_eq!(proxy.handshakes_failed("protocol"), 3);
    assert!(proxy.log().contains("asks for another server_name"), "{}", proxy.log());
}

#[test]
fn second_hello_out_of_turn_is_refused() {
    let world = World::new();
    let proxy = world.proxy();
    let hello = |name: &str| {
        // RFC 5246 section 7.4.1.2: version, random, no session, one suite, no compression, the name and what ECDHE needs.
        let name = [&[0, u8::try_from(name.len() + 3).unwrap(), 0, 0, name.len() as u8][..], name.as_bytes()].concat();
        let extensions: [(u8, &[u8]); 4] = [(0, &name), (10, &[0, 2, 0, 23]), (11, &[1, 0]), (13, &[0, 4, 4, 3, 8, 4])];
        let extensions = extensions.map(|(kind, body)| [&[0, kind, 0, body.len() as u8][..], body].concat()).concat();
        let body =
            [&[3, 3][..], &[7; 32], &[0, 0, 2, 0xc0, 0x2b, 1, 0, 0, extensions.len() as u8], &extensions].concat();
        [&[1, 0, 0, body.len() as u8][..], &body].concat()
    };
    let record = |message: &[u8]| [&[22, 3, 3, 0, message.len() as u8][..], message].concat();
    let [open, guarded] = ["open.test", "guarded.test"].map(hello);
    // In the record of the first one: nobody may go on before the answer.
    let mut early = connect_plain(&proxy);
    early.write_all(&record(&[&open[..], &guarded].concat())).unwrap();
    let mut answer = Vec::new();
    early.read_to_end(&mut answer).unwrap();
    assert!(matches!(answer[..], [21, 3, _, 0, 2, 2, 47]), "illegal_parameter: {answer:?}");
    // Behind the answer of TLS 1.2, which knows no second hello.
    let mut late = connect_plain(&proxy);
    late.write_all(&record(&open)).unwrap();
    late.read_exact(&mut [0; 1]).expect("an answer");
    late.write_all(&record(&guarded)).unwrap();
    let mut answer = Vec::new();
    late.read_to_end(&mut answer).unwrap();
    assert!(matches!(answer[answer.len() - 7..], [21, 3, 3, 0, 2, 2, 10]), "unexpected_message: {answer:?}");
    wait_until("both are counted", || proxy.handshakes_failed("protocol") == 2);
}
