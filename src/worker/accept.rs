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
use super::recess::Recess;
use super::station::Station;
use crate::sys::socket::{self, Acceptor};
use crate::telemetry::{AcceptError, Label, RefusalReason};

/// Connections accepted in one go before the connections that are open already get their turn.
const ACCEPT_BATCH_MAX: usize = 64;
/// How long accepting rests when descriptors or memory are short: long enough not to spin, short enough to go on soon.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that the queue of a socket holds at most (LISTEN_BACKLOG, somaxconn).
const QUEUED_MAX: usize = 4096;

/// What the future of a connection may take: with the runtime's header of 64 bytes one block of 2 KiB, and the allocator's
/// next size is 2.5 (docs/performance.md). Every idle connection has one.
const TASK_BYTES_MAX: usize = 2048 - 64;

/// Accepts connections until the worker drains or the listener is removed; then empties the queue, because closing a
/// socket resets what waits in it, unless another process goes on with the same socket.
pub(super) async fn run(acceptor: Acceptor, recess: Recess, station: Rc<Station>, worker: Rc<WorkerContext>) {
    let is_over = |worker: &WorkerContext| worker.is_draining() || station.is_closed();
    let has_room = |worker: &WorkerContext| worker.has_room(&station.listener());
    while !is_over(&worker) {
        if !has_room(&worker) {
            worker.metrics.connection_limit_reached.increment();
            tracing::warn!(
                listener = station.listener().name,
                "connection limit reached: accepting pauses (workers.connections_max, listener.connections_max)"
            );
            worker.until(|worker| has_room(worker) || is_over(worker)).await;
            continue;
        }
        if worker.is_memory_short() {
            worker.until(|worker| !worker.is_memory_short() || is_over(worker)).await;
            continue;
        }
        let over = worker.until(is_over);
        if worker.handshakes.is_backlogged() {
            worker.metrics.handshake_backlogs.increment();
            let _ = unless(worker.handshakes.backlog_shrunk(), over).await;
            continue;
        }
        let has_failed = unless(acceptor.ready(), over).await.is_some_and(|ready| ready.is_err());
        let batch = if has_failed { Batch::Failed } else { accept_batch(&acceptor, &station, &worker) };
        match batch {
            Batch::Ended => {}
            // With epoll a listener that has more is ready at once. A task that only woke itself would keep the runtime
            // from its timers, and from the sockets of those that it has just accepted.
            Batch::Full if recess.pass().await.is_ok() => {}
            Batch::Full | Batch::Failed => monoio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
    // What comes in meanwhile does not keep it from ending: the queue holds no more than this.
    let queued_max = if worker.leaves_queued() { 0 } else { QUEUED_MAX };
    for _ in 0..queued_max {
        let Ok(accepted) = acceptor.accept() else { break };
        start(accepted, &station, &worker);
    }
    if worker.is_winding_up() && !station.is_shared() {
        // The control thread holds the socket, too: open and with nobody to accept, it would go on getting its share.
        acceptor.shut_down();
    }
    acceptor.close();
}

/// What came of accepting several connections.
enum Batch {
    /// No more are there, or none may be accepted now.
    Ended,
    /// More may be there.
    Full,
    /// Accepting must rest.
    Failed,
}

fn accept_batch(acceptor: &Acceptor, station: &Station, worker: &Rc<WorkerContext>) -> Batch {
    for _ in 0..ACCEPT_BATCH_MAX {
        let is_short = worker.handshakes.is_backlogged() || worker.is_memory_short();
        if is_short || !worker.has_room(&station.listener()) {
            return Batch::Ended;
        }
        match acceptor.accept() {
            Ok(accepted) => start(accepted, station, worker),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Batch::Ended,
            Err(error) => {
                let kind = sort(&error);
                worker.metrics.accept_errors.of(kind).increment();
                if kind == AcceptError::Aborted {
                    continue;
                }
                tracing::warn!(listener = station.listener().name, %error, "accept failed: accepting pauses for {ACCEPT_PAUSE:?}");
                return Batch::Failed;
            }
        }
    }
    Batch::Full
}

fn start((socket, client): (OwnedFd, SocketAddr), station: &Station, worker: &Rc<WorkerContext>) {
    let (listener, tls) = station.current();
    // Behind a load balancer the client is not known yet: `connection` looks at its limits.
    let admitted = match listener.proxy_protocol_from {
        None => listener.admit(client.ip(), &worker.metrics),
        Some(_) => Ok(None),
    };
    let seat = match admitted {
        Ok(seat) => seat,
        Err(reason) => return refuse(socket, client, reason, &listener, worker),
    };
    let place = worker.take_place(&listener, seat);
    let connection = connection::serve(socket, client, tls, place);
    debug_assert!(size_of_val(&connection) <= TASK_BYTES_MAX, "{} bytes", size_of_val(&connection));
    monoio::spawn(connection);
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

/// What `future` comes to, or none as soon as it is over.
async fn unless<T>(future: impl Future<Output = T>, over: impl Future<Output = ()>) -> Option<T> {
    let (mut future, mut over) = (pin!(future), pin!(over));
    std::future::poll_fn(|context| match over.as_mut().poll(context) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => future.as_mut().poll(context).map(Some),
    })
    .await
}
