//! What OpenSSL draws.

use std::collections::HashSet;

use super::super::random;
use super::*;

/// What a table entry of that number points to.
type RandomBytes = unsafe extern "C" fn(*mut c_void, c_int, *mut c_void, usize, std::ffi::c_uint) -> c_int;

fn draw(out: *mut u8, len: usize) -> c_int {
    // SAFETY: the entry holds a function of this type; `out` is null or has room for `len` bytes, as each caller sees to.
    unsafe {
        let bytes: RandomBytes = std::mem::transmute(random::BYTES.function);
        bytes(ptr::null_mut(), 0, out.cast(), len, 256)
    }
}

#[test]
fn openssl_draws_from_the_provider() {
    install().unwrap();
    let before = random::DRAWS.get();
    let drawn: HashSet<[u8; 16]> = (0..1000)
        .map(|round| {
            let mut out = [0; 16];
            if round % 2 == 0 { openssl::rand::rand_bytes(&mut out) } else { openssl::rand::rand_priv_bytes(&mut out) }
                .unwrap();
            out
        })
        .collect();
    assert_eq!(drawn.len(), 1000, "none twice");
    assert_eq!(random::DRAWS.get() - before, 1000);
}

#[test]
fn as_much_is_filled_as_was_asked_for() {
    assert_eq!(draw(ptr::null_mut(), 0), 1);
    assert_eq!(draw(ptr::null_mut(), 1), 0, "nowhere to write to");
    for len in [0, 1, 31, 32, 10_000] {
        // Each byte differs at least once in so many draws.
        let mut is_filled = vec![false; len];
        for _ in 0..32 {
            let mut out = vec![0xa5_u8; len + 64];
            assert_eq!(draw(out.as_mut_ptr(), len), 1);
            assert_eq!(out[len..], [0xa5; 64], "{len}");
            for (is_filled, byte) in is_filled.iter_mut().zip(&out) {
                *is_filled |= *byte != 0xa5 && *byte != 0;
            }
        }
        assert!(is_filled.iter().all(|is_filled| *is_filled), "{len}");
    }
}
