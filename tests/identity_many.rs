//! Very many certificates on one listener: what they cost. SLUICE_TEST_CERTIFICATES=10000 makes it an edge node's number;
//! docs/operating/certificates.md has what came of it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::time::{Duration, Instant};

use support::backend::Backend;
use support::certificate::{Authority, p256_key, write_key};
use support::client::Client;
use support::proxy::{Options, Proxy};
use support::suite::Version;
use support::wait_until;
use tempfile::TempDir;

/// Certificates, unless the environment asks for more.
const COUNT: usize = 1000;

/// Handshakes whose cost is measured.
const HANDSHAKES: usize = 500;

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
    let reading = all.cpu_time();
    for name in ["n0.example", "n499.example", "n999.example"] {
        let mut tls = Client::at(all.address(), &ca).server_name(name).connect();
        tls.send(b"hello");
        assert_eq!(tls.receive(5), b"hello");
    }
    let bytes = all.usage().memory_bytes.saturating_sub(one.usage().memory_bytes) / count;
    let names = (0..HANDSHAKES).map(|number| format!("n{}.example", number * 7919 % count)).collect::<Vec<_>>();
    let of_one = cost(&one, |_| Client::of(&one));
    let of_all = cost(&all, |number| Client::at(all.address(), &ca).server_name(names[number].clone().leak()));
    println!(
        "{count} certificates: served after {elapsed:?} and {reading:?} of CPU time, {bytes} bytes each; CPU time of a \
         handshake {of_all:?}, with one certificate {of_one:?}"
    );
    assert!(bytes < BYTES_PER_CERTIFICATE_MAX, "{bytes} bytes for each certificate");
    // A search through all of them would cost far more.
    assert!(of_all < of_one * 4, "a handshake costs {of_all:?}, with one certificate {of_one:?}");
}

/// CPU time that the proxy spends on one of so many connections, its clock going by 10 ms.
fn cost(proxy: &Proxy, client: impl Fn(usize) -> Client) -> Duration {
    let before = proxy.cpu_time();
    (0..HANDSHAKES).for_each(|number| drop(client(number).version(Version::Tls13).connect()));
    wait_until("every connection is over", || proxy.connections_open() == 0);
    (proxy.cpu_time() - before) / HANDSHAKES as u32
}
