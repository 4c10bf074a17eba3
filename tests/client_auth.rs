//! Clients with certificates: who is let in, what the others are told, and what the server behind learns.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod pki_support;
mod support;

use std::path::Path;

use pki_support::{Authority, Credentials, Profile, Purpose, self_signed};
use ppp::v2::{Header, Type};
use sluice::tls::client_auth::CLIENT_CERTIFICATE_BYTES_MAX;
use support::backend::{self, Backend};
use support::body::End;
use support::client::{Client, Refusal};
use support::proxy::{Options, Proxy};
use support::suite::Version;
use support::tool::Dialog;
use support::wait_until;
use tempfile::TempDir;

const HANDSHAKE_FAILURE: u8 = 40;
const BAD_CERTIFICATE: u8 = 42;
const UNSUPPORTED_CERTIFICATE: u8 = 43;
const CERTIFICATE_REVOKED: u8 = 44;
const CERTIFICATE_EXPIRED: u8 = 45;
const CERTIFICATE_UNKNOWN: u8 = 46;
const ILLEGAL_PARAMETER: u8 = 47;
const UNKNOWN_CA: u8 = 48;
const CERTIFICATE_REQUIRED: u8 = 116;
const DAY: i64 = 86_400;

/// A root and an authority below it, in a folder.
struct World {
    directory: TempDir,
    root: Authority,
    intermediate: Authority,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = Authority::root("Clients root");
        let intermediate = root.intermediate("Clients intermediate");
        root.write(directory.path(), "root.pem");
        Self { directory, root, intermediate }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a list of each of the authorities, and gives the setting that names them.
    fn lists(&self, revoked: &[&Credentials], next_update: i64) -> String {
        let revoked: Vec<_> = revoked.iter().map(|credentials| &credentials.certificate).collect();
        std::fs::write(self.path().join("root.crl"), self.root.revocation_list(&[], next_update)).unwrap();
        std::fs::write(self.path().join("intermediate.crl"), self.intermediate.revocation_list(&revoked, next_update))
            .unwrap();
        format!("crl = [{:?}, {:?}]", self.path().join("root.crl"), self.path().join("intermediate.crl"))
    }

    /// Sluice that asks its clients, in front of a server that says `a`.
    fn proxy(&self, mode: &str, more: &str) -> Proxy {
        self.proxy_to(Backend::named("a"), mode, more, "")
    }

    fn proxy_to(&self, server: impl ToString, mode: &str, more: &str, backend_lines: &str) -> Proxy {
        let more = if more.is_empty() { String::new() } else { format!(", {more}") };
        let ca = self.path().join("root.pem");
        Proxy::start(&Options {
            tls_lines: format!("client_auth = {{ mode = \"{mode}\", ca = {ca:?}{more} }}"),
            backend_lines: backend_lines.into(),
            ..Options::to([server.to_string()])
        })
    }
}

fn client(proxy: &Proxy, version: Version, credentials: Option<&Credentials>) -> Client {
    let client = Client::of(proxy).version(version);
    match credentials {
        None => client,
        Some(it) => client.identity(it.certificate.clone(), it.key.clone(), it.chain.clone()),
    }
}

/// The alert that the client gets; none where it is let in as far as the server behind. In TLS 1.3 the client has
/// finished its handshake before its certificate was looked at (RFC 8446 section 4.4.2.4).
fn alert(proxy: &Proxy, version: Version, credentials: Option<&Credentials>) -> Option<u8> {
    match client(proxy, version, credentials).try_connect() {
        Err(Refusal::Alert(alert)) => Some(alert),
        Err(Refusal::Other) => panic!("refused without an alert"),
        Ok(mut tls) => match tls.read(&mut [0; 1]) {
            Ok(_) => None,
            Err(End::Alert(alert)) => Some(alert),
            Err(end) => panic!("neither served nor refused: {end:?}"),
        },
    }
}

/// The client reads its alert before the refusal is counted.
fn wait_counted(proxy: &Proxy, expected: &[(&str, u64)]) {
    for (result, count) in expected {
        wait_until(&format!("{count} are counted as {result}"), || counted(proxy, result) == *count);
    }
}

fn counted(proxy: &Proxy, result: &str) -> u64 {
    proxy.metric(&format!("sluice_client_certificates_total{{result=\"{result}\"}}"))
}

