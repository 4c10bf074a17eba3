//! Sessions of clients with certificates: what travels with them, and that none outlives the policy that admitted it.
//! The client is Python, which can offer the session of one port at another.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod pki_support;
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use pki_support::{Authority, Credentials, Profile};
use sluice::tls::client_auth::CLIENT_CERTIFICATE_BYTES_MAX;
use support::backend::{self, Backend};
use support::port::Port;
use support::proxy::{Options, Proxy};
use support::suite::Version;
use support::{tool, wait_until};
use tempfile::TempDir;

const DAY: i64 = 86_400;

/// Connects to each port in turn, offers the session of the last connection that had one, and says how it went.
const PROGRAM: &str = "
for target in arguments:
    port, _, name = target.partition('/')
    try:
        with socket.create_connection(('127.0.0.1', int(port)), 30) as plain:
            with context.wrap_socket(plain, session=session, server_hostname=name or 'localhost') as secure:
                if secure.recv(1) != b'a':
                    sys.exit('no answer')
                print('resumed' if secure.session_reused else 'full')
                session = secure.session
    except ssl.SSLError as error:
        print(error.reason)
";

/// A folder with a root, a ring that several proxies share, and the files of a client.
struct World {
    directory: TempDir,
    root: Authority,
    client: Credentials,
    files: (PathBuf, PathBuf),
}

impl World {
    fn new() -> Self {
        let root = Authority::root("Clients root");
        let client = root.issue(&Profile::client("client"));
        Self::of(root, client)
    }

