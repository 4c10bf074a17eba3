//! Which certificate a client gets, by its server_name and by what it can verify; which backend; who is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use openssl::pkey::PKey;
use support::backend::Backend;
use support::certificate::{Authority, p256_key, rsa_key, write_key};
use support::client::Client;
use support::nginx::Nginx;
use support::proxy::{Options, Proxy};
use support::suite::Version;
use support::tool::{self, Output};
use tempfile::TempDir;

/// An authority, and certificates that it issued, each with its stem as common name.
struct Issued {
    directory: TempDir,
    authority: Authority,
    ca: PathBuf,
    entries: String,
}

impl Issued {
    fn new() -> Self {
        let directory = TempDir::with_prefix("sluice-test-").unwrap();
        let authority = Authority::new();
        let ca = authority.write(directory.path());
        Self { directory, authority, ca, entries: String::new() }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn with(mut self, stem: &str, key: &PKey<openssl::pkey::Private>, names: &[&str]) -> Self {
        let (chain, key) = self.authority.issue(self.directory.path(), stem, key, names);
        writeln!(self.entries, "  {{ chain = {chain:?}, key = {key:?} }},").unwrap();
        self
    }

    fn certificates(&self) -> Option<String> {
        Some(format!("certificates = [\n{}]", self.entries))
    }

    fn proxy(&self) -> Proxy {
        Proxy::start(&Options { certificates: self.certificates(), ..Options::to([Backend::echo()]) })
    }

    /// A handshake by `openssl s_client` that trusts the authority.
    fn s_client(&self, proxy: &Proxy, arguments: &[&str]) -> Output {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &proxy.address().to_string(), "-CAfile"]).arg(&self.ca);
        tool::run(command.args(arguments), b"Q\n")
    }

    /// The common name of the certificate that `openssl s_client` gets.
    fn subject(&self, proxy: &Proxy, arguments: &[&str]) -> String {
        let output = self.s_client(proxy, arguments).text();
        let line = output.lines().find_map(|line| line.strip_prefix("subject=CN = "));
        line.unwrap_or_else(|| panic!("{arguments:?}: no certificate: {output}")).to_owned()
    }
}

#[test]
fn certificate_is_chosen_by_name_then_by_pattern_then_the_first() {
    let issued = Issued::new()
        .with("default", &p256_key(), &["localhost"])
        .with("exact", &p256_key(), &["a.example"])
        .with("pattern", &p256_key(), &["*.example", "*.*.bad", "other.example"]);
    let proxy = issued.proxy();
    for (name, expected) in [
        ("a.example", "exact"),
        ("A.EXAMPLE", "exact"),
        ("b.example", "pattern"),
        ("other.example", "pattern"),
        ("b.c.example", "default"),
        ("example", "default"),
        ("elsewhere.test", "default"),
    ] {
        for version in ["-tls1_2", "-tls1_3"] {
            assert_eq!(issued.subject(&proxy, &["-servername", name, version]), expected, "{name} {version}");
        }
    }
    assert_eq!(issued.subject(&proxy, &["-servername", "a.example."]), "exact", "a dot at the end");
    assert_eq!(issued.subject(&proxy, &["-noservername"]), "default");
}

#[test]
fn foreign_clients_verify_the_certificate_of_each_name() {
    let issued = Issued::new()
        .with("default", &p256_key(), &["localhost"])
        .with("shop", &rsa_key(), &["shop.example"])
        .with("pattern", &p256_key(), &["*.pattern.example"]);
    let nginx = Nginx::start();
    nginx.publish("file", b"content");
    let proxy = Proxy::start(&Options { certificates: issued.certificates(), ..Options::to([nginx.address()]) });
    let port = proxy.address().port().to_string();
    for name in ["localhost", "shop.example", "x.pattern.example"] {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--cacert"]).arg(&issued.ca);
        curl.args(["--resolve", &format!("{name}:{port}:127.0.0.1"), &format!("https://{name}:{port}/file")]);
        let curl = tool::run(&mut curl, b"");
        assert!(curl.success && curl.stdout == b"content", "{name}: {}", curl.text());

        let mut gnutls = Command::new("gnutls-cli");
        gnutls.args(["--port", &port, "--sni-hostname", name, "--verify-hostname", name, "--x509cafile"]);
        let gnutls = tool::run(gnutls.arg(&issued.ca).arg("127.0.0.1"), b"GET /file HTTP/1.0\r\n\r\n");
        assert!(gnutls.success && gnutls.text().contains("- Status: The certificate is trusted"), "{}", gnutls.text());
    }
    let refused = issued.s_client(
        &proxy,
        &["-servername", "a.b.pattern.example", "-verify_hostname", "a.b.pattern.example", "-verify_return_error"],
    );
    assert!(refused.text().contains("ostname mismatch"), "{}", refused.text());
}

