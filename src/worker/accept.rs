//! Accepting connections: batches, the connection limit, and errors that must neither spin nor stop the worker.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::connection;
use super::context::{Listener, WorkerContext};
use crate::sys::socket::{self, Acceptor};
use crate::telemetry::{AcceptError, Label, RefusalReason};

/// Connections accepted in one go before the connections that are open already get their turn.
const ACCEPT_BATCH_MAX: usize = 64;
/// How long accepting rests when descriptors or memory are short: long enough not to spin, short enough to go on soon.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until the worker drains; then empties the queue, because closing a listener resets what waits
/// in it.
pub(super) async fn run(acceptor: Acceptor, listener: Rc<Listener>, worker: Rc<WorkerContext>) {
    while !worker.is_draining() {
        if !worker.has_room(&listener) {
            worker.metrics.connection_limit_reached.increment();
            tracing::warn!(
                listener = listener.name,
                "connection limit reached: accepting pauses (workers.connections_max, listener.connections_max)"
            );
            worker.until(|worker| worker.has_room(&listener) || worker.is_draining()).await;
            continue;
        }
        if ready_or_draining(&acceptor, &worker).await.is_err() || !accept_batch(&acceptor, &listener, &worker) {
            monoio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
    while let Ok(accepted) = acceptor.accept() {
        start(accepted, &listener, &worker);
    }
}

/// False when accepting must rest.
fn accept_batch(acceptor: &Acceptor, listener: &Rc<Listener>, worker: &Rc<WorkerContext>) -> bool {
    for _ in 0..ACCEPT_BATCH_MAX {
        if !worker.has_room(listener) {
            break;
        }
        match acceptor.accept() {
            Ok(accepted) => start(accepted, listener, worker),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => {
                let kind = sort(&error);
                worker.metrics.accept_errors.of(kind).increment();
                if kind == AcceptError::Aborted {
                    continue;
                }
                tracing::warn!(listener = listener.name, %error, "accept failed: accepting pauses for {ACCEPT_PAUSE:?}");
                return false;
            }
        }
    }
    true
}

fn start((socket, client): (OwnedFd, SocketAddr), listener: &Rc<Listener>, worker: &Rc<WorkerContext>) {
    let seat = match listener.admit(client.ip(), &worker.metrics) {
        Ok(seat) => seat,
        Err(reason) => return refuse(socket, client, reason, listener, worker),
    };
    let place = worker.take_place(listener, seat);
    monoio::spawn(connection::serve(socket, client, Rc::clone(listener), Rc::clone(worker), place));
}

/// Resets a connection of which nothing has been read: it costs no more than this, and leaves nothing behind.
fn refuse(socket: OwnedFd, client: SocketAddr, reason: RefusalReason, listener: &Listener, worker: &WorkerContext) {
    socket::reset(socket);
    worker.metrics.connections_refused.of(reason).increment();
    if let Some(suppressed) = worker.refusal_log.pass_at(worker.wheel.seconds()) {
        let reason = reason.label();
        tracing::info!(listener = listener.name, %client, reason, suppressed, "connection refused");
    }
}

/// What accept(2) names as errors of the one connection, to be treated like a retry, and what is short.
fn sort(error: &io::Error) -> AcceptError {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => AcceptError::Descriptors,
        Some(libc::ENOBUFS | libc::ENOMEM) => AcceptError::Memory,
        Some(
            libc::ECONNABORTED
            | libc::EPROTO
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EPERM
            | libc::EINTR,
        ) => AcceptError::Aborted,
        _ => AcceptError::Other,
    }
}

async fn ready_or_draining(acceptor: &Acceptor, worker: &WorkerContext) -> io::Result<()> {
    let (mut ready, mut draining) = (pin!(acceptor.ready()), pin!(worker.until(WorkerContext::is_draining)));
    std::future::poll_fn(|context| match draining.as_mut().poll(context) {
        Poll::Ready(()) => Poll::Ready(Ok(())),
        Poll::Pending => ready.as_mut().poll(context),
    })
    .await
}
