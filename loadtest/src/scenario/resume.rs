//! `resume`: like `handshake`, but every handshake offers the newest ticket of its slot.
//!
//! The full handshake that fetches a slot's first ticket is not counted. A target that refuses tickets gets full
//! handshakes, and the result says at what rate it resumed.

use std::time::Instant;

use crate::result::{ErrorClass, Scenario};
use crate::scenario::handshake::shake;
use crate::scenario::{Slot, Tickets};

/// Fetches the slot's first ticket.
pub(super) async fn prepare(slot: &mut Slot) -> Result<(), ErrorClass> {
    shake(slot, Tickets::Use, None).await
}

/// One handshake with a ticket that was due at `intended`.
pub(super) async fn step(slot: &mut Slot, intended: Instant) -> Result<(), ErrorClass> {
    shake(slot, Tickets::Use, Some((Scenario::Resume, intended))).await
}
