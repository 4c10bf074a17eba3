//! A folder with certificates and a configuration, and `sluice check` run in it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
#![allow(dead_code, reason = "each test binary uses a part")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use assert_cmd::Command;
use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkcs12::Pkcs12;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::SubjectAlternativeName;
use openssl::x509::{X509, X509Name};
use tempfile::TempDir;

/// A folder of its own with `edge.crt`, `edge.key` (mode 0600).
pub(crate) struct Folder {
    dir: TempDir,
}

/// What came of `sluice check`.
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = Self { dir: TempDir::new().unwrap() };
        let key = ec_key();
        folder.write("edge.crt", &certificate(&key, "20200101000000Z", "20991231235959Z").to_pem().unwrap());
        folder.write_key("edge.key", &key.private_key_to_pem_pkcs8().unwrap());
        folder
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.path().join(name), content).unwrap();
    }

    pub(crate) fn write_key(&self, name: &str, content: &[u8]) {
        self.write(name, content);
        self.mode(name, 0o600);
    }

    pub(crate) fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Makes a ring file.
    pub(crate) fn make_ring(&self, name: &str) {
        let mut command = Command::cargo_bin("sluice").unwrap();
        command.current_dir(self.path()).args(["tickets", "new", "--ring", name]).assert().success();
    }

    /// Runs `sluice check --config sluice.toml` here.
    pub(crate) fn check(&self, config: &str) -> Outcome {
        self.write("sluice.toml", config.as_bytes());
        self.check_file("sluice.toml")
    }

    /// Lets [`Folder::check_prepared`] have these lines in the place of `certificates`.
    pub(crate) fn tls(&self, lines: &str) {
        let usual = "certificates = [{ chain = \"edge.crt\", key = \"edge.key\" }]";
        self.write("sluice.toml", good_with(usual, lines).as_bytes());
    }

    /// Lets [`Folder::check_prepared`] have these entries in `certificates`.
    pub(crate) fn certificates(&self, entries: &str) {
        self.tls(&format!("certificates = [{entries}]"));
    }

    /// Checks what was prepared, or else the good configuration.
    pub(crate) fn check_prepared(&self) -> Outcome {
        if self.path().join("sluice.toml").exists() { self.check_file("sluice.toml") } else { self.check(GOOD) }
    }

    /// Writes a PKCS #12 file with a key and its certificate.
    pub(crate) fn archive(&self, name: &str, passphrase: &str) {
        let key = ec_key();
        let certificate = certificate(&key, "20200101000000Z", "20991231235959Z");
        let mut builder = Pkcs12::builder();
        let archive = builder.name("edge").pkey(&key).cert(&certificate).build2(passphrase).unwrap();
        self.write_key(name, &archive.to_der().unwrap());
    }

    pub(crate) fn check_file(&self, name: &str) -> Outcome {
        let mut command = Command::cargo_bin("sluice").unwrap();
        let output = command.current_dir(self.path()).args(["check", "--config", name]).output().unwrap();
        let text = |bytes: Vec<u8>| {
            let here = self.path().to_str().unwrap();
            String::from_utf8(bytes).unwrap().replace(here, "FOLDER")
        };
        Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

pub(crate) fn ec_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

pub(crate) fn rsa_key(bits: u32) -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
}

/// A self-signed certificate for `edge.test`.
pub(crate) fn certificate(key: &PKey<Private>, not_before: &str, not_after: &str) -> X509 {
    build("edge.test", key, ("edge.test", key), MessageDigest::sha256(), (not_before, not_after))
}

/// A certificate that is valid now, signed by `issuer` (its name and key).
pub(crate) fn issued(subject: &str, key: &PKey<Private>, issuer: Issuer<'_>, digest: MessageDigest) -> X509 {
    build(subject, key, issuer, digest, ("20200101000000Z", "20991231235959Z"))
}

type Issuer<'a> = (&'a str, &'a PKey<Private>);

fn build(
    subject: &str,
    key: &PKey<Private>,
    issuer: Issuer<'_>,
    digest: MessageDigest,
    (not_before, not_after): (&str, &str),
) -> X509 {
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&Asn1Integer::from_bn(&BigNum::from_u32(1).unwrap()).unwrap()).unwrap();
    builder.set_subject_name(&name(subject)).unwrap();
    builder.set_issuer_name(&name(issuer.0)).unwrap();
    builder.set_not_before(&Asn1Time::from_str(not_before).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_str(not_after).unwrap()).unwrap();
    builder.set_pubkey(key).unwrap();
    let mut names = SubjectAlternativeName::new();
    let names = names.dns(subject).dns(&format!("*.{subject}")).build(&builder.x509v3_context(None, None)).unwrap();
    builder.append_extension(names).unwrap();
    builder.sign(issuer.1, digest).unwrap();
    builder.build()
}

fn name(common_name: &str) -> X509Name {
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_text("CN", common_name).unwrap();
    name.build()
}

/// A good configuration.
pub(crate) const GOOD: &str = r#"
[[listener]]
name = "edge"
address = "127.0.0.1:8443"
backend = "app"
[listener.tls]
certificates = [{ chain = "edge.crt", key = "edge.key" }]

[[backend]]
name = "app"
servers = ["127.0.0.1:8080"]
"#;

/// [`GOOD`] with one text replaced, which must be there.
pub(crate) fn good_with(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from:?} is not in the good configuration");
    GOOD.replacen(from, to, 1)
}
