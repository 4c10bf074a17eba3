//! Moving bytes between client and backend once the handshake is done.
//!
//! The two directions of a connection run in one task: [`client_to_backend`] opens records, [`backend_to_client`] seals
//! them. They share the client's sending side ([`client_writer`]), because control records go there from both.
//! [`run`] joins them and says how the connection ended; what the sockets are told then is in [`close`].

mod backend_to_client;
mod buffer;
mod client_to_backend;
mod client_writer;
mod close;
mod kernel_receive;
mod kernel_send;
mod kernel_writer;
mod offload;
mod pipe;
mod stall;

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

pub use buffer::{BufferPool, LARGE_LEN};
pub use close::{close_without_backend, linger};
pub use pipe::PipePool;

/// Gives back what idle connections of this thread hold without need: see [`crate::record::reclaim_idle`].
pub use crate::record::reclaim_idle;

/// What the handshake hands over: see [`run`].
pub use crate::record::Handover;

/// Records that one AES-GCM key may protect: see [`Sides::records_per_key`].
pub use crate::record::AES_GCM_RECORDS_MAX as RECORDS_PER_KEY_MAX;

use crate::ktls;
use crate::record::{Aead, Opener, Sealer};
use crate::sys::socket::Stream;
use crate::telemetry::access::Moved;
use crate::telemetry::{CloseReason, WorkerMetrics};
use crate::timer::Watch;
use backend_to_client::BackendToClient;
use client_to_backend::ClientToBackend;
use client_writer::ClientWriter;
use close::{Broken, Ended};
use offload::Offload;

/// What a relay works with: the sockets and what the worker lends.
pub struct Sides<'a> {
    /// The client's socket, beyond the handshake.
    pub client: &'a Stream,
    /// The backend's socket, connected.
    pub backend: &'a Stream,
    /// The worker's buffers.
    pub pool: &'a Rc<BufferPool>,
    /// The deadline of the connection.
    pub watch: &'a Watch,
    /// The worker's counters.
    pub metrics: &'a WorkerMetrics,
    /// The worker's pipes.
    pub pipes: &'a Rc<PipePool>,
    /// When record protection moves to the kernel.
    pub kernel_tls: &'a ktls::Settings,
    /// What the kernel can do.
    pub capabilities: &'a ktls::Capabilities,
    /// Records that one AES-GCM key protects at most.
    pub records_per_key: u64,
    /// How long the connection may wait for what.
    pub timeouts: &'a Timeouts,
}

/// How long a connection that relays may wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Without a byte in either direction.
    pub idle: Duration,
    /// Without a record's worth of bytes taken by a side that data waits for.
    pub stall: Duration,
    /// From the first close of a direction that nobody answers to the end of the connection.
    pub close: Duration,
}

/// How a connection ended, and what its backend may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Why it ended.
    pub reason: CloseReason,
    /// Whether the client said with close_notify that it sent everything. Only then may the backend read an end of
    /// stream; otherwise it must see a reset, so that a truncated request never passes for a whole one.
    pub client_finished: bool,
    /// What each direction has carried.
    pub moved: [Moved; 2],
}

/// Relays until both directions have ended, one of them breaks, or the deadline passes. On return the client has been
/// told what it is to be told; closing the sockets is left to the caller.
///
/// Cancel safety: not safe; dropped, it leaves the connection to be closed.
#[expect(clippy::manual_async_fn, reason = "an async fn keeps room for its arguments twice")]
pub fn run<'a>(sides: &'a Sides<'a>, handover: Box<Handover>) -> impl Future<Output = Outcome> + use<'a> {
    async move {
        // Out of its box, which is freed: what a future is given by value it keeps to its end.
        let Handover { suite, max_fragment_length, receive, send, traffic_secrets, leftover, unsent } = *handover;
        let (sealer, opener) = match (Sealer::new(send), Opener::new(receive)) {
            (Ok(sealer), Ok(opener)) => (sealer, opener),
            (Err(error), _) | (_, Err(error)) => return close::internal(&error),
        };
        // Only AES-GCM has a limit that matters (RFC 9846 section 5.5).
        let sealer = match suite.aead {
            Aead::ChaCha20Poly1305 => sealer,
            Aead::Aes128Gcm | Aead::Aes256Gcm => sealer.with_record_limit(sides.records_per_key),
        };
        let sealer = match max_fragment_length {
            Some(limit) => sealer.with_fragment_len(usize::from(limit)),
            None => sealer,
        };
        let (client_secret, server_secret) = traffic_secrets.map(|secrets| (secrets.client, secrets.server)).unzip();
        let offload = Offload::new(sides, suite, max_fragment_length);
        let writer = ClientWriter::new(sides, &offload, sealer, server_secret, suite, unsent);
        let mut opening = ClientToBackend::new(sides, &writer, &offload, opener, client_secret, suite);
        let sealing = BackendToClient::new(sides, &writer, &offload);
        sides.watch.allow_idle(sides.timeouts.idle);
        let result = {
            let (opened, sealed) = (pin!(opening.run(leftover)), pin!(sealing.run()));
            sides.watch.guard(pin!(join(opened, sealed, || sealing.lose_backend()))).await
        };
        let client_end = opening.end();
        let reason = match result {
            Ok(Ok(first)) => close::finished(first, client_end),
            Ok(Err(broken)) if sealing.has_lost_backend() => close::after_last_answer(sides, &writer, &broken).await,
            Ok(Err(broken)) => close::tell_client(sides, &writer, broken).await,
            Err(_) if sealing.has_lost_backend() => CloseReason::BackendFailed,
            Err(_) if sealing.has_ended() => CloseReason::CloseTimeout,
            Err(_) if client_end == Some(Ended::ClientTruncated) => CloseReason::ClientTruncated,
            Err(_) => {
                let reason = if sides.watch.was_pulled() { CloseReason::MemoryShort } else { CloseReason::IdleTimeout };
                close::idle(sides, &writer).await;
                reason
            }
        };
        Outcome { reason, client_finished: client_end == Some(Ended::ClientClosed), moved: offload.moved() }
    }
}

/// Runs both directions to their ends and says which came first; the first that breaks ends both. Only when the backend
/// takes no more while its own stream is open, `lose_backend` is called and its stream is relayed to the end before that.
fn join(
    mut opening: Pin<&mut impl Future<Output = Result<Ended, Broken>>>,
    mut sealing: Pin<&mut impl Future<Output = Result<Ended, Broken>>>,
    lose_backend: impl Fn(),
) -> impl Future<Output = Result<Ended, Broken>> {
    let (mut opening_is_open, mut sealing_is_open) = (true, true);
    let (mut first, mut lost) = (None, None);
    std::future::poll_fn(move |context| {
        if opening_is_open && let Poll::Ready(result) = opening.as_mut().poll(context) {
            opening_is_open = false;
            match result {
                Err(broken @ Broken::Backend(_)) if sealing_is_open => {
                    lose_backend();
                    lost = Some(broken);
                }
                result => {
                    first.get_or_insert(result?);
                }
            }
        }
        if sealing_is_open && let Poll::Ready(result) = sealing.as_mut().poll(context) {
            sealing_is_open = false;
            if let Some(broken) = lost.take() {
                return Poll::Ready(Err(broken));
            }
            first.get_or_insert(result?);
        }
        match first {
            Some(first) if !opening_is_open && !sealing_is_open => Poll::Ready(Ok(first)),
            _ => Poll::Pending,
        }
    })
}
