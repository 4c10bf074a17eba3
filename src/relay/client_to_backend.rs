//! Client to backend: receive records, open them where they are, send their payloads in one vectored call.

use std::io::{self, IoSlice};
use std::time::Instant;

use super::Sides;
use super::buffer::{Buffer, Part, Size};
use super::client_writer::ClientWriter;
use super::close::{Broken, Ended, Side, TRUNCATION_LINGER};
use super::offload::{Offload, Progress};
use super::stall;
use crate::record::{
    Alert, AlertDescription, CipherSuite, ContentType, Event, Framing, Opener, PostHandshake, ProtocolVersion,
    TrafficSecret, frame_protected,
};
use crate::sys::socket::VECTOR_PARTS_MAX;
use crate::telemetry::{Direction, RelayPath};

pub(super) struct ClientToBackend<'a> {
    pub(super) sides: &'a Sides<'a>,
    pub(super) writer: &'a ClientWriter<'a>,
    pub(super) offload: &'a Offload<'a>,
    progress: Progress,
    engine: Engine,
    pub(super) post_handshake: PostHandshake,
    /// TLS 1.3: the secret of the current generation.
    secret: Option<TrafficSecret>,
    suite: &'static CipherSuite,
    /// The beginning of a record whose rest has not arrived.
    partial: Vec<u8>,
    end: Option<Ended>,
    /// The kernel opens, and may hold a KeyUpdate that the socket does not show.
    pub(super) may_hide_key_update: bool,
}

/// Who opens.
enum Engine {
    Userspace(Opener),
    Kernel,
}

/// What stands in a stretch of ciphertext, apart from data.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing that matters: more is to be received.
    Data,
    /// The client sends no more.
    CloseNotify,
    /// The list of parts is full: send them, then go on.
    ListFull,
}

impl Drop for ClientToBackend<'_> {
    fn drop(&mut self) {
        self.offload.count_kept(&self.progress);
    }
}

impl<'a> ClientToBackend<'a> {
    pub(super) fn new(
        sides: &'a Sides<'a>,
        writer: &'a ClientWriter<'a>,
        offload: &'a Offload<'a>,
        opener: Opener,
        secret: Option<TrafficSecret>,
        suite: &'static CipherSuite,
    ) -> Self {
        Self {
            sides,
            writer,
            offload,
            progress: Progress::new(Direction::ClientToBackend),
            engine: Engine::Userspace(opener),
            post_handshake: PostHandshake::new(suite.version),
            secret,
            suite,
            partial: Vec::new(),
            end: None,
            may_hide_key_update: false,
        }
    }

    /// How the client ended its side; none while it has not.
    pub(super) fn end(&self) -> Option<Ended> {
        self.end
    }

    /// Relays until the client closes, then closes towards the backend. `leftover` is what came behind the handshake.
    pub(super) async fn run(&mut self, leftover: Vec<u8>) -> Result<Ended, Broken> {
        let end = self.relay(leftover).await?;
        self.end = Some(end);
        if end == Ended::ClientClosed {
            // Only close_notify proves that the client sent all it wanted to (RFC 8446 section 6.1).
            self.sides.backend.shutdown_send();
        } else {
            // The backend must not take what it has for the whole. The client may still read what the backend has for
            // it, as long as that keeps coming.
            self.sides.watch.allow(TRUNCATION_LINGER);
        }
        Ok(end)
    }

    /// Relays until the client closes.
    async fn relay(&mut self, leftover: Vec<u8>) -> Result<Ended, Broken> {
        let mut size = Size::Small;
        let mut found = self.first_turn(leftover).await?;
        while found != Found::CloseNotify {
            let wants_promotion = self.offload.wants(&self.progress);
            if wants_promotion && self.partial.is_empty() && self.promote()? {
                return self.run_in_kernel().await;
            }
            self.sides.client.readable().await.map_err(Broken::Client)?;
            let room = if wants_promotion { self.missing()? } else { usize::MAX };
            match self.turn(&mut size, room).await? {
                Some(next) => found = next,
                None => return Ok(Ended::ClientTruncated),
            }
        }
        Ok(Ended::ClientClosed)
    }

    /// Hands the opening over to the kernel, at a record boundary: everything received is opened, and the next unread
    /// byte is a record's first. False when the kernel refuses.
    fn promote(&mut self) -> Result<bool, Broken> {
        let Engine::Userspace(opener) = std::mem::replace(&mut self.engine, Engine::Kernel) else {
            return Err(Broken::Internal("direction promoted twice"));
        };
        let keys = opener.into_keys();
        // A message that spans records must be followed to its end by the one who began it.
        let is_promoted = !self.post_handshake.is_mid_message() && self.offload.install(&self.progress, &keys)?;
        if !is_promoted {
            self.engine = Engine::Userspace(Opener::new(keys)?);
        }
        Ok(is_promoted)
    }

