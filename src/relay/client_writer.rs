//! The client's sending side: data from the backend, and control records from both directions, sealed and sent in one
//! order, by whichever engine holds the keys.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsFd;

use super::Sides;
use super::close::{Broken, Side};
use super::kernel_writer::{self, KernelWriter};
use super::offload::{Offload, Progress};
use super::stall;
use crate::record::{
    Alert, CipherSuite, ContentType, KEY_UPDATE_NOT_REQUESTED, PLAINTEXT_LEN_MAX, ProtocolVersion, SealError, Sealer,
    TrafficSecret,
};
use crate::sys::socket::{Stream, VECTOR_PARTS_MAX};
use crate::telemetry::Direction;

/// Seals and sends to one client.
///
/// A record is numbered when it is sealed and must be sent in that order. In userspace data is sealed and sent by one
/// direction without a pause between the two; a control record that the other direction seals meanwhile waits in
/// `queued` until the data is out. The kernel numbers records when it is given them, so there nothing has to wait.
pub(super) struct ClientWriter<'a> {
    sides: &'a Sides<'a>,
    offload: &'a Offload<'a>,
    engine: RefCell<Engine>,
    suite: &'static CipherSuite,
    /// TLS 1.3: the secret of the current generation.
    secret: RefCell<Option<TrafficSecret>>,
    /// Sealed control records, to be sent next. Empty once the kernel seals.
    queued: RefCell<Vec<u8>>,
    /// So much at the start of `queued` was sealed before everything else, and waits until something else is to be sent.
    held_len: Cell<usize>,
    /// Sealed data is partly sent: nothing else may be.
    is_sending_data: Cell<bool>,
    /// The kernel seals, and has not taken all of what the backend sent.
    has_unsealed_data: Cell<bool>,
    /// close_notify is on its way or out. RFC 8446 section 6.1: nothing may follow it, the answer to a KeyUpdate
    /// neither.
    is_closed: Cell<bool>,
    shape: Shape,
}

/// Who seals.
enum Engine {
    Userspace(Sealer),
    Kernel(KernelWriter),
    /// Between the two; nobody sees it, because promotion does not wait for anything.
    Moving,
}

/// How records lie in a buffer.
#[derive(Clone, Copy)]
struct Shape {
    prefix_len: usize,
    payload_len: usize,
    /// From one record of full length to the next.
    stride: usize,
    /// Records that one key may protect.
    record_limit: u64,
}

impl<'a> ClientWriter<'a> {
    pub(super) fn new(
        sides: &'a Sides<'a>,
        offload: &'a Offload<'a>,
        sealer: Sealer,
        secret: Option<TrafficSecret>,
        suite: &'static CipherSuite,
        held: Vec<u8>,
    ) -> Self {
        let (prefix_len, payload_len) = (sealer.prefix_len(), sealer.payload_len_max());
        let shape = Shape {
            prefix_len,
            payload_len,
            stride: prefix_len + payload_len + sealer.suffix_len(),
            record_limit: sealer.record_limit(),
        };
        Self {
            sides,
            offload,
            engine: RefCell::new(Engine::Userspace(sealer)),
            suite,
            secret: RefCell::new(secret),
            held_len: Cell::new(held.len()),
            queued: RefCell::new(held),
            is_sending_data: Cell::new(false),
            has_unsealed_data: Cell::new(false),
            is_closed: Cell::new(false),
            shape,
        }
    }

    /// Hands the sealing over to the kernel; false when the kernel refuses. Everything sealed so far is with the
    /// socket: data because the caller has none under way, control records because they are flushed first.
    pub(super) async fn promote(&self, progress: &Progress) -> Result<bool, Broken> {
        self.held_len.set(0);
        self.flush().await?;
        // No wait from here on: the other direction cannot seal in between.
        let mut engine = self.engine.borrow_mut();
        let Engine::Userspace(sealer) = std::mem::replace(&mut *engine, Engine::Moving) else {
            return Err(Broken::Internal("direction promoted twice"));
        };
        let keys = sealer.into_keys();
        let is_promoted = self.offload.install(progress, &keys)?;
        *engine = if is_promoted {
            Engine::Kernel(KernelWriter::new(self.shape.record_limit, self.shape.payload_len))
        } else {
            // The kernel holds a copy of the keys only if it took them; the sequence number is where it was.
            let sealer = Sealer::new(keys)?.with_record_limit(self.shape.record_limit);
            Engine::Userspace(sealer.with_payload_len(self.shape.payload_len))
        };
        Ok(is_promoted)
    }

