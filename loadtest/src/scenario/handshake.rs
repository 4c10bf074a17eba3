//! `handshake`: connect, full handshake, the asked number of requests, close.
//!
//! The unit of work is finished when the client's Finished is sent. The connection is then closed in order and the
//! target's end is awaited before the slot goes on, so that a target cannot run up a debt of half-done handshakes.

use std::rc::Rc;
use std::time::Instant;

use crate::engine::client_tls::Offer;
use crate::engine::exchange::exchange;
use crate::result::{ErrorClass, Scenario};
use crate::scenario::{Slot, Tickets};

/// One full handshake that was due at `intended`.
pub(super) async fn step(slot: &mut Slot, intended: Instant) -> Result<(), ErrorClass> {
    shake(slot, Tickets::Ignore, Some((Scenario::Handshake, intended))).await
}

/// One connection from connect to close; counted as `work`, if given.
pub(super) async fn shake(
    slot: &mut Slot,
    tickets: Tickets,
    work: Option<(Scenario, Instant)>,
) -> Result<(), ErrorClass> {
    let mut held = slot.open(tickets).await?;
    let context = Rc::clone(&slot.context);
    if let Some((kind, intended)) = work {
        context.tally.handshake(held.connection.offer() == Offer::Ticket, held.connection.is_resumed());
        context.tally.finished(kind, intended);
    }
    let requests = context.plan.requests_per_connection;
    for number in 1..=requests {
        let request = if number == requests { &context.requests.get_last } else { &context.requests.get };
        exchange(&mut held.connection, request, &context.tally, &mut slot.buffer)
            .await
            .map_err(|failure| failure.class)?;
    }
    if requests == 0 { held.connection.close().await } else { held.connection.read_to_end().await }
}
