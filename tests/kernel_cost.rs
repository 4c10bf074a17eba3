//! What relaying costs: CPU of the proxy per MiB and per request, for both engines and for other proxies on the same
//! work. Run by `scripts/kernel-cost`, where CPU time is a number of instructions; `docs/kernel-tls.md` has the table.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod kernel_support;
mod support;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::Pid;
use sluice::record::ContentType;
use support::backend::Backend;
use support::body::{self, End, Received};
use support::certificate::{self, Files, KeyKind};
use support::client::Client;
use support::port::Port;
use support::process::Process;
use support::proxy::{Options, Proxy};
use support::record::Forger;
use support::suite::{Suite, Version};
use tempfile::TempDir;

const MIB: usize = 1 << 20;
const BULK_MIB: usize = 6;
const REQUESTS: usize = 300;
/// The first round warms up, of the others the middle one counts.
const ROUNDS: usize = 4;

/// A proxy under measurement.
struct Subject {
    name: &'static str,
    address: SocketAddr,
    ca: PathBuf,
    pid: Pid,
    _keeps: Keeps,
}

#[allow(dead_code, reason = "kept alive")]
enum Keeps {
    Sluice(Box<Proxy>),
    Other(Process, Port, TempDir),
}

/// What is measured: the proxy's CPU time over it.
type Work = fn(&Client, Suite, &Backend, Pid) -> u64;

/// Nanoseconds of CPU: per MiB down, per MiB up, per request.
struct Cost([u64; 3]);

#[test]
fn cost_of_each_engine_and_of_other_proxies() {
    if std::env::var_os("SLUICE_COST").is_none() {
        // Minutes of work that prove nothing but the numbers.
        return;
    }
    let backend = Backend::listen();
    let sluice = |name, kernel_tls: &str| {
        let options = Options { kernel_tls: kernel_tls.into(), ..Options::to([backend.address()]) };
        let proxy = Box::new(Proxy::start(&options));
        let (address, ca, pid) = (proxy.address(), proxy.ca().to_owned(), proxy.pid());
        Subject { name, address, ca, pid, _keeps: Keeps::Sluice(proxy) }
    };
    let subjects = [
        sluice("Sluice, userspace", "off"),
        sluice("Sluice, kernel TLS", "always"),
        other("nginx stream", backend.address(), nginx),
        other("HAProxy tcp", backend.address(), haproxy),
    ];
    let mut table =
        String::from("| proxy | ns per MiB down | ns per MiB up | ns per 1 KiB request |\n|---|---|---|---|\n");
    for suite in [Version::Tls13.usual_suite(), Version::Tls12.usual_suite()] {
        for subject in &subjects {
            let Cost([down, up, request]) = measure(subject, &backend, suite);
            writeln!(table, "| {}, TLS {} | {down} | {up} | {request} |", subject.name, suite.version.number())
                .unwrap();
        }
    }
    println!("{table}\nThe kernel's AES-GCM: {}", gcm_driver());
}

