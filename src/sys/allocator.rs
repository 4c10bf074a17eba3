//! One allocator for Rust and OpenSSL.
//!
//! A handshake makes hundreds of small allocations inside OpenSSL; mimalloc serves them for less than glibc does, and
//! gives the memory back in pieces that the next handshake reuses.

use std::ffi::{c_char, c_int, c_void};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

/// Makes OpenSSL allocate with mimalloc; false when OpenSSL has allocated before, which leaves it with its own.
///
/// To be called as the first statement of `main`.
pub fn adopt_openssl() -> bool {
    // SAFETY: the three functions have the types that OpenSSL declares and are thread-safe, and blocks from one may be
    // passed to the others, because all of them are mimalloc's.
    unsafe { CRYPTO_set_mem_functions(allocate, reallocate, release) == 1 }
}

/// Keeps this process, and what it starts, from transparent huge pages.
///
/// mimalloc asks for them (`madvise`), and then the first byte of a 2 MiB range takes all of it: an idle connection took
/// nearly twice the memory, and more processor time went into clearing pages (docs/performance.md).
pub fn refuse_huge_pages() {
    // A kernel that cannot says so, and nothing is lost but memory.
    let _ = nix::sys::prctl::set_thp_disable(true);
}

/// Has mimalloc set up its map of pages for all of the address range that it reserves at the start.
///
/// mimalloc finds the page of a block in a table, and maps a part of it for every 512 MiB of addresses when the first block
/// comes to lie there. Its range may begin anywhere before such a boundary. When RLIMIT_DATA or RLIMIT_AS is set below what
/// is mapped while the process runs, nothing more can be mapped: the boundary would end the process although there is room
/// in the range. Blocks that nobody touches take no memory.
pub fn map_reserved_range() {
    /// The range has a GiB (`arena_reserve`), in chunks of 32 MiB that no block spans; one or two are in use already. More
    /// than there is room for would have mimalloc reserve another one.
    const CHUNKS: usize = 30;
    /// One to a chunk.
    const BLOCK_LEN: usize = 31 << 20;

    // With a limit from the start the range is smaller, and not to be filled.
    let is_limited = [Resource::RLIMIT_DATA, Resource::RLIMIT_AS]
        .iter()
        .any(|resource| getrlimit(*resource).map_or(true, |(soft, _)| soft != RLIM_INFINITY));
    if is_limited {
        return;
    }
    let mut blocks = Vec::new();
    for _ in 0..CHUNKS {
        let mut block: Vec<u8> = Vec::new();
        if block.try_reserve_exact(BLOCK_LEN).is_err() {
            break;
        }
        // Otherwise the compiler sees that nobody uses it.
        blocks.push(std::hint::black_box(block));
    }
}

/// Gives what this thread has freed back to the system, as far as whole pages are free. To be called when a burst of
/// work is over: mimalloc itself would look again only at the next allocation.
pub fn give_back() {
    // SAFETY: mi_collect may be called on any thread at any time; it looks at the caller's own heap.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

unsafe extern "C" fn allocate(len: usize, _file: *const c_char, _line: c_int) -> *mut c_void {
    // SAFETY: mi_malloc takes any length.
    unsafe { libmimalloc_sys::mi_malloc(len) }
}

unsafe extern "C" fn reallocate(block: *mut c_void, len: usize, _file: *const c_char, _line: c_int) -> *mut c_void {
    // SAFETY: OpenSSL hands back null or a block that `allocate` or `reallocate` returned.
    unsafe { libmimalloc_sys::mi_realloc(block, len) }
}

unsafe extern "C" fn release(block: *mut c_void, _file: *const c_char, _line: c_int) {
    // SAFETY: as in `reallocate`; OpenSSL does not use the block afterwards.
    unsafe { libmimalloc_sys::mi_free(block) }
}

type Allocate = unsafe extern "C" fn(usize, *const c_char, c_int) -> *mut c_void;
type Reallocate = unsafe extern "C" fn(*mut c_void, usize, *const c_char, c_int) -> *mut c_void;
type Release = unsafe extern "C" fn(*mut c_void, *const c_char, c_int);

unsafe extern "C" {
    fn CRYPTO_set_mem_functions(allocate: Allocate, reallocate: Reallocate, release: Release) -> c_int;
}
