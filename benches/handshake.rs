//! What a handshake costs the server: per version, kind and key-exchange group.
//!
//! `cargo bench --bench handshake`; only the server's calls are timed, from the fresh handshake object to the keys that
//! are left when OpenSSL's state is freed. The client is OpenSSL over memory. Tickets are on, as by default: a full
//! handshake and a TLS 1.3 resumption seal new ones. The key schedule alone is in `record`.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a benchmark that cannot run may stop")]

#[path = "../tests/handshake_support/mod.rs"]
mod handshake_support;

mod support;

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group};
use openssl::ssl::SslVersion;
use sluice::record::ProtocolVersion;
use sluice::tls::{Context, Established, Handshake, HandshakeKind, Progress};

use handshake_support::certificate::KeyKind;
use handshake_support::{Client, Offer, listener, take_output};

/// Version and group of each row.
const ROWS: [(&str, SslVersion, &str); 3] = [
    ("1.2 X25519", SslVersion::TLS1_2, "X25519"),
    ("1.3 X25519", SslVersion::TLS1_3, "X25519"),
    ("1.3 X25519MLKEM768", SslVersion::TLS1_3, "X25519MLKEM768"),
];

fn full(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("full");
    for (name, key) in [("ECDSA P-256", KeyKind::EcdsaP256), ("RSA-2048", KeyKind::Rsa2048)] {
        let server = listener(key);
        for (row, version, groups) in ROWS {
            let offer = offer(version, groups);
            let expected = Expected { kind: HandshakeKind::Full, version, group: Some(groups) };
            group.bench_function(BenchmarkId::new(name, row), |bencher| {
                bencher.iter_custom(|count| (0..count).map(|_| serve(&server, offer.client(), expected)).sum());
            });
        }
    }
    group.finish();
}

fn resumption(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("resumption");
    let server = listener(KeyKind::EcdsaP256);
    for (row, version, groups) in ROWS {
        let offer = offer(version, groups);
        serve(&server, offer.client(), Expected { kind: HandshakeKind::Full, version, group: Some(groups) });
        let session = offer.session();
        // RFC 5246 section 7.3: the abbreviated handshake of TLS 1.2 has no key exchange.
        let agreed = (version == SslVersion::TLS1_3).then_some(groups);
        let expected = Expected { kind: HandshakeKind::Resumed, version, group: agreed };
        group.bench_function(BenchmarkId::new("ticket", row), |bencher| {
            bencher.iter_custom(|count| (0..count).map(|_| serve(&server, offer.resuming(&session), expected)).sum());
        });
    }
    group.finish();
}

/// A client that agrees on this group. In TLS 1.2 its list bounds the curve of the certificate too (RFC 8422 section 5.1).
fn offer(version: SslVersion, group: &str) -> Offer {
    let groups = if version == SslVersion::TLS1_2 { format!("{group}:P-256") } else { group.to_owned() };
    Offer::new([version; 2], &groups)
}

/// What the handshake must have come to, so that no row measures another one's handshake.
#[derive(Clone, Copy)]
struct Expected<'a> {
    kind: HandshakeKind,
    version: SslVersion,
    group: Option<&'a str>,
}

impl Expected<'_> {
    fn check(&self, established: &Established) {
        let version = match established.handover.suite.version {
            ProtocolVersion::Tls12 => SslVersion::TLS1_2,
            ProtocolVersion::Tls13 => SslVersion::TLS1_3,
        };
        assert_eq!((established.kind, version), (self.kind, self.version));
        assert!(match (&established.group, self.group) {
            (Some(got), Some(expected)) => got.eq_ignore_ascii_case(expected),
            (got, expected) => got.is_none() && expected.is_none(),
        });
    }
}

/// One handshake; the time that the server spent on it.
fn serve(server: &Context, mut client: Client, expected: Expected<'_>) -> Duration {
    let mut clock = Stopwatch::default();
    let mut flight = client.answer(&[]).unwrap();
    let mut handshake = clock.time(|| Handshake::new(server));
    loop {
        let progress = clock.time(|| handshake.receive(&flight).unwrap());
        flight = client.answer(&take_output(&mut handshake)).unwrap();
        if progress == Progress::Done {
            break;
        }
    }
    expected.check(&clock.time(|| handshake.finish().unwrap()));
    clock.spent
}

#[derive(Default)]
struct Stopwatch {
    spent: Duration,
}

impl Stopwatch {
    fn time<T>(&mut self, run: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = run();
        self.spent += start.elapsed();
        result
    }
}

criterion_group! {
    name = benches;
    // Short on purpose: the whole set runs in about half a minute.
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .without_plots();
    targets = full, resumption
}
fn main() {
    support::run(benches);
}
