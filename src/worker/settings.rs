//! What the workers and their listeners are configured with.

use std::net::SocketAddr;
use std::time::Duration;

use crate::guard::ClientLimits;
use crate::ktls;
use crate::network::Networks;
use crate::relay;
use crate::tls;

/// The workers of the process.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The CPU of each worker, one worker per entry; at least one.
    pub cpus: Vec<usize>,
    /// Which worker gets a new connection.
    pub steering: Steering,
    /// Which I/O driver the runtime uses.
    pub io: IoDriver,
    /// Largest number of open client connections per worker; beyond it the worker stops accepting until one closes.
    pub connections_max: usize,
    /// Largest number of handshakes under way per worker; beyond it the one that has waited longest for its client gives
    /// way.
    pub handshakes_max: usize,
    /// Bytes of relay buffers that one worker keeps and hands out at most.
    pub buffer_bytes_max: usize,
}

impl Settings {
    /// One worker on each of `cpus`, everything else as it is by default.
    pub fn for_cpus(cpus: Vec<usize>) -> Self {
        Self {
            cpus,
            steering: Steering::Hash,
            io: IoDriver::Auto,
            connections_max: CONNECTIONS_MAX,
            handshakes_max: HANDSHAKES_MAX,
            buffer_bytes_max: BUFFER_BYTES_MAX,
        }
    }
}

/// Open client connections per worker unless configured otherwise.
const CONNECTIONS_MAX: usize = 65_536;
/// Handshakes under way per worker unless configured otherwise.
const HANDSHAKES_MAX: usize = 4096;
/// Bytes of large relay buffers per worker unless configured otherwise.
const BUFFER_BYTES_MAX: usize = 64 << 20;

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            relay: relay::Timeouts {
                idle: Duration::from_secs(300),
                stall: Duration::from_secs(60),
                close: Duration::from_secs(10),
            },
        }
    }
}

/// Which worker gets a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// Any: the kernel spreads connections by a hash of their addresses.
    Hash,
    /// The worker of the CPU on which the connection arrives; any, where that CPU has none.
    Cpu,
}

/// How a worker waits for its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoDriver {
    /// io_uring, or epoll with a warning where the kernel refuses a ring.
    Auto,
    /// io_uring, or refuse to start.
    Uring,
    /// epoll.
    Epoll,
}

/// One listener: an address, what it speaks and where its connections go.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// The name in logs and metrics.
    pub name: String,
    /// The address; every worker binds it with SO_REUSEPORT.
    pub address: SocketAddr,
    /// Index into the list of backends.
    pub backend: usize,
    /// The same for each section of `tls`, in their order.
    pub section_backends: Vec<usize>,
    /// Largest number of open client connections per worker; none: those of the worker.
    pub connections_max: Option<usize>,
    /// What one client may have.
    pub client_limits: Option<ClientLimits>,
    /// Whose connections must begin with a PROXY protocol header, while all others are refused; none: no header is
    /// expected of anybody.
    pub proxy_protocol_from: Option<Networks>,
    /// TLS.
    pub tls: tls::Settings,
    /// When record protection moves to the kernel.
    pub kernel_tls: ktls::Settings,
    /// Records that one AES-GCM key protects at most.
    pub records_per_key: u64,
    /// Time-outs.
    pub timeouts: Timeouts,
}

/// How long a connection may take over what.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From accept to the end of the handshake.
    pub handshake: Duration,
    /// After it.
    pub relay: relay::Timeouts,
}
