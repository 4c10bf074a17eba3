//! What the benchmarks have in common.

use criterion::Criterion;

/// With the allocator of the program, for OpenSSL too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs them as the arguments say.
pub(crate) fn run(benches: fn()) {
    assert!(sluice::sys::allocator::adopt_openssl(), "OpenSSL allocated before");
    benches();
    Criterion::default().configure_from_args().final_summary();
}
