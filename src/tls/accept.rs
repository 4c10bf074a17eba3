//! Drives a handshake over a socket.

use std::io;

use super::client_hello::ClientHello;
use super::context::Context;
use super::failure::Failure;
use super::handshake::{Established, Handshake, Progress};
use crate::guard::Attempt;
use crate::sys::socket::Stream;

/// Completes the handshake with the client, whose first bytes are `early`. There is no deadline here: the caller drops the
/// future when time is over. Whatever asks for public-key cryptography waits for a turn of `attempt`.
///
/// `client_hello` is set as soon as the client has sent one, so that it outlives failure and dropping.
///
/// Cancel safety: not safe to resume; dropped, it leaves the connection in the middle of a handshake, to be closed.
///
/// # Errors
/// Any of [`Failure`]. Where the protocol has an alert for it, the alert has been handed to the socket.
pub async fn accept(
    client: &Stream,
    context: &Context,
    early: Vec<u8>,
    attempt: &Attempt,
    client_hello: &mut Option<ClientHello>,
) -> Result<Established, Failure> {
    let mut handshake = Handshake::new(context);
    handshake.feed(&early);
    // Where others were before it, the ClientHello has arrived meanwhile: looking costs less than being told.
    let mut received = if early.is_empty() { receive_once(client, &mut handshake) } else { Ok(()) };
    drop(early);
    loop {
        let progress = match received {
            Ok(()) => advance(client, &mut handshake, attempt).await,
            Err(failure) => Err(failure),
        };
        if client_hello.is_none() {
            *client_hello = handshake.take_client_hello();
        }
        if !handshake.may_hold_output() {
            send_all(client, handshake.output()).await?;
        }
        match progress? {
            Progress::Continue => client.readable().await.map_err(Failure::Io)?,
            Progress::Done => return handshake.finish(),
        }
        received = receive_once(client, &mut handshake);
    }
}

/// Goes as far as what was received allows.
async fn advance(client: &Stream, handshake: &mut Handshake, attempt: &Attempt) -> Result<Progress, Failure> {
    if !handshake.needs_public_key() {
        return handshake.advance();
    }
    let turn = attempt.turn(|| handshake.cost()).await;
    // Who had to wait may have given up meanwhile, and then nobody would see the result.
    if turn.has_waited && client.is_ended_by_peer() {
        return Err(Failure::Closed);
    }
    handshake.advance()
}

/// Reads once what is there. The buffer lives on the stack of this call, so a waiting handshake does not hold it.
fn receive_once(client: &Stream, handshake: &mut Handshake) -> Result<(), Failure> {
    let mut buffer = [0; RECEIVE_LEN];
    match client.recv(&mut buffer) {
        Ok(0) if handshake.has_begun() => Err(Failure::Closed),
        Ok(0) => Err(Failure::ClosedSilently),
        Ok(len) => {
            handshake.feed(&buffer[..len]);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(Failure::Io(error)),
    }
}

/// Room for a ClientHello with a post-quantum key share; longer flights take several reads.
const RECEIVE_LEN: usize = 4096;

async fn send_all(client: &Stream, output: &mut Vec<u8>) -> Result<(), Failure> {
    let mut sent = 0;
    while sent < output.len() {
        match client.send(&output[sent..]) {
            Ok(len) => sent += len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => client.writable().await.map_err(Failure::Io)?,
            Err(error) => return Err(Failure::Io(error)),
        }
    }
    output.clear();
    Ok(())
}
