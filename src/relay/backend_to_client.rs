//! Backend to client: receive into the payloads of records, seal them where they are, send them in one call.

use std::cell::Cell;
use std::io;

use super::Sides;
use super::buffer::Size;
use super::client_writer::ClientWriter;
use super::close::{Broken, Ended};
use super::offload::{Offload, Progress};
use crate::telemetry::{Direction, RelayPath};

pub(super) struct BackendToClient<'a> {
    pub(super) sides: &'a Sides<'a>,
    pub(super) writer: &'a ClientWriter<'a>,
    pub(super) offload: &'a Offload<'a>,
    progress: Progress,
    state: Cell<State>,
    /// Nothing has come yet.
    is_first: Cell<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The backend has reset the connection: what it sent before is passed on, but its end is none that the client may trust.
    Lost,
    /// The backend's end of stream was passed on.
    Ended,
}

impl Drop for BackendToClient<'_> {
    fn drop(&mut self) {
        self.offload.count_kept(&self.progress);
    }
}

impl<'a> BackendToClient<'a> {
    pub(super) fn new(sides: &'a Sides<'a>, writer: &'a ClientWriter<'a>, offload: &'a Offload<'a>) -> Self {
        let progress = Progress::new(Direction::BackendToClient);
        Self { sides, writer, offload, progress, state: Cell::new(State::Open), is_first: Cell::new(true) }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state.get() == State::Ended
    }

    /// The other direction could not send: the backend has reset the connection, perhaps behind a last answer.
    pub(super) fn lose_backend(&self) {
        self.state.set(State::Lost);
        self.sides.watch.allow(self.sides.timeouts.close);
    }

    pub(super) fn has_lost_backend(&self) -> bool {
        self.state.get() == State::Lost
    }

    /// Relays until the backend closes, then closes towards the client.
    pub(super) async fn run(&self) -> Result<Ended, Broken> {
        self.relay().await?;
        if self.has_lost_backend() {
            // Whoever met the socket's error took it along, so that the reset reads as an end of stream here.
            return Err(Broken::Backend(io::ErrorKind::ConnectionReset.into()));
        }
        self.writer.close().await?;
        self.state.set(State::Ended);
        self.sides.watch.allow(self.sides.timeouts.close);
        Ok(Ended::BackendClosed)
    }

    /// Relays until the backend's end of stream.
    async fn relay(&self) -> Result<(), Broken> {
        let mut size = Size::Small;
        loop {
            if self.offload.wants(&self.progress) && self.writer.promote(&self.progress).await? {
                return self.run_in_kernel().await;
            }
            self.sides.backend.readable().await.map_err(Broken::Backend)?;
            // Wait first, then take a buffer: an idle connection holds none.
            match self.turn(size).await? {
                Turn::Moved(next) => size = next,
                Turn::NothingThere => {}
                Turn::EndOfStream => return Ok(()),
            }
        }
    }

    /// Moves what one buffer holds, and the end of the stream with it where it comes behind the first one.
    async fn turn(&self, size: Size) -> Result<Turn, Broken> {
        let Sides { backend, pool, watch, .. } = self.sides;
        let mut buffer = pool.take(size);
        self.writer.reserve(self.writer.slots(buffer.len()))?;
        // Before anything is sealed: a control record that was sealed earlier must go out earlier.
        if self.writer.has_queued() {
            self.writer.flush().await?;
        }
        let received = match self.writer.receive_payloads(backend, &mut buffer) {
            Ok(0) => return Ok(Turn::EndOfStream),
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Turn::NothingThere),
            Err(error) => return Err(Broken::Backend(error)),
        };
        watch.touch();
        let is_last = self.is_first.take() && received < self.writer.payload_room(buffer.len()) && self.ends_here();
        let sealed = self.writer.seal_payloads(&mut buffer, received)?;
        if is_last {
            self.writer.end_behind_data()?;
        }
        self.writer.send_data(&buffer[..sealed]).await?;
        self.offload.count_moved(Direction::BackendToClient, RelayPath::Userspace, received as u64);
        if self.writer.is_closed() {
            return Ok(Turn::EndOfStream);
        }
        let is_full = received == self.writer.payload_room(buffer.len());
        let next = size.next(received, is_full);
        self.progress.moved(received, is_full || next == Size::Large);
        Ok(Turn::Moved(next))
    }

    /// Whether the backend has ended its stream behind what was received.
    ///
    /// A backend that answers once and closes has often done both by now: then one segment takes it all to the client. Looking
    /// after each turn would cost a system call for every answer of a connection that goes on.
    fn ends_here(&self) -> bool {
        match self.sides.backend.is_at_end() {
            Ok(is_at_end) => is_at_end && !self.has_lost_backend(),
            Err(_) => {
                self.state.set(State::Lost);
                false
            }
        }
    }
}

/// What a turn came to.
pub(super) enum Turn {
    Moved(Size),
    NothingThere,
    EndOfStream,
}
