//! Certificates that change while the process runs: renewed ones are served, broken ones are not, and nobody notices.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod run_support;

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use openssl::hash::MessageDigest;
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use openssl::x509::X509;
use run_support::{Backend, DEADLINE, Options, Proxy, issue, openmetrics, wait_until};

/// The fingerprint of the certificate that the proxy shows now.
fn shown(proxy: &Proxy) -> Vec<u8> {
    let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
    builder.set_verify(SslVerifyMode::NONE);
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let tls = builder.build().connect("localhost", stream).unwrap();
    tls.ssl().peer_certificate().unwrap().digest(MessageDigest::sha256()).unwrap().to_vec()
}

fn fingerprint(chain: &Path) -> Vec<u8> {
    X509::from_pem(&fs::read(chain).unwrap()).unwrap().digest(MessageDigest::sha256()).unwrap().to_vec()
}

fn wait_for_shown(proxy: &Proxy, chain: &Path) {
    let expected = fingerprint(chain);
    wait_until("the new certificate is shown", || (shown(proxy) == expected).then_some(()), || proxy.log().text());
}

fn swaps(proxy: &Proxy, result: &str) -> f64 {
    let sample = format!("sluice_certificate_swaps_total{{result=\"{result}\"}}");
    openmetrics::value(&proxy.metrics(), &sample).unwrap()
}

/// Replaces both files, each by a rename.
fn rename_over(folder: &Path, new: &Path) {
    for name in ["edge.key", "edge.crt"] {
        fs::rename(new.join(name), folder.join(name)).unwrap();
    }
}

#[test]
fn renewed_certificate_is_served_whichever_way_the_files_are_replaced() {
    let backend = Backend::start();
    let proxy = Proxy::start(&Options::to(backend.address));
    let folder = proxy.directory();
    let edge = folder.join("edge.crt");
    assert_eq!(shown(&proxy), fingerprint(&edge));
    let download = proxy.curl(&[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    backend.wait_for_half();

    // Renamed over.
    let new = tempfile::tempdir_in(folder).unwrap();
    issue(new.path());
    rename_over(folder, new.path());
    wait_for_shown(&proxy, &edge);

    // Written in place, slowly, the two files one after the other.
    let new = tempfile::tempdir().unwrap();
    issue(new.path());
    for name in ["edge.crt", "edge.key"] {
        let content = fs::read(new.path().join(name)).unwrap();
        fs::write(folder.join(name), &content[..content.len() / 2]).unwrap();
        fs::write(folder.join(name), &content).unwrap();
    }
    wait_for_shown(&proxy, &edge);

    // Links into an archive, as certbot has it; then links through a link to a folder, as Kubernetes has it.
    for version in ["1", "2"] {
        let archive = folder.join("archive").join(version);
        fs::create_dir_all(&archive).unwrap();
        issue(&archive);
        for name in ["edge.key", "edge.crt"] {
            symlink(archive.join(name), folder.join("link")).unwrap();
            fs::rename(folder.join("link"), folder.join(name)).unwrap();
        }
        wait_for_shown(&proxy, &archive.join("edge.crt"));
    }
    let data = |version: &str| {
        let data = folder.join(version);
        fs::create_dir_all(&data).unwrap();
        issue(&data);
        symlink(version, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    };
    data("..1");
    for name in ["edge.key", "edge.crt"] {
        symlink(Path::new("..data").join(name), folder.join("link")).unwrap();
        fs::rename(folder.join("link"), folder.join(name)).unwrap();
    }
    wait_for_shown(&proxy, &folder.join("..1/edge.crt"));
    data("..2");
    wait_for_shown(&proxy, &folder.join("..2/edge.crt"));

    backend.proceed();
    assert!(download.wait_with_output().unwrap().stdout == Backend::body(), "the open connection never noticed");
    let status: serde_json::Value = serde_json::from_str(&proxy.admin_request(&[], "/status").1).unwrap();
    assert_eq!(status["configuration"]["last_reload"]["cause"], "certificate files");
    assert!(swaps(&proxy, "swapped") >= 6.0);
}

#[test]
fn broken_certificate_keeps_the_former_one_in_service_loudly() {
    let backend = Backend::start();
    let proxy = Proxy::start(&Options::to(backend.address));
    let folder = proxy.directory();
    let before = shown(&proxy);
    fs::write(folder.join("edge.crt"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let line = proxy.log().wait_for("the former certificate stays in service");
    assert!(line.contains("listener edge") && line.contains("edge.crt"), "{line}");
    let kept = || (swaps(&proxy, "kept") >= 1.0).then_some(());
    wait_until("it is counted", kept, || proxy.log().text());
    assert_eq!(shown(&proxy), before);
    let status: serde_json::Value = serde_json::from_str(&proxy.admin_request(&[], "/status").1).unwrap();
    assert_eq!(status["configuration"]["last_reload"]["result"], "refused");

    fs::remove_file(folder.join("edge.crt")).unwrap();
    fs::remove_file(folder.join("edge.key")).unwrap();
    issue(folder);
    wait_for_shown(&proxy, &folder.join("edge.crt"));
}

#[test]
fn swaps_under_load_fail_nobody() {
    let backend = Backend::start();
    let proxy = Proxy::start(&Options { cpus: "0,1", ..Options::to(backend.address) });
    let folder = proxy.directory();
    let (is_over, handshakes) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    shown(&proxy);
                    handshakes.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..5 {
            let new = tempfile::tempdir_in(folder).unwrap();
            issue(new.path());
            let expected = fingerprint(&new.path().join("edge.crt"));
            rename_over(folder, new.path());
            let is_shown = || (shown(&proxy) == expected).then_some(());
            wait_until("the new certificate is shown", is_shown, || proxy.log().text());
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(handshakes.load(Ordering::Relaxed) > 0);
    assert!(swaps(&proxy, "swapped") >= 5.0);
}
