//! The client's sending side once the kernel seals: control records in their order, and the limit of the key.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::Sides;
use super::buffer::LARGE_LEN;
use super::close::Broken;
use super::offload::Offload;
use super::pipe::PIPE_LEN;
use crate::ktls::control::{self, KeyUpdateRequest, Sent};
use crate::ktls::{self, install};
use crate::record::{Alert, CipherSuite, ProtocolVersion, TrafficSecret};
use crate::sys::tls_ulp;
use crate::telemetry::Direction;

/// Records beyond the full ones that one call may turn its bytes into: the kernel closes a record early when it runs out
/// of fragments, and a pipe has at most [`PIPE_LEN`] / 4 KiB of them; a buffer has none to run out of.
const EARLY_RECORDS_MAX: u64 = (PIPE_LEN / 4096) as u64;
/// Bytes that one turn gives to the kernel at most: a pipe, or a large buffer.
const TURN_LEN_MAX: usize = if PIPE_LEN > LARGE_LEN { PIPE_LEN } else { LARGE_LEN };

/// A control record that waits to be sent.
enum Control {
    Alert(Alert),
    /// A KeyUpdate; the next keys are installed right behind it.
    KeyUpdate,
}

/// What is left to do in userspace for a direction that the kernel seals.
pub(super) struct KernelWriter {
    queued: VecDeque<Control>,
    record_limit: u64,
    payload_len: u64,
    /// No fewer records than the present key has protected; the kernel knows the number.
    records_max: u64,
}

impl KernelWriter {
    pub(super) fn new(record_limit: u64, payload_len: usize) -> Self {
        // The first turn asks the kernel: the direction may be promoted near its limit.
        Self { queued: VecDeque::new(), record_limit, payload_len: payload_len as u64, records_max: record_limit }
    }

    pub(super) fn queue_alert(&mut self, alert: Alert) {
        self.queued.push_back(Control::Alert(alert));
    }

    pub(super) fn queue_key_update(&mut self) {
        self.queued.push_back(Control::KeyUpdate);
    }

    pub(super) fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Takes note of bytes that one call gave to the kernel to seal.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.records_max += (bytes as u64).div_ceil(self.payload_len) + EARLY_RECORDS_MAX;
    }

    /// Whether the key is so near its limit that it must be replaced before the next turn. The kernel is asked only when
    /// the limit may be near by what was given to it.
    pub(super) fn is_near_limit(&mut self, client: BorrowedFd<'_>, suite: &CipherSuite) -> Result<bool, Broken> {
        let turn = (TURN_LEN_MAX as u64).div_ceil(self.payload_len) + EARLY_RECORDS_MAX;
        if self.records_max.saturating_add(turn) < self.record_limit {
            return Ok(false);
        }
        let state = install::live_state(client, ktls::Direction::Transmit, suite.version, suite.aead)?;
        self.records_max = state.sequence;
        Ok(self.records_max.saturating_add(turn) >= self.record_limit)
    }

    /// Sends what the socket takes of the queue; true when none is left.
    pub(super) fn flush_now(
        &mut self,
        sides: &Sides<'_>,
        offload: &Offload<'_>,
        secret: &mut Option<TrafficSecret>,
        suite: &CipherSuite,
    ) -> Result<bool, Broken> {
        let client = sides.client.as_fd();
        while let Some(control) = self.queued.front() {
            let sent = match control {
                Control::Alert(alert) => control::send_alert(client, *alert),
                Control::KeyUpdate => control::send_key_update(client, KeyUpdateRequest::NotRequested),
            };
            if sent.map_err(Broken::Client)? == Sent::WouldBlock {
                return Ok(false);
            }
            if let Some(Control::KeyUpdate) = self.queued.pop_front() {
                next_keys(offload, secret, suite)?;
                self.records_max = 0;
                sides.metrics.key_updates_sent.increment();
            }
        }
        Ok(true)
    }
}

/// Goes on with the keys of the next generation, right behind the KeyUpdate that announced them.
fn next_keys(offload: &Offload<'_>, secret: &mut Option<TrafficSecret>, suite: &CipherSuite) -> Result<(), Broken> {
    debug_assert!(suite.version == ProtocolVersion::Tls13, "only TLS 1.3 has KeyUpdate");
    let next = match secret {
        Some(current) => current.next_generation()?,
        None => return Err(Broken::Internal("KeyUpdate without a traffic secret")),
    };
    offload.rekey(Direction::BackendToClient, &next.keys(suite)?)?;
    *secret = Some(next);
    Ok(())
}

/// Waits until TCP can take a close_notify and everything before it. A send that succeeded does not mean that TCP took
/// all of it; what it did not take is lost when the stream is ended then.
///
/// Cancel safety: safe.
pub(super) async fn wait_for_room(sides: &Sides<'_>) -> io::Result<()> {
    let mut unacknowledged = usize::MAX;
    while !control::has_room_for_close(sides.client.as_fd())? {
        let left = tls_ulp::unacknowledged_bytes(sides.client.as_fd())?;
        if left < unacknowledged {
            sides.watch.touch();
        }
        unacknowledged = left;
        sides.client.writable().await?;
        // Writable starts at a third of the buffer, which may be less than the room that is needed.
        // In a box: a timer is large, and every connection would carry the room for it.
        Box::pin(monoio::time::sleep(ROOM_POLL_INTERVAL)).await;
    }
    Ok(())
}

/// How often a writable socket without enough room is looked at again.
const ROOM_POLL_INTERVAL: std::time::Duration = std::time::Duration::from_millis(2);
