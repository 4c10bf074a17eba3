//! A client connection, with or without TLS.

use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::ssl::{ErrorCode, ShutdownState, SslRef, SslStream};
use openssl::x509::X509VerifyResult;

use crate::engine::client_tls::{Client, Offer, SessionSlot};
use crate::engine::kernel_tls::{self, Received};
use crate::engine::socket::{BOX_BYTES, Socket, Thread, Wire};
use crate::result::ErrorClass;

/// An open connection. Dropping it closes the socket without a word; [`Connection::close`] is the orderly way.
#[derive(Debug)]
pub struct Connection {
    layer: Layer,
    socket: Rc<Socket>,
    offer: Offer,
}

#[derive(Debug)]
enum Layer {
    Plain(Wire),
    Tls(SslStream<Wire>),
    /// The kernel has the keys; OpenSSL only says what was negotiated. The bytes are room for the kernel's word on each
    /// record.
    Kernel(SslStream<Wire>, Vec<u8>),
}

impl Connection {
    /// Connects to an address (from an address, if one is given) and, with a `client`, finishes the handshake: on return the client's Finished is sent.
    ///
    /// With a `slot` the session in it is offered and the tickets of this connection go into it.
    pub async fn open(
        thread: &Rc<Thread>,
        (address, source): (SocketAddr, Option<IpAddr>),
        client: Option<&Client>,
        slot: Option<&SessionSlot>,
    ) -> Result<Self, ErrorClass> {
        let socket = Socket::connect(thread, address, source).await?;
        let wire = Wire(Rc::clone(&socket));
        let Some(client) = client else {
            return Ok(Self { layer: Layer::Plain(wire), socket, offer: Offer::Nothing });
        };
        let (ssl, offer) = client.start(slot).map_err(|_| ErrorClass::Local)?;
        let stream = SslStream::new(ssl, wire).map_err(|_| ErrorClass::Local)?;
        let mut connection = Self { layer: Layer::Tls(stream), socket, offer };
        if client.wants_kernel() {
            connection.socket.read_exactly();
        }
        connection.handshake().await?;
        if client.wants_kernel() { connection.promote(client) } else { Ok(connection) }
    }

    /// Hands the records over to the kernel.
    fn promote(mut self, client: &Client) -> Result<Self, ErrorClass> {
        let layer = std::mem::replace(&mut self.layer, Layer::Plain(Wire(Rc::clone(&self.socket))));
        let Layer::Tls(stream) = layer else { return Err(ErrorClass::Local) };
        let secrets = client.secrets(stream.ssl()).ok_or(ErrorClass::Local)?;
        let promoted = kernel_tls::promote(stream.ssl(), secrets, self.socket.as_fd());
        self.layer = Layer::Kernel(stream, kernel_tls::control_room());
        promoted.map_err(|_| ErrorClass::Local)?;
        Ok(self)
    }

    async fn handshake(&mut self) -> Result<(), ErrorClass> {
        let Layer::Tls(stream) = &mut self.layer else { return Ok(()) };
        loop {
            let outcome = stream.connect();
            // An alert that says what is wrong goes out, too; then the first failure is the one that counts.
            let flushed = self.socket.flush().await;
            let error = match outcome {
                Ok(()) => return flushed,
                Err(error) => error,
            };
            if error.code() == ErrorCode::WANT_READ {
                flushed?;
                self.socket.wait_readable().await?;
                continue;
            }
            if let Some(ended) = self.socket.ended() {
                return Err(ended);
            }
            if stream.ssl().verify_result() != X509VerifyResult::OK {
                return Err(ErrorClass::Certificate);
            }
            return Err(ErrorClass::Handshake);
        }
    }

    /// Reads what is there, at least one byte; 0 is the orderly end.
    pub async fn read(&mut self, into: &mut [u8]) -> Result<usize, ErrorClass> {
        loop {
            match self.read_some(into)? {
                Some(count) => return Ok(count),
                None => self.socket.wait_readable().await?,
            }
        }
    }

