//! `sluice check` on the files that a configuration names: each fault is shown at the line that names the file.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

#[path = "check_support/mod.rs"]
mod support;

use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{Ssl, SslContextBuilder, SslMethod, SslVerifyMode};
use openssl::symm::Cipher;
use openssl::x509::X509;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use support::{Folder, GOOD, certificate, ec_key, issued, rsa_key};

/// One test: after the change to the folder the good configuration is refused, as recorded.
macro_rules! refused {
    ($($name:ident: |$folder:ident| $change:block)*) => {
        $(
            #[test]
            fn $name() {
                let $folder = Folder::new();
                $change
                let outcome = $folder.check_prepared();
                insta::assert_snapshot!(stringify!($name), outcome.stderr);
                assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""));
            }
        )*
    };
}

/// One test: after the change to the folder the good configuration is taken with a warning, as recorded.
macro_rules! warned {
    ($($name:ident: |$folder:ident| $change:block)*) => {
        $(
            #[test]
            fn $name() {
                let $folder = Folder::new();
                $change
                let outcome = $folder.check_prepared();
                insta::assert_snapshot!(stringify!($name), outcome.stderr);
                assert_eq!(outcome.code, Some(0));
                assert!(outcome.stdout.contains("1 warning"), "{}", outcome.stdout);
            }
        )*
    };
}

