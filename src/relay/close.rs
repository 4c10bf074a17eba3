//! How a connection ends: what each side is told, and the name under which it is counted.
//!
//! Two rules keep a truncated stream from passing for a whole one. The backend reads an end of stream only after the
//! client's close_notify, otherwise a reset. The client gets close_notify only after the backend's end of stream,
//! otherwise its TLS stack reports a truncation or an alert. Three ends of our own making are clean towards the client
//! although the backend has not ended: no server could be reached, the connection was idle, and a key that cannot be
//! replaced has protected all that it may. Each is counted under its own reason.

use std::io;
use std::pin::pin;
use std::time::Duration;

use super::client_writer::ClientWriter;
use super::{Outcome, Sides};
use crate::ktls::InstallError;
use crate::ktls::control::RecordFault;
use crate::record::{
    Alert, AlertDescription, ContentType, CryptoError, Handover, OpenError, PostHandshakeError, SealError, Sealer,
};
use crate::sys::socket::Stream;
use crate::telemetry::{CloseReason, Label};
use crate::timer::Watch;

/// How long a client that closed without close_notify may go on reading, from one byte to the next.
pub(super) const TRUNCATION_LINGER: Duration = Duration::from_secs(1);

/// How long a client may take to read an alert before its connection is closed under it.
const ALERT_LINGER: Duration = Duration::from_secs(1);
/// How often a socket that cannot be read any more is looked at.
const LINGER_STEP: Duration = Duration::from_millis(20);
/// How much a client may still send while it is expected to read our alert and close.
const ALERT_LINGER_BYTES_MAX: usize = 64 * 1024;

/// A direction has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    ClientClosed,
    ClientTruncated,
    BackendClosed,
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Backend,
}

