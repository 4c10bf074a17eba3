//! `sluice check` on the files that a configuration names: each fault is shown at the line that names the file.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

#[path = "check_support/mod.rs"]
mod support;

use openssl::pkey::PKey;
use openssl::symm::Cipher;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use support::{Folder, GOOD, certificate, ec_key, rsa_key};

/// One test: after the change to the folder the good configuration is refused, as recorded.
macro_rules! refused {
    ($($name:ident: |$folder:ident| $change:block)*) => {
        $(
            #[test]
            fn $name() {
                let $folder = Folder::new();
                $change
                let outcome = $folder.check(GOOD);
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
                let outcome = $folder.check(GOOD);
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
    chain_that_is_out_of_order_is_warned_of: |folder| {
        let (key, other) = (ec_key(), ec_key());
        let mut name = openssl::x509::X509Name::builder().unwrap();
        name.append_entry_by_text("CN", "stranger").unwrap();
        let name = name.build();
        let mut stranger = openssl::x509::X509::builder().unwrap();
        stranger.set_subject_name(&name).unwrap();
        stranger.set_issuer_name(&name).unwrap();
        stranger.set_not_before(&openssl::asn1::Asn1Time::from_str("20200101000000Z").unwrap()).unwrap();
        stranger.set_not_after(&openssl::asn1::Asn1Time::from_str("20991231235959Z").unwrap()).unwrap();
        stranger.set_pubkey(&other).unwrap();
        stranger.sign(&other, openssl::hash::MessageDigest::sha256()).unwrap();
        let mut pem = certificate(&key, "20200101000000Z", "20991231235959Z").to_pem().unwrap();
        pem.extend(stranger.build().to_pem().unwrap());
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
