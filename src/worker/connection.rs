//! The life of a connection: the one place that orders its phases.

use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use super::context::{Listener, Place, WorkerContext};
use super::proxy_header::{self, Introduction, ProxyHeaderRefused};
use super::trace::Trace;
use crate::backend::{self, DialError};
use crate::relay::{self, Handover, Sides};
use crate::sys::socket::{HandshakeAck, Stream};
use crate::telemetry::access::version_names;
use crate::telemetry::{CloseReason, Kind, Label};
use crate::timer::Watch;
use crate::tls::{self, ClientHello, Established, Failure, HandshakeKind};

/// Serves one connection from its first byte to its last, and counts how it ended. A panic is contained: it ends this
/// connection only.
///
/// A block with what it captures, not an `async fn`: that would keep room for its arguments twice, and every idle
/// connection would pay for it.
pub(super) fn serve(
    socket: OwnedFd,
    peer: SocketAddr,
    tls: Rc<tls::Context>,
    place: Place,
) -> impl Future<Output = ()> {
    let client = Cell::new(peer);
    let mut trace = Trace::begin(&place.listener, &place.worker);
    async move {
        let outcome = contain(pin!(phases(socket, &client, tls, &place, &mut trace))).await;
        let Place { listener, worker, .. } = &place;
        let client = client.get();
        let reason = outcome.unwrap_or_else(|Panicked| {
            worker.metrics.panics.increment();
            tracing::error!(
                listener = listener.name, %client, "a connection panicked: this is a bug, please report it"
            );
            CloseReason::Internal
        });
        trace.end(reason, client, worker);
        worker.metrics.connections_closed.of(reason).increment();
        tracing::debug!(listener = listener.name, %client, reason = reason.label(), "connection closed");
        drop(place);
    }
}

/// All phases of a connection, and the close of its sockets. `known_client` is the peer, until a header says otherwise.
async fn phases(
    socket: OwnedFd,
    known_client: &Cell<SocketAddr>,
    tls: Rc<tls::Context>,
    place: &Place,
    trace: &mut Trace,
) -> CloseReason {
    let Place { listener, worker, .. } = place;
    let stream = match Stream::new(socket) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::error!(peer = %known_client.get(), %error, "the runtime refused a socket");
            return CloseReason::Internal;
        }
    };
    let watch = worker.wheel.watch(listener.timeouts.handshake);
    // What only the beginning needs is in a future of its own, whose room the relay takes over.
    let (server, handover) = match prepare(&stream, &watch, known_client, tls, place, trace).await {
        Ok(ready) => ready,
        Err(reason) => {
            stream.close();
            return reason;
        }
    };
    let sides = Sides {
        client: &stream,
        backend: &server,
        pool: &worker.pool,
        pipes: &worker.pipes,
        kernel_tls: &listener.kernel_tls,
        capabilities: &listener.capabilities,
        records_per_key: listener.records_per_key,
        watch: &watch,
        metrics: &worker.metrics,
        timeouts: &listener.timeouts.relay,
    };
    let outcome = relay::run(&sides, handover).await;
    trace.relayed(&outcome);

    drop(watch);
    if outcome.client_finished {
        server.close()
    } else {
        server.reset()
    }
    if outcome.reason == CloseReason::ClientStalled {
        // Closed in the ordinary way, its unread data would stay in the kernel.
        stream.reset();
    } else {
        stream.close();
    }
    outcome.reason
}

