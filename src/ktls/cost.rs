//! What sealing costs in the kernel beside userspace, found out by doing both: a kernel without the driver of the CPU's
//! AES takes an implementation in C, and then kernel TLS is the dear way.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::install::{Direction, InstallError, install};
use super::probe::{Pair, aead_label, keys};
use crate::record::{Aead, ContentType, HEADER_LEN, PLAINTEXT_LEN_MAX, ProtocolVersion, Sealer};

/// What the kernel takes for sealing with one algorithm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CipherCost {
    /// The algorithm.
    #[serde(serialize_with = "aead_label")]
    pub aead: Aead,
    /// CPU time of records sealed and sent by the kernel, in percent of the same from userspace.
    pub percent_of_userspace: u32,
    /// The kernel's implementation, where `/proc/crypto` names it.
    pub driver: Option<String>,
}

impl CipherCost {
    /// From here on the kernel's cipher costs more than splice saves (docs/kernel-tls.md).
    pub const SLOW_PERCENT: u32 = 150;

    /// Whether the kernel loses by more than it can make up for.
    pub const fn is_slow(&self) -> bool {
        self.percent_of_userspace >= Self::SLOW_PERCENT
    }
}

/// Measures one algorithm; `None` when that fails, which says nothing about the kernel's speed.
pub(super) fn measure(aead: Aead) -> Option<CipherCost> {
    let percent_of_userspace = percent(aead).ok()?;
    let driver = fs::read_to_string("/proc/crypto").ok().and_then(|text| driver(&text, kernel_name(aead)));
    Some(CipherCost { aead, percent_of_userspace, driver })
}

fn percent(aead: Aead) -> Result<u32, InstallError> {
    let version = ProtocolVersion::Tls13;
    let mut kernel = Pair::attached()?;
    install(kernel.sender.as_fd(), Direction::Transmit, &keys(version, aead, 1))?;
    let mut userspace = Pair::connected().map_err(InstallError::Other)?;
    let mut sealer = Sealer::new(keys(version, aead, 1)).map_err(bug)?;
    let record_len = sealer.prefix_len() + PLAINTEXT_LEN_MAX + sealer.suffix_len();
    debug_assert_eq!(sealer.prefix_len(), HEADER_LEN, "TLS 1.3 has no explicit nonce");
    let (payload, mut records) = (vec![0; RECORDS * PLAINTEXT_LEN_MAX], vec![0; RECORDS * record_len]);
    let mut received = vec![0; RECORDS * record_len];
    let (mut kernel_least, mut userspace_least) = (u64::MAX, u64::MAX);
    for round in 0..ROUNDS_MAX {
        let begun = cpu_time()?;
        kernel.sender.write_all(&payload).map_err(InstallError::Other)?;
        let between = cpu_time()?;
        kernel.receiver.read_exact(&mut received).map_err(InstallError::Other)?;
        let begun_again = cpu_time()?;
        for record in records.chunks_exact_mut(record_len) {
            sealer.seal(ContentType::ApplicationData, record).map_err(bug)?;
        }
        userspace.sender.write_all(&records).map_err(InstallError::Other)?;
        let ended = cpu_time()?;
        userspace.receiver.read_exact(&mut received).map_err(InstallError::Other)?;
        // The least of several: what disturbs a round makes it longer.
        kernel_least = kernel_least.min(between.saturating_sub(begun));
        userspace_least = userspace_least.min(ended.saturating_sub(begun_again)).max(1);
        // The first round finds cold caches.
        if round > 0 && in_percent(kernel_least, userspace_least) < CipherCost::SLOW_PERCENT {
            break;
        }
    }
    Ok(in_percent(kernel_least, userspace_least))
}

fn bug(error: impl std::error::Error + Send + Sync + 'static) -> InstallError {
    InstallError::Other(io::Error::other(error))
}

fn in_percent(part: u64, whole: u64) -> u32 {
    u32::try_from(part.saturating_mul(100) / whole).unwrap_or(u32::MAX)
}

/// CPU time of this thread in nanoseconds, which other work on the machine does not lengthen.
fn cpu_time() -> Result<u64, InstallError> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_err(|error| InstallError::Other(error.into()))?;
    Ok(time.tv_sec().unsigned_abs() * 1_000_000_000 + time.tv_nsec().unsigned_abs())
}

const fn kernel_name(aead: Aead) -> &'static str {
    match aead {
        Aead::Aes128Gcm | Aead::Aes256Gcm => "gcm(aes)",
        Aead::ChaCha20Poly1305 => "rfc7539(chacha20,poly1305)",
    }
}

/// The implementation of `name` with the highest priority: the one that the kernel takes.
fn driver(proc_crypto: &str, name: &str) -> Option<String> {
    let field = |entry: &str, key: &str| {
        let value = |line: &str| {
            let (found, value) = line.split_once(':')?;
            (found.trim() == key).then(|| value.trim().to_owned())
        };
        entry.lines().find_map(value)
    };
    let entries = proc_crypto.split("\n\n").filter(|entry| field(entry, "name").as_deref() == Some(name));
    let priority = |entry: &&str| field(entry, "priority").and_then(|priority| priority.parse::<u32>().ok());
    entries.max_by_key(priority).and_then(|entry| field(entry, "driver"))
}

/// Records of one round: as many as a fresh connection takes without waiting for its reader.
const RECORDS: usize = 2;
/// Rounds, when the kernel looks slow; otherwise it is over as soon as it does not.
const ROUNDS_MAX: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn driver_is_the_implementation_with_the_highest_priority() {
        let text = "name         : gcm(aes)\ndriver       : gcm_base(ctr(aes-generic),ghash-generic)\npriority     : 100\n\n\
                    name         : gcm(aes)\ndriver       : generic-gcm-aesni-avx\npriority     : 500\n\n\
                    name         : rfc4106(gcm(aes))\ndriver       : rfc4106-gcm-aesni\npriority     : 900\n";
        assert_eq!(driver(text, "gcm(aes)").as_deref(), Some("generic-gcm-aesni-avx"));
        assert_eq!(driver(text, "rfc7539(chacha20,poly1305)"), None);
    }

    #[test]
    fn cost_is_slow_from_its_bound_on() {
        let cost = |percent_of_userspace| CipherCost { aead: Aead::Aes128Gcm, percent_of_userspace, driver: None };
        assert!(!cost(CipherCost::SLOW_PERCENT - 1).is_slow());
        assert!(cost(CipherCost::SLOW_PERCENT).is_slow());
        assert_eq!(in_percent(3, 2), 150);
        assert_eq!(in_percent(u64::MAX, 1), u32::MAX);
    }
}
