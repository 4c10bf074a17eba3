//! The bounds and the default of every quantity in the file, in one place.

use std::time::Duration;

use schemars::Schema;
use schemars::transform::Transform;
use serde_json::Value;

use super::scalar::{ByteCount, Scalar};
use crate::guard::{ClientLimits, Clients};
use crate::ktls;
use crate::worker::RECORDS_PER_KEY_MAX;

/// What a key may be set to, both ends included, and what it is when absent.
pub(super) struct Limit<T> {
    pub(super) min: T,
    pub(super) default: T,
    pub(super) max: T,
}

/// What a key may be set to, both ends included, where its absence has a meaning of its own.
pub(super) struct Bounds<T> {
    pub(super) min: T,
    pub(super) max: T,
}

/// A value with an order, and a form in which it is written in the file.
pub(super) trait Quantity: Scalar + Copy + Ord {
    /// As in the file, without quotes.
    fn show(self) -> String;

    /// As in the JSON schema.
    fn json(self) -> Value {
        self.show().into()
    }
}

impl Quantity for Duration {
    fn show(self) -> String {
        humantime::format_duration(self).to_string()
    }
}

impl Quantity for ByteCount {
    fn show(self) -> String {
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        let exact = units.into_iter().find(|(bytes, _)| self.0 > 0 && self.0.is_multiple_of(*bytes));
        exact.map_or_else(|| format!("{}B", self.0), |(bytes, unit)| format!("{}{unit}", self.0 / bytes))
    }
}

impl Quantity for u64 {
    fn show(self) -> String {
        self.to_string()
    }

    fn json(self) -> Value {
        self.into()
    }
}

impl<T: Quantity> Limit<T> {
    /// Writes the bounds into a schema. JSON Schema knows bounds of numbers only, hence `x-` names for the others.
    pub(super) fn describe(&self) -> impl Transform {
        let mut bounds = Bounds { min: self.min, max: self.max }.describe();
        let default = self.default.json();
        move |schema: &mut Schema| {
            bounds.transform(schema);
            schema.insert("default".into(), default.clone());
        }
    }
}

impl<T: Quantity> Bounds<T> {
    /// Writes the bounds into a schema, as [`Limit::describe`] does.
    pub(super) fn describe(&self) -> impl Transform + use<T> {
        let [min, max] = [self.min, self.max].map(Quantity::json);
        let [minimum, maximum] = if min.is_number() { ["minimum", "maximum"] } else { ["x-minimum", "x-maximum"] };
        move |schema: &mut Schema| {
            schema.insert(minimum.into(), min.clone());
            schema.insert(maximum.into(), max.clone());
        }
    }
}