/// Header of the load balancer in front, handshake, dial, header for the server. On an error the client has been told
/// what it is to be told, and its socket is left to be closed.
async fn prepare(
    stream: &Stream,
    watch: &Watch,
    known_client: &Cell<SocketAddr>,
    tls: Rc<tls::Context>,
    place: &Place,
    trace: &mut Trace,
) -> Result<(Stream, Box<Handover>), CloseReason> {
    let Place { listener, worker, .. } = place;
    let peer = known_client.get();
    let Introduction { client, received, early, seat } = proxy_header::expect(stream, peer, listener, worker, watch)
        .await
        .map_err(|ProxyHeaderRefused| CloseReason::ProxyHeaderRefused)?;
    known_client.set(client);
    // A connection of the load balancer itself has none.
    if seat.is_some() {
        place.keep(seat);
    }

    let mut hello = None;
    let attempt = worker.handshakes.begin(watch.trigger());
    let handshake = watch.guard(pin!(tls::accept(stream, &tls, early, &attempt, &mut hello))).await;
    let out_of_time = || Err(if attempt.gave_way() { Failure::GaveWay } else { Failure::TimedOut });
    let handshake = handshake.unwrap_or_else(|_| out_of_time());
    drop(attempt);
    // A reload may have replaced it; what it holds of certificates shall not wait for the end of the connection.
    drop(tls);
    let established = match handshake {
        Ok(established) => established,
        Err(failure) => {
            report(&failure, hello.as_ref(), client, listener, worker);
            trace.failed(&failure, hello.as_ref());
            if failure.has_alert() {
                relay::linger(stream, watch).await;
            }
            return Err(CloseReason::HandshakeFailed);
        }
    };
    count(&established, worker);
    trace.established(&established, hello.as_ref());
    let route = listener.route(established.section);
    let server_name = hello.as_ref().and_then(ClientHello::server_name);
    // The access log and the server know the connection by the same name.
    let id = || trace.id().unwrap_or_else(|| worker.unique_ids.next());
    let greeting = proxy_header::compose(route.proxy_protocol, &received, stream, peer, server_name, &established, &id)
        .map_err(|error| {
            tracing::debug!(listener = listener.name, %client, %error, "client has gone");
            CloseReason::ClientFailed
        })?;
    // A connect that takes long must not hold on to what the beginning told.
    drop((received, hello));
    let handover = established.into_handover();

    // What came behind the handshake goes to the server as soon as there is one.
    let ack = if handover.leftover.is_empty() { HandshakeAck::AtOnce } else { HandshakeAck::WithData };
    let dialled = backend::dial(&route.servers, route.connect_timeout, ack, watch, &worker.metrics).await;
    let server = match dialled {
        Ok((server, address)) => {
            trace.connected(route.servers.name(), address);
            server
        }
        Err(DialError::Unavailable) => {
            trace.unreachable(route.servers.name());
            relay::close_without_backend(stream, watch, handover).await;
            return Err(CloseReason::BackendUnavailable);
        }
        // As when it resets later: the client must not take it for a clean close.
        Err(DialError::Reset) => {
            trace.unreachable(route.servers.name());
            return Err(CloseReason::BackendFailed);
        }
    };
    if let Err(error) = backend::greet(&server, &greeting, route.connect_timeout, watch).await {
        tracing::warn!(backend = route.servers.name(), %client, %error, "server took no PROXY protocol header");
        server.reset();
        return Err(CloseReason::BackendFailed);
    }
    Ok((server, handover))
}

fn count(established: &Established, worker: &WorkerContext) {
    if let Some(result) = established.client_certificate {
        worker.metrics.client_certificates.of(result).increment();
    }
    if let Some(result) = established.staple {
        worker.metrics.staples.of(result).increment();
    }
    if let Some(sent) = established.certificate {
        worker.metrics.certificates_compressed.of(sent.compression).increment();
        worker.metrics.certificate_compression_saved.add(sent.saved_bytes.into());
    }
    let kind = match established.kind {
        HandshakeKind::Full => Kind::Full,
        HandshakeKind::Resumed => Kind::Resumed,
    };
    worker.metrics.handshakes.of(established.handover.suite.version.into()).of(kind).increment();
}

fn report(
    failure: &Failure,
    hello: Option<&ClientHello>,
    client: SocketAddr,
    listener: &Listener,
    worker: &WorkerContext,
) {
    let reason = failure.reason();
    worker.metrics.handshakes_failed.of(reason).increment();
    if let Some(result) = failure.client_certificate() {
        worker.metrics.client_certificates.of(result).increment();
    }
    if let Some(suppressed) = worker.failure_log.pass_at(worker.wheel.seconds()) {
        let reason = reason.label();
        let server_name = hello.and_then(ClientHello::server_name);
        let versions = hello.map(|hello| version_names(&hello.versions().collect::<Vec<_>>()).join(","));
        let ja4 = hello.map(ClientHello::ja4);
        let alert_sent = failure.alert_sent().map(|alert| alert.to_string());
        let alert_received = failure.alert_received().map(|alert| alert.to_string());
        tracing::info!(
            listener = listener.name, %client, server_name, versions, ja4, reason, alert_sent, alert_received,
            error = %failure, suppressed, "handshake failed"
        );
    }
}

/// The future panicked.
#[derive(Debug)]
struct Panicked;

fn contain<F: Future>(mut future: Pin<&mut F>) -> impl Future<Output = Result<F::Output, Panicked>> {
    std::future::poll_fn(move |context| {
        match std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    })
}
