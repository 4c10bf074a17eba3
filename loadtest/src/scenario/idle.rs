//! `idle`: connections that are opened once and then hold still.
//!
//! What the target sends (tickets) is read, so that nothing of it stays in socket buffers. A connection that the
//! target closes before the end of the run counts as a failure.

use std::rc::Rc;
use std::time::Instant;

use crate::engine::exchange::{Answer, exchange};
use crate::result::{ErrorClass, Scenario};
use crate::scenario::{Slot, Tickets};

/// Opens the slot's connection and holds it until the run is over.
pub(super) async fn work(slot: &mut Slot) {
    if let Err(class) = open_and_hold(slot).await {
        slot.failed(class);
    }
}

async fn open_and_hold(slot: &mut Slot) -> Result<(), ErrorClass> {
    let context = Rc::clone(&slot.context);
    let mut held = {
        let _permit = context.permits.take().await;
        if context.thread.is_halted() {
            return Ok(());
        }
        let started = Instant::now();
        let mut held = slot.open(Tickets::Ignore).await?;
        for _ in 0..context.plan.requests_per_connection {
            match exchange(&mut held.connection, &context.requests.get, &context.tally, &mut slot.buffer).await {
                Ok(Answer::Reusable) => {}
                Ok(Answer::Last) => return Err(ErrorClass::Closed),
                Err(failure) => return Err(failure.class),
            }
        }
        slot.buffer = Vec::new();
        context.tally.finished(Scenario::Idle, started);
        held
    };
    let mut scrap = [0; 512];
    loop {
        if held.connection.read_forever(&mut scrap).await? == 0 {
            return Err(ErrorClass::Closed);
        }
    }
}
