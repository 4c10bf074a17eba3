//! What session tickets are configured with.

use std::path::PathBuf;
use std::time::Duration;

/// Session tickets.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The ring file; none: a ring in memory, for this process.
    pub ring: Option<PathBuf>,
    /// How long a ticket may be used after the full handshake that it stems from; zero: no tickets are issued.
    pub lifetime: Duration,
    /// Tickets issued per TLS 1.3 handshake.
    pub count: usize,
}