    /// Like [`Connection::read`], without a time-out.
    pub async fn read_forever(&mut self, into: &mut [u8]) -> Result<usize, ErrorClass> {
        loop {
            match self.read_some(into)? {
                Some(count) => return Ok(count),
                None => self.socket.wait_readable_forever().await?,
            }
        }
    }

    /// Reads without waiting; `None` when there is nothing yet.
    fn read_some(&mut self, into: &mut [u8]) -> Result<Option<usize>, ErrorClass> {
        match &mut self.layer {
            Layer::Plain(wire) => match wire.read(into) {
                Ok(count) => Ok(Some(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(error) => Err(self.socket.ended().unwrap_or_else(|| super::socket::class(&error))),
            },
            Layer::Kernel(_, control) => loop {
                match self.socket.receive_record(into, control) {
                    // An empty record is no end.
                    Ok(Received::Ticket | Received::Data(0)) => {}
                    Ok(Received::Data(count)) => return Ok(Some(count)),
                    Ok(Received::CloseNotify) => return Ok(Some(0)),
                    Ok(Received::EndOfStream) => return Err(self.socket.ended().unwrap_or(ErrorClass::Closed)),
                    Ok(Received::Alert) => return Err(ErrorClass::Handshake),
                    Ok(Received::Unexpected) => return Err(ErrorClass::Protocol),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                    Err(error) => return Err(self.socket.ended().unwrap_or_else(|| super::socket::class(&error))),
                }
            },
            Layer::Tls(stream) => match stream.ssl_read(into) {
                Ok(count) => Ok(Some(count)),
                Err(error) => match error.code() {
                    ErrorCode::WANT_READ => Ok(None),
                    ErrorCode::ZERO_RETURN => Ok(Some(0)),
                    _ => Err(self.socket.ended().unwrap_or_else(|| {
                        // A reset carries its I/O error; an alert and a missing close_notify do not.
                        match error.io_error() {
                            Some(_) => ErrorClass::Io,
                            None if is_alert(&error) => ErrorClass::Handshake,
                            None => ErrorClass::Closed,
                        }
                    })),
                },
            },
        }
    }

    /// Sends `data`, record by record, with one send for many records.
    pub async fn write_all(&mut self, data: &[u8]) -> Result<(), ErrorClass> {
        match &mut self.layer {
            Layer::Plain(_) | Layer::Kernel(..) => self.socket.send_all(data).await,
            Layer::Tls(stream) => {
                let mut rest = data;
                while !rest.is_empty() {
                    match stream.ssl_write(rest) {
                        Ok(count) => rest = &rest[count..],
                        Err(_) => return Err(self.socket.ended().unwrap_or(ErrorClass::Io)),
                    }
                    if self.socket.pending_bytes() >= BOX_BYTES {
                        self.socket.flush().await?;
                    }
                }
                self.socket.flush().await
            }
        }
    }

    /// Says goodbye and waits for the peer's end, so that its last tickets are taken and its side has finished.
    /// Payload that still comes is dropped. The only error is an alert: in TLS 1.3 the peer refuses the client's
    /// Finished (or its missing certificate) after the client has finished.
    ///
    /// The peer gets the chance to close TCP first: the side that does keeps the port in TIME_WAIT, and a client has
    /// only some 28 000 of them per target and minute. A target that ignores a close_notify is found out once.
    pub async fn close(&mut self) -> Result<(), ErrorClass> {
        self.say_goodbye().await;
        let outcome = self.drain_payload(CLOSE_PATIENCE).await;
        self.note_impatience(outcome);
        if outcome.is_ok() {
            self.drain_transport().await;
        }
        alert_only(outcome)
    }

    /// Waits for the peer's end, answers it, and lets the peer close TCP; see [`Connection::close`].
    pub async fn read_to_end(&mut self) -> Result<(), ErrorClass> {
        let patience = self.socket.thread().timeout();
        let outcome = self.drain_payload(patience).await;
        if outcome.is_ok() {
            // Some targets wait for this answer before they close.
            self.say_goodbye().await;
            self.drain_transport().await;
        }
        alert_only(outcome)
    }

    /// Says that nothing more comes: close_notify, and a FIN where it takes one.
    async fn say_goodbye(&mut self) {
        let awaits_fin = self.socket.thread().awaits_fin();
        match &mut self.layer {
            Layer::Tls(stream) => {
                // Failing means that the peer is gone, which reading finds out.
                let _ = stream.shutdown();
                let _ = self.socket.flush().await;
                if awaits_fin {
                    self.socket.finish_sending();
                }
            }
            Layer::Kernel(..) => {
                let _ = kernel_tls::send_close_notify(self.socket.as_fd());
                if awaits_fin {
                    self.socket.finish_sending();
                }
            }
            Layer::Plain(_) => self.socket.finish_sending(),
        }
    }

    /// Reads payload away up to the peer's end of it.
    async fn drain_payload(&mut self, patience: Duration) -> Result<(), ErrorClass> {
        let mut scrap = [0; 2048];
        let mut budget = SCRAP_BYTES_MAX;
        loop {
            match self.read_some(&mut scrap)? {
                None => self.socket.wait_readable_within(patience).await?,
                Some(count @ 1..) if count < budget => budget -= count,
                Some(_) => return Ok(()),
            }
        }
    }

    /// Waits for the end of TCP behind the end of TLS. Whatever goes wrong here, the connection has ended.
    async fn drain_transport(&mut self) {
        let mut scrap = [0; 2048];
        let mut wire = Wire(Rc::clone(&self.socket));
        loop {
            match wire.read(&mut scrap) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let outcome = self.socket.wait_readable_within(CLOSE_PATIENCE).await;
                    self.note_impatience(outcome);
                    if outcome.is_err() {
                        return;
                    }
                }
                Ok(0) => {
                    self.socket.thread().remember_fin(false);
                    return;
                }
                Err(_) => return,
            }
        }
    }

