//! A mix of everything at the same time: handshakes, resumptions, bulk both ways, slow readers, half-closes, resets, idle
//! connections. No byte is lost, and nothing is left over: memory and descriptors are as flat at the end as they were
//! after the first part.
//!
//! `SLUICE_SOAK_SECONDS=3600 cargo test --test soak` runs for as long as you like.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use support::backend::{self, Backend};
use support::body::{self, End};
use support::client::{Client, Tls};
use support::proxy::{Options, Proxy, Usage};
use support::suite::Version;
use support::{crowd, wait_until};

/// How long the mix runs unless SLUICE_SOAK_SECONDS says otherwise.
const SECONDS: u64 = 8;
/// What the mix is made of at the same time: so many threads, each with one connection after the other.
const THREADS: usize = 12;
/// Connections that stay open and say something only at the end.
const IDLE: usize = 40;
const BODY_LEN: usize = 700_000;
/// By how much allocator and pools were seen to differ from part to part, and some more.
const TOLERANCE_BYTES: usize = 8 << 20;

/// What one connection does.
#[derive(Clone, Copy, Debug)]
enum Part {
    Handshake,
    Resumption,
    Download,
    Upload,
    SlowReader,
    HalfClose,
    ClientResets,
    BackendResets,
}

const PARTS: [Part; 8] = [
    Part::Handshake,
    Part::Resumption,
    Part::Download,
    Part::Upload,
    Part::SlowReader,
    Part::HalfClose,
    Part::ClientResets,
    Part::BackendResets,
];

