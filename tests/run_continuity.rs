//! Nobody notices reloads, certificate swaps and upgrades: clients that fetch without a pause while all of it happens, the
//! load tools wrk and h2load and curl among them, and a process that is as large after many reloads as before.
//!
//! `SLUICE_TEST_ROUNDS` makes it longer: a round is five reloads, one new certificate and one upgrade.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod run_support;
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use run_support::{DEADLINE, Options, Port, Proxy, issue, wait_until};
use support::nginx::{self, Nginx};
use support::{body as bodies, tool};

/// Bytes of a long download, which takes about two seconds, and of a short one.
const LONG_BYTES: usize = 4 << 20;
const SHORT_BYTES: usize = 10_000;
/// What is sent between two rests of a long download.
const CHUNK_BYTES: usize = 64 << 10;

/// Serves any number of clients: a body of as many bytes as the path says, the long ones slowly.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || serve(stream.unwrap()));
        }
    });
    address
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(());
        }
        request.push(byte[0]);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let len: usize = request.split(['/', ' ']).nth(2).and_then(|len| len.parse().ok()).unwrap_or(0);
    for chunk in body(len).chunks(CHUNK_BYTES) {
        stream.write_all(chunk)?;
        if len == LONG_BYTES {
            // To be long, not to synchronise.
            thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

fn body(len: usize) -> Vec<u8> {
    (0..len).map(|position| (position % 251) as u8).collect()
}

/// One download, whole and ended by close_notify, or what went wrong.
fn fetch(address: SocketAddr, len: usize) -> Result<(), String> {
    let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
    builder.set_verify(SslVerifyMode::NONE);
    let connector = builder.build();
    let stream = TcpStream::connect(address).map_err(|error| format!("connect: {error}"))?;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut tls = connector.connect("localhost", stream).map_err(|error| format!("handshake: {error}"))?;
    tls.write_all(format!("GET /{len} HTTP/1.0\r\n\r\n").as_bytes()).map_err(|error| format!("send: {error}"))?;
    let mut received = Vec::with_capacity(len);
    tls.read_to_end(&mut received).map_err(|error| format!("{} of {len} bytes, then {error}", received.len()))?;
    match received == body(len) {
        true => Ok(()),
        false => Err(format!("{} of {len} bytes arrived, or others", received.len())),
    }
}

/// The process that is to be told next.
fn newest(proxy: &Proxy) -> Pid {
    proxy.successors().last().copied().unwrap_or_else(|| Pid::from_raw(proxy.pid() as i32))
}

#[test]
fn reloads_swaps_and_upgrades_under_load_fail_nobody() {
    let rounds: usize = std::env::var("SLUICE_TEST_ROUNDS").map_or(10, |rounds| rounds.parse().unwrap());
    let limit = Duration::from_secs(if rounds > 10 { 3600 } else { 20 });
    let proxy = Proxy::start(&Options { cpus: "0,1", ..Options::to(backend()) });
    let address = proxy.address();
    let is_over = AtomicBool::new(false);
    let (short, long) = (AtomicU64::new(0), AtomicU64::new(0));
    let failures: Mutex<Vec<String>> = Mutex::default();
    let fetch_on = |len: usize, count: &AtomicU64| {
        while !is_over.load(Ordering::Relaxed) {
            match fetch(address, len) {
                Ok(()) => drop(count.fetch_add(1, Ordering::Relaxed)),
                Err(error) => failures.lock().unwrap().push(error),
            }
        }
    };
    let started = Instant::now();
    let mut done = 0;
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| fetch_on(SHORT_BYTES, &short));
        }
        for _ in 0..3 {
            scope.spawn(|| fetch_on(LONG_BYTES, &long));
        }
        // Ends the clients also where an expectation fails.
        let ended = thread::scope(|scope| {
            scope
                .spawn(|| {
                    // Three rounds at least, however slow the machine is.
                    while done < rounds && (done < 3 || started.elapsed() < limit) {
                        round(&proxy, done);
                        done += 1;
                    }
                })
                .join()
        });
        is_over.store(true, Ordering::Relaxed);
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
    let (short, long) = (short.into_inner(), long.into_inner());
    println!("{done} rounds in {:?}: {short} short and {long} long downloads", started.elapsed());
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} of {} failed: {:?}",
        failures.len(),
        short + long,
        &failures[..failures.len().min(5)]
    );
    assert!(short > 0 && long > 0);
}