#[test]
fn each_fault_of_a_certificate_is_refused_with_its_alert_and_counted() {
    let world = World::new();
    let good = Profile::client("client");
    let other_root = Authority::root("Other root");
    let constrained = world.root.constrained("Constrained", "example.test");
    let deep = world.intermediate.intermediate("Second").intermediate("Third");
    let revoked = world.intermediate.issue(&Profile::client("revoked"));
    let cases = [
        ("accepted", None, world.root.issue(&good)),
        ("accepted", None, world.intermediate.issue(&good)),
        ("accepted", None, world.root.issue(&Profile::client("any purpose").purpose(Purpose::Any))),
        ("accepted", None, constrained.issue(&Profile::client("inside").dns("a.example.test"))),
        ("expired", Some(CERTIFICATE_EXPIRED), world.root.issue(&Profile::client("old").expired())),
        ("expired", Some(CERTIFICATE_EXPIRED), world.root.expired_intermediate("Old").issue(&good)),
        ("not_yet_valid", Some(BAD_CERTIFICATE), world.root.issue(&Profile::client("new").not_yet_valid())),
        ("unknown_ca", Some(UNKNOWN_CA), other_root.issue(&good)),
        ("unknown_ca", Some(UNKNOWN_CA), self_signed(&good)),
        (
            "purpose",
            Some(UNSUPPORTED_CERTIFICATE),
            world.root.issue(&Profile::client("server").purpose(Purpose::Server)),
        ),
        ("name_constraints", Some(CERTIFICATE_UNKNOWN), constrained.issue(&Profile::client("outside").dns("a.test"))),
        ("chain_too_long", Some(UNKNOWN_CA), deep.issue(&good)),
    ];
    let proxy = world.proxy("required", "depth = 2");
    for (result, expected, credentials) in &cases {
        for version in Version::ALL {
            let before = counted(&proxy, result);
            assert_eq!(alert(&proxy, version, Some(credentials)), *expected, "{result} {version:?}");
            wait_until(result, || counted(&proxy, result) == before + 1);
        }
    }
    let refused = 2 * cases.iter().filter(|(_, alert, _)| alert.is_some()).count() as u64;
    wait_until("they are failed handshakes", || proxy.handshakes_failed("client_certificate") == refused);

    let lists = world.lists(&[&revoked], 30 * DAY);
    let proxy = world.proxy("required", &lists);
    for version in Version::ALL {
        assert_eq!(alert(&proxy, version, Some(&revoked)), Some(CERTIFICATE_REVOKED), "{version:?}");
        assert_eq!(alert(&proxy, version, Some(&world.intermediate.issue(&good))), None, "{version:?}");
    }
    wait_counted(&proxy, &[("revoked", 2), ("accepted", 2)]);
}

#[test]
fn client_without_a_certificate_is_refused_or_let_in_as_configured() {
    let world = World::new();
    let listener = Backend::listen();
    let required = world.proxy("required", "");
    let optional = world.proxy_to(listener.address(), "optional", "", "proxy_protocol = \"v2\"");
    for (version, expected) in [(Version::Tls12, HANDSHAKE_FAILURE), (Version::Tls13, CERTIFICATE_REQUIRED)] {
        assert_eq!(alert(&required, version, None), Some(expected));

        let _tls = client(&optional, version, None).connect();
        let told = read_ssl_tlv(&mut listener.accept());
        assert_eq!(told[..5], [1, 0, 0, 0, 1], "the server learns that nothing was proved");
        let stranger = self_signed(&Profile::client("stranger"));
        assert_eq!(alert(&optional, version, Some(&stranger)), Some(UNKNOWN_CA), "one that does not count is refused");
    }
    wait_counted(&required, &[("missing", 2)]);
    wait_counted(&optional, &[("absent", 2), ("unknown_ca", 2)]);
    assert!(required.log().contains("client sent no certificate"), "{}", required.log());
}