    /// How many bytes the record that has begun still needs, so that a read ends at its boundary.
    fn missing(&self) -> Result<usize, Broken> {
        match frame_protected(self.suite.version, self.suite.aead, &self.partial)? {
            Framing::Incomplete { needed } => Ok(needed - self.partial.len()),
            Framing::Complete { .. } => Err(Broken::Internal("a whole record was left unopened")),
        }
    }

    async fn first_turn(&mut self, leftover: Vec<u8>) -> Result<Found, Broken> {
        let mut rest = leftover.as_slice();
        let mut found = Found::Data;
        while !rest.is_empty() && found != Found::CloseNotify {
            let mut buffer = self.sides.pool.take(Size::Small);
            let held = self.partial.len();
            let len = rest.len().min(buffer.len() - held);
            buffer[..held].copy_from_slice(&self.partial);
            buffer[held..held + len].copy_from_slice(&rest[..len]);
            rest = &rest[len..];
            found = self.process(&mut buffer, held + len).await?;
        }
        if !leftover.is_empty() {
            // The connect has held back its ACK for this (`HandshakeAck::WithData`, which worker/connection.rs asks for).
            self.sides.backend.acknowledge();
        }
        Ok(found)
    }

    /// Receives once, at most `room` bytes, and passes on what arrived; none at the end of the stream.
    async fn turn(&mut self, size: &mut Size, room: usize) -> Result<Option<Found>, Broken> {
        let mut buffer = self.sides.pool.take(*size);
        let held = self.partial.len();
        let is_bounded = room < buffer.len() - held;
        let room = room.min(buffer.len() - held);
        buffer[..held].copy_from_slice(&self.partial);
        let received = match self.sides.client.recv(&mut buffer[held..held + room]) {
            Ok(0) => return Ok(None),
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Some(Found::Data)),
            Err(error) => return Err(Broken::Client(error)),
        };
        self.sides.watch.touch();
        if is_bounded {
            // The rest of a record before the hand-over says nothing about how fast data comes.
            self.progress.completed(received);
        } else {
            let is_full = held + received == buffer.len();
            *size = size.next(received, is_full);
            self.progress.moved(received, is_full || *size == Size::Large);
        }
        self.process(&mut buffer, held + received).await.map(Some)
    }

    /// Opens and passes on every whole record of the first `filled` bytes; keeps the beginning of the next one.
    async fn process(&mut self, buffer: &mut Buffer, filled: usize) -> Result<Found, Broken> {
        let mut at = 0;
        loop {
            let (bytes, parts) = buffer.split();
            let result = self.open_records(&mut bytes[..filled], &mut at, parts);
            // What was authentic before a bad record is the backend's.
            let sent = self.send_parts(buffer).await?;
            self.offload.count_moved(Direction::ClientToBackend, RelayPath::Userspace, sent);
            let found = result?;
            if self.writer.has_queued() {
                self.writer.flush().await?;
            }
            if found != Found::ListFull {
                self.keep_partial(&buffer[at..filled]);
                return Ok(found);
            }
        }
    }

    fn keep_partial(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            self.partial = Vec::new();
        } else {
            self.partial.clear();
            self.partial.extend_from_slice(rest);
        }
    }

    /// Opens records from `at` on until there is none as a whole, and lists their payloads in `parts`.
    fn open_records(&mut self, bytes: &mut [u8], at: &mut usize, parts: &mut Vec<Part>) -> Result<Found, Broken> {
        loop {
            if parts.len() == VECTOR_PARTS_MAX {
                return Ok(Found::ListFull);
            }
            let rest = &mut bytes[*at..];
            let Framing::Complete { len } = frame_protected(self.suite.version, self.suite.aead, rest)? else {
                return Ok(Found::Data);
            };
            let Engine::Userspace(opener) = &mut self.engine else {
                return Err(Broken::Internal("the kernel holds the keys"));
            };
            let opened = opener.open(&mut rest[..len])?;
            let payload = *at + opened.payload.start..*at + opened.payload.end;
            *at += len;
            match opened.content_type {
                ContentType::ApplicationData => {
                    self.post_handshake.data_record(payload.len())?;
                    if !payload.is_empty() {
                        parts.push(Part { start: payload.start as u32, end: payload.end as u32 });
                    }
                }
                content_type => {
                    if self.control_record(content_type, &bytes[payload])? == Found::CloseNotify {
                        return Ok(Found::CloseNotify);
                    }
                }
            }
        }
    }

    /// Takes a record that is not data.
    pub(super) fn control_record(&mut self, content_type: ContentType, payload: &[u8]) -> Result<Found, Broken> {
        let event = match content_type {
            ContentType::Alert => Some(self.post_handshake.alert_record(payload)?),
            ContentType::Handshake => self.post_handshake.handshake_record(payload, Instant::now())?,
            ContentType::ChangeCipherSpec | ContentType::ApplicationData => {
                return Err(Broken::UnexpectedChangeCipherSpec);
            }
        };
        event.map_or(Ok(Found::Data), |event| self.handle(event))
    }

    fn handle(&mut self, event: Event) -> Result<Found, Broken> {
        match event {
            Event::CloseNotify => return Ok(Found::CloseNotify),
            Event::FatalAlert(description) => return Err(Broken::AlertReceived(description)),
            Event::KeyUpdate { update_requested } => {
                self.sides.metrics.key_updates_received.increment();
                self.rekey()?;
                if update_requested {
                    self.writer.queue_key_update()?;
                }
            }
            Event::RenegotiationRefused => {
                debug_assert!(self.suite.version == ProtocolVersion::Tls12, "TLS 1.3 has no renegotiation");
                self.sides.metrics.renegotiations_refused.increment();
                self.writer.queue_alert(Alert::warning(AlertDescription::NoRenegotiation))?;
            }
            Event::UserCanceled | Event::WarningIgnored => {}
        }
        Ok(Found::Data)
    }

    fn rekey(&mut self) -> Result<(), Broken> {
        let Some(secret) = &self.secret else { return Err(Broken::Internal("KeyUpdate without a traffic secret")) };
        let next = secret.next_generation()?;
        let keys = next.keys(self.suite)?;
        match &mut self.engine {
            Engine::Userspace(opener) => opener.rekey(keys)?,
            Engine::Kernel if self.offload.can_rekey(Direction::ClientToBackend) => {
                self.offload.rekey(Direction::ClientToBackend, &keys)?;
            }
            Engine::Kernel => return Err(Broken::RekeyUnsupported),
        }
        self.secret = Some(next);
        Ok(())
    }

    /// Whether the kernel replaces the keys with which it opens.
    pub(super) fn can_rekey_in_kernel(&self) -> bool {
        self.offload.can_rekey(Direction::ClientToBackend)
    }

    /// Sends every listed part, and empties the list; returns the number of bytes.
    pub(super) async fn send_parts(&self, buffer: &mut Buffer) -> Result<u64, Broken> {
        let (bytes, parts) = buffer.split();
        let total: u32 = parts.iter().map(|part| part.end - part.start).sum();
        let mut first = 0;
        while first < parts.len() {
            match send_once(self.sides, bytes, &parts[first..]) {
                Ok(sent) => first += skip(&mut parts[first..], sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    stall::writable(self.sides, Side::Backend).await?;
                    self.sides.watch.touch();
                }
                Err(error) => return Err(Broken::Backend(error)),
            }
        }
        parts.clear();
        Ok(u64::from(total))
    }
}