#[test]
fn client_gets_the_kind_of_key_that_it_can_verify() {
    let names = ["a.example"];
    let issued = Issued::new()
        .with("default", &p256_key(), &["localhost"])
        .with("rsa", &rsa_key(), &names)
        .with("ed25519", &PKey::generate_ed25519().unwrap(), &names)
        .with("ecdsa", &p256_key(), &names);
    let proxy = issued.proxy();
    let everything = "ecdsa_secp256r1_sha256:ed25519:rsa_pss_rsae_sha256:rsa_pkcs1_sha256";
    for (arguments, expected) in [
        (vec!["-tls1_3"], "ecdsa"),
        (vec!["-tls1_3", "-sigalgs", everything], "ecdsa"),
        (vec!["-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256:ecdsa_secp256r1_sha256"], "ecdsa"),
        (vec!["-tls1_3", "-sigalgs", "ed25519:rsa_pss_rsae_sha256"], "ed25519"),
        (vec!["-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256"], "rsa"),
        (vec!["-tls1_2"], "ecdsa"),
        (vec!["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], "rsa"),
        (vec!["-tls1_2", "-sigalgs", "rsa_pkcs1_sha256"], "rsa"),
        (vec!["-tls1_2", "-sigalgs", "ed25519:rsa_pkcs1_sha256"], "ed25519"),
        // The curve of the certificate is not on offer.
        (vec!["-tls1_2", "-curves", "X25519"], "ed25519"),
    ] {
        let arguments = [&["-servername", "a.example"][..], &arguments].concat();
        assert_eq!(issued.subject(&proxy, &arguments), expected, "{arguments:?}");
    }
    let nothing =
        issued.s_client(&proxy, &["-servername", "a.example", "-tls1_3", "-sigalgs", "ecdsa_secp384r1_sha384"]);
    assert!(nothing.text().contains("handshake failure"), "{}", nothing.text());
    proxy.wait_handshake_failed("nothing_in_common");
}

#[test]
fn session_resumes_with_its_own_name_only() {
    let issued = Issued::new().with("one", &p256_key(), &["one.example"]).with("two", &p256_key(), &["two.example"]);
    let proxy = issued.proxy();
    for version in ["-tls1_2", "-tls1_3"] {
        let session = issued.path().join(version);
        let session = session.to_str().unwrap();
        let connect = |name, option| {
            // Until the ticket has come: s_client reads it with the data.
            let mut command = Command::new("openssl");
            command.args(["s_client", "-connect", &proxy.address().to_string(), "-CAfile"]).arg(&issued.ca);
            let mut dialog = tool::Dialog::start(command.args(["-servername", name, version, option, session]));
            dialog.say("echo of this line\n");
            dialog.wait_for("\necho of this line\n");
            dialog.say("Q\n");
            dialog.finish().text()
        };
        assert!(connect("one.example", "-sess_out").contains("\nNew, "), "{version}");
        assert!(connect("one.example", "-sess_in").contains("\nReused, "), "{version}");
        let other = connect("two.example", "-sess_in");
        assert!(other.contains("\nNew, ") && other.contains("subject=CN = two"), "{version}: {other}");
    }
}

#[test]
fn unknown_name_is_refused_where_the_listener_says_so() {
    let issued = Issued::new().with("one", &p256_key(), &["one.example"]).with("two", &p256_key(), &["*.two.example"]);
    let lines = format!("{}\nunknown_server_name = \"refuse\"", issued.certificates().unwrap());
    let proxy = Proxy::start(&Options { certificates: Some(lines), ..Options::to([Backend::echo()]) });
    assert_eq!(issued.subject(&proxy, &["-servername", "one.example"]), "one");
    assert_eq!(issued.subject(&proxy, &["-servername", "x.two.example"]), "two");
    for (arguments, alert) in [
        (["-servername", "three.example", "-tls1_3"], "unrecognized name"),
        (["-servername", "two.example", "-tls1_2"], "unrecognized name"),
        (["-noservername", "-tls1_3", "-no_ticket"], "alert number 109"),
    ] {
        let output = issued.s_client(&proxy, &arguments).text();
        assert!(output.contains(alert) && output.contains("no peer certificate"), "{arguments:?}: {output}");
    }
    support::wait_until("each is counted", || proxy.handshakes_failed("server_name") == 3);
    let log = proxy.log();
    assert!(log.contains("no certificate for server_name") && log.contains("three.example"), "{log}");
}

#[test]
fn section_sends_its_names_to_its_own_backend() {
    let issued = Issued::new().with("default", &p256_key(), &["localhost"]).with(
        "shop",
        &p256_key(),
        &["shop.example", "*.shop.example"],
    );
    let shop = Backend::named("shop");
    let sections = format!(
        "[[listener.server_name]]\nnames = [\"Shop.example\", \"*.shop.example\"]\nbackend = \"shop\"\n\
         [[backend]]\nname = \"shop\"\nservers = [\"{shop}\"]\n"
    );
    let proxy = Proxy::start(&Options {
        certificates: issued.certificates(),
        sections,
        ..Options::to([Backend::named("rest")])
    });
    for version in Version::ALL {
        for (name, backend) in [("shop.example", "shop"), ("a.shop.example", "shop"), ("localhost", "rest")] {
            let client = Client::at(proxy.address(), &issued.ca).version(version).server_name(name);
            assert_eq!(client.connect().receive(4), backend.as_bytes(), "{name}");
        }
    }
}

#[test]
fn folder_serves_every_form_of_certificate() {
    let issued = Issued::new();
    let (authority, folder) = (&issued.authority, issued.path().join("certificates"));
    std::fs::create_dir(&folder).unwrap();
    let key = p256_key();
    authority.issue(&folder, "a-pair", &key, &["pair.example"]);
    let certificate = |stem: &str| authority.certify(stem, &key, &[&format!("{}.example", &stem[2..])]);
    let both = [certificate("b-both").to_pem().unwrap(), key.private_key_to_pem_pkcs8().unwrap()].concat();
    write_key(&folder.join("b-both.pem"), &both);
    let cipher = openssl::symm::Cipher::aes_256_cbc();
    std::fs::write(folder.join("c-locked.crt"), certificate("c-locked").to_pem().unwrap()).unwrap();
    write_key(&folder.join("c-locked.key"), &key.private_key_to_pem_pkcs8_passphrase(cipher, b"open sesame").unwrap());
    write_key(&folder.join("c-locked.pass"), b"open sesame\nnot this\n");
    let archive = |stem: &str, passphrase: &str| {
        let (mut builder, certificate) = (openssl::pkcs12::Pkcs12::builder(), certificate(stem));
        builder.name(stem).pkey(&key).cert(&certificate).build2(passphrase).unwrap().to_der().unwrap()
    };
    write_key(&folder.join("d-archive.p12"), &archive("d-archive", ""));
    write_key(&folder.join("e-vault.pfx"), &archive("e-vault", "secret"));
    write_key(&folder.join("e-vault.pass"), b"secret");
    std::fs::write(folder.join("README"), "not a certificate").unwrap();
    std::fs::write(folder.join(".hidden.crt"), "not a certificate either").unwrap();

    let lines = format!("certificate_directory = {folder:?}");
    let proxy = Proxy::start(&Options { certificates: Some(lines), ..Options::to([Backend::echo()]) });
    for (name, expected) in [
        ("pair.example", "a-pair"),
        ("both.example", "b-both"),
        ("locked.example", "c-locked"),
        ("archive.example", "d-archive"),
        ("vault.example", "e-vault"),
        ("else.example", "a-pair"),
    ] {
        assert_eq!(issued.subject(&proxy, &["-servername", name]), expected, "{name}");
    }
}

#[test]
fn suites_groups_and_versions_are_those_of_the_configuration() {
    let issued = Issued::new().with("one", &p256_key(), &["localhost"]);
    let lines = format!(
        "{}\nmax_version = \"1.3\"\nsuites = [\"TLS_CHACHA20_POLY1305_SHA256\", \"ECDHE-ECDSA-AES256-GCM-SHA384\"]\n\
         groups = [\"P-384\"]\nsignature_algorithms = [\"ecdsa_secp256r1_sha256\"]",
        issued.certificates().unwrap()
    );
    let proxy = Proxy::start(&Options { certificates: Some(lines), ..Options::to([Backend::echo()]) });
    let text = |arguments: &[&str]| issued.s_client(&proxy, arguments).text();
    let modern = text(&["-tls1_3"]);
    assert!(modern.contains("Cipher is TLS_CHACHA20_POLY1305_SHA256"), "{modern}");
    assert!(modern.contains("Server Temp Key: ECDH, secp384r1"), "{modern}");
    assert!(text(&["-tls1_2"]).contains("Cipher is ECDHE-ECDSA-AES256-GCM-SHA384"));
    for refused in [
        &["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"][..],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
        &["-tls1_3", "-groups", "P-256"],
        &["-tls1_3", "-sigalgs", "ecdsa_secp384r1_sha384"],
    ] {
        assert!(text(refused).contains("handshake failure"), "{refused:?}: {}", text(refused));
    }
}

#[test]
fn end_of_the_first_certificate_is_told_by_a_metric() {
    // Both are valid for thirty days.
    let issued = Issued::new().with("one", &p256_key(), &["one.example"]).with("two", &p256_key(), &["two.example"]);
    let proxy = issued.proxy();
    let end = proxy.metric("sluice_certificate_not_after_time_seconds{listener=\"edge\"}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    // Thirty within the second in which it was issued.
    assert!((29..=30).contains(&((end - now) / 86_400)), "{end} {now}");
}