fn round(proxy: &Proxy, number: usize) {
    for reload in 0..5 {
        // Something different each time.
        let timeout = |value: usize| format!("connections_max = {}", 1000 + value);
        let last = if reload == 0 && number == 0 { 0 } else { number * 5 + reload };
        proxy.edit(&timeout(last), &timeout(number * 5 + reload + 1));
        let (code, body) = proxy.reload();
        assert_eq!(code, 200, "{body}");
    }
    let new = tempfile::tempdir_in(proxy.directory()).unwrap();
    issue(new.path());
    for name in ["edge.key", "edge.crt"] {
        fs::rename(new.path().join(name), proxy.directory().join(name)).unwrap();
    }
    let count = proxy.successors().len();
    kill(newest(proxy), Signal::SIGUSR2).unwrap();
    wait_until("upgraded", || (proxy.successors().len() > count).then_some(()), || proxy.log().text());
}

/// Reloads, swaps and upgrades that the load tools run across: 50, 10 and 10.
const TOOL_ROUNDS: usize = 10;
/// Bytes of what curl fetches, and how fast nginx sends it: three seconds, across several upgrades.
const CURL_BYTES: usize = 6 << 20;
const CURL_RATE: &str = "2m";
/// How long one run of wrk takes.
const WRK_SECONDS: &str = "3s";
/// Requests of one run of h2load.
const H2LOAD_REQUESTS: &str = "3000";