fn send_once(sides: &Sides<'_>, bytes: &[u8], parts: &[Part]) -> io::Result<usize> {
    let slice = |part: &Part| &bytes[part.start as usize..part.end as usize];
    if let [only] = parts {
        return sides.backend.send(slice(only));
    }
    let mut slices = [IoSlice::new(&[]); VECTOR_PARTS_MAX];
    for (target, part) in slices.iter_mut().zip(parts) {
        *target = IoSlice::new(slice(part));
    }
    sides.backend.send_vectored(&slices[..parts.len().min(VECTOR_PARTS_MAX)])
}

/// Takes `sent` bytes off the front of `parts`; returns how many parts are done.
fn skip(parts: &mut [Part], mut sent: usize) -> usize {
    let mut done = 0;
    for part in parts {
        let len = (part.end - part.start) as usize;
        if sent < len {
            part.start += sent as u32;
            break;
        }
        sent -= len;
        done += 1;
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_were_sent_in_full_are_skipped_and_the_next_is_shortened() {
        let mut parts = [Part { start: 0, end: 10 }, Part { start: 20, end: 25 }, Part { start: 30, end: 31 }];
        assert_eq!(skip(&mut parts, 12), 1);
        assert_eq!(parts[1], Part { start: 22, end: 25 });
        assert_eq!(skip(&mut parts[1..], 4), 2);
    }
}