    fn of(root: Authority, client: Credentials) -> Self {
        let directory = tempfile::tempdir().unwrap();
        root.write(directory.path(), "root.pem");
        let files = client.write(directory.path(), "client");
        let ring = directory.path().join("ring");
        let made = Command::new(env!("CARGO_BIN_EXE_sluice")).args(["tickets", "new", "--ring"]).arg(&ring).output();
        assert!(made.unwrap().status.success(), "the ring is made");
        Self { directory, root, client, files }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Sluice on the shared ring. Everything but `client_auth` is the same for all.
    fn proxy(&self, client_auth: &str) -> Proxy {
        self.proxy_to(Backend::named("a"), client_auth, "")
    }

    fn proxy_to(&self, server: impl ToString, client_auth: &str, lines: &str) -> Proxy {
        let ring = self.path().join("ring");
        let tls_lines = if client_auth.is_empty() { String::new() } else { format!("client_auth = {client_auth}") };
        let (tickets, backend_lines) = (format!("ring = {ring:?}"), lines.to_owned());
        Proxy::start(&Options { tls_lines, backend_lines, tickets, ..Options::to([server.to_string()]) })
    }

    /// The usual setting, with more.
    fn required(&self, more: &str) -> String {
        let ca = self.path().join("root.pem");
        format!("{{ mode = \"required\", ca = {ca:?}{more} }}")
    }

    /// How connections to these ports go, one after the other.
    fn connect(&self, version: Version, identity: Identity, ports: &[String]) -> Vec<String> {
        let version = if version == Version::Tls12 { "TLSv1_2" } else { "TLSv1_3" };
        let identity = match identity {
            Identity::Client => Some((&*self.files.0, &*self.files.1)),
            Identity::None => None,
        };
        let mut command = pki_support::python(PROGRAM, version, identity);
        let output = tool::run(command.args(ports), b"");
        assert!(output.success, "{}", output.text());
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }
}

#[derive(Clone, Copy)]
enum Identity {
    Client,
    None,
}

fn port(proxy: &Proxy) -> String {
    proxy.address().port().to_string()
}

#[test]
fn session_resumes_under_the_same_policy_and_the_server_still_learns_the_identity() {
    let world = World::new();
    for version in Version::ALL {
        let listener = Backend::listen();
        let lines = "proxy_protocol = \"v2\"\nproxy_protocol_tlvs = [\"cn\", \"client_cert\"]";
        let [a, b] = [(); 2].map(|()| world.proxy_to(listener.address(), &world.required(""), lines));
        let server = std::thread::spawn(move || {
            let serve = |_| {
                let mut stream = listener.accept();
                let mut header = backend::receive(&mut stream, 16);
                let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
                header.extend(backend::receive(&mut stream, length));
                std::io::Write::write_all(&mut stream, b"a").unwrap();
                header
            };
            (0..3).map(serve).collect::<Vec<_>>()
        });
        let went = world.connect(version, Identity::Client, &[port(&a), port(&a), port(&b)]);
        assert_eq!(went, ["full", "resumed", "resumed"], "{version:?}");
        let der = world.client.certificate.to_der().unwrap();
        for (header, flags) in server.join().unwrap().iter().zip([7, 5, 5]) {
            // Behind fixed part and addresses: type, length, then flags and the verify field.
            assert_eq!((header[28], &header[31..36]), (0x20, &[flags, 0, 0, 0, 0][..]), "{version:?}");
            assert!(header.ends_with(&der), "the certificate travels with the session");
        }
        let resumed = |proxy: &Proxy| proxy.metric("sluice_client_certificates_total{result=\"resumed\"}");
        assert_eq!((resumed(&a), resumed(&b)), (1, 1));
    }
}

/// The ticket is longer than a record then, in either direction.
#[test]
fn largest_certificate_that_is_let_in_travels_in_tickets() {
    let root = Authority::root("Clients root");
    let client = root.issue_of_size(CLIENT_CERTIFICATE_BYTES_MAX);
    let world = World::of(root, client);
    let proxy = world.proxy(&world.required(""));
    for version in Version::ALL {
        let went = world.connect(version, Identity::Client, &[port(&proxy), port(&proxy), port(&proxy)]);
        assert_eq!(went, ["full", "resumed", "resumed"], "{version:?}");
    }
    assert_eq!(proxy.metric("sluice_client_certificates_total{result=\"resumed\"}"), 4);
}

/// The class of CVE-2025-23419: a session that was opened without a certificate, shown where one is needed.
#[test]
fn session_never_gets_past_a_stricter_policy() {
    let world = World::new();
    let optional = world.required("").replace("required", "optional");
    let [off, optional, required] = ["", &optional, &world.required("")].map(|policy| world.proxy(policy));
    for (version, refusal) in
        [(Version::Tls12, "SSLV3_ALERT_HANDSHAKE_FAILURE"), (Version::Tls13, "TLSV13_ALERT_CERTIFICATE_REQUIRED")]
    {
        for lax in [&off, &optional] {
            let went = world.connect(version, Identity::None, &[port(lax), port(lax), port(&required)]);
            assert_eq!(went, ["full", "resumed", refusal], "{version:?}");
            // With a certificate it is a full handshake, and never an error.
            let went = world.connect(version, Identity::Client, &[port(lax), port(&required), port(&required)]);
            assert_eq!(went, ["full", "full", "resumed"], "{version:?}");
        }
    }
}

#[test]
fn session_does_not_outlive_a_change_of_what_admitted_it() {
    let world = World::new();
    let list = |next_update| {
        let path = world.path().join(format!("{next_update}.crl"));
        std::fs::write(&path, world.root.revocation_list(&[], next_update)).unwrap();
        format!(", crl = [{path:?}]")
    };
    let bundle = world.path().join("bundle.pem");
    let pem = [&world.root, &Authority::root("Another root")].map(|root| root.certificate.to_pem().unwrap());
    std::fs::write(&bundle, pem.concat()).unwrap();
    let before = world.proxy(&world.required(""));
    let changes = [
        format!("{{ mode = \"required\", ca = {bundle:?} }}"),
        world.required(&list(DAY)),
        world.required(&list(2 * DAY)),
        world.required(", depth = 1"),
        world.required(", allowed = [\"cn:client\"]"),
        world.required("").replace("required", "optional"),
    ];
    let changed: Vec<_> = changes.iter().map(|policy| world.proxy(policy)).collect();
    for version in Version::ALL {
        // Each with the session of the one before.
        let ports: Vec<_> = std::iter::once(&before).chain(&changed).chain([&before]).map(port).collect();
        let went = world.connect(version, Identity::Client, &ports);
        assert!(went.iter().all(|how| how == "full"), "{version:?}: {went:?}");
        let went = world.connect(version, Identity::Client, &[port(&before), port(&before)]);
        assert_eq!(went, ["full", "resumed"], "{version:?}: the sessions as such are good");
    }
}

#[test]
fn session_does_not_cross_listeners_or_server_names() {
    let world = World::new();
    let second = Port::reserve();
    let lax = format!(
        "mixed_client_auth = \"accept\"\n[[listener]]\nname = \"lax\"\naddress = \"{}\"\nbackend = \"app\"\n[listener.tls]\ncertificates = [{{ chain = {:?}, key = {:?} }}]\n",
        second.address(),
        world.files.0,
        world.files.1,
    );
    let strict = world.proxy_to(Backend::named("a"), &world.required(""), &lax);
    let lax = second.address().port().to_string();
    for (version, refusal) in
        [(Version::Tls12, "SSLV3_ALERT_HANDSHAKE_FAILURE"), (Version::Tls13, "TLSV13_ALERT_CERTIFICATE_REQUIRED")]
    {
        let went = world.connect(version, Identity::None, &[lax.clone(), lax.clone(), port(&strict)]);
        assert_eq!(went, ["full", "resumed", refusal], "{version:?}");
        let other_name = format!("{}/other.test", port(&strict));
        let went = world.connect(version, Identity::Client, &[port(&strict), other_name.clone(), other_name]);
        assert_eq!(went, ["full", "full", "resumed"], "{version:?}");
    }
}

#[test]
fn revocation_list_that_is_replaced_ends_sessions_without_a_restart() {
    let world = World::new();
    let list = world.path().join("clients.crl");
    std::fs::write(&list, world.root.revocation_list(&[], DAY)).unwrap();
    let proxy = world.proxy(&world.required(&format!(", crl = [{list:?}]")));
    for version in Version::ALL {
        std::fs::write(&list, world.root.revocation_list(&[], DAY)).unwrap();
        let connect = || world.connect(version, Identity::Client, &[port(&proxy), port(&proxy)]);
        wait_until("the client is let in, and resumes", || connect() == ["full", "resumed"]);
        let next = world.path().join("next.crl");
        std::fs::write(&next, world.root.revocation_list(&[&world.client.certificate], DAY)).unwrap();
        std::fs::rename(&next, &list).unwrap();
        wait_until("the client is refused", || connect() == ["SSLV3_ALERT_CERTIFICATE_REVOKED"; 2]);
    }
}