    fn note_impatience(&self, outcome: Result<(), ErrorClass>) {
        if outcome == Err(ErrorClass::Timeout) {
            self.socket.thread().remember_fin(true);
        }
    }

    /// The TLS state, if there is TLS.
    pub fn ssl(&self) -> Option<&SslRef> {
        match &self.layer {
            Layer::Plain(_) => None,
            Layer::Tls(stream) | Layer::Kernel(stream, _) => Some(stream.ssl()),
        }
    }

    /// What the handshake offered for resumption.
    pub fn offer(&self) -> Offer {
        self.offer
    }

    /// The handshake resumed a session.
    pub fn is_resumed(&self) -> bool {
        self.ssl().is_some_and(SslRef::session_reused)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Layer::Tls(stream) | Layer::Kernel(stream, _) = &mut self.layer {
            // OpenSSL forbids the resumption of a session whose connection was freed without both close_notifys.
            stream.set_shutdown(ShutdownState::SENT | ShutdownState::RECEIVED);
        }
    }
}

/// Of what can go wrong while a connection ends only an alert matters.
fn alert_only(outcome: Result<(), ErrorClass>) -> Result<(), ErrorClass> {
    if outcome == Err(ErrorClass::Handshake) { outcome } else { Ok(()) }
}

/// The peer sent an alert other than close_notify.
pub(super) fn is_alert(error: &openssl::ssl::Error) -> bool {
    let reasons = error.ssl_error().map(ErrorStack::errors).unwrap_or_default();
    reasons.iter().filter_map(|error| error.reason()).any(|reason| reason.contains("alert"))
}

/// Most payload that [`Connection::close`] reads away before it gives up on an orderly end.
const SCRAP_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long a target may take to close after a close_notify, before it gets a FIN.
const CLOSE_PATIENCE: Duration = Duration::from_millis(500);
