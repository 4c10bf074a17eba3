//! The client's sending side: data from the backend, and control records from both directions, sealed and sent in one
//! order.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSliceMut};

use super::Sides;
use super::close::Broken;
use crate::record::{
    Alert, CipherSuite, ContentType, CryptoError, KEY_UPDATE_NOT_REQUESTED, PLAINTEXT_LEN_MAX, ProtocolVersion,
    SealError, Sealer, TrafficSecret,
};
use crate::sys::socket::{Stream, VECTOR_PARTS_MAX};

/// Seals and sends to one client.
///
/// A record is numbered when it is sealed and must be sent in that order. Data is sealed and sent by one direction
/// without a pause between the two; a control record that the other direction seals meanwhile waits in `queued` until
/// the data is out.
pub(super) struct ClientWriter<'a> {
    sides: Sides<'a>,
    sealer: RefCell<Sealer>,
    suite: &'static CipherSuite,
    /// TLS 1.3: the secret of the current generation.
    secret: RefCell<Option<TrafficSecret>>,
    /// Sealed control records, to be sent next.
    queued: RefCell<Vec<u8>>,
    /// Sealed data is partly sent: nothing else may be.
    is_sending_data: Cell<bool>,
    payload_len: usize,
    prefix_len: usize,
    stride: usize,
}

impl<'a> ClientWriter<'a> {
    pub(super) fn new(
        sides: Sides<'a>,
        sealer: Sealer,
        secret: Option<TrafficSecret>,
        suite: &'static CipherSuite,
    ) -> Self {
        let payload_len = sealer.payload_len_max();
        let (prefix_len, suffix_len) = (sealer.prefix_len(), sealer.suffix_len());
        Self {
            sides,
            sealer: RefCell::new(sealer),
            suite,
            secret: RefCell::new(secret),
            queued: RefCell::default(),
            is_sending_data: Cell::new(false),
            payload_len,
            prefix_len,
            stride: prefix_len + payload_len + suffix_len,
        }
    }

    /// Receives from `backend` into the payloads of as many records as `buffer` holds; 0 is the end of the stream.
    pub(super) fn receive_payloads(&self, backend: &Stream, buffer: &mut [u8]) -> io::Result<usize> {
        let payload = self.prefix_len..self.prefix_len + self.payload_len;
        let mut slots = buffer.chunks_exact_mut(self.stride);
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
    pub(super) fn seal_payloads(&self, buffer: &mut [u8], received: usize) -> Result<usize, SealError> {
        let mut sealer = self.sealer.borrow_mut();
        let overhead = self.stride - self.payload_len;
        let (mut left, mut start) = (received, 0);
        while left > 0 {
            let len = left.min(self.payload_len);
            sealer.seal(ContentType::ApplicationData, &mut buffer[start..start + len + overhead])?;
            left -= len;
            start += len + overhead;
        }
        Ok(start)
    }

    /// How many bytes of payload a buffer of `buffer_len` bytes takes.
    pub(super) fn payload_room(&self, buffer_len: usize) -> usize {
        self.slots(buffer_len) * self.payload_len
    }

    /// How many records a buffer of `buffer_len` bytes takes.
    pub(super) fn slots(&self, buffer_len: usize) -> usize {
        (buffer_len / self.stride).clamp(1, VECTOR_PARTS_MAX)
    }

    /// Makes sure that the key may protect `records` more: in TLS 1.3 by our own KeyUpdate when it may not.
    ///
    /// # Errors
    /// [`Broken::RecordLimit`] in TLS 1.2, which cannot change keys: the connection closes cleanly.
    pub(super) fn reserve(&self, records: usize) -> Result<(), Broken> {
        if self.sealer.borrow().records_left() >= records as u64 {
            return Ok(());
        }
        match self.suite.version {
            ProtocolVersion::Tls13 => self.queue_key_update(),
            ProtocolVersion::Tls12 => Err(Broken::RecordLimit),
        }
    }

    /// Sends sealed data. On return everything is with the kernel, control records that came up meanwhile too.
    ///
    /// Cancel safety: not safe; dropped midway it leaves a record half sent, and nothing more can be sent then.
    pub(super) async fn send_data(&self, mut records: &[u8]) -> io::Result<()> {
        self.is_sending_data.set(true);
        while !records.is_empty() {
            match self.sides.client.send(records) {
                Ok(len) => {
                    records = &records[len..];
                    self.sides.watch.touch();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.sides.client.writable().await?,
                Err(error) => return Err(error),
            }
        }
        self.is_sending_data.set(false);
        self.flush().await
    }

    /// Seals a control record and puts it behind those that wait.
    pub(super) fn queue(&self, content_type: ContentType, payload: &[u8]) -> Result<(), SealError> {
        self.sealer.borrow_mut().seal_control(content_type, payload, &mut self.queued.borrow_mut())
    }

    /// Announces new keys and goes on with them (RFC 8446 section 4.6.3).
    pub(super) fn queue_key_update(&self) -> Result<(), Broken> {
        self.queue(ContentType::Handshake, &KEY_UPDATE_NOT_REQUESTED)?;
        let mut secret = self.secret.borrow_mut();
        let next = match secret.as_ref() {
            Some(current) => current.next_generation()?,
            None => return Err(Broken::Internal("KeyUpdate without a traffic secret")),
        };
        self.sealer.borrow_mut().rekey(next.keys(self.suite)?)?;
        *secret = Some(next);
        self.sides.metrics.key_updates_sent.increment();
        Ok(())
    }

    /// Sends the waiting control records, unless data is on its way: then they follow it.
    ///
    /// Cancel safety: safe; what is not sent stays queued.
    pub(super) async fn flush(&self) -> io::Result<()> {
        while self.has_queued() && !self.is_sending_data.get() {
            if !self.flush_now()? {
                self.sides.client.writable().await?;
            }
        }
        Ok(())
    }

    /// Whether control records wait.
    pub(super) fn has_queued(&self) -> bool {
        !self.queued.borrow().is_empty()
    }

    /// Whether an alert can still reach the client: it cannot in the middle of a data record.
    pub(super) fn can_send_control(&self) -> bool {
        !self.is_sending_data.get()
    }

    /// Queues an alert.
    pub(super) fn queue_alert(&self, alert: Alert) -> Result<(), SealError> {
        self.queue(ContentType::Alert, &alert.encode())
    }

    /// Sends what the socket takes of the waiting control records; true when none are left.
    fn flush_now(&self) -> io::Result<bool> {
        let mut queued = self.queued.borrow_mut();
        match self.sides.client.send(&queued) {
            Ok(len) if len == queued.len() => {
                *queued = Vec::new();
                Ok(true)
            }
            Ok(len) => {
                queued.drain(..len);
                Ok(false)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl From<CryptoError> for Broken {
    fn from(error: CryptoError) -> Self {
        Self::Crypto(error)
    }
}

const _: () = assert!(PLAINTEXT_LEN_MAX + 13 + 17 <= super::buffer::SMALL_LEN, "a small buffer holds one record");
