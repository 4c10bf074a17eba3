//! What the access log will tell about a connection, gathered while it lives. A connection that is not logged has none of
//! it, and reads no clock for it.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use super::context::{Listener, WorkerContext};
use crate::backend::ServerAddress;
use crate::relay::Outcome;
use crate::telemetry::CloseReason;
use crate::telemetry::access::{HandshakeFailure, Hello, Moved, Record, Session};
use crate::tls::{ClientHello, Established, Failure, HandshakeKind};

/// The record of a connection in the making; one word where the connection is not logged.
pub(super) struct Trace(Option<Box<Gathered>>);

struct Gathered {
    record: Record,
    begun: Instant,
}

impl Trace {
    /// For a connection that was just accepted, if it is its turn to be logged.
    pub(super) fn begin(listener: &Listener, worker: &WorkerContext) -> Self {
        if !worker.access_log.wants_next() {
            return Self(None);
        }
        let record = Record {
            id: worker.unique_ids.next(),
            started: SystemTime::now(),
            listener: listener.name.clone(),
            client: SocketAddr::from(([0, 0, 0, 0], 0)),
            hello: None,
            session: None,
            failure: None,
            backend: None,
            server: None,
            moved: [Moved::default(); 2],
            handshake: None,
            connect: None,
            total: Duration::ZERO,
            reason: CloseReason::Internal,
        };
        Self(Some(Box::new(Gathered { record, begun: Instant::now() })))
    }

    /// The name of the connection in the log, if it is logged.
    pub(super) fn id(&self) -> Option<[u8; 32]> {
        self.0.as_ref().map(|gathered| gathered.record.id)
    }

    /// The handshake is complete.
    pub(super) fn established(&mut self, established: &Established, hello: Option<&ClientHello>) {
        let Some(gathered) = &mut self.0 else { return };
        let suite = established.handover.suite;
        gathered.record.hello = hello.map(facts);
        gathered.record.session = Some(Session {
            version: suite.version.into(),
            suite: suite.name,
            group: established.group.clone(),
            is_resumed: established.kind == HandshakeKind::Resumed,
            alpn: established.alpn.clone(),
        });
        gathered.record.handshake = Some(gathered.begun.elapsed());
    }

    /// The handshake has failed.
    pub(super) fn failed(&mut self, failure: &Failure, hello: Option<&ClientHello>) {
        let Some(gathered) = &mut self.0 else { return };
        gathered.record.hello = hello.map(facts);
        gathered.record.failure = Some(HandshakeFailure {
            reason: failure.reason(),
            error: failure.to_string(),
            alert_sent: failure.alert_sent().map(|alert| alert.to_string()),
            alert_received: failure.alert_received().map(|alert| alert.to_string()),
        });
    }

    /// A server has taken the connection.
    pub(super) fn connected(&mut self, backend: &str, server: &ServerAddress) {
        let Some(gathered) = &mut self.0 else { return };
        gathered.record.backend = Some(backend.to_owned());
        gathered.record.server = Some(server.to_string());
        let before = gathered.record.handshake.unwrap_or_default();
        gathered.record.connect = Some(gathered.begun.elapsed().saturating_sub(before));
    }

    /// No server has.
    pub(super) fn unreachable(&mut self, backend: &str) {
        if let Some(gathered) = &mut self.0 {
            gathered.record.backend = Some(backend.to_owned());
        }
    }

    /// Data has been relayed.
    pub(super) fn relayed(&mut self, outcome: &Outcome) {
        if let Some(gathered) = &mut self.0 {
            gathered.record.moved = outcome.moved;
        }
    }

    /// The connection has ended; `client` is who it was, as far as is known by now.
    pub(super) fn end(self, reason: CloseReason, client: SocketAddr, worker: &WorkerContext) {
        let Some(gathered) = self.0 else { return };
        let Gathered { mut record, begun } = *gathered;
        (record.reason, record.client) = (reason, client);
        record.total = begun.elapsed();
        worker.access_log.push(Box::new(record), &worker.metrics.access_log_dropped);
    }
}

fn facts(hello: &ClientHello) -> Hello {
    Hello {
        server_name: hello.server_name().map(str::to_owned),
        versions: hello.versions().collect(),
        ja4: hello.ja4(),
    }
}