#[test]
fn mix_of_everything_loses_no_byte_and_leaves_nothing_behind() {
    crowd::allow_descriptors();
    let seconds = std::env::var("SLUICE_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SECONDS);
    let (backend, served) = Backend::listen().serve(serve);
    let proxy = Proxy::start(&Options { workers: 2, ..Options::to([backend]) });
    let mut idle: Vec<_> = (0..IDLE).map(|_| Client::of(&proxy).connect()).collect();
    idle.iter_mut().for_each(assert_echoes);

    // The first part fills pools, caches and the allocator.
    let parts = 4;
    let usages: Vec<Usage> = (0..parts)
        .map(|_| {
            run(&proxy, Duration::from_secs(seconds) / parts);
            wait_until("only the idle ones are left", || proxy.connections_open() == IDLE as u64);
            settled(&proxy)
        })
        .collect();
    let (first, last) = (usages[0], usages[usages.len() - 1]);
    assert!(last.memory_bytes < first.memory_bytes + TOLERANCE_BYTES, "memory grows: {usages:?}");
    assert!(last.descriptors <= first.descriptors + 2, "descriptors grow: {usages:?}");

    idle.iter_mut().for_each(assert_echoes);
    drop(idle);
    wait_until("every connection is over", || proxy.connections_open() == 0);
    assert_eq!(proxy.metric("sluice_panics_total"), 0);
    assert_eq!(proxy.closed("internal"), 0);
    let accepted = proxy.metric("sluice_connections_accepted_total");
    let ends = ["client_closed", "backend_closed", "client_failed", "backend_failed", "client_truncated"];
    let ended: u64 = ends.iter().map(|reason| proxy.closed(reason)).sum();
    // But the connection that proved that the proxy listens.
    assert_eq!(ended, accepted - 1, "each connection ended for a reason that it was meant to end for");
    assert_eq!(served.try_iter().find_map(Result::err), None, "what backends got");
    println!("{accepted} connections in {seconds} s: {usages:?}");
}

fn run(proxy: &Proxy, duration: Duration) {
    let (is_over, connections) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (is_over, connections) = (&is_over, &connections);
            let run = move || {
                for number in thread.. {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    play(proxy, PARTS[number % PARTS.len()], Version::ALL[number / PARTS.len() % 2]);
                    connections.fetch_add(1, Ordering::Relaxed);
                }
            };
            std::thread::Builder::new().stack_size(512 * 1024).spawn_scoped(scope, run).unwrap();
        }
        let begun = Instant::now();
        while begun.elapsed() < duration {
            std::thread::park_timeout(duration.saturating_sub(begun.elapsed()));
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(connections.load(Ordering::Relaxed) >= THREADS as u64, "each thread had its turn");
}

fn play(proxy: &Proxy, part: Part, version: Version) {
    let client = Client::of(proxy).version(version);
    match part {
        Part::Handshake => client.connect().close_notify(),
        Part::Resumption => resume(proxy),
        Part::Download => download(client.connect(), BODY_LEN),
        Part::SlowReader => download(client.small_receive_buffer().connect(), 2000),
        Part::Upload => upload(client.connect()),
        Part::HalfClose => half_close(client.connect()),
        Part::ClientResets => {
            let mut tls = client.connect();
            tls.send(b"d");
            tls.receive(1000);
            tls.reset();
        }
        Part::BackendResets => {
            let mut tls = client.connect();
            tls.send(b"r");
            assert_ne!(tls.drain().end, End::CloseNotify, "the backend was cut off");
        }
    }
}

/// rustls, which resumes by itself.
fn resume(proxy: &Proxy) {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(proxy.ca()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let connection = ClientConnection::new(Arc::clone(&config), "localhost".try_into().unwrap()).unwrap();
        let socket = TcpStream::connect(proxy.address()).unwrap();
        backend::bound(&socket);
        let mut tls = StreamOwned::new(connection, socket);
        tls.write_all(b"estill there?").unwrap();
        let mut answer = [0; 12];
        tls.read_exact(&mut answer).unwrap();
        assert_eq!((&answer, tls.conn.handshake_kind()), (b"still there?", Some(expected)));
        tls.conn.send_close_notify();
        tls.flush().unwrap();
        assert_eq!(tls.read(&mut [0]).expect("a clean end"), 0);
    }
}

fn download(mut tls: Tls, step: usize) {
    tls.send(b"d");
    let received = body::drain_with(|buffer| {
        let len = buffer.len().min(step);
        tls.read(&mut buffer[..len])
    });
    assert_eq!(received, body::Received::of(&body::bytes(BODY_LEN, 1), End::CloseNotify));
}

fn upload(mut tls: Tls) {
    let body = body::bytes(BODY_LEN, 2);
    tls.send(b"u");
    tls.send(&body);
    tls.close_notify();
    assert_eq!(tls.receive(32), openssl::sha::sha256(&body));
    assert_eq!(tls.drain().end, End::CloseNotify);
}

/// The backend ends its stream first, and the client sends on.
fn half_close(mut tls: Tls) {
    tls.send(b"h");
    assert_eq!(tls.drain().end, End::CloseNotify);
    for _ in 0..4 {
        tls.send(&body::bytes(20_000, 3));
    }
    tls.close_notify();
}

/// What a backend does with a connection: what its first byte asks for. It tells what it got and should not have got.
fn serve(mut stream: TcpStream) -> Result<(), String> {
    let mut order = [0];
    if stream.read_exact(&mut order).is_err() {
        return Ok(());
    }
    match order[0] {
        b'd' => drop(stream.write_all(&body::bytes(BODY_LEN, 1))),
        b'u' => {
            let received = body::drain(&mut stream);
            let _ = stream.write_all(&received.digest);
        }
        b'h' => {
            let _ = stream.shutdown(Shutdown::Write);
            let received = body::drain(&mut stream);
            if (received.len, received.end) != (80_000, End::EndOfStream) {
                return Err(format!("{received:?} behind the half-close"));
            }
        }
        b'r' => {
            let _ = stream.write_all(b"begun");
            backend::reset(stream);
        }
        b'e' => drop(std::io::copy(&mut stream.try_clone().unwrap(), &mut stream)),
        other => return Err(format!("no such order: {other}")),
    }
    Ok(())
}

/// What it holds once it is idle, the test's own look at its counters included.
fn settled(proxy: &Proxy) -> Usage {
    let mut last = usize::MAX;
    wait_until("descriptors stand", || {
        std::thread::park_timeout(Duration::from_millis(20));
        let now = proxy.usage().descriptors;
        std::mem::replace(&mut last, now) == now
    });
    proxy.usage()
}

fn assert_echoes(client: &mut Tls) {
    client.send(b"estill there?");
    // The order is the first byte of a connection: later it comes back, too.
    let mut answer = client.receive(12);
    if answer[0] == b'e' {
        answer.remove(0);
        answer.extend(client.receive(1));
    }
    assert_eq!(answer, b"still there?");
}
