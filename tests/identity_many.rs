//! Very many certificates on one listener: what they cost. SLUICE_TEST_CERTIFICATES=10000 makes it an edge node's number.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::time::Instant;

use support::backend::Backend;
use support::certificate::{Authority, p256_key, write_key};
use support::client::Client;
use support::proxy::{Options, Proxy};
use tempfile::TempDir;

/// Certificates, unless the environment asks for more.
const COUNT: usize = 1000;

/// Memory that one certificate may take: with its key, in OpenSSL's form, and its place in the table.
const BYTES_PER_CERTIFICATE_MAX: usize = 24 * 1024;

#[test]
fn folder_of_very_many_certificates_is_served() {
    let count = std::env::var("SLUICE_TEST_CERTIFICATES").map_or(COUNT, |count| count.parse().unwrap());
    let directory = TempDir::with_prefix("sluice-test-").unwrap();
    let (authority, key) = (Authority::new(), p256_key());
    let ca = authority.write(directory.path());
    let folder = directory.path().join("certificates");
    std::fs::create_dir(&folder).unwrap();
    let pem = key.private_key_to_pem_pkcs8().unwrap();
    for number in 0..count {
        let name = format!("n{number}");
        let certificate = authority.certify(&name, &key, &[&format!("{name}.example")]).to_pem().unwrap();
        write_key(&folder.join(format!("{name}.pem")), &[certificate, pem.clone()].concat());
    }

    let backend = Backend::echo();
    let one = Proxy::start(&Options::to([backend]));
    let begun = Instant::now();
    let lines = format!("certificate_directory = {folder:?}");
    let all = Proxy::start(&Options { certificates: Some(lines), ..Options::to([backend]) });
    let elapsed = begun.elapsed();
    for name in ["n0.example", "n499.example", "n999.example"] {
        let mut tls = Client::at(all.address(), &ca).server_name(name).connect();
        tls.send(b"hello");
        assert_eq!(tls.receive(5), b"hello");
    }
    let bytes = all.usage().memory_bytes.saturating_sub(one.usage().memory_bytes) / count;
    println!("{count} certificates: served after {elapsed:?}, {bytes} bytes each");
    assert!(bytes < BYTES_PER_CERTIFICATE_MAX, "{bytes} bytes for each certificate");
}
