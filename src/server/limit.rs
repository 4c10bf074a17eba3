//! The descriptor limit of the process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::settings::Settings;

/// Descriptors of a connection: the client's socket and the backend's.
const DESCRIPTORS_PER_CONNECTION: u64 = 2;
/// Descriptors for everything else: rings, listeners, mailboxes, the admin endpoint, files, a pool of pipes.
const DESCRIPTORS_RESERVED: u64 = 256;

/// Raises the soft limit of open descriptors to the hard one, and warns where that is less than the configuration may
/// need.
pub(super) fn raise_descriptors(settings: &Settings) {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => return tracing::warn!(%error, "the limit of open descriptors cannot be read"),
    };
    let granted = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            tracing::warn!(soft, hard, %error, "the limit of open descriptors cannot be raised");
            soft
        }
    };
    let needed = needed(settings.workers.cpus.len(), settings.workers.connections_max);
    if granted < needed {
        tracing::warn!(
            limit = granted,
            needed,
            "descriptors are short: not every worker can hold workers.connections_max connections; raise LimitNOFILE= \
             (ulimit -n) or lower workers.connections_max"
        );
    } else {
        tracing::info!(before = soft, limit = granted, needed, "open descriptors");
    }
}

/// Descriptors that the process may need.
pub(crate) fn needed(worker_count: usize, connections_max: usize) -> u64 {
    let connections = (worker_count as u64).saturating_mul(connections_max as u64);
    connections.saturating_mul(DESCRIPTORS_PER_CONNECTION).saturating_add(DESCRIPTORS_RESERVED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_counted_for_both_sides_of_every_connection() {
        assert_eq!(needed(2, 10_000), 40_000 + DESCRIPTORS_RESERVED);
        assert_eq!(needed(usize::MAX, usize::MAX), u64::MAX);
    }
}
