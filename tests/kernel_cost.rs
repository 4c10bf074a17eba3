//! What relaying costs: CPU of the proxy per MiB and per request, for both engines and for other proxies on the same
//! work; and what one hand-over, and one turn of each way to move bytes, costs by itself. Run by `scripts/kernel-cost`,
//! where CPU time is a number of instructions; `docs/kernel-tls.md` has the tables.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod kernel_support;
mod support;

use std::fmt::Write as _;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use kernel_support::record::Reference;
use kernel_support::{keys, socket};
use nix::sys::socket::{setsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use sluice::ktls::control::{self, Received as FromKernel};
use sluice::ktls::{Direction, attach_ulp, install};
use sluice::record::{Aead, ContentType, Framing, Opener, PLAINTEXT_LEN_MAX, ProtocolVersion, Sealer, frame_protected};
use sluice::sys::splice::Pipe;
use socket2::SockRef;
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

/// Whether this run is for the numbers: they are minutes of work that proves nothing else.
fn is_wanted() -> bool {
    std::env::var_os("SLUICE_COST").is_some()
}

/// What is measured: the proxy's CPU time over it.
type Work = fn(&Client, Suite, &Backend, Pid) -> u64;

/// Nanoseconds of CPU: per MiB down, per MiB up, per request.
struct Cost([u64; 3]);

#[test]
fn cost_of_each_engine_and_of_other_proxies() {
    if !is_wanted() {
        return;
    }
    let backend = Backend::listen();
    let subjects = [
        sluice("Sluice, userspace", &backend, "off", None),
        sluice("Sluice, kernel TLS, splice", &backend, "always", Some("splice")),
        sluice("Sluice, kernel TLS, copy", &backend, "always", Some("copy")),
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

fn sluice(name: &'static str, backend: &Backend, kernel_tls: &str, kernel_tls_bulk: Option<&'static str>) -> Subject {
    let kernel_tls_after = Some("16KiB".to_owned());
    let options = Options {
        kernel_tls: kernel_tls.into(),
        kernel_tls_after,
        kernel_tls_bulk,
        ..Options::to([backend.address()])
    };
    let proxy = Box::new(Proxy::start(&options));
    let (address, ca, pid) = (proxy.address(), proxy.ca().to_owned(), proxy.pid());
    Subject { name, address, ca, pid, _keeps: Keeps::Sluice(proxy) }
}

#[test]
fn cost_of_requests_by_the_directions_that_the_kernel_has() {
    if !is_wanted() {
        return;
    }
    let backend = Backend::listen();
    let subject = sluice("Sluice", &backend, "required", None);
    let mut table = String::from("| promoted before the requests | TLS 1.3 | TLS 1.2 |\n|---|---|---|\n");
    for (name, down, up) in
        [("neither", 0, 0), ("backend to client", MIB, 0), ("client to backend", 0, MIB), ("both", MIB, MIB)]
    {
        let cost = [Version::Tls13, Version::Tls12].map(|version| {
            let client = Client::at(subject.address, &subject.ca).suite(version.usual_suite());
            middle((0..ROUNDS).map(|_| requests_after(&client, &backend, subject.pid, down, up))) / REQUESTS as u64
        });
        writeln!(table, "| {name} | {} | {} |", cost[0], cost[1]).unwrap();
    }
    println!("{table}");
}

#[test]
fn cost_of_a_hand_over() {
    if !is_wanted() {
        return;
    }
    const PAIRS: usize = 64;
    let mut table = String::from("| step | instructions |\n|---|---|\n");
    let open = || (0..PAIRS).map(|_| socket::pair()).collect::<Vec<_>>();
    let each = |spent: u64| spent / PAIRS as u64;
    let keys = || keys(ProtocolVersion::Tls13, Aead::Aes128Gcm, 1, 0);
    for round in 0..2 {
        let plain = open();
        let handed = open();
        let (attach, ()) = spent(|| handed.iter().for_each(|(socket, _)| attach_ulp(socket.as_fd()).unwrap()));
        let promote = |direction| {
            spent(|| handed.iter().for_each(|(socket, _)| install(socket.as_fd(), direction, &keys()).unwrap())).0
        };
        let (transmit, receive) = (promote(Direction::Transmit), promote(Direction::Receive));
        let close = |pairs: Vec<(TcpStream, TcpStream)>| {
            let (sockets, peers): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let cost = spent(|| drop(sockets)).0;
            drop(peers);
            cost
        };
        let (close_plain, close_handed) = (close(plain), close(handed));
        // The first round warms up.
        if round > 0 {
            let rows = [
                ("attach", each(attach)),
                ("keys, sending", each(transmit)),
                ("keys, receiving", each(receive)),
                ("close, more than without", each(close_handed.saturating_sub(close_plain))),
            ];
            rows.iter().for_each(|(name, cost)| writeln!(table, "| {name} | {cost} |").unwrap());
        }
    }
    println!("{table}");
}

#[test]
fn cost_of_a_turn_by_path_and_size() {
    if !is_wanted() {
        return;
    }
    let mut table = String::from(
        "| KiB at a time | down: userspace | copy | splice | copy, corked | splice, corked | up: userspace | copy | splice |\n",
    );
    table.push_str("|---|---|---|---|---|---|---|---|---|\n");
    for kib in [1, 4, 16, 32, 64, 128, 256] {
        let ways = [Way::Userspace, Way::Copy, Way::Splice, Way::CopyCorked, Way::SpliceCorked];
        let down = ways.map(|way| middle((0..ROUNDS).map(|_| turns_down(way, kib << 10))) / TURNS as u64);
        let up = ways[..3].iter().map(|&way| middle((0..ROUNDS).map(|_| turns_up(way, kib << 10))) / TURNS as u64);
        let cells: Vec<_> = down.into_iter().chain(up).map(|cost| cost.to_string()).collect();
        writeln!(table, "| {kib} | {} |", cells.join(" | ")).unwrap();
    }
    println!("{table}");
}

#[test]
fn cost_of_a_spliced_mib_by_pipe_and_segments() {
    if !is_wanted() {
        return;
    }
    let mut table =
        String::from("| pipe | down: a segment for each record | full segments | up |\n|---|---|---|---|\n");
    for kib in [64, 128, 256, 512, 1024] {
        let pipe_len = kib << 10;
        let down = [Way::Splice, Way::SpliceCorked]
            .map(|way| middle((0..ROUNDS).map(|_| turns_down_through(way, MIB, pipe_len))) / TURNS as u64);
        let up = middle((0..ROUNDS).map(|_| turns_up_through(Way::Splice, MIB, pipe_len))) / TURNS as u64;
        writeln!(table, "| {kib} KiB | {} | {} | {up} |", down[0], down[1]).unwrap();
    }
    println!("{table}");
}

/// A way for bytes from one socket to another through TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Userspace,
    Copy,
    Splice,
    CopyCorked,
    SpliceCorked,
}

impl Way {
    /// Where segments are held back until they are full, as the relay does.
    fn corked<T>(self, target: &TcpStream, send: impl FnOnce() -> T) -> T {
        let is_corked = [Self::CopyCorked, Self::SpliceCorked].contains(&self);
        if is_corked {
            SockRef::from(target).set_tcp_cork(true).unwrap();
        }
        let result = send();
        if is_corked {
            SockRef::from(target).set_tcp_cork(false).unwrap();
        }
        result
    }
}

const TURNS: usize = 8;
const TLS13: ProtocolVersion = ProtocolVersion::Tls13;
/// Header, type and tag of a record.
const OVERHEAD: usize = 5 + 1 + 16;

/// CPU time of moving `len` bytes so many times from a plain socket to one that seals.
fn turns_down(way: Way, len: usize) -> u64 {
    turns_down_through(way, len, PIPE_LEN)
}

fn turns_down_through(way: Way, len: usize, pipe_len: usize) -> u64 {
    let keys = || keys(TLS13, Aead::Aes128Gcm, 1, 0);
    let (feed, source) = socket::pair();
    let (target, sink) = if way == Way::Userspace { socket::pair() } else { socket::sending(&keys()) };
    [&feed, &source, &target, &sink].into_iter().for_each(roomy);
    let mut sealer = Sealer::new(keys()).unwrap();
    let (data, pipe) = (body::bytes(len, 1), pipe(pipe_len));
    let records = len.div_ceil(PLAINTEXT_LEN_MAX);
    let mut buffer = vec![0; records * (PLAINTEXT_LEN_MAX + OVERHEAD)];
    let mut turn = || {
        socket::send_all(&feed, &data);
        socket::await_readable(&source);
        let (cost, sealed) = spent(|| match way {
            Way::Userspace => {
                let mut parts: Vec<_> = buffer
                    .chunks_exact_mut(PLAINTEXT_LEN_MAX + OVERHEAD)
                    .map(|slot| IoSliceMut::new(&mut slot[5..5 + PLAINTEXT_LEN_MAX]))
                    .collect();
                let mut left = again(|| (&source).read_vectored(&mut parts), &source);
                let mut end = 0;
                while left > 0 {
                    let part = left.min(PLAINTEXT_LEN_MAX);
                    sealer.seal(ContentType::ApplicationData, &mut buffer[end..end + part + OVERHEAD]).unwrap();
                    (left, end) = (left - part, end + part + OVERHEAD);
                }
                socket::send_all(&target, &buffer[..end]);
                end
            }
            Way::Copy | Way::CopyCorked => {
                let mut moved = 0;
                while moved < len {
                    let received = again(|| (&source).read(&mut buffer), &source);
                    way.corked(&target, || socket::send_all(&target, &buffer[..received]));
                    moved += received;
                }
                0
            }
            Way::Splice | Way::SpliceCorked => {
                let mut moved = 0;
                while moved < len {
                    let received = again(|| pipe.fill(source.as_fd(), pipe_len), &source);
                    way.corked(&target, || drain(&pipe, received, &target));
                    moved += received;
                }
                0
            }
        });
        let expected = if way == Way::Userspace { sealed } else { len + OVERHEAD * records };
        let taken = take(&sink, expected);
        assert!(taken >= expected, "{taken} of {expected} bytes");
        cost
    };
    (0..TURNS).map(|_| turn()).sum()
}

/// CPU time of moving `len` bytes of payload so many times from a socket with records to a plain one.
fn turns_up(way: Way, len: usize) -> u64 {
    turns_up_through(way, len, PIPE_LEN)
}

fn turns_up_through(way: Way, len: usize, pipe_len: usize) -> u64 {
    let keys = || keys(TLS13, Aead::Aes128Gcm, 1, 0);
    let (feed, source) = if way == Way::Userspace { socket::pair() } else { socket::receiving(&keys()) };
    let (target, sink) = socket::pair();
    [&feed, &source, &target, &sink].into_iter().for_each(roomy);
    let (mut peer, mut opener) = (Reference::new(keys()), Opener::new(keys()).unwrap());
    let (data, pipe) = (body::bytes(len, 1), pipe(pipe_len));
    let mut buffer = vec![0; len.div_ceil(PLAINTEXT_LEN_MAX) * (PLAINTEXT_LEN_MAX + OVERHEAD)];
    let mut turn = || {
        let records: Vec<u8> = data.chunks(PLAINTEXT_LEN_MAX).flat_map(|part| peer.seal(23, part)).collect();
        socket::send_all(&feed, &records);
        socket::await_readable(&source);
        let (cost, ()) = spent(|| match way {
            Way::Userspace => {
                let mut filled = 0;
                while filled < records.len() {
                    filled += again(|| (&source).read(&mut buffer[filled..records.len()]), &source);
                }
                let (mut at, mut parts) = (0, Vec::new());
                while at < filled {
                    let Ok(Framing::Complete { len }) = frame_protected(TLS13, Aead::Aes128Gcm, &buffer[at..filled])
                    else {
                        panic!("a whole record")
                    };
                    let payload = opener.open(&mut buffer[at..at + len]).unwrap().payload;
                    parts.push(at + payload.start..at + payload.end);
                    at += len;
                }
                let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(&buffer[part.clone()])).collect();
                let sent = again(|| (&target).write_vectored(&slices), &target);
                assert_eq!(sent, len, "a fresh socket has the room");
            }
            Way::Copy | Way::CopyCorked => {
                let mut moved = 0;
                while moved < len {
                    match control::receive(source.as_fd(), &mut buffer).unwrap() {
                        FromKernel::Data(received) => {
                            socket::send_all(&target, &buffer[..received]);
                            moved += received;
                        }
                        FromKernel::WouldBlock => socket::await_readable(&source),
                        other => panic!("{other:?}"),
                    }
                }
            }
            Way::Splice | Way::SpliceCorked => {
                let (mut moved, mut filled) = (0, 0);
                while moved < len {
                    // Each record takes more than one of the pipe's buffers, so that it may be full before its bytes say so.
                    let is_full = match pipe.fill(source.as_fd(), PLAINTEXT_LEN_MAX) {
                        Ok(received) => {
                            filled += received;
                            moved + filled == len || filled + PLAINTEXT_LEN_MAX > pipe_len
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => true,
                        Err(error) => panic!("{error}"),
                    };
                    if is_full && filled > 0 {
                        drain(&pipe, filled, &target);
                        (moved, filled) = (moved + filled, 0);
                    } else if is_full {
                        socket::await_readable(&source);
                    }
                }
            }
        });
        take(&sink, len);
        cost
    };
    (0..TURNS).map(|_| turn()).sum()
}

/// As large as the relay's.
const PIPE_LEN: usize = 256 * 1024;

fn pipe(len: usize) -> Pipe {
    let pipe = Pipe::new().unwrap();
    pipe.set_capacity_bytes(len).unwrap();
    pipe
}

/// Makes room for everything that one turn moves, sent and not yet received: nobody reads meanwhile.
fn roomy(socket: &TcpStream) {
    setsockopt(socket, sockopt::SndBufForce, &(4 * MIB)).unwrap();
    setsockopt(socket, sockopt::RcvBufForce, &(4 * MIB)).unwrap();
}

fn drain(pipe: &Pipe, mut len: usize, target: &TcpStream) {
    while len > 0 {
        len -= again(|| pipe.drain(target.as_fd(), len), target);
    }
}

/// Calls until it does not have to wait.
fn again(mut call: impl FnMut() -> std::io::Result<usize>, stream: &TcpStream) -> usize {
    loop {
        match call() {
            Ok(len) => return len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                assert!(socket::becomes(stream, nix::poll::PollFlags::all(), socket::DEADLINE));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Reads at least `len` bytes and whatever else is there.
fn take(mut sink: &TcpStream, len: usize) -> usize {
    let (mut taken, mut buffer) = (0, vec![0; 1 << 20]);
    loop {
        match sink.read(&mut buffer) {
            Ok(0) => return taken,
            Ok(received) => taken += received,
            Err(error) if error.kind() == ErrorKind::WouldBlock && taken < len => socket::await_readable(sink),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return taken,
            Err(error) => panic!("{error}"),
        }
    }
}

/// CPU time of this thread over `act`.
fn spent<T>(act: impl FnOnce() -> T) -> (u64, T) {
    let now = || {
        let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
        time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
    };
    let begun = now();
    let result = act();
    (now() - begun, result)
}

/// The middle one of all rounds but the first, which warms up.
fn middle(rounds: impl Iterator<Item = u64>) -> u64 {
    let mut rounds: Vec<_> = rounds.skip(1).collect();
    rounds.sort_unstable();
    rounds[rounds.len() / 2]
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
    Cost(
        works.map(|(work, units)| {
            middle((0..ROUNDS).map(|_| work(&client, suite, backend, subject.pid))) / units as u64
        }),
    )
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
    let mut records: Vec<u8> = forger.seal_data(&data, PLAINTEXT_LEN_MAX);
    records.extend(forger.seal(ContentType::Alert, &[1, 0]));
    let before = cpu(pid);
    let receiving = std::thread::spawn(move || body::drain(&mut server));
    forger.tls.send_raw(&records);
    assert_eq!(receiving.join().unwrap().digest, openssl::sha::sha256(&data));
    cpu(pid) - before
}

fn requests(client: &Client, _: Suite, backend: &Backend, pid: Pid) -> u64 {
    requests_after(client, backend, pid, 0, 0)
}

/// Requests on a connection that has carried so many bytes before.
fn requests_after(client: &Client, backend: &Backend, pid: Pid, down: usize, up: usize) -> u64 {
    let mut tls = client.connect();
    let mut server = backend.accept();
    let sending = std::thread::spawn(move || {
        server.write_all(&vec![1; down]).unwrap();
        server.read_exact(&mut vec![0; up]).unwrap();
        server
    });
    tls.receive(down);
    tls.send(&vec![0; up]);
    let server = sending.join().unwrap();
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