const fn seconds(min_ms: u64, default: u64, max: u64) -> Limit<Duration> {
    Limit { min: Duration::from_millis(min_ms), default: Duration::from_secs(default), max: Duration::from_secs(max) }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const DAY: u64 = 86_400;
const TRACKED_MAX: u64 = Clients::TRACKED_MAX as u64;

/// Time that a drain gives open connections; zero cuts them at once.
pub(super) const DRAIN_TIMEOUT: Limit<Duration> = seconds(0, 30, DAY);
/// A handshake needs two round trips; five minutes would be a slow-client attack.
pub(super) const HANDSHAKE_TIMEOUT: Limit<Duration> = seconds(100, 10, 300);
/// Long-lived idle connections (message queues, WebSocket) ask for hours.
pub(super) const IDLE_TIMEOUT: Limit<Duration> = seconds(100, 300, 7 * DAY);
/// A reader that takes less than 16 KiB in this time holds more memory than it is worth.
pub(super) const STALL_TIMEOUT: Limit<Duration> = seconds(100, 60, DAY);
/// A half-closed connection may still carry a long answer.
pub(super) const CLOSE_TIMEOUT: Limit<Duration> = seconds(100, 10, 3600);
/// Backends are near: seconds mean that the server is gone.
pub(super) const CONNECT_TIMEOUT: Limit<Duration> = seconds(10, 2, 60);
/// RFC 8446 section 4.6.1: a ticket_lifetime beyond seven days is not allowed. Zero: no tickets.
pub(super) const TICKET_LIFETIME: Limit<Duration> = seconds(0, DAY / 2, 7 * DAY);
/// Tickets per TLS 1.3 handshake: OpenSSL's default, and more than any browser asks for.
pub(super) const TICKET_COUNT: Limit<u64> = Limit { min: 1, default: 2, max: 8 };
/// Ticket key files: each is looked through for every ticket.
pub(super) const TICKET_KEY_FILE_COUNT_MAX: usize = crate::ticket::KEY_FILES_MAX;
/// Open client connections per worker.
pub(super) const CONNECTIONS_MAX: Limit<u64> = Limit { min: 1, default: 16_384, max: 1 << 20 };
/// Handshakes under way per worker: at 10 000 new connections a second, each has 0.4 s for its client to answer before
/// it may have to give way.
pub(super) const HANDSHAKES_MAX: Limit<u64> = Limit { min: 16, default: 4096, max: 1 << 20 };
/// Open client connections per worker and listener.
pub(super) const LISTENER_CONNECTIONS_MAX: Bounds<u64> = Bounds { min: 1, max: 1 << 20 };
/// Below 32 MiB there would be no room for the process itself.
pub(super) const MEMORY_MAX: Bounds<ByteCount> = Bounds { min: ByteCount(32 * MIB), max: ByteCount(16_384 * GIB) };
/// Clients in the table of all workers, which takes 16 bytes for each once there is a client with limits.
pub(super) const TRACKED_CLIENTS_MAX: Limit<u64> = Limit { min: 1024, default: TRACKED_MAX, max: 1 << 24 };
/// Open connections of one client.
pub(super) const CLIENT_CONNECTIONS_MAX: Bounds<u64> = Bounds { min: 1, max: ClientLimits::CONNECTIONS_MAX as u64 };
/// New connections of one client in a second.
pub(super) const CLIENT_CONNECTION_RATE: Bounds<u64> = Bounds { min: 1, max: 1_000_000 };
/// New connections of one client at once.
pub(super) const CLIENT_CONNECTION_BURST: Bounds<u64> = Bounds { min: 1, max: 1_000_000 };
/// Below 8 bits a client would be a part of the world.
pub(super) const IPV4_PREFIX: Limit<u64> = Limit { min: 8, default: 32, max: 32 };
/// Providers hand out a /64, a /56 or a /48 to a customer.
pub(super) const IPV6_PREFIX: Limit<u64> = Limit { min: 16, default: 64, max: 128 };
/// Relay buffers per worker.
pub(super) const BUFFER_MEMORY: Limit<ByteCount> =
    Limit { min: ByteCount(MIB), default: ByteCount(64 * MIB), max: ByteCount(64 * GIB) };
/// One connection in this many is logged.
pub(super) const ACCESS_LOG_SAMPLE: Limit<u64> = Limit { min: 1, default: 1, max: 1_000_000 };
/// Below one full record a hand-over never pays.
pub(super) const KERNEL_TLS_AFTER: Limit<ByteCount> =
    Limit { min: ByteCount(16 * KIB), default: ByteCount(ktls::Settings::PROMOTE_AFTER_BYTES), max: ByteCount(GIB) };
/// RFC 9846 section 5.5 sets the upper end. The lower one leaves the kernel engine room for what it sends between two
/// looks at its record count.
pub(super) const RECORDS_PER_KEY: Limit<u64> =
    Limit { min: 1024, default: RECORDS_PER_KEY_MAX, max: RECORDS_PER_KEY_MAX };

/// Intermediates above a client's certificate: private hierarchies have one or two.
pub(super) const CLIENT_AUTH_DEPTH: Limit<u64> = Limit { min: 0, default: 3, max: 16 };
/// Different things that one listener and its sections ask of clients: each is a context in every worker.
pub(super) const CLIENT_AUTH_COUNT_MAX: usize = 256;
/// Files with revocation lists in one place.
pub(super) const CRL_COUNT_MAX: usize = 64;
/// Identities that are let in in one place: each is compared with the certificate.
pub(super) const ALLOWED_COUNT_MAX: usize = 1024;

/// Networks in one list.
pub(super) const NETWORK_COUNT_MAX: usize = 4096;

/// Largest configuration file.
pub(super) const FILE_BYTES_MAX: u64 = 4 * MIB;
/// Listeners of one process: each has a socket in every worker.
pub(super) const LISTENER_COUNT_MAX: usize = 256;
/// Backends of one process.
pub(super) const BACKEND_COUNT_MAX: usize = 1024;
/// Servers of one backend.
pub(super) const SERVER_COUNT_MAX: usize = 256;
/// Characters of a name: it is a label in metrics and logs.
pub(super) const NAME_CHARS_MAX: usize = 64;
/// RFC 7301 section 3.1: a protocol name has one length byte and is not empty.
pub(super) const ALPN_BYTES_MAX: usize = 255;
/// Sections `[[listener.server_name]]` of one listener.
pub(super) const SECTION_COUNT_MAX: usize = 4096;
/// Names of one such section.
pub(super) const SECTION_NAME_COUNT_MAX: usize = 4096;
/// ALPN protocols of one listener.
pub(super) const ALPN_COUNT_MAX: usize = 16;
/// unix(7): `sun_path` has 108 bytes, the last is zero.
pub(super) const UNIX_PATH_BYTES_MAX: usize = 107;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use super::*;

    #[test]
    fn shown_quantity_is_read_back_as_itself() {
        for bytes in [0, 1, 1023, KIB, MIB + 1, 64 * MIB, 64 * GIB] {
            let shown = ByteCount(bytes).show();
            assert_eq!(ByteCount::parse(&toml::Value::String(shown)).unwrap(), ByteCount(bytes));
        }
        for duration in [0, 1, 999, 1000, 60_000, 43_200_000, 604_800_000].map(Duration::from_millis) {
            assert_eq!(Duration::parse(&toml::Value::String(duration.show())).unwrap(), duration);
        }
    }
}
