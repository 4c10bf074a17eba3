//! Real processes that share a ring, as the nodes of a fleet do: sessions resume on the others, across epochs and restarts,
//! and not past expiry, revocation or a stricter policy.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use support::backend::{self, Backend};
use support::nginx::Nginx;
use support::proxy::{Options, Proxy};
use support::returning::{Program, balancer};
use support::ring::RingFolder;
use support::suite::Version;
use support::wait_until;
use tempfile::TempDir;

/// A key file of its own folder, as nginx takes it.
fn key_file(folder: &Path, bytes: usize) -> PathBuf {
    let path = folder.join(format!("{bytes}.key"));
    let mut key = vec![0; bytes];
    openssl::rand::rand_bytes(&mut key).unwrap();
    std::fs::write(&path, key).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

fn handshakes(node: &Proxy, version: Version, kind: &str) -> u64 {
    node.metric(&format!("sluice_handshakes_total{{version=\"{}\",kind=\"{kind}\"}}", version.number()))
}

fn opened(node: &Proxy, result: &str) -> u64 {
    node.metric(&format!("sluice_tickets_opened_total{{result=\"{result}\"}}"))
}

/// Has a program connect to one node, then to another. It trusts the first node's authority alone: without resumption,
/// the second connection fails.
fn check_program(program: Program) {
    let nginx = Nginx::start();
    nginx.publish("file", b"content");
    let ring = RingFolder::new();
    let copy = ring.copy();
    let nodes = [Proxy::start(&ring.options(nginx.address())), Proxy::start(&copy.options(nginx.address()))];
    for &version in program.versions() {
        let address = balancer(&nodes.each_ref().map(Proxy::address));
        let output = program.fetch_twice(address, version, nodes[0].ca());
        assert!(output.success, "{version:?}: {}", output.stderr);
        let counted = [handshakes(&nodes[0], version, "full"), handshakes(&nodes[1], version, "resumed")];
        assert_eq!(counted, [1, 1], "{version:?}: {}", output.stderr);
    }
    assert!(opened(&nodes[1], "current") >= program.versions().len() as u64);
}

#[test]
fn openssl_s_client_resumes_on_another_node() {
    check_program(Program::OpenSsl);
}

#[test]
fn curl_resumes_on_another_node() {
    check_program(Program::Curl);
}

#[test]
fn gnutls_resumes_on_another_node() {
    check_program(Program::GnuTls);
}

#[test]
fn python_resumes_on_another_node() {
    check_program(Program::Python);
}

/// rustls, which remembers its sessions by server name, wherever they come from.
struct Client(Arc<ClientConfig>);

impl Client {
    fn of(version: Version, nodes: &[&Proxy]) -> Self {
        let mut roots = RootCertStore::empty();
        nodes.iter().for_each(|node| roots.add(CertificateDer::from_pem_file(node.ca()).unwrap()).unwrap());
        let version = match version {
            Version::Tls12 => &rustls::version::TLS12,
            Version::Tls13 => &rustls::version::TLS13,
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(&[version]).unwrap();
        Self(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
    }

    /// A handshake, and a word that comes back, behind which the tickets have come too.
    fn connect(&self, node: &Proxy) -> HandshakeKind {
        let connection = ClientConnection::new(Arc::clone(&self.0), "localhost".try_into().unwrap()).unwrap();
        let socket = TcpStream::connect(node.address()).unwrap();
        backend::bound(&socket);
        let mut tls = StreamOwned::new(connection, socket);
        tls.write_all(b"word").unwrap();
        tls.read_exact(&mut [0; 4]).unwrap();
        tls.conn.handshake_kind().unwrap()
    }
}

#[test]
fn rustls_resumes_on_every_worker_of_a_process() {
    let ring = RingFolder::new();
    let node = Proxy::start(&Options { workers: 2, ..ring.options(Backend::echo()) });
    let accepted = || {
        let status: serde_json::Value = serde_json::from_str(&node.status()).unwrap();
        let workers = status["workers"].as_array().unwrap().clone();
        workers.iter().map(|worker| worker["connections_accepted"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    for version in Version::ALL {
        let client = Client::of(version, &[&node]);
        assert_eq!(client.connect(&node), HandshakeKind::Full);
        let before = accepted();
        // The kernel spreads connections: sooner or later each worker has had one.
        wait_until("each worker has resumed a session", || {
            assert_eq!(client.connect(&node), HandshakeKind::Resumed, "{version:?}");
            accepted().iter().zip(&before).all(|(now, before)| now > before)
        });
    }
}

#[test]
fn session_resumes_after_a_restart_and_across_epochs_until_its_lifetime_is_over() {
    for version in Version::ALL {
        let ring = RingFolder::new();
        let options = ring.options(Backend::echo());
        let at = |clock| Proxy::start(&Options { clock, ..options.clone() });
        let first = at(None);
        // Of a node that is 12 hours and some seconds ahead, and has a ring file of its own.
        let elsewhere = ring.copy();
        let too_late = Options { clock: Some("+43210s"), ..elsewhere.options(Backend::echo()) };
        let too_late = Proxy::start(&too_late);
        let client = Client::of(version, &[&first, &too_late]);
        assert_eq!(client.connect(&first), HandshakeKind::Full);
        drop(first);

        // The client does not trust these processes: only a resumption can succeed.
        let same_epoch = at(None);
        assert_eq!(client.connect(&same_epoch), HandshakeKind::Resumed, "{version:?}");
        drop(same_epoch);
        // Eleven hours later, when nobody has ratcheted the ring meanwhile.
        let later = at(Some("+39600s"));
        assert_eq!(client.connect(&later), HandshakeKind::Resumed, "{version:?}");
        assert_eq!(opened(&later, "previous_renewed"), 1, "{version:?}");
        drop(later);

        // Renewal has not given it more than its twelve hours.
        assert_eq!(client.connect(&too_late), HandshakeKind::Full, "{version:?}");
        assert_eq!(opened(&too_late, "expired"), 1, "{version:?}");
    }
}

#[test]
fn revocation_reaches_running_processes_and_ends_every_session() {
    let ring = RingFolder::new();
    let backend = Backend::echo();
    let nodes = [Proxy::start(&ring.options(backend)), Proxy::start(&ring.options(backend))];
    let clients = Version::ALL.map(|version| Client::of(version, &[&nodes[0], &nodes[1]]));
    for client in &clients {
        assert_eq!(client.connect(&nodes[0]), HandshakeKind::Full);
        assert_eq!(client.connect(&nodes[1]), HandshakeKind::Resumed);
    }
    ring.tickets("revoke");
    for node in &nodes {
        wait_until("the revocation has arrived", || node.metric("sluice_ticket_ring_generation") == 1);
    }
    for client in &clients {
        assert_eq!(client.connect(&nodes[0]), HandshakeKind::Full);
        assert_eq!(client.connect(&nodes[1]), HandshakeKind::Resumed, "new sessions resume");
    }
    assert_eq!(opened(&nodes[0], "unknown_key"), 2);
    assert_eq!(nodes[0].metric("sluice_ticket_ring_events_total{event=\"revoked\"}"), 1);
}

#[test]
fn session_does_not_resume_under_a_stricter_policy() {
    let ring = RingFolder::new();
    let backend = Backend::echo();
    let lax = Proxy::start(&ring.options(backend));
    let strict = Proxy::start(&Options { policy: "modern", ..ring.options(backend) });
    let client = Client::of(Version::Tls13, &[&lax, &strict]);
    assert_eq!(client.connect(&lax), HandshakeKind::Full);
    assert_eq!(client.connect(&strict), HandshakeKind::Full);
    assert_eq!(opened(&strict, "unknown_key"), 1);
    assert_eq!(client.connect(&strict), HandshakeKind::Resumed);
}

#[test]
fn sessions_move_from_static_key_files_to_a_ring() {
    for bytes in [80, 48] {
        let folder = TempDir::new().unwrap();
        let key = key_file(folder.path(), bytes);
        let ring = RingFolder::new();
        let backend = Backend::echo();
        let with = |tickets: String| Proxy::start(&Options { tickets, ..Options::to([backend]) });
        let old = with(format!("keys = [{key:?}]"));
        let both = with(format!("ring = {:?}\nkeys = [{key:?}]", ring.path()));
        let new = with(format!("ring = {:?}", ring.path()));
        for version in Version::ALL {
            let client = Client::of(version, &[&old]);
            let kinds = [&old, &both, &new].map(|node| client.connect(node));
            assert_eq!(
                kinds,
                [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed],
                "{bytes} {version:?}"
            );
        }
        assert_eq!((opened(&both, "previous_renewed"), opened(&new, "current")), (2, 2));
    }
}

#[test]
fn ring_file_that_others_can_read_is_refused_at_the_start_and_while_serving() {
    let ring = RingFolder::new();
    let options = ring.options(Backend::echo());
    let node = Proxy::start(&options);
    let client = Client::of(Version::Tls13, &[&node]);
    assert_eq!(client.connect(&node), HandshakeKind::Full);
    std::fs::set_permissions(ring.path(), Permissions::from_mode(0o644)).unwrap();
    let refused = || node.metric("sluice_ticket_ring_events_total{event=\"refused_file\"}");
    wait_until("the file is refused", || refused() > 0);
    assert_eq!(client.connect(&node), HandshakeKind::Resumed, "the ring in use stays");
    let start = Proxy::refused(&options);
    assert!(start.code != Some(0) && start.log.contains("could be read by others"), "{}", start.log);
    std::fs::set_permissions(ring.path(), Permissions::from_mode(0o600)).unwrap();
    wait_until("all is well again", || node.log().contains("all is well again"));
}