refused! {
    files_that_are_missing_are_both_shown: |folder| {
        std::fs::remove_file(folder.path().join("edge.crt")).unwrap();
        std::fs::remove_file(folder.path().join("edge.key")).unwrap();
    }
    certificate_that_is_a_loop_of_links_is_refused: |folder| {
        std::fs::remove_file(folder.path().join("edge.crt")).unwrap();
        symlink("edge.crt", folder.path().join("edge.crt")).unwrap();
    }
    certificate_that_is_a_directory_is_refused: |folder| {
        std::fs::remove_file(folder.path().join("edge.crt")).unwrap();
        std::fs::create_dir(folder.path().join("edge.crt")).unwrap();
    }
    certificate_that_is_a_pipe_is_refused: |folder| {
        std::fs::remove_file(folder.path().join("edge.crt")).unwrap();
        let path = folder.path().join("edge.crt");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
    }
    certificate_and_key_that_are_empty_are_refused: |folder| {
        folder.write("edge.crt", b"");
        folder.write_key("edge.key", b"\n\n");
    }
    certificate_that_is_too_large_is_refused: |folder| {
        folder.write("edge.crt", &vec![b'\n'; 2 << 20]);
    }
    certificate_and_key_that_are_not_pem_are_refused: |folder| {
        let key = ec_key();
        folder.write("edge.crt", &certificate(&key, "20200101000000Z", "20991231235959Z").to_der().unwrap());
        folder.write_key("edge.key", &key.private_key_to_der().unwrap());
    }
    certificate_and_key_that_are_swapped_are_refused: |folder| {
        let key = ec_key();
        folder.write("edge.key", &certificate(&key, "20200101000000Z", "20991231235959Z").to_pem().unwrap());
        folder.write("edge.crt", &key.private_key_to_pem_pkcs8().unwrap());
    }
    key_of_another_pair_is_refused: |folder| {
        folder.write_key("edge.key", &ec_key().private_key_to_pem_pkcs8().unwrap());
    }
    key_of_another_kind_is_refused: |folder| {
        folder.write_key("edge.key", &rsa_key(2048).private_key_to_pem_pkcs8().unwrap());
    }
    key_with_a_passphrase_is_refused: |folder| {
        let pem = ec_key().private_key_to_pem_pkcs8_passphrase(Cipher::aes_128_cbc(), b"secret").unwrap();
        folder.write_key("edge.key", &pem);
    }
    key_with_a_passphrase_of_the_older_form_is_refused: |folder| {
        let pem = ec_key().ec_key().unwrap().private_key_to_pem_passphrase(Cipher::aes_128_cbc(), b"secret").unwrap();
        folder.write_key("edge.key", &pem);
    }
    key_that_is_weak_is_refused: |folder| {
        let key = rsa_key(1024);
        folder.write("edge.crt", &certificate(&key, "20200101000000Z", "20991231235959Z").to_pem().unwrap());
        folder.write_key("edge.key", &key.private_key_to_pem_pkcs8().unwrap());
    }
    key_on_a_curve_that_tls_does_not_have_is_refused: |folder| {
        let group = EcGroup::from_curve_name(Nid::SECP256K1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        folder.write_key("edge.key", &key.private_key_to_pem_pkcs8().unwrap());
    }
    intermediate_that_has_a_weak_key_is_refused: |folder| {
        let (key, ca) = (ec_key(), rsa_key(1024));
        let mut pem = issued("edge.test", &key, ("ca", &ca), MessageDigest::sha256()).to_pem().unwrap();
        pem.extend(issued("ca", &ca, ("ca", &ca), MessageDigest::sha256()).to_pem().unwrap());
        folder.write("edge.crt", &pem);
        folder.write_key("edge.key", &key.private_key_to_pem_pkcs8().unwrap());
    }
    certificate_that_is_signed_with_sha1_is_refused: |folder| {
        let (key, ca) = (ec_key(), ec_key());
        folder.write("edge.crt", &issued("edge.test", &key, ("ca", &ca), MessageDigest::sha1()).to_pem().unwrap());
        folder.write_key("edge.key", &key.private_key_to_pem_pkcs8().unwrap());
    }
    passphrase_that_is_wrong_is_refused: |folder| {
        folder.write_key("edge.key", &ec_key().private_key_to_pem_pkcs8_passphrase(Cipher::aes_128_cbc(), b"secret").unwrap());
        folder.write_key("edge.pass", b"guess\n");
        folder.certificates("{ chain = \"edge.crt\", key = \"edge.key\", passphrase_file = \"edge.pass\" }");
    }
    passphrase_file_that_is_missing_is_refused: |folder| {
        folder.certificates("{ chain = \"edge.crt\", key = \"edge.key\", passphrase_file = \"edge.pass\" }");
    }
    passphrase_that_is_empty_is_refused: |folder| {
        folder.write_key("edge.pass", b"\nsecret\n");
        folder.certificates("{ chain = \"edge.crt\", key = \"edge.key\", passphrase_file = \"edge.pass\" }");
    }
    archive_that_needs_a_passphrase_is_refused: |folder| {
        folder.archive("edge.p12", "secret");
        folder.certificates("{ pkcs12 = \"edge.p12\" }");
    }
    archive_whose_passphrase_is_wrong_is_refused: |folder| {
        folder.archive("edge.p12", "secret");
        folder.write_key("edge.pass", b"guess");
        folder.certificates("{ pkcs12 = \"edge.p12\", passphrase_file = \"edge.pass\" }");
    }
    folder_that_is_missing_is_refused: |folder| {
        folder.tls("certificate_directory = \"certificates\"");
    }
    folder_without_a_certificate_is_refused: |folder| {
        std::fs::create_dir(folder.path().join("certificates")).unwrap();
        folder.write("certificates/README", b"nothing");
        folder.tls("certificate_directory = \"certificates\"");
    }
    folder_with_a_broken_file_and_a_missing_key_is_refused: |folder| {
        std::fs::create_dir(folder.path().join("certificates")).unwrap();
        std::fs::copy(folder.path().join("edge.crt"), folder.path().join("certificates/lonely.crt")).unwrap();
        folder.tls("certificate_directory = \"certificates\"");
    }
    key_of_a_kind_that_cannot_sign_is_refused: |folder| {
        let key = PKey::generate_x25519().unwrap();
        folder.write_key("edge.key", &key.private_key_to_pem_pkcs8().unwrap());
    }
}

warned! {
    certificate_that_has_expired_is_warned_of: |folder| {
        let key = ec_key();
        folder.write("edge.crt", &certificate(&key, "20200101000000Z", "20210101000000Z").to_pem().unwrap());
        folder.write_key("edge.key", &key.private_key_to_pem_pkcs8().unwrap());
    }
    certificate_that_is_not_valid_yet_is_warned_of: |folder| {
        let key = ec_key();
        folder.write("edge.crt", &certificate(&key, "20900101000000Z", "20991231235959Z").to_pem().unwrap());
        folder.write_key("edge.key", &key.private_key_to_pem_pkcs8().unwrap());
    }
    key_that_everybody_can_read_is_warned_of: |folder| {
        folder.mode("edge.key", 0o644);
    }
    passphrase_that_nobody_needs_is_warned_of: |folder| {
        folder.write_key("edge.pass", b"secret");
        folder.certificates("{ chain = \"edge.crt\", key = \"edge.key\", passphrase_file = \"edge.pass\" }");
    }
    certificate_that_no_client_gets_is_warned_of: |folder| {
        folder.certificates("{ chain = \"edge.crt\", key = \"edge.key\" }, { chain = \"edge.crt\", key = \"edge.key\" }");
    }
    chain_that_is_upside_down_is_repaired_with_a_warning: |folder| {
        let (key, ca) = (ec_key(), ec_key());
        let mut pem = issued("ca", &ca, ("ca", &ca), MessageDigest::sha256()).to_pem().unwrap();
        pem.extend(issued("edge.test", &key, ("ca", &ca), MessageDigest::sha256()).to_pem().unwrap());
        folder.write("edge.crt", &pem);
        folder.write_key("edge.key", &key.private_key_to_pem_pkcs8().unwrap());
    }
    chain_that_is_out_of_order_is_warned_of: |folder| {
        let (key, other) = (ec_key(), ec_key());
        let mut pem = certificate(&key, "20200101000000Z", "20991231235959Z").to_pem().unwrap();
        pem.extend(issued("stranger", &other, ("stranger", &other), MessageDigest::sha256()).to_pem().unwrap());
        folder.write("edge.crt", &pem);
        folder.write_key("edge.key", &key.private_key_to_pem_pkcs8().unwrap());
    }
}

#[test]
fn certificate_and_key_that_are_damaged_are_refused() {
    let folder = Folder::new();
    folder.write("edge.crt", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    folder.write_key("edge.key", b"-----BEGIN PRIVATE KEY-----\n????\n-----END PRIVATE KEY-----\n");
    let outcome = folder.check(GOOD);
    // OpenSSL's own words differ between its releases, hence no snapshot.
    for part in ["edge.crt is damaged", "edge.key is damaged", "sluice.toml:7:27", "2 errors"] {
        assert!(outcome.stderr.contains(part), "{part}: {}", outcome.stderr);
    }
    assert_eq!(outcome.code, Some(1));
}

#[test]
fn certificate_that_expires_within_14_days_is_warned_of() {
    let folder = Folder::new();
    let key = ec_key();
    let end = std::time::SystemTime::now() + std::time::Duration::from_secs(5 * 86_400 + 3600);
    let end = humantime::format_rfc3339_seconds(end).to_string().replace(['-', ':', 'T'], "");
    folder.write("edge.crt", &certificate(&key, "20200101000000Z", &end).to_pem().unwrap());
    folder.write_key("edge.key", &key.private_key_to_pem_pkcs8().unwrap());
    let outcome = folder.check(GOOD);
    assert!(outcome.stderr.contains("the certificate expires soon") && outcome.stderr.contains("5 days left"));
    assert_eq!(outcome.code, Some(0));
}

#[test]
fn kinds_of_keys_that_can_serve_are_taken() {
    let ed25519 = PKey::generate_ed25519().unwrap();
    for key in [rsa_key(2048), ec_key()] {
        let folder = Folder::new();
        folder.write("edge.crt", &certificate(&key, "20200101000000Z", "20991231235959Z").to_pem().unwrap());
        folder.write_key("edge.key", &key.private_key_to_pem_pkcs8().unwrap());
        assert_eq!(folder.check(GOOD).code, Some(0));
    }
    let folder = Folder::new();
    folder.write_key("edge.key", &ed25519.private_key_to_pem_pkcs8().unwrap());
    // Taken as a key, refused as the key of a P-256 certificate.
    assert!(folder.check(GOOD).stderr.contains("does not belong to"));
}

#[test]
fn chain_in_order_with_its_self_signed_root_is_taken() {
    let folder = Folder::new();
    let (key, ca) = (ec_key(), ec_key());
    let mut pem = issued("edge.test", &key, ("ca", &ca), MessageDigest::sha256()).to_pem().unwrap();
    // What the root says of itself proves nothing: its SHA-1 signature is not looked at.
    pem.extend(issued("ca", &ca, ("ca", &ca), MessageDigest::sha1()).to_pem().unwrap());
    folder.write("edge.crt", &pem);
    folder.write_key("edge.key", &key.private_key_to_pem_pkcs8().unwrap());
    let outcome = folder.check(GOOD);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
}

/// The check must refuse what the context would refuse, and SHA-1.
#[test]
fn chain_is_refused_where_openssl_refuses_it() {
    let (key, ca, weak_ca) = (ec_key(), ec_key(), rsa_key(1024));
    let (sha1, sha256) = (MessageDigest::sha1(), MessageDigest::sha256());
    let leaf = |issuer, digest| issued("edge.test", &key, issuer, digest);
    let root = |key: &PKey<_>, digest| issued("ca", key, ("ca", key), digest);
    let cases = [
        (vec![leaf(("ca", &ca), sha256), root(&ca, sha256)], true, true),
        (vec![leaf(("ca", &ca), sha256), root(&ca, sha1)], true, true),
        // OpenSSL would serve SHA-1, and clients would refuse it.
        (vec![leaf(("ca", &ca), sha1)], true, false),
        (vec![leaf(("ca", &weak_ca), sha256), root(&weak_ca, sha256)], false, false),
        (vec![leaf(("ca", &ca), sha256), issued("ca", &ca, ("top", &ca), sha1)], true, false),
    ];
    for (chain, served, expected) in cases {
        let taken = openssl_serves(&key, &chain);
        let folder = Folder::new();
        folder
            .write("edge.crt", &chain.iter().flat_map(|certificate| certificate.to_pem().unwrap()).collect::<Vec<_>>());
        folder.write_key("edge.key", &key.private_key_to_pem_pkcs8().unwrap());
        let outcome = folder.check(GOOD);
        assert_eq!((taken, outcome.code == Some(0)), (served, expected), "{chain:?}: {}", outcome.stderr);
    }
}

/// Whether a server at OpenSSL's security level 2 completes a handshake with this chain. The chain behind the first
/// certificate is looked at only then. The client takes everything.
fn openssl_serves(key: &PKey<Private>, chain: &[X509]) -> bool {
    let mut server = SslContextBuilder::new(SslMethod::tls_server()).unwrap();
    server.set_security_level(2);
    if server.set_certificate(&chain[0]).is_err() {
        return false;
    }
    server.set_private_key(key).unwrap();
    for certificate in &chain[1..] {
        server.add_extra_chain_cert(certificate.clone()).unwrap();
    }
    let server = Ssl::new(&server.build()).unwrap();
    let mut client = SslContextBuilder::new(SslMethod::tls_client()).unwrap();
    client.set_security_level(0);
    client.set_verify(SslVerifyMode::NONE);
    let client = Ssl::new(&client.build()).unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    let connecting = std::thread::spawn(move || client.connect(far).is_ok());
    let accepted = server.accept(near).is_ok();
    connecting.join().unwrap() && accepted
}

#[test]
fn key_that_may_not_be_read_is_refused_with_the_remedy() {
    let folder = Folder::new();
    folder.write("sluice.toml", GOOD.as_bytes());
    folder.mode("edge.key", 0o000);
    // As root nothing is unreadable: a copy of the program runs as nobody, who can reach this folder.
    let program = folder.path().join("sluice");
    std::fs::copy(assert_cmd::cargo::cargo_bin("sluice"), &program).unwrap();
    folder.mode("sluice", 0o755);
    folder.mode(".", 0o755);
    let mut command = std::process::Command::new(&program);
    command.current_dir(folder.path()).args(["check", "--config", "sluice.toml"]);
    if nix::unistd::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("Permission denied") && stderr.contains("ls -l "), "{stderr}");
}

/// Whether `sluice check` warns of the mode of this file.
fn warns_of_mode(name: &str, mode: u32, warning: &str) -> bool {
    let folder = Folder::new();
    let pem = ec_key();
    let encrypted = pem.private_key_to_pem_pkcs8_passphrase(Cipher::aes_128_cbc(), b"secret").unwrap();
    folder.write("edge.crt", &certificate(&pem, "20200101000000Z", "20991231235959Z").to_pem().unwrap());
    folder.write_key("edge.key", &encrypted);
    folder.write_key("edge.pass", b"secret\n");
    folder.archive("edge.p12", "secret");
    match name {
        "edge.p12" => folder.certificates("{ pkcs12 = \"edge.p12\", passphrase_file = \"edge.pass\" }"),
        _ => folder.certificates("{ chain = \"edge.crt\", key = \"edge.key\", passphrase_file = \"edge.pass\" }"),
    }
    folder.mode(name, mode);
    let outcome = folder.check_prepared();
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let help = format!("chmod 0600 FOLDER/{name}");
    assert_eq!(outcome.stderr.contains(&help), outcome.stderr.contains(warning), "{}", outcome.stderr);
    outcome.stderr.contains(warning)
}

/// A group that may read is how services share keys: `ssl-cert` of Debian, certbot's hooks.
#[test]
fn file_with_a_secret_may_be_read_by_its_group_and_by_nobody_else() {
    for (name, what) in [("edge.key", "private key"), ("edge.p12", "private key"), ("edge.pass", "passphrase")] {
        let warning = format!("the {what} is open to others: they can read or replace it");
        for mode in [0o400, 0o600, 0o640, 0o440] {
            assert!(!warns_of_mode(name, mode, &warning), "{name} {mode:o}");
        }
        for mode in [0o604, 0o644, 0o660, 0o620, 0o602] {
            assert!(warns_of_mode(name, mode, &warning), "{name} {mode:o}");
        }
    }
}
