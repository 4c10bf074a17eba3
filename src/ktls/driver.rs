//! Which of the kernel's implementations of AES-GCM seals: without the driver of the CPU's AES it is one in C, and kernel
//! TLS is the dear way (docs/kernel-tls.md has by how much).
//!
//! The kernel's own list is asked, not a clock: on a machine that others share, timings of a good driver and of the one in
//! C overlapped.

use std::fs;

/// The implementation that the kernel takes for AES-GCM; none where `/proc/crypto` does not tell.
pub(super) fn of_aes_gcm() -> Option<String> {
    chosen(&fs::read_to_string("/proc/crypto").ok()?, "gcm(aes)")
}

/// Whether this is the template that builds AES-GCM from other parts, which the kernel takes where there is nothing made
/// for the CPU.
pub(super) fn is_slow(driver: &str) -> bool {
    driver.starts_with("gcm_base(")
}

/// The implementation of `name` with the highest priority.
fn chosen(proc_crypto: &str, name: &str) -> Option<String> {
    let entries = proc_crypto.split("\n\n").filter(|entry| field(entry, "name") == Some(name));
    let priority = |entry: &&str| field(entry, "priority").and_then(|priority| priority.parse::<u32>().ok());
    entries.max_by_key(priority).and_then(|entry| field(entry, "driver")).map(str::to_owned)
}

fn field<'a>(entry: &'a str, key: &str) -> Option<&'a str> {
    let fields = entry.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(found, value)| (found.trim(), value.trim())).find(|(found, _)| *found == key).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str = "name         : gcm(aes)\ndriver       : gcm_base(ctr(aes-generic),ghash-generic)\npriority     : 100\n\n\
                        name         : gcm(aes)\ndriver       : generic-gcm-aesni-avx\npriority     : 500\n\n\
                        name         : rfc4106(gcm(aes))\ndriver       : rfc4106-gcm-aesni\npriority     : 900\n";

    #[test]
    fn driver_is_the_implementation_with_the_highest_priority() {
        assert_eq!(chosen(BOTH, "gcm(aes)").as_deref(), Some("generic-gcm-aesni-avx"));
        assert_eq!(chosen(BOTH, "gcm(sm4)"), None);
    }

    #[test]
    fn driver_in_c_is_slow_and_those_of_cpus_are_not() {
        assert!(is_slow("gcm_base(ctr(aes-lib),ghash-lib)"));
        assert!(!is_slow("generic-gcm-vaes-avx10_512"));
        assert!(!is_slow("gcm-aes-ce"));
    }
}
