//! What the connections of a run do. A connection slot is first prepared (connected, given a ticket) and then works
//! off what the gate hands out.

pub mod handshake;
pub mod idle;
pub mod mixed;
pub mod request;
pub mod resume;
pub mod transfer;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::client_tls::{self, Client, SessionSlot};
use crate::engine::connection::Connection;
use crate::engine::exchange::{After, Request};
use crate::engine::pace::{Gate, Permits};
use crate::engine::socket::Thread;
use crate::engine::tally::Tally;
use crate::plan::Plan;
use crate::result::{ErrorClass, Scenario};

/// What the slots of one thread share.
pub struct Context {
    /// What to run.
    pub plan: Arc<Plan>,
    /// The thread's sockets.
    pub thread: Rc<Thread>,
    /// TLS, unless the target has none.
    pub client: Option<Client>,
    /// What was done.
    pub tally: Tally,
    /// Bounds how many connections are being opened.
    pub permits: Permits,
    /// The requests of this plan.
    pub requests: Requests,
}

/// Requests, ready to send.
#[derive(Debug)]
pub struct Requests {
    /// Download on a kept-alive connection.
    pub get: Request,
    /// Download, last on its connection.
    pub get_last: Request,
    /// Upload on a kept-alive connection.
    pub post: Request,
}

impl Requests {
    /// The requests of `plan`.
    pub fn new(plan: &Plan) -> Self {
        let (host, path) = (&plan.target, plan.download_path());
        Self {
            get: Request::get(host, &path, After::Keep),
            get_last: Request::get(host, &path, After::Close),
            post: Request::post(host, &plan.upload_path(), plan.body_bytes, After::Keep),
        }
    }
}

/// One of the plan's connections: a place that holds at most one open connection at a time.
pub struct Slot {
    context: Rc<Context>,
    /// Number among all slots of the run.
    index: usize,
    held: Option<Held>,
    session: SessionSlot,
    buffer: Vec<u8>,
    /// Chooses the next operation of `mixed`.
    draw: mixed::Draw,
}

/// An open connection that is counted as open.
struct Held {
    connection: Connection,
    context: Rc<Context>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.context.tally.closed();
    }
}

impl Slot {
    /// An empty slot.
    pub fn new(context: Rc<Context>, index: usize) -> Self {
        Self {
            context,
            index,
            held: None,
            session: SessionSlot::default(),
            buffer: Vec::new(),
            draw: mixed::Draw::default(),
        }
    }

    /// Does what comes before the work: opens kept-alive connections, fetches the first ticket. Failures count.
    pub async fn prepare(&mut self) {
        let context = Rc::clone(&self.context);
        let _permit = context.permits.take().await;
        let outcome = match context.plan.scenario {
            Scenario::Request | Scenario::Transfer => self.hold_open().await,
            Scenario::Resume => resume::prepare(self).await,
            Scenario::Mixed => mixed::prepare(self).await,
            Scenario::Handshake | Scenario::Idle => Ok(()),
        };
        if let Err(class) = outcome {
            self.failed(class);
        }
    }

    /// Works until the gate says that the run is over.
    pub async fn work(mut self, gate: Rc<Gate>) -> Self {
        let context = Rc::clone(&self.context);
        if context.plan.scenario == Scenario::Idle {
            idle::work(&mut self).await;
            return self;
        }
        while let Some(intended) = gate.next().await {
            let outcome = match context.plan.scenario {
                Scenario::Handshake => handshake::step(&mut self, intended).await,
                Scenario::Resume => resume::step(&mut self, intended).await,
                Scenario::Request => request::step(&mut self, intended).await,
                Scenario::Transfer => transfer::step(&mut self, intended).await,
                Scenario::Mixed => mixed::step(&mut self, intended).await,
                Scenario::Idle => break,
            };
            if let Err(class) = outcome {
                self.failed(class);
                if context.thread.is_halted() {
                    break;
                }
                // A target that refuses everything must not turn this client into a busy loop.
                monoio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
        self
    }

    /// Closes in order what is still open.
    pub async fn close(mut self) {
        if let Some(mut held) = self.held.take() {
            // The work is done and counted; a rude target changes nothing.
            let _ = held.connection.close().await;
        }
    }

    /// Opens a connection with a handshake that offers and keeps tickets only with `tickets`.
    async fn open(&self, tickets: Tickets) -> Result<Held, ErrorClass> {
        let context = &self.context;
        let session = (tickets == Tickets::Use).then_some(&self.session);
        let client = context.client.as_ref();
        let sources = &context.plan.sources;
        let source = sources.get(self.index % sources.len().max(1)).copied();
        let route = (context.plan.address, source);
        let connection = Connection::open(&context.thread, route, client, session).await?;
        if let Some(ssl) = connection.ssl() {
            context.tally.negotiated(client_tls::suite(ssl));
        }
        context.tally.opened();
        Ok(Held { connection, context: Rc::clone(context) })
    }

    /// Makes sure that there is a kept-alive connection.
    async fn hold_open(&mut self) -> Result<(), ErrorClass> {
        if self.held.is_none() {
            self.held = Some(self.open(Tickets::Ignore).await?);
        }
        Ok(())
    }

    /// Counts a failure, unless it only comes from the end of the run.
    fn failed(&self, class: ErrorClass) {
        if !self.context.thread.is_halted() {
            self.context.tally.failed(class);
        }
    }
}

/// What a handshake does with tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tickets {
    /// A full handshake; tickets are dropped.
    Ignore,
    /// The slot's session is offered, new tickets go into the slot.
    Use,
}

/// Connections that one thread opens at the same time, below any usual listen backlog.
pub const OPENING_MAX: usize = 64;
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);