impl Side {
    /// The failure of this side's socket.
    pub(super) fn broken(self, error: io::Error) -> Broken {
        match self {
            Self::Client => Broken::Client(error),
            Self::Backend => Broken::Backend(error),
        }
    }
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("client: {0}")]
    Client(io::Error),
    #[error("backend: {0}")]
    Backend(io::Error),
    #[error("{0:?} has stopped taking data")]
    Stalled(Side),
    #[error("client sent alert {0}")]
    AlertReceived(AlertDescription),
    #[error(transparent)]
    Record(#[from] OpenError),
    #[error(transparent)]
    PostHandshake(#[from] PostHandshakeError),
    #[error("client sent ChangeCipherSpec after the handshake")]
    UnexpectedChangeCipherSpec,
    #[error("the key has protected as many records as it may")]
    RecordLimit,
    #[error("client's record was refused by the kernel: {0:?}")]
    KernelFault(RecordFault),
    #[error("the kernel cannot replace the keys that a KeyUpdate ends")]
    RekeyUnsupported,
    #[error("kernel TLS: {0}")]
    Install(#[from] InstallError),
    #[error("pipe: {0}")]
    Resource(io::Error),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    #[error("{0}")]
    Internal(&'static str),
}

impl Broken {
    fn reason(&self) -> CloseReason {
        match self {
            Self::Client(_) => CloseReason::ClientFailed,
            Self::Backend(_) => CloseReason::BackendFailed,
            Self::Stalled(Side::Client) => CloseReason::ClientStalled,
            Self::Stalled(Side::Backend) => CloseReason::BackendStalled,
            Self::AlertReceived(_) => CloseReason::AlertReceived,
            Self::Record(_) | Self::KernelFault(_) => CloseReason::BadRecord,
            Self::RekeyUnsupported => CloseReason::RekeyUnsupported,
            Self::PostHandshake(_) | Self::UnexpectedChangeCipherSpec => CloseReason::ProtocolViolation,
            Self::RecordLimit => CloseReason::RecordLimit,
            Self::Install(_) | Self::Resource(_) | Self::Seal(_) | Self::Crypto(_) | Self::Internal(_) => {
                CloseReason::Internal
            }
        }
    }

    /// What the client is told.
    fn alert(&self) -> Option<Alert> {
        match self {
            // A socket that failed or is full cannot be told; a backend that failed shows as a truncation, which it is.
            Self::Client(_) | Self::Backend(_) | Self::Stalled(_) | Self::AlertReceived(_) => None,
            Self::RecordLimit => Some(Alert::CLOSE_NOTIFY),
            Self::Record(error) => Some(Alert::fatal(error.alert())),
            Self::PostHandshake(error) => Some(Alert::fatal(error.alert())),
            Self::UnexpectedChangeCipherSpec => Some(Alert::fatal(AlertDescription::UnexpectedMessage)),
            Self::KernelFault(fault) => Some(Alert::fatal(fault.alert())),
            Self::RekeyUnsupported
            | Self::Install(_)
            | Self::Resource(_)
            | Self::Seal(_)
            | Self::Crypto(_)
            | Self::Internal(_) => Some(Alert::fatal(AlertDescription::InternalError)),
        }
    }
}

/// Both directions came to their ends, this one first.
pub(super) fn finished(first: Ended, client_end: Option<Ended>) -> CloseReason {
    match (first, client_end) {
        (Ended::BackendClosed, _) => CloseReason::BackendClosed,
        (_, Some(Ended::ClientTruncated)) => CloseReason::ClientTruncated,
        _ => CloseReason::ClientClosed,
    }
}

/// A bug before the relay began.
pub(super) fn internal(error: &CryptoError) -> Outcome {
    tracing::error!(%error, "record protection could not be set up");
    Outcome { reason: CloseReason::Internal, client_finished: false, moved: Default::default() }
}

/// Closes a connection that no server could be found for: cleanly, with close_notify, since nothing was cut off.
///
/// Cancel safety: safe; the client then sees the connection end without close_notify.
pub async fn close_without_backend(client: &Stream, watch: &Watch, handover: Box<Handover>) {
    let Ok(mut sealer) = Sealer::new(handover.send) else { return };
    let mut records = handover.unsent;
    if sealer.seal_control(ContentType::Alert, &Alert::CLOSE_NOTIFY.encode(), &mut records).is_ok()
        && client.send(&records).is_ok()
    {
        linger(client, watch).await;
    }
}

/// Sends the alert that belongs to a broken connection, if there is one and a record boundary to send it at.
pub(super) async fn tell_client(sides: &Sides<'_>, writer: &ClientWriter<'_>, broken: Broken) -> CloseReason {
    let reason = broken.reason();
    match reason {
        CloseReason::Internal => tracing::error!(error = %broken, "connection ended by a bug"),
        _ => tracing::debug!(error = %broken, reason = reason.label(), "connection ended"),
    }
    if let Broken::KernelFault(_) = broken {
        // The kernel leaves the fault pending on the socket, where it would fail the sending of the alert.
        let _ = sides.client.take_error();
    }
    if let Some(alert) = broken.alert() {
        send_alert(sides, writer, alert).await;
    }
    reason
}

/// The backend was lost while the client was sending, and what it had answered before has been passed on. There is no
/// close_notify, but time to read: unread data of the client would turn the close into a reset that overtakes the answer.
pub(super) async fn after_last_answer(sides: &Sides<'_>, writer: &ClientWriter<'_>, broken: &Broken) -> CloseReason {
    let reason = broken.reason();
    tracing::debug!(error = %broken, reason = reason.label(), "connection ended");
    sides.watch.restart(ALERT_LINGER);
    let _ = sides.watch.guard(pin!(writer.wait_for_room())).await;
    linger_in_any_engine(sides, writer).await;
    reason
}

/// The deadline passed with no direction at its end: the connection was idle, or a side stopped reading. The client is
/// told with close_notify, unless it stopped in the middle of a record.
pub(super) async fn idle(sides: &Sides<'_>, writer: &ClientWriter<'_>) {
    send_alert(sides, writer, Alert::CLOSE_NOTIFY).await;
}

async fn send_alert(sides: &Sides<'_>, writer: &ClientWriter<'_>, alert: Alert) {
    // RFC 8446 section 6.1: close_notify says that nothing is missing.
    let is_allowed =
        if alert == Alert::CLOSE_NOTIFY { writer.has_sent_everything() } else { writer.can_send_control() };
    if !is_allowed {
        return;
    }
    sides.watch.restart(ALERT_LINGER);
    let sent = sides.watch.guard(pin!(writer.send_last(alert))).await;
    if !matches!(sent, Ok(Ok(()))) {
        return;
    }
    linger_in_any_engine(sides, writer).await;
}

async fn linger_in_any_engine(sides: &Sides<'_>, writer: &ClientWriter<'_>) {
    if writer.is_attached() {
        linger_in_kernel(sides).await;
    } else {
        linger(sides.client, sides.watch).await;
    }
}

/// As [`linger`], for a client whose records the kernel may open: after a fault they cannot be read any more, and the
/// socket stays readable, so this looks at the state of the connection from time to time.
async fn linger_in_kernel(sides: &Sides<'_>) {
    sides.client.shutdown_send();
    let steps = ALERT_LINGER.as_millis() / LINGER_STEP.as_millis();
    for _step in 0..steps {
        if sides.client.is_ended_by_peer() {
            return;
        }
        // In a box: a timer is large, and every connection would carry the room for it.
        Box::pin(monoio::time::sleep(LINGER_STEP)).await;
    }
}

/// Ends the sending side and waits for the client to close, for a bounded time and number of bytes: a socket that is
/// closed with unread data sends a reset, which can take the alert away before the client has read it.
///
/// Cancel safety: safe; the socket is then closed without the wait.
pub async fn linger(client: &Stream, watch: &Watch) {
    client.shutdown_send();
    watch.restart(ALERT_LINGER);
    let _ = watch.guard(pin!(discard(client))).await;
}

async fn discard(client: &Stream) -> io::Result<()> {
    let mut left = ALERT_LINGER_BYTES_MAX;
    while left > 0 {
        client.readable().await?;
        match discard_once(client) {
            Ok(0) => break,
            Ok(len) => left = left.saturating_sub(len),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn discard_once(client: &Stream) -> io::Result<usize> {
    client.recv(&mut [0; 4096])
}