    /// Receives from `backend` into the payloads of as many records as `buffer` holds; 0 is the end of the stream.
    pub(super) fn receive_payloads(&self, backend: &Stream, buffer: &mut [u8]) -> io::Result<usize> {
        let payload = self.shape.prefix_len..self.shape.prefix_len + self.shape.payload_len;
        let mut slots = buffer.chunks_exact_mut(self.shape.stride);
        if slots.len() <= 1 {
            return slots.next().map_or(Ok(0), |slot| backend.recv(&mut slot[payload]));
        }
        let mut parts: [IoSliceMut<'_>; VECTOR_PARTS_MAX] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let mut count = 0;
        for (part, slot) in parts.iter_mut().zip(slots) {
            *part = IoSliceMut::new(&mut slot[payload.clone()]);
            count += 1;
        }
        backend.recv_vectored(&mut parts[..count])
    }

    /// Seals the `received` bytes that [`receive_payloads`](Self::receive_payloads) laid out, where they are, and
    /// returns the length of the records: they stand at the start of `buffer`, one behind the other.
    pub(super) fn seal_payloads(&self, buffer: &mut [u8], received: usize) -> Result<usize, Broken> {
        let mut engine = self.engine.borrow_mut();
        let Engine::Userspace(sealer) = &mut *engine else { return Err(Broken::Internal("the kernel holds the keys")) };
        let overhead = self.shape.stride - self.shape.payload_len;
        let (mut left, mut start) = (received, 0);
        while left > 0 {
            let len = left.min(self.shape.payload_len);
            sealer.seal(ContentType::ApplicationData, &mut buffer[start..start + len + overhead])?;
            left -= len;
            start += len + overhead;
        }
        Ok(start)
    }

    /// How many bytes of payload a buffer of `buffer_len` bytes takes.
    pub(super) fn payload_room(&self, buffer_len: usize) -> usize {
        self.slots(buffer_len) * self.shape.payload_len
    }

    /// How many records a buffer of `buffer_len` bytes takes.
    pub(super) fn slots(&self, buffer_len: usize) -> usize {
        (buffer_len / self.shape.stride).clamp(1, VECTOR_PARTS_MAX)
    }

    /// Makes sure that the key may protect `records` more: in TLS 1.3 by our own KeyUpdate when it may not.
    ///
    /// # Errors
    /// [`Broken::RecordLimit`] where keys cannot be changed, which is always in TLS 1.2: the connection closes cleanly.
    pub(super) fn reserve(&self, records: usize) -> Result<(), Broken> {
        let is_spent = match &mut *self.engine.borrow_mut() {
            Engine::Userspace(sealer) => sealer.records_left() < records as u64,
            Engine::Kernel(kernel) => kernel.is_near_limit(self.sides.client.as_fd(), self.suite)?,
            Engine::Moving => false,
        };
        match self.suite.version {
            _ if !is_spent => Ok(()),
            ProtocolVersion::Tls13 => self.queue_key_update().map_err(|error| match error {
                Broken::RekeyUnsupported => Broken::RecordLimit,
                other => other,
            }),
            ProtocolVersion::Tls12 => Err(Broken::RecordLimit),
        }
    }

    /// Sends sealed data. On return everything is with the socket, control records that came up meanwhile too.
    ///
    /// Cancel safety: not safe; dropped midway it leaves a record half sent, and nothing more can be sent then.
    pub(super) async fn send_data(&self, mut records: &[u8]) -> Result<(), Broken> {
        self.is_sending_data.set(true);
        while !records.is_empty() {
            match self.send_in_order(records) {
                Ok(len) => {
                    records = &records[len..];
                    self.sides.watch.touch();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_writable().await?,
                Err(error) => return Err(Broken::Client(error)),
            }
        }
        self.is_sending_data.set(false);
        self.flush().await
    }

    /// Seals close_notify behind the data that is sealed and has to be sent next, with [`send_data`](Self::send_data): then it
    /// leaves together with it. The caller ends the stream with [`close`](Self::close).
    pub(super) fn end_behind_data(&self) -> Result<(), Broken> {
        self.queue_alert(Alert::CLOSE_NOTIFY)?;
        self.is_closed.set(true);
        Ok(())
    }

    /// Sends what is held, and of `records` as much as the socket takes besides: the length of that. What was queued meanwhile
    /// was sealed behind `records`, and stays, unless it is close_notify.
    fn send_in_order(&self, records: &[u8]) -> io::Result<usize> {
        let client = self.sides.client;
        let held_len = self.held_len.get();
        if held_len == 0 && !self.is_closed.get() {
            return client.send(records);
        }
        let mut queued = self.queued.borrow_mut();
        let (held, behind) = queued.split_at(held_len);
        let parts = [held, records, behind].map(IoSlice::new);
        let sent =
            if self.is_closed.get() { client.send_before_end(&parts)? } else { client.send_vectored(&parts[..2])? };
        let sent = Sent::of(sent, held_len, records.len());
        self.held_len.set(held_len - sent.held);
        // Whatever was sent of what is behind has `records` before it, so that nothing is held any more.
        queued.drain(..sent.held + sent.behind);
        if queued.is_empty() {
            *queued = Vec::new();
        }
        Ok(sent.records)
    }

    /// Takes note of `bytes` that were given to the kernel to seal, and of how many more wait for that.
    pub(super) fn sent_to_kernel(&self, bytes: usize, left: usize) {
        if let Engine::Kernel(kernel) = &mut *self.engine.borrow_mut() {
            kernel.sent(bytes);
        }
        self.has_unsealed_data.set(left > 0);
        self.sides.watch.touch();
    }

    /// Takes note of `bytes` that are to be given to the kernel.
    pub(super) fn takes_for_kernel(&self, bytes: usize) {
        self.has_unsealed_data.set(bytes > 0);
    }

    /// Queues an alert behind what was sealed before.
    pub(super) fn queue_alert(&self, alert: Alert) -> Result<(), Broken> {
        if self.is_closed.get() {
            return Ok(());
        }
        match &mut *self.engine.borrow_mut() {
            Engine::Userspace(sealer) => self.seal_control(sealer, ContentType::Alert, &alert.encode())?,
            Engine::Kernel(kernel) => kernel.queue_alert(alert),
            Engine::Moving => {}
        }
        Ok(())
    }

    /// Announces new keys and goes on with them (RFC 8446 section 4.6.3).
    ///
    /// # Errors
    /// [`Broken::RekeyUnsupported`] when the kernel holds the keys and cannot replace them.
    pub(super) fn queue_key_update(&self) -> Result<(), Broken> {
        if self.is_closed.get() {
            return Ok(());
        }
        match &mut *self.engine.borrow_mut() {
            Engine::Userspace(sealer) => {
                self.seal_control(sealer, ContentType::Handshake, &KEY_UPDATE_NOT_REQUESTED)?;
                self.rekey(sealer)?;
            }
            Engine::Kernel(_) if !self.offload.can_rekey(Direction::BackendToClient) => {
                return Err(Broken::RekeyUnsupported);
            }
            Engine::Kernel(kernel) => kernel.queue_key_update(),
            Engine::Moving => {}
        }
        Ok(())
    }

    /// Sends the waiting control records, unless data is on its way: then they follow it.
    ///
    /// Cancel safety: safe; what is not sent stays queued.
    pub(super) async fn flush(&self) -> Result<(), Broken> {
        while self.has_queued() && !self.is_sending_data.get() {
            if !self.flush_now()? {
                self.wait_writable().await?;
            }
        }
        Ok(())
    }

    /// Ends the stream towards the client: close_notify, then FIN, behind everything sent before.
    ///
    /// Cancel safety: safe; the stream is then not ended.
    pub(super) async fn close(&self) -> Result<(), Broken> {
        // Unless it went with the last data.
        if !self.is_closed.get() {
            self.send_last(Alert::CLOSE_NOTIFY).await?;
        }
        debug_assert!(self.is_closed.get(), "nothing follows close_notify");
        self.sides.client.shutdown_send();
        Ok(())
    }

    /// Sends an alert. The caller ends the stream next: until then the alert may be held back.
    ///
    /// Cancel safety: safe; the alert is then not sent, or queued.
    pub(super) async fn send_last(&self, alert: Alert) -> Result<(), Broken> {
        self.wait_for_room().await?;
        self.queue_alert(alert)?;
        self.is_closed.set(true);
        self.flush().await
    }

    /// Waits until ending the stream loses nothing that was given to the kernel.
    ///
    /// Cancel safety: safe.
    pub(super) async fn wait_for_room(&self) -> Result<(), Broken> {
        if self.is_promoted() {
            kernel_writer::wait_for_room(self.sides).await.map_err(Broken::Client)?;
        }
        Ok(())
    }

    /// Whether the kernel may hold the keys of a direction.
    pub(super) fn is_attached(&self) -> bool {
        self.offload.is_attached()
    }

    /// Whether close_notify is on its way or out.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.get()
    }

    /// Whether control records wait.
    pub(super) fn has_queued(&self) -> bool {
        self.queued.borrow().len() > self.held_len.get()
            || matches!(&*self.engine.borrow(), Engine::Kernel(kernel) if kernel.has_queued())
    }

    /// Whether an alert can still reach the client: it cannot in the middle of a data record, nor behind close_notify.
    pub(super) fn can_send_control(&self) -> bool {
        !self.is_sending_data.get() && !self.is_closed.get()
    }

    /// Whether everything that the backend sent so far is with the client's socket, so that close_notify is no lie.
    pub(super) fn has_sent_everything(&self) -> bool {
        self.can_send_control() && !self.has_unsealed_data.get()
    }

    fn is_promoted(&self) -> bool {
        matches!(*self.engine.borrow(), Engine::Kernel(_))
    }

    async fn wait_writable(&self) -> Result<(), Broken> {
        stall::writable(self.sides, Side::Client).await
    }

    fn seal_control(&self, sealer: &mut Sealer, content_type: ContentType, payload: &[u8]) -> Result<(), SealError> {
        sealer.seal_control(content_type, payload, &mut self.queued.borrow_mut())
    }

    fn rekey(&self, sealer: &mut Sealer) -> Result<(), Broken> {
        let mut secret = self.secret.borrow_mut();
        let next = match secret.as_ref() {
            Some(current) => current.next_generation()?,
            None => return Err(Broken::Internal("KeyUpdate without a traffic secret")),
        };
        sealer.rekey(next.keys(self.suite)?)?;
        *secret = Some(next);
        self.sides.metrics.key_updates_sent.increment();
        Ok(())
    }

    /// Sends what the socket takes of the waiting control records; true when none are left.
    fn flush_now(&self) -> Result<bool, Broken> {
        if let Engine::Kernel(kernel) = &mut *self.engine.borrow_mut() {
            return kernel.flush_now(self.sides, self.offload, &mut self.secret.borrow_mut(), self.suite);
        }
        self.held_len.set(0);
        let mut queued = self.queued.borrow_mut();
        let client = self.sides.client;
        let is_last = self.is_closed.get();
        let sent = if is_last { client.send_before_end(&[IoSlice::new(&queued)]) } else { client.send(&queued) };
        match sent {
            Ok(len) if len == queued.len() => {
                *queued = Vec::new();
                Ok(true)
            }
            Ok(len) => {
                queued.drain(..len);
                Ok(false)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(Broken::Client(error)),
        }
    }
}

/// How many bytes were sent of each of three stretches that stand one behind the other.
#[derive(Debug, PartialEq, Eq)]
struct Sent {
    held: usize,
    records: usize,
    behind: usize,
}

impl Sent {
    fn of(sent: usize, held_len: usize, records_len: usize) -> Self {
        let held = sent.min(held_len);
        let records = (sent - held).min(records_len);
        Self { held, records, behind: sent - held - records }
    }
}

const _: () = assert!(PLAINTEXT_LEN_MAX + 13 + 17 <= super::buffer::SMALL_LEN, "a small buffer holds one record");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_told_apart_wherever_it_ended() {
        for (held_len, records_len, behind_len) in [(0, 5, 3), (4, 5, 3), (4, 5, 0), (0, 1, 0)] {
            for len in 0..=held_len + records_len + behind_len {
                let sent = Sent::of(len, held_len, records_len);
                assert_eq!(sent.held + sent.records + sent.behind, len);
                assert!(sent.held <= held_len && sent.records <= records_len && sent.behind <= behind_len, "{sent:?}");
                assert!(sent.records == 0 || sent.held == held_len, "{sent:?}");
                assert!(sent.behind == 0 || sent.records == records_len, "{sent:?}");
            }
        }
    }
}
