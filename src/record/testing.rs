//! What the tests of this folder share.

use super::suite::{CipherSuite, KeyMaterial, TrafficKeys};
use super::{Opener, Sealer};

pub(super) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).expect("hex digit") as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

pub(super) fn suite(code: u16) -> &'static CipherSuite {
    CipherSuite::from_code(code).expect("known suite")
}

pub(super) fn keys(suite: &CipherSuite) -> TrafficKeys {
    TrafficKeys {
        version: suite.version,
        aead: suite.aead,
        key: KeyMaterial::new(&[0x17; 32][..suite.aead.key_len()]),
        iv: [0x2a; 12],
        sequence: 0,
    }
}

/// Both ends of one direction.
pub(super) fn pair(suite: &CipherSuite) -> (Sealer, Opener) {
    (Sealer::new(keys(suite)).expect("keys fit"), Opener::new(keys(suite)).expect("keys fit"))
}