/// Which of the kernel's implementations of AES-GCM is in use: without the driver of the CPU it is one in C.
fn gcm_driver() -> String {
    let text = std::fs::read_to_string("/proc/crypto").unwrap();
    let field = |entry: &str, name: &str| {
        let line = entry.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let of_gcm = text.split("\n\n").filter(|entry| field(entry, "name").as_deref() == Some("gcm(aes)"));
    let by_priority = |entry: &&str| field(entry, "priority").and_then(|priority| priority.parse::<u32>().ok());
    of_gcm.max_by_key(by_priority).and_then(|entry| field(entry, "driver")).unwrap_or_else(|| "none".to_owned())
}

fn measure(subject: &Subject, backend: &Backend, suite: Suite) -> Cost {
    let client = Client::at(subject.address, &subject.ca).suite(suite);
    let works: [(Work, usize); 3] = [(download, BULK_MIB), (upload, BULK_MIB), (requests, REQUESTS)];
    Cost(works.map(|(work, units)| {
        let mut rounds: Vec<_> = (0..ROUNDS).map(|_| work(&client, suite, backend, subject.pid)).skip(1).collect();
        rounds.sort_unstable();
        rounds[rounds.len() / 2] / units as u64
    }))
}

fn download(client: &Client, _: Suite, backend: &Backend, pid: Pid) -> u64 {
    let mut tls = client.connect();
    let mut server = backend.accept();
    let data = body::bytes(BULK_MIB * MIB, 1);
    let expected = Received::of(&data, End::CloseNotify).digest;
    let before = cpu(pid);
    let sending = std::thread::spawn(move || server.write_all(&data).unwrap());
    assert_eq!(tls.drain().digest, expected);
    sending.join().unwrap();
    cpu(pid) - before
}

fn upload(client: &Client, suite: Suite, backend: &Backend, pid: Pid) -> u64 {
    let mut forger = Forger::new(client.connect(), suite);
    let mut server = backend.accept();
    let data = body::bytes(BULK_MIB * MIB, 2);
    let mut records: Vec<u8> =
        data.chunks(16_384).flat_map(|part| forger.seal(ContentType::ApplicationData, part)).collect();
    records.extend(forger.seal(ContentType::Alert, &[1, 0]));
    let before = cpu(pid);
    let receiving = std::thread::spawn(move || body::drain(&mut server));
    forger.tls.send_raw(&records);
    assert_eq!(receiving.join().unwrap().digest, openssl::sha::sha256(&data));
    cpu(pid) - before
}

fn requests(client: &Client, _: Suite, backend: &Backend, pid: Pid) -> u64 {
    let mut tls = client.connect();
    let server = backend.accept();
    let serving = std::thread::spawn(move || answer(server));
    tls.send(&[0; 100]);
    tls.receive(1024);
    let before = cpu(pid);
    for _ in 0..REQUESTS {
        tls.send(&[0; 100]);
        tls.receive(1024);
    }
    let spent = cpu(pid) - before;
    tls.close_notify();
    drop(tls);
    serving.join().unwrap();
    spent
}

fn answer(mut server: TcpStream) {
    let mut request = [0; 100];
    while server.read_exact(&mut request).is_ok() && server.write_all(&[1; 1024]).is_ok() {}
}

/// CPU time of every thread of the process, to the nanosecond.
fn cpu(pid: Pid) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of = |thread: PathBuf| -> Option<u64> {
        std::fs::read_to_string(thread.join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()
    };
    threads.filter_map(|thread| of(thread.unwrap().path())).sum()
}

fn other(
    name: &'static str,
    backend: SocketAddr,
    start: fn(&Path, &Files, SocketAddr, SocketAddr) -> Command,
) -> Subject {
    let directory = TempDir::with_prefix("sluice-cost-").unwrap();
    let files = certificate::issue(directory.path(), KeyKind::EcdsaP256);
    let port = Port::reserve();
    let address = port.address();
    let mut command = start(directory.path(), &files, address, backend);
    command.env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/sbin");
    let process = Process::start(name, &mut command, directory.path(), address);
    let pid = process.pid();
    Subject { name, address, ca: files.ca, pid, _keeps: Keeps::Other(process, port, directory) }
}

fn nginx(directory: &Path, files: &Files, address: SocketAddr, backend: SocketAddr) -> Command {
    let (chain, key, at) = (files.chain.display(), files.key.display(), directory.display());
    let text = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off;\nmaster_process off;\npid {at}/pid;\n\
         error_log stderr;\nevents {{}}\nstream {{ server {{ listen {address} ssl; proxy_pass {backend}; \
         proxy_half_close on; ssl_certificate {chain}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3; }} }}\n"
    );
    write_config(&directory.join("conf"), &text);
    let mut command = Command::new("nginx");
    command.arg("-p").arg(directory).arg("-c").arg(directory.join("conf"));
    command
}

fn haproxy(directory: &Path, files: &Files, address: SocketAddr, backend: SocketAddr) -> Command {
    let pem = directory.join("both.pem");
    let both = [std::fs::read(&files.chain).unwrap(), std::fs::read(&files.key).unwrap()].concat();
    std::fs::write(&pem, both).unwrap();
    let text = format!(
        "global\n nbthread 1\ndefaults\n mode tcp\n timeout client 60s\n timeout server 60s\n timeout connect 5s\n\
         listen edge\n bind {address} ssl crt {}\n server app {backend}\n",
        pem.display()
    );
    write_config(&directory.join("conf"), &text);
    let mut command = Command::new("haproxy");
    command.args(["-db", "-f"]).arg(directory.join("conf"));
    command
}

fn write_config(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}