#[test]
fn refusal_is_logged_with_everything_that_the_operator_needs() {
    let world = World::new();
    let proxy = world.proxy("required", "");
    let old = world.root.issue(&Profile::client("an\nold, client").expired());
    let mut tls = client(&proxy, Version::Tls13, Some(&old)).connect();
    let address = tls.socket().local_addr().unwrap();
    assert!(tls.read(&mut [0; 1]).is_err());
    wait_until("it is logged", || proxy.log().contains("client certificate refused"));
    let log = proxy.log();
    let line = log.lines().find(|line| line.contains("client certificate refused")).unwrap();
    let serial = old.certificate.serial_number().to_bn().unwrap().to_hex_str().unwrap().to_lowercase();
    for part in
        [&format!("client={address}"), "expired", "CN=an\\\\u{a}old\\\\, client", "CN=Clients root", serial.as_str()]
    {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
}

#[test]
fn only_allowed_identities_are_let_in() {
    let world = World::new();
    let issue = |profile: Profile| world.root.issue(&profile);
    let pinned = issue(Profile::client("pinned"));
    let allowed = format!(
        "allowed = [\"cn:billing\", \"dns:A.example.test\", \"uri:spiffe://example.test/a\", \"spki:sha256:{}\"]",
        pinned.spki_sha256()
    );
    let proxy = world.proxy("required", &allowed);
    for good in [
        issue(Profile::client("billing")),
        issue(Profile::client("x").dns("b.example.test").dns("a.example.test")),
        issue(Profile::client("x").uri("spiffe://example.test/a")),
        pinned,
    ] {
        assert_eq!(alert(&proxy, Version::Tls13, Some(&good)), None);
    }
    let bad = [
        issue(Profile::client("Billing")),
        // A name in the wrong place proves nothing.
        issue(Profile::client("a.example.test")),
        issue(Profile::client("x").dns("billing").uri("spiffe://example.test/ab")),
        issue(Profile::client("x").dns("*.example.test")),
    ];
    for (version, bad) in Version::ALL.iter().cycle().zip(&bad) {
        assert_eq!(alert(&proxy, *version, Some(bad)), Some(BAD_CERTIFICATE));
    }
    // The right name from the wrong authority proves nothing either.
    let stranger = Authority::root("Stranger").issue(&Profile::client("billing"));
    assert_eq!(alert(&proxy, Version::Tls13, Some(&stranger)), Some(UNKNOWN_CA));
    wait_counted(&proxy, &[("accepted", 4), ("not_allowed", 4)]);
}

#[test]
fn expired_revocation_list_is_refused_or_tolerated_as_configured() {
    let world = World::new();
    let good = world.intermediate.issue(&Profile::client("client"));
    let revoked = world.intermediate.issue(&Profile::client("revoked"));
    let lists = world.lists(&[&revoked], -60);
    let strict = world.proxy("required", &lists);
    assert_eq!(alert(&strict, Version::Tls13, Some(&good)), Some(CERTIFICATE_EXPIRED));
    wait_counted(&strict, &[("crl_expired", 1)]);
    let lax = world.proxy("required", &format!("{lists}, expired_crl = \"warn\""));
    for version in Version::ALL {
        assert_eq!(alert(&lax, version, Some(&good)), None);
        assert_eq!(alert(&lax, version, Some(&revoked)), Some(CERTIFICATE_REVOKED), "what it says still counts");
    }
    wait_counted(&lax, &[("accepted_crl_expired", 2), ("revoked", 2)]);
}

#[test]
fn authority_without_a_revocation_list_has_its_clients_refused_where_lists_are_looked_at() {
    let world = World::new();
    std::fs::write(world.path().join("root.crl"), world.root.revocation_list(&[], DAY)).unwrap();
    let proxy = world.proxy("required", &format!("crl = [{:?}]", world.path().join("root.crl")));
    assert_eq!(alert(&proxy, Version::Tls13, Some(&world.root.issue(&Profile::client("a")))), None);
    let unlisted = world.intermediate.issue(&Profile::client("b"));
    assert_eq!(alert(&proxy, Version::Tls13, Some(&unlisted)), Some(UNKNOWN_CA));
    wait_counted(&proxy, &[("crl_missing", 1)]);
}

#[test]
fn authority_of_clients_is_not_sent_as_an_issuer_of_the_servers_certificate() {
    let world = World::new();
    let profile = Profile::client("server").purpose(Purpose::Server).dns("localhost");
    let (chain, key) = world.root.issue(&profile).write(world.path(), "server");
    let ca = world.path().join("root.pem");
    let proxy = Proxy::start(&Options {
        certificates: Some(format!("certificates = [ {{ chain = {chain:?}, key = {key:?} }} ]")),
        tls_lines: format!("client_auth = {{ mode = \"optional\", ca = {ca:?} }}"),
        ..Options::to([Backend::named("a")])
    });
    for version in Version::ALL {
        let client = Client::at(proxy.address(), &ca).version(version).connect();
        assert_eq!(client.ssl().peer_cert_chain().unwrap().len(), 1, "{version:?}: what is in the file");
    }
}

#[test]
fn client_is_told_which_authorities_count() {
    let world = World::new();
    let proxy = world.proxy("optional", "");
    let mut command = std::process::Command::new("openssl");
    let dialog = Dialog::start(command.args(["s_client", "-nocommands", "-connect", &proxy.address().to_string()]));
    dialog.wait_for("Acceptable client certificate CA names");
    dialog.wait_for("CN = Clients root");
}

#[test]
fn certificate_is_let_in_up_to_its_bound_and_refused_beyond() {
    let world = World::new();
    let proxy = world.proxy("required", "");
    let [largest, larger] = [0, 1].map(|more| world.root.issue_of_size(CLIENT_CERTIFICATE_BYTES_MAX + more));
    // What stands above the client's own does not travel any further, and has OpenSSL's bound.
    let deep = world.intermediate.issue_of_size(CLIENT_CERTIFICATE_BYTES_MAX);
    for version in Version::ALL {
        assert_eq!(alert(&proxy, version, Some(&largest)), None, "{version:?}");
        assert_eq!(alert(&proxy, version, Some(&deep)), None, "{version:?}");
        assert_eq!(alert(&proxy, version, Some(&larger)), Some(BAD_CERTIFICATE), "{version:?}");
    }
    wait_counted(&proxy, &[("accepted", 4), ("too_large", 2)]);
    assert!(proxy.log().contains("certificate too large"), "{}", proxy.log());
}

#[test]
fn chain_is_let_in_up_to_what_openssl_reads_and_refused_beyond() {
    let world = World::new();
    let proxy = world.proxy("required", "");
    // Certificates that nobody needs are passed over, and count all the same: with the client's own these are 96 KiB, and
    // then more than 100.
    let mut largest = world.root.issue_of_size(CLIENT_CERTIFICATE_BYTES_MAX);
    largest.chain = (0..5).map(|_| world.root.issue_of_size(CLIENT_CERTIFICATE_BYTES_MAX).certificate).collect();
    for version in Version::ALL {
        assert_eq!(alert(&proxy, version, Some(&largest)), None, "{version:?}");
    }
    largest.chain.push(largest.chain[0].clone());
    for version in Version::ALL {
        // OpenSSL refuses it at its first bytes. So much of it is left unread then that a reset may take the alert away.
        let refusal = match client(&proxy, version, Some(&largest)).try_connect() {
            Ok(mut tls) => tls.read(&mut [0; 1]).map(|_| panic!("let in")).unwrap_err(),
            Err(Refusal::Alert(alert)) => End::Alert(alert),
            Err(Refusal::Other) => End::Reset,
        };
        assert!([End::Alert(ILLEGAL_PARAMETER), End::Reset].contains(&refusal), "{version:?}: {refusal:?}");
    }
    wait_until("they are counted", || proxy.handshakes_failed("protocol") == 2);
    assert_eq!(proxy.log().matches("excessive message size").count(), 2, "{}", proxy.log());
}

/// Reads one version 2 header and gives the value of its SSL TLV.
fn read_ssl_tlv(stream: &mut std::net::TcpStream) -> Vec<u8> {
    let mut header = backend::receive(stream, 16);
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    header.extend(backend::receive(stream, length));
    let header = Header::try_from(&header[..]).unwrap();
    let ssl = header.tlvs().map(|tlv| tlv.unwrap()).find(|tlv| tlv.kind == u8::from(Type::SSL)).expect("an SSL TLV");
    ssl.value.into_owned()
}

#[test]
fn server_learns_the_identity_of_the_client() {
    let world = World::new();
    let listener = Backend::listen();
    let tlvs = "proxy_protocol = \"v2\"\nproxy_protocol_tlvs = [\"cn\", \"client_cert\"]";
    let proxy = world.proxy_to(listener.address(), "required", "", tlvs);
    let credentials = world.intermediate.issue(&Profile::client("billing"));
    for version in Version::ALL {
        let _tls = client(&proxy, version, Some(&credentials)).connect();
        let told = read_ssl_tlv(&mut listener.accept());
        assert_eq!(told[..5], [7, 0, 0, 0, 0], "proved in this connection");
        let der = credentials.certificate.to_der().unwrap();
        let cn = [&[0x22, 0, 7][..], b"billing"].concat();
        assert!(told.windows(cn.len()).any(|window| window == cn), "{told:?}");
        assert!(told.ends_with(&der), "the certificate as a whole");
    }
}
