//! What tickets cost: seal and open, derivation, and workers that share the keys.
//!
//! `cargo bench --bench ticket`; all figures are processor time. Targets: seal plus open under 2 us for a session without
//! client certificate; the time of a look-up independent of the number of workers, as far as there are processors for them.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark that cannot be set up should stop")]

mod support;

use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use sluice::ticket::{ChainSecret, KeyTable, Ring, RingShape, ScopeHash, ScopeKeys, UnixSeconds, seal};

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
/// A TLS 1.3 session of OpenSSL 4.0 without and with a P-256 client certificate, as DER.
const SESSION_BYTES: [usize; 2] = [220, 760];

fn ring() -> Ring {
    Ring::generate_at(RingShape::default(), NOW).unwrap()
}

fn scope() -> ScopeHash {
    ScopeHash::of(&[("listener", b"edge")])
}

fn table() -> KeyTable {
    let ring = ring();
    KeyTable::new(ring.keys_at(&scope(), NOW).unwrap(), Vec::new(), ring.shape().retention())
}

fn seal_and_open(c: &mut Criterion) {
    let table = table();
    let mut group = c.benchmark_group("seal_and_open");
    for bytes in SESSION_BYTES {
        let session = vec![0x55; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |b| {
            b.iter_custom(|iterations| {
                processor_time(iterations, || {
                    let key = table.sealing_at(black_box(NOW)).unwrap();
                    let ticket = seal::seal(key, &[7; 16], &session).unwrap();
                    black_box(seal::open(&table, &ticket, NOW).unwrap());
                })
            });
        });
    }
    group.finish();
}

fn derivation(c: &mut Criterion) {
    let ring = ring();
    let mut group = c.benchmark_group("derivation");
    group.bench_function("one_epoch", |b| {
        let mut chain = ChainSecret::generate().unwrap();
        b.iter_custom(|iterations| {
            processor_time(iterations, || {
                black_box(chain.epoch_secret(500_000, 3600).unwrap().ticket_key(&scope()).unwrap());
                chain.advance().unwrap();
            })
        });
    });
    group.bench_function("table_of_a_scope", |b| {
        b.iter_custom(|iterations| {
            processor_time(iterations, || drop(black_box(ring.keys_at(&scope(), black_box(NOW)).unwrap())))
        });
    });
    group.finish();
}

/// Look-ups as the callback does them, by several threads at once while the keys are replaced every millisecond. The
/// time is processor time of the whole process for each look-up, so that it stays flat where nothing contends, also with more
/// workers than processors.
fn contention(c: &mut Criterion) {
    let mut group = c.benchmark_group("lookup_processor_time");
    for workers in [1_u32, 2, 4, 8, 16, 32, 64] {
        let keys = Arc::new(ScopeKeys::new(scope(), table()));
        let name = keys.table().sealing_at(NOW).unwrap().name();
        group.bench_function(BenchmarkId::from_parameter(workers), |b| {
            b.iter_custom(|iterations| lookups(&keys, &name.0, workers, iterations));
        });
    }
    group.finish();
}

fn lookups(keys: &Arc<ScopeKeys>, name: &[u8; 16], workers: u32, iterations: u64) -> Duration {
    let each = iterations.div_ceil(u64::from(workers)).max(1);
    let start = Barrier::new(workers as usize + 1);
    std::thread::scope(|threads| {
        let running: Vec<_> = (0..workers)
            .map(|_| {
                threads.spawn(|| {
                    start.wait();
                    let before = thread_time();
                    for _ in 0..each {
                        let table = keys.table();
                        black_box(table.sealing_at(NOW));
                        black_box(table.opening_at(name, NOW));
                    }
                    thread_time() - before
                })
            })
            .collect();
        start.wait();
        let publish_until = Instant::now() + Duration::from_millis(20);
        while Instant::now() < publish_until && running.iter().any(|worker| !worker.is_finished()) {
            keys.publish(table());
            std::thread::park_timeout(Duration::from_millis(1));
        }
        let total: Duration = running.into_iter().map(|worker| worker.join().unwrap()).sum();
        let done = each * u64::from(workers);
        total.mul_f64(iterations as f64 / done as f64)
    })
}

/// Processor time of many runs: what else the machine does is not in it.
fn processor_time(iterations: u64, mut run: impl FnMut()) -> Duration {
    let before = thread_time();
    (0..iterations).for_each(|_| run());
    thread_time() - before
}

/// Processor time of the calling thread.
fn thread_time() -> Duration {
    // The kernel brings the figure up to date when the thread goes through the scheduler.
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_millis(700))
        .sample_size(20);
    targets = seal_and_open, derivation, contention
}
fn main() {
    support::run(benches);
}
