//! Bodies to send, and what became of them.

use std::io::{self, ErrorKind, Read};

use openssl::sha::Sha256;

/// A prime, so that the pattern lines up with no record or buffer.
const PATTERN_LEN: usize = 65_521;

/// How a stream ended for its reader.
#[allow(clippy::enum_variant_names, reason = "end of stream is the term")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// TLS: close_notify.
    CloseNotify,
    /// The end of the TCP stream; within TLS that is a truncation.
    EndOfStream,
    /// A reset.
    Reset,
    /// TLS: this fatal alert.
    Alert(u8),
}

/// What a reader got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) len: u64,
    pub(crate) digest: [u8; 32],
    pub(crate) end: End,
}

impl Received {
    /// What the reader of `bytes` and then `end` gets.
    pub(crate) fn of(bytes: &[u8], end: End) -> Self {
        Self { len: bytes.len() as u64, digest: openssl::sha::sha256(bytes), end }
    }
}

/// `len` bytes that differ from `seed` to `seed` and repeat only with a long period.
pub(crate) fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    let pattern: Vec<u8> = (0..PATTERN_LEN.min(len)).map(|_| next()).collect();
    // Without optimisation an iterator would take most of the time of a test that moves megabytes.
    let mut bytes = pattern.repeat(len.div_ceil(PATTERN_LEN));
    bytes.truncate(len);
    bytes
}

/// Reads to the end of a plain stream.
pub(crate) fn drain(reader: &mut impl Read) -> Received {
    drain_with(|buffer| match reader.read(buffer) {
        Ok(0) => Err(End::EndOfStream),
        Ok(len) => Ok(len),
        Err(error) => Err(end_of(&error)),
    })
}

/// Reads until `read` gives an end.
pub(crate) fn drain_with(mut read: impl FnMut(&mut [u8]) -> Result<usize, End>) -> Received {
    let (mut digest, mut len, mut buffer) = (Sha256::new(), 0, vec![0; 64 * 1024]);
    loop {
        match read(&mut buffer) {
            Ok(count) => {
                digest.update(&buffer[..count]);
                len += count as u64;
            }
            Err(end) => return Received { len, digest: digest.finish(), end },
        }
    }
}

/// The end that an I/O error stands for; a time-out fails the test.
pub(crate) fn end_of(error: &io::Error) -> End {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => End::Reset,
        ErrorKind::UnexpectedEof => End::EndOfStream,
        _ => panic!("stream neither went on nor ended: {error}"),
    }
}
