//! Compressing. Only where it can be sent are the libraries linked that do it.

use super::Algorithm;

/// The bytes, compressed as far as it goes; none where that fails, or the libraries are not there.
#[cfg(feature = "vendored-openssl")]
pub(super) fn compress(algorithm: Algorithm, bytes: &[u8]) -> Option<Vec<u8>> {
    match algorithm {
        Algorithm::Brotli => brotli(bytes),
        Algorithm::Zlib => zlib(bytes),
    }
}

#[cfg(not(feature = "vendored-openssl"))]
pub(super) fn compress(_: Algorithm, _: &[u8]) -> Option<Vec<u8>> {
    None
}

#[cfg(feature = "vendored-openssl")]
fn brotli(mut bytes: &[u8]) -> Option<Vec<u8>> {
    use brotli::enc::BrotliEncoderParams;

    let parameters = BrotliEncoderParams {
        quality: BROTLI_QUALITY,
        lgwin: BROTLI_WINDOW_BITS,
        size_hint: bytes.len(),
        ..BrotliEncoderParams::default()
    };
    let mut compressed = Vec::new();
    brotli::BrotliCompress(&mut bytes, &mut compressed, &parameters).ok()?;
    Some(compressed)
}

#[cfg(feature = "vendored-openssl")]
fn zlib(bytes: &[u8]) -> Option<Vec<u8>> {
    use zlib_rs::{DeflateConfig, ReturnCode, compress_bound, compress_slice};

    let mut buffer = vec![0; compress_bound(bytes.len())];
    let (compressed, result) = compress_slice(&mut buffer, bytes, DeflateConfig::best_compression());
    (result == ReturnCode::Ok).then(|| compressed.to_vec())
}

/// The best that there is: it is done once.
#[cfg(feature = "vendored-openssl")]
const BROTLI_QUALITY: i32 = 11;

/// 64 KiB, more than nearly any chain has.
#[cfg(feature = "vendored-openssl")]
const BROTLI_WINDOW_BITS: i32 = 16;

#[cfg(all(test, feature = "vendored-openssl"))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use rustls::compress::{BROTLI_DECOMPRESSOR, ZLIB_DECOMPRESSOR};

    use super::*;

    #[test]
    fn what_is_compressed_expands_to_the_same() {
        // Beyond the window of Brotli, and what no algorithm makes shorter.
        let long: Vec<u8> = (0..25_000_u32).flat_map(|number| (number / 3).to_le_bytes()).collect();
        let noise: Vec<u8> = (0..100_u32).flat_map(|number| openssl::sha::sha256(&number.to_le_bytes())).collect();
        for (algorithm, decompressor) in
            [(Algorithm::Brotli, BROTLI_DECOMPRESSOR), (Algorithm::Zlib, ZLIB_DECOMPRESSOR)]
        {
            for bytes in [&b"certificate"[..], &long, &noise] {
                let compressed = compress(algorithm, bytes).unwrap();
                let mut expanded = vec![0; bytes.len()];
                decompressor.decompress(&compressed, &mut expanded).unwrap();
                assert!(expanded == bytes, "{algorithm:?}");
            }
            assert!(compress(algorithm, &long).unwrap().len() < long.len() / 2, "{algorithm:?}");
            assert!(compress(algorithm, &noise).unwrap().len() >= noise.len(), "{algorithm:?}");
        }
    }
}
