//! What protection is configured with.

use crate::network::Networks;

/// What one client of a listener may have. A client is an address, or all addresses with the same first bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// Connections open at the same time.
    pub connections_max: Option<u32>,
    /// New connections.
    pub rate: Option<Rate>,
    /// Bits of an IPv4 address that tell clients apart.
    pub ipv4_prefix: u8,
    /// Bits of an IPv6 address that tell clients apart.
    pub ipv6_prefix: u8,
    /// Who has no limits.
    pub exempt: Networks,
}

/// A number of connections for each second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many, in the long run.
    pub per_second: u32,
    /// How many at once after a pause.
    pub burst: u32,
}

impl ClientLimits {
    /// Connections that a limit may be set to: the count of a client has 24 bits, and workers that race for the last
    /// place may exceed it by one each for a moment.
    pub const CONNECTIONS_MAX: u32 = 1 << 20;
}
