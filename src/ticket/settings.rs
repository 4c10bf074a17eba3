//! What session tickets are configured with.

use std::path::PathBuf;
use std::time::Duration;

/// Session tickets.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The ring file; none: the key files, or without those a ring in memory, for this process.
    pub ring: Option<PathBuf>,
    /// Key files in nginx's format. Beside a ring file they only open; without one the first seals, and all of them open.
    pub key_files: Vec<PathBuf>,
    /// How long a ticket may be used after the full handshake that it stems from; zero: no tickets are issued.
    pub lifetime: Duration,
    /// Tickets issued per TLS 1.3 handshake.
    pub count: usize,
}
