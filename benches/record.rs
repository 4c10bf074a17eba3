//! Sealing and opening a record, beside the bare cipher calls for the same bytes, and the key schedule.
//!
//! `cargo bench --bench record`; the time is that of one record, the throughput counts payload bytes.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a benchmark that cannot run may stop")]

mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use openssl::cipher::Cipher;
use openssl::cipher_ctx::CipherCtx;
use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use sluice::record::{
    Aead, CipherSuite, ContentType, KeyMaterial, MasterSecret, Opener, ProtocolVersion, Sealer, TrafficKeys,
    TrafficSecret,
};

/// Payload sizes: a short message, a small response, a full record.
const PAYLOAD_BYTES: [usize; 3] = [64, 1024, 16384];

/// One suite for each record format; the others differ in the key exchange alone.
const SUITES: [u16; 5] = [0x1301, 0x1302, 0x1303, 0xc02b, 0xcca9];

/// Records that are opened in one go: what fits into a receive buffer of 256 KiB.
const BATCH_RECORDS: usize = 15;

fn seal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seal");
    for (suite, len) in cases() {
        group.throughput(Throughput::Bytes(len as u64));
        let mut sealer = Sealer::new(keys(suite)).unwrap();
        let mut record = vec![0x5a; sealer.prefix_len() + len + sealer.suffix_len()];
        group.bench_function(BenchmarkId::new(suite.name, len), |bencher| {
            bencher.iter(|| {
                if sealer.records_left() == 0 {
                    sealer = Sealer::new(keys(suite)).unwrap();
                }
                sealer.seal(ContentType::ApplicationData, black_box(&mut record)).unwrap();
            });
        });
    }
    group.finish();
}

fn open(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open");
    for (suite, len) in cases() {
        group.throughput(Throughput::Bytes(len as u64));
        let mut sealer = Sealer::new(keys(suite)).unwrap();
        let mut sealed = Vec::new();
        for _record in 0..BATCH_RECORDS {
            sealer.seal_control(ContentType::ApplicationData, &vec![0x5a; len], &mut sealed).unwrap();
        }
        let record_len = sealed.len() / BATCH_RECORDS;
        let mut received = sealed.clone();
        group.bench_function(BenchmarkId::new(suite.name, len), |bencher| {
            bencher.iter_custom(|count| {
                let mut spent = Duration::ZERO;
                let mut left = count as usize;
                while left > 0 {
                    // The ciphertext and the sequence number are restored outside of what is measured.
                    let batch = left.min(BATCH_RECORDS);
                    received.copy_from_slice(&sealed);
                    let mut opener = Opener::new(keys(suite)).unwrap();
                    let start = Instant::now();
                    for record in received.chunks_mut(record_len).take(batch) {
                        black_box(opener.open(record).unwrap());
                    }
                    spent += start.elapsed();
                    left -= batch;
                }
                spent
            });
        });
    }
    group.finish();
}

/// The calls of OpenSSL that a record cannot do without: set the nonce, additional data, text, tag.
fn bare_openssl(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bare_openssl");
    for (aead, name) in [
        (Aead::Aes128Gcm, "AES-128-GCM"),
        (Aead::Aes256Gcm, "AES-256-GCM"),
        (Aead::ChaCha20Poly1305, "ChaCha20-Poly1305"),
    ] {
        let cipher = Cipher::fetch(None, name, None).unwrap();
        let key = vec![7; aead.key_len()];
        for len in PAYLOAD_BYTES {
            group.throughput(Throughput::Bytes(len as u64));
            let mut text = vec![0x5a; len + 1];
            let (mut nonce, mut tag) = ([0; 12], [0; 16]);
            let mut context = CipherCtx::new().unwrap();
            context.encrypt_init(Some(&cipher), Some(&key), None).unwrap();
            let mut next_nonce = move || {
                nonce[0] = u8::wrapping_add(nonce[0], 1);
                nonce
            };
            group.bench_function(BenchmarkId::new(format!("{name} encrypt"), len), |bencher| {
                bencher.iter(|| {
                    context.encrypt_init(None, None, Some(&next_nonce())).unwrap();
                    context.cipher_update(&[23, 3, 3, 0, 0], None).unwrap();
                    context.cipher_update_inplace(black_box(&mut text), len + 1).unwrap();
                    context.cipher_final(&mut []).unwrap();
                    context.tag(&mut tag).unwrap();
                });
            });
            // Out of place, so that the same ciphertext with the same tag is there in every round.
            let mut sealed = vec![0; len + 1];
            context.encrypt_init(None, None, Some(&[1; 12])).unwrap();
            context.cipher_update(&[23, 3, 3, 0, 0], None).unwrap();
            context.cipher_update(&text, Some(&mut sealed)).unwrap();
            context.cipher_final(&mut []).unwrap();
            context.tag(&mut tag).unwrap();
            context.decrypt_init(Some(&cipher), Some(&key), None).unwrap();
            group.bench_function(BenchmarkId::new(format!("{name} decrypt"), len), |bencher| {
                bencher.iter(|| {
                    context.decrypt_init(None, None, Some(&[1; 12])).unwrap();
                    context.set_tag(&tag).unwrap();
                    context.cipher_update(&[23, 3, 3, 0, 0], None).unwrap();
                    context.cipher_update(black_box(&sealed), Some(&mut text)).unwrap();
                    context.cipher_final(&mut []).unwrap();
                });
            });
        }
    }
    group.finish();
}