#[test]
fn wrk_h2load_and_curl_notice_no_reload_swap_or_upgrade() {
    // nginx speaks HTTP/2 over plain TCP only on a port of its own.
    let (http2, edge2) = (Port::reserve(), Port::reserve());
    let nginx = Nginx::start_with(|directory, address| {
        let servers = [address.to_string(), format!("{} http2", http2.address)].map(|listen| {
            format!(
                "server {{ listen {listen}; root {}/files; location /long {{ limit_rate {CURL_RATE}; }} }}",
                directory.display()
            )
        });
        format!("http {{ {} keepalive_requests 100000000; {} }}", nginx::http(directory), servers.concat())
    });
    let (short, long) = (bodies::bytes(SHORT_BYTES, 1), bodies::bytes(CURL_BYTES, 2));
    nginx.publish("short", &short);
    nginx.publish("long", &long);
    let digest = openssl::sha::sha256(&long);
    let sections = format!(
        r#"
[[backend]]
name = "http2"
servers = ["{}"]
[[listener]]
name = "edge2"
address = "{}"
backend = "http2"
kernel_tls = "off"
[listener.tls]
certificates = [ {{ chain = "edge.crt", key = "edge.key" }} ]
alpn = ["h2"]
"#,
        http2.address, edge2.address
    );
    let proxy = Proxy::start(&Options { cpus: "0,1", sections, ..Options::to(nginx.address()) });
    let (edge, edge2) = (format!("https://{}", proxy.address()), format!("https://{}", edge2.address));
    let is_over = AtomicBool::new(false);
    let [kept, closed, streams, downloads] = [(); 4].map(|()| AtomicU64::new(0));
    let until_over = |count: &AtomicU64, run: &dyn Fn() -> u64| {
        // Once at least, also where the rounds are over sooner.
        loop {
            count.fetch_add(run(), Ordering::Relaxed);
            if is_over.load(Ordering::Relaxed) {
                return;
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| until_over(&kept, &|| wrk(&format!("{edge}/short"), &[])));
        // A handshake for each request.
        scope.spawn(|| until_over(&closed, &|| wrk(&format!("{edge}/short"), &["-H", "Connection: close"])));
        scope.spawn(|| until_over(&streams, &|| h2load(&format!("{edge2}/short"))));
        for _ in 0..2 {
            scope.spawn(|| until_over(&downloads, &|| download(&format!("{edge}/long"), &digest)));
        }
        // Ends the tools also where an expectation fails.
        let ended =
            thread::scope(|scope| scope.spawn(|| (0..TOOL_ROUNDS).for_each(|number| round(&proxy, number))).join());
        is_over.store(true, Ordering::Relaxed);
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
    let counts = [kept, closed, streams, downloads].map(AtomicU64::into_inner);
    println!("requests kept alive, one by one, over HTTP/2, long downloads: {counts:?}");
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    assert_eq!(proxy.successors().len(), TOOL_ROUNDS);
}

/// One run of wrk: how many requests, none of which may fail.
fn wrk(url: &str, arguments: &[&str]) -> u64 {
    let mut command = Command::new("wrk");
    command.args(["--threads", "1", "--connections", "4", "--duration", WRK_SECONDS, "--timeout", "20s"]);
    let output = tool::run(command.args(arguments).arg(url), b"");
    let text = output.text();
    assert!(output.success && !text.contains("Socket errors") && !text.contains("Non-2xx"), "wrk: {text}");
    let count = text.lines().find_map(|line| line.split_once(" requests in ")).map(|(count, _)| count.trim().parse());
    count.unwrap_or_else(|| panic!("wrk counts nothing: {text}")).unwrap()
}

/// One run of h2load: how many requests, none of which may fail.
fn h2load(url: &str) -> u64 {
    let mut command = Command::new("h2load");
    let output =
        tool::run(command.args(["--clients=4", "--max-concurrent-streams=4", "-n", H2LOAD_REQUESTS, url]), b"");
    let text = output.text();
    let all = format!("{H2LOAD_REQUESTS} done, {H2LOAD_REQUESTS} succeeded, 0 failed, 0 errored, 0 timeout");
    assert!(output.success && text.contains(&all), "h2load: {text}");
    assert!(text.contains(&format!("status codes: {H2LOAD_REQUESTS} 2xx, 0 3xx, 0 4xx, 0 5xx")), "h2load: {text}");
    H2LOAD_REQUESTS.parse().unwrap()
}

/// One long download by curl, of which every byte must be right. Which certificate is served changes meanwhile.
fn download(url: &str, digest: &[u8]) -> u64 {
    let mut command = Command::new("curl");
    let output =
        tool::run(command.args(["--silent", "--show-error", "--fail", "--insecure", "--max-time", "60", url]), b"");
    let right = output.success && openssl::sha::sha256(&output.stdout) == digest;
    assert!(right, "curl: {} bytes; {}", output.stdout.len(), output.stderr);
    1
}

#[test]
fn memory_and_descriptors_are_after_many_reloads_what_they_were_before() {
    let proxy = Proxy::start(&Options { cpus: "0,1", ..Options::to(backend()) });
    let address = proxy.address();
    let process = format!("/proc/{}", proxy.pid());
    let open = || fs::read_dir(Path::new(&process).join("fd")).unwrap().count();
    let memory = || {
        let rollup = fs::read_to_string(Path::new(&process).join("smaps_rollup")).unwrap();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss_Anon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
    };
    let reload = |count: usize| {
        for _ in 0..count {
            assert_eq!(proxy.reload().0, 200);
            fetch(address, SHORT_BYTES).unwrap();
        }
    };
    // An open connection that outlives every reload must not hold on to what it was accepted under.
    let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
    builder.set_verify(SslVerifyMode::NONE);
    let idle = builder.build().connect("localhost", TcpStream::connect(address).unwrap()).unwrap();
    reload(8);
    wait_until("descriptors are few", || (open() < 100).then_some(()), || proxy.log().text());
    let (descriptors, before) = (open(), memory());
    reload(40);
    let grown = memory().saturating_sub(before);
    assert!(grown < 2048, "{grown} KiB more after 40 reloads, from {before} KiB");
    wait_until("descriptors are closed", || (open() <= descriptors + 2).then_some(()), || proxy.log().text());
    drop(idle);
}
