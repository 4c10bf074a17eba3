//! `transfer`: bulk bodies on kept-alive connections. The unit of work is the byte, counted as it moves.

use std::time::Instant;

use crate::plan::Direction;
use crate::result::{ErrorClass, Scenario};
use crate::scenario::Slot;
use crate::scenario::request::{Repeat, exchange_on_held};

/// One body that was due at `intended`.
pub(super) async fn step(slot: &mut Slot, intended: Instant) -> Result<(), ErrorClass> {
    let is_upload = match slot.context.plan.direction {
        Direction::Down => false,
        Direction::Up => true,
        Direction::Both => slot.index % 2 == 1,
    };
    if is_upload {
        exchange_on_held(slot, |context| &context.requests.post, Repeat::Never).await?;
    } else {
        exchange_on_held(slot, |context| &context.requests.get, Repeat::Once).await?;
    }
    slot.context.tally.finished(Scenario::Transfer, intended);
    Ok(())
}