/// The one call of ring.
fn bare_ring(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bare_ring");
    for (algorithm, name) in [(&aead::AES_128_GCM, "AES-128-GCM"), (&aead::AES_256_GCM, "AES-256-GCM")] {
        let key = LessSafeKey::new(UnboundKey::new(algorithm, &vec![7; algorithm.key_len()]).unwrap());
        for len in PAYLOAD_BYTES {
            group.throughput(Throughput::Bytes(len as u64));
            let mut text = vec![0x5a; len + 1];
            let mut nonce = [0; 12];
            group.bench_function(BenchmarkId::new(format!("{name} encrypt"), len), |bencher| {
                bencher.iter(|| {
                    nonce[0] = u8::wrapping_add(nonce[0], 1);
                    let nonce = Nonce::assume_unique_for_key(nonce);
                    key.seal_in_place_separate_tag(nonce, Aad::from([23, 3, 3, 0, 0]), black_box(&mut text)).unwrap()
                });
            });
        }
    }
    group.finish();
}

fn key_schedule(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("key_schedule");
    for code in [0x1301, 0x1302] {
        let suite = CipherSuite::from_code(code).unwrap();
        let secret = TrafficSecret::new(suite, &[7; 48][..if suite.sha384 { 48 } else { 32 }]).unwrap();
        group.bench_function(BenchmarkId::new("keys of one direction", suite.name), |bencher| {
            bencher.iter(|| black_box(&secret).keys(suite).unwrap());
        });
        group.bench_function(BenchmarkId::new("next generation", suite.name), |bencher| {
            bencher.iter(|| black_box(&secret).next_generation().unwrap());
        });
    }
    for code in [0xc02b, 0xc02c] {
        let suite = CipherSuite::from_code(code).unwrap();
        let master = MasterSecret::new(&[7; 48]).unwrap();
        group.bench_function(BenchmarkId::new("keys of both directions", suite.name), |bencher| {
            bencher.iter(|| black_box(&master).key_block(suite, &[1; 32], &[2; 32]).unwrap());
        });
    }
    for suite in suites() {
        group.bench_function(BenchmarkId::new("sealer and opener", suite.name), |bencher| {
            bencher.iter(|| (Sealer::new(keys(suite)).unwrap(), Opener::new(keys(suite)).unwrap()));
        });
    }
    group.finish();
}

fn suites() -> impl Iterator<Item = &'static CipherSuite> {
    SUITES.iter().map(|&code| CipherSuite::from_code(code).unwrap())
}

fn cases() -> impl Iterator<Item = (&'static CipherSuite, usize)> {
    suites().flat_map(|suite| PAYLOAD_BYTES.map(|len| (suite, len)))
}

fn keys(suite: &CipherSuite) -> TrafficKeys {
    let sequence = match suite.version {
        ProtocolVersion::Tls13 => 0,
        ProtocolVersion::Tls12 => 1,
    };
    TrafficKeys {
        version: suite.version,
        aead: suite.aead,
        key: KeyMaterial::new(&[7; 32][..suite.aead.key_len()]),
        iv: [9; 12],
        sequence,
    }
}

criterion_group! {
    name = benches;
    // Short on purpose: the whole set runs in about half a minute.
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .without_plots();
    targets = seal, open, bare_openssl, bare_ring, key_schedule
}
fn main() {
    support::run(benches);
}
