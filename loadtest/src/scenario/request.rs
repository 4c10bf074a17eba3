//! `request`: HTTP/1.1 requests, one after the other, on a kept-alive connection.

use std::rc::Rc;
use std::time::Instant;

use crate::engine::exchange::{Answer, Request, exchange};
use crate::result::{ErrorClass, Scenario};
use crate::scenario::{Context, Slot};

/// One request that was due at `intended`.
pub(super) async fn step(slot: &mut Slot, intended: Instant) -> Result<(), ErrorClass> {
    exchange_on_held(slot, |context| &context.requests.get, Repeat::Once).await?;
    slot.context.tally.finished(Scenario::Request, intended);
    Ok(())
}

/// Whether a request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Once more, on a fresh connection, when the target closed the kept-alive one before it answered
    /// (RFC 9112 section 9.3.1: only for idempotent methods).
    Once,
    /// Never.
    Never,
}

/// Does one exchange on the slot's connection, which is opened (again) where needed.
pub(super) async fn exchange_on_held(
    slot: &mut Slot,
    request: fn(&Context) -> &Request,
    repeat: Repeat,
) -> Result<(), ErrorClass> {
    let context = Rc::clone(&slot.context);
    loop {
        let is_reused = slot.held.is_some();
        slot.hold_open().await?;
        let Some(mut held) = slot.held.take() else { return Err(ErrorClass::Closed) };
        match exchange(&mut held.connection, request(&context), &context.tally, &mut slot.buffer).await {
            Ok(Answer::Reusable) => {
                slot.held = Some(held);
                return Ok(());
            }
            Ok(Answer::Last) => return Ok(()),
            Err(failure) => {
                let was_stale = is_reused
                    && failure.is_unanswered
                    && matches!(failure.class, ErrorClass::Closed | ErrorClass::Io)
                    && !context.thread.is_halted();
                if repeat == Repeat::Never || !was_stale {
                    return Err(failure.class);
                }
            }
        }
    }
}
