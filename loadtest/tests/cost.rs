//! What the target spends, seen from outside.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{EcOrRsa, Identity, run, wait_until};
use sluice_loadtest::plan::{Plan, TlsPlan, Trust};
use sluice_loadtest::result::{Doubt, Scenario, WorkUnit};

/// Ends the process when the test ends.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Guard {
    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
}

/// The built-in backend in a process of its own.
fn backend() -> (Guard, SocketAddr) {
    let mut child =
        Command::new(env!("CARGO_BIN_EXE_sluice-load")).arg("backend").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (Guard(child), line.trim().parse().unwrap())
}

#[test]
fn memory_per_connection_of_a_target_of_known_size_is_found() {
    let mut child = Guard(
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "target_of_known_size", "--ignored", "--nocapture"])
            .env(KNOWN_SIZE_SOCKET, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let address = lines.find_map(|line| line.unwrap().split("listening on ").nth(1).map(str::to_owned)).unwrap();
    let plan = Plan {
        connections: 100,
        duration: Duration::from_millis(700),
        pids: vec![child.pid()],
        ..Plan::new(Scenario::Idle, address.parse().unwrap())
    };
    let result = run(&plan);
    assert_eq!((result.work.count, result.work.unit), (100, WorkUnit::Connections), "{result:#?}");
    let bytes = result.target_cost.unwrap().pss_per_connection_bytes.unwrap();
    let known = KNOWN_SIZE_BYTES as f64;
    assert!((known * 0.97..known * 1.06).contains(&bytes), "{bytes} per connection, {known} are known");
}

/// Not a test: the process that the test above measures. It takes connections and keeps memory for each.
#[test]
#[ignore = "the target of another test, in a process of its own"]
fn target_of_known_size() {
    assert!(std::env::var_os(KNOWN_SIZE_SOCKET).is_some(), "only run by another test");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("listening on {}", listener.local_addr().unwrap());
    let mut held = Vec::new();
    for stream in listener.incoming() {
        held.push((stream.unwrap(), vec![1u8; KNOWN_SIZE_BYTES]));
    }
}

#[test]
fn cost_of_the_target_is_what_the_kernel_accounts() {
    let (backend, address) = backend();
    let ticks_before = cpu_ticks(backend.pid());
    let plan =
        Plan { pids: vec![backend.pid()], duration: Duration::from_secs(1), ..Plan::new(Scenario::Request, address) };
    let result = run(&plan);
    let ticks = cpu_ticks(backend.pid()) - ticks_before;
    let cost = result.target_cost.unwrap();
    // A tick is 10 ms; two counters round.
    assert!((cost.cpu_seconds - ticks as f64 / 100.0).abs() < 0.06, "{cost:?}, {ticks} ticks");
    assert!(cost.cpu_seconds > 0.02 && cost.context_switches > 0 && cost.pss_bytes > 500_000, "{cost:?}");
    let rate = result.work.per_target_cpu_second.unwrap();
    assert!((rate * cost.cpu_seconds - result.work.count as f64).abs() < 1.0, "{rate}");
    assert!(result.client_cost.cpu_seconds > 0.0 && result.client_cpu_share > 0.0);
}

#[test]
fn children_of_the_target_are_counted_with_it() {
    let nginx = Nginx::start();
    let plan = Plan { requests: Some(500), pids: vec![nginx.process.pid()], ..nginx.plan(Scenario::Request) };
    let result = run(&plan);
    let cost = result.target_cost.unwrap();
    assert_eq!(cost.processes, 2, "master and worker");
    assert!(cost.cpu_seconds > 0.001, "{cost:?}");
    assert!(!result.doubts.iter().any(|doubt| matches!(doubt, Doubt::TargetChanged { .. })), "{:?}", result.doubts);
}

#[test]
fn requests_through_nginx_are_served_by_its_backend() {
    let nginx = Nginx::start();
    let result = run(&Plan { requests: Some(500), ..nginx.plan(Scenario::Request) });
    assert_eq!((result.work.count, result.errors.len()), (500, 0), "{result:#?}");
    let stats = stats(nginx.backend_address);
    assert_eq!((stats.requests, stats.sent), (500, 500 * 1024));
}

#[test]
fn sessions_resume_against_nginx() {
    let nginx = Nginx::start();
    let result = run(&Plan { requests: Some(100), ..nginx.plan(Scenario::Resume) });
    let resumption = result.resumption.unwrap();
    assert!(resumption.rate > 0.98, "{resumption:?}");
}

fn stats(address: SocketAddr) -> sluice_loadtest::backend::Stats {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    std::io::Write::write_all(&mut stream, b"GET /stats HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap()
}

fn cpu_ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// nginx in front of a built-in backend.
struct Nginx {
    process: Guard,
    address: SocketAddr,
    _backend: Guard,
    backend_address: SocketAddr,
    directory: tempfile::TempDir,
}

impl Nginx {
    fn start() -> Self {
        let (backend, backend_address) = backend();
        let directory = tempfile::tempdir().unwrap();
        Identity::make(EcOrRsa::Ec).write(directory.path());
        // nginx cannot take port 0; the listener that found a free one is gone before nginx starts.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        fs::write(directory.path().join("nginx.conf"), configuration(directory.path(), address, backend_address))
            .unwrap();
        let process = Command::new("nginx")
            .arg("-p")
            .arg(directory.path())
            .args(["-e", "error.log", "-c", "nginx.conf"])
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx must be installed for this test (Debian: apt-get install nginx-light)");
        let process = Guard(process);
        wait_until("nginx answering", || std::net::TcpStream::connect(address).is_ok());
        Self { process, address, _backend: backend, backend_address, directory }
    }

    fn plan(&self, scenario: Scenario) -> Plan {
        let trust = Trust::Ca(self.directory.path().join("cert.pem"));
        Plan {
            tls: Some(TlsPlan { trust, ..TlsPlan::default() }),
            connections: 4,
            duration: Duration::from_secs(10),
            ..Plan::new(scenario, self.address)
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master would not tell its worker if it were killed.
        let pid = nix::unistd::Pid::from_raw(self.process.pid());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.process.0.wait();
    }
}

fn configuration(directory: &Path, address: SocketAddr, backend: SocketAddr) -> String {
    let directory = directory.display();
    format!(
        "daemon off; worker_processes 1; pid {directory}/nginx.pid;
         events {{ worker_connections 256; }}
         http {{
           access_log off;
           client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
           fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
           upstream backend {{ server {backend}; keepalive 16; }}
           server {{
             listen {address} ssl;
             ssl_certificate {directory}/cert.pem; ssl_certificate_key {directory}/key.pem;
             ssl_protocols TLSv1.2 TLSv1.3;
             location / {{ proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}
           }}
         }}"
    )
}

const KNOWN_SIZE_BYTES: usize = 256 * 1024;
const KNOWN_SIZE_SOCKET: &str = "SLUICE_LOAD_TARGET_OF_KNOWN_SIZE";
