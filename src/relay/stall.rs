//! Waiting for a side that takes no more data: not for ever, and with an eye on the other side.
//!
//! A side that has stopped reading pins a buffer here and as much as the socket's own buffer holds in the kernel. The idle
//! time-out is no bound for that: traffic in the other direction moves it, and so does a byte taken now and then. And while
//! the backend is waited for nobody reads from the client, so that one that has gone away would not be noticed.

use std::os::fd::AsFd;
use std::pin::pin;
use std::time::Duration;

use super::Sides;
use super::close::{Broken, Side};
use crate::sys::tls_ulp;

/// How often the sockets are looked at while nothing moves.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// What a side must take within the stall time-out: one record. Less is no reading but holding on.
const TAKEN_BYTES_MIN: usize = 16 * 1024;

/// Waits until `to` takes data again.
///
/// Cancel safety: safe; nothing is sent.
///
/// # Errors
/// [`Broken::Stalled`] when it has taken less than [`TAKEN_BYTES_MIN`] for the stall time-out; [`Broken::Client`] when
/// the backend is waited for and the client's connection is reset meanwhile.
pub(super) async fn writable(sides: &Sides<'_>, to: Side) -> Result<(), Broken> {
    // In a box: a connection waits here seldom, and would carry the room for it always.
    Box::pin(wait(sides, to)).await
}

async fn wait(sides: &Sides<'_>, to: Side) -> Result<(), Broken> {
    let stream = match to {
        Side::Client => sides.client,
        Side::Backend => sides.backend,
    };
    let mut ready = pin!(stream.writable());
    let interval = LOOK_INTERVAL.min(sides.timeouts.stall);
    let look = sides.watch.another(interval);
    // Not before the first look: most waits are over long before it.
    let (mut unmoved, mut queued) = (Duration::ZERO, None);
    loop {
        if let Ok(ready) = look.guard(ready.as_mut()).await {
            return ready.map_err(|error| to.broken(error));
        }
        look.restart(interval);
        if to == Side::Backend && sides.client.is_gone() {
            return Err(Broken::Client(std::io::ErrorKind::ConnectionReset.into()));
        }
        let left = tls_ulp::unacknowledged_bytes(stream.as_fd()).unwrap_or_default();
        if queued.is_some_and(|queued| !has_moved(queued, left)) {
            unmoved += interval;
            if unmoved >= sides.timeouts.stall {
                return Err(Broken::Stalled(to));
            }
        } else {
            (unmoved, queued) = (Duration::ZERO, Some(left));
        }
    }
}

/// Whether enough was taken; a queue that has grown got a control record of the other direction.
fn has_moved(before: usize, left: usize) -> bool {
    before.saturating_sub(left) >= TAKEN_BYTES_MIN.min(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_or_all_of_less_is_progress_and_a_byte_is_none() {
        assert!(has_moved(1_000_000, 1_000_000 - TAKEN_BYTES_MIN));
        assert!(!has_moved(1_000_000, 1_000_000 - TAKEN_BYTES_MIN + 1));
        assert!(has_moved(100, 0));
        assert!(!has_moved(100, 1));
        assert!(!has_moved(100, 200));
    }
}
