//! The kernel's own counters of its TLS (`/proc/net/tls_stat`): proof that the kernel did the work.

use std::{fs, io};

/// What has happened, by the kernel's names; later kernels may have more.
pub(super) const EVENTS: [&str; 13] = [
    "TlsTxSw",
    "TlsRxSw",
    "TlsTxDevice",
    "TlsRxDevice",
    "TlsDecryptError",
    "TlsRxDeviceResync",
    "TlsDecryptRetry",
    "TlsRxNoPadViolation",
    "TlsRxRekeyOk",
    "TlsRxRekeyError",
    "TlsTxRekeyOk",
    "TlsTxRekeyError",
    "TlsRxRekeyReceived",
];
/// What there is now, by the kernel's names.
pub(super) const OPEN: [&str; 4] = ["TlsCurrTxSw", "TlsCurrRxSw", "TlsCurrTxDevice", "TlsCurrRxDevice"];

/// The counters, as the kernel names them (`TlsTxSw`, `TlsDecryptError`…).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics(Vec<(String, u64)>);

impl Statistics {
    /// Reads the counters of this network namespace. `NotFound` when the kernel's TLS is not loaded.
    pub fn read() -> io::Result<Self> {
        fs::read_to_string("/proc/net/tls_stat").map(|text| Self::parse(&text))
    }

    /// The counter with this name; 0 when this kernel does not have it.
    pub fn of(&self, name: &str) -> u64 {
        self.0.iter().find(|(known, _)| known == name).map_or(0, |(_, value)| *value)
    }

    /// Every counter that this kernel has.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        };
        Self(text.lines().filter_map(line).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read_by_name() {
        let statistics =
            Statistics::parse("TlsCurrTxSw                     \t2\nTlsTxSw                         \t7\n\n");
        assert_eq!((statistics.of("TlsTxSw"), statistics.of("TlsCurrTxSw"), statistics.of("TlsNew")), (7, 2, 0));
        assert_eq!(statistics.iter().count(), 2);
    }
}
