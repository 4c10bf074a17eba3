//! Client to backend once the kernel opens records: splice through a pipe or copy through a large buffer while data comes
//! in bulk, copy through a small one while it does not, and take control records out of the stream.

use std::io;
use std::os::fd::AsFd;

use super::buffer::{Part, SMALL_LEN, Size};
use super::client_to_backend::{ClientToBackend, Found};
use super::close::{Broken, Ended, Side};
use super::pipe::{Loan, PIPE_LEN};
use super::stall;
use crate::ktls::control::{self, Received, RecordFault};
use crate::record::{ContentType, PLAINTEXT_LEN_MAX};
use crate::telemetry::{Direction, RelayPath};

/// Receives without a wait in between, after which other connections get their turn.
const LOOKS_MAX: u32 = 16;

/// What a turn came to.
enum Turn {
    Moved(Size),
    Ended(Ended),
}

/// What stopped the pipe from being filled further.
enum Stop {
    /// Nothing more is there, or the pipe is full.
    Filled,
    /// An empty record or the end of the stream: `recvmsg` tells which.
    Unclear,
    /// A control record, which `recvmsg` has then; or a header with another version, which is told only once.
    Refused,
    /// The connection failed, or the peer is at fault. That too may be told only once.
    Failed(io::Error),
}

impl ClientToBackend<'_> {
    /// Relays until the client closes; the caller closes towards the backend.
    pub(super) async fn run_in_kernel(&mut self) -> Result<Ended, Broken> {
        let splices = self.sides.kernel_tls.splices();
        let mut size = Size::Large;
        let mut looks = 0;
        loop {
            self.wait_for_record(&mut looks).await?;
            self.may_hide_key_update = false;
            let turn = match size {
                Size::Large if splices => self.splice_turn().await?,
                size => self.copy_turn(size, None).await?,
            };
            match turn {
                Turn::Moved(next) => size = next,
                Turn::Ended(ended) => return Ok(ended),
            }
        }
    }

    /// Waits until there is something to receive, unless that may be a KeyUpdate that the kernel met behind data: it is
    /// ready to be received, but the socket is not readable before the next keys are there. Then looking is all there is.
    async fn wait_for_record(&self, looks: &mut u32) -> Result<(), Broken> {
        if !self.may_hide_key_update {
            *looks = 0;
            return self.sides.client.readable().await.map_err(Broken::Client);
        }
        *looks += 1;
        if looks.is_multiple_of(LOOKS_MAX) {
            // Lets the other connections of the worker go on.
            self.sides.backend.writable().await.map_err(Broken::Backend)?;
        }
        Ok(())
    }

    async fn splice_turn(&mut self) -> Result<Turn, Broken> {
        let mut pipe = self.sides.pipes.take().map_err(Broken::Resource)?;
        let stop = self.fill(&mut pipe);
        let received = pipe.filled();
        if received > 0 {
            self.sides.watch.touch();
            self.drain(&mut pipe).await?;
            self.count(RelayPath::KernelSplice, received);
        }
        drop(pipe);
        match stop {
            Stop::Unclear => self.copy_turn(Size::Small, None).await,
            Stop::Refused => self.copy_turn(Size::Small, Some(RecordFault::ProtocolVersion)).await,
            Stop::Failed(error) => Err(failed(error)),
            Stop::Filled if received < SMALL_LEN => Ok(Turn::Moved(Size::Small)),
            Stop::Filled => Ok(Turn::Moved(Size::Large)),
        }
    }

    /// Fills the pipe record by record: the kernel moves one with each call.
    fn fill(&self, pipe: &mut Loan) -> Stop {
        let client = self.sides.client.as_fd();
        while pipe.filled() + PLAINTEXT_LEN_MAX <= PIPE_LEN {
            match pipe.fill(client, PLAINTEXT_LEN_MAX) {
                Ok(0) => return Stop::Unclear,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Stop::Refused,
                Err(error) => return Stop::Failed(error),
            }
        }
        Stop::Filled
    }

    async fn drain(&self, pipe: &mut Loan) -> Result<(), Broken> {
        while pipe.filled() > 0 {
            match pipe.drain(self.sides.backend.as_fd()) {
                Ok(_) => self.sides.watch.touch(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    stall::writable(self.sides, Side::Backend).await?;
                }
                Err(error) => return Err(Broken::Backend(error)),
            }
        }
        Ok(())
    }

    /// Receives once into a buffer. `suspected`: what it means that nothing is there, when that is not an answer.
    async fn copy_turn(&mut self, size: Size, suspected: Option<RecordFault>) -> Result<Turn, Broken> {
        let mut buffer = self.sides.pool.take(size);
        let received = control::receive(self.sides.client.as_fd(), &mut buffer).map_err(Broken::Client)?;
        match received {
            Received::WouldBlock => suspected.map_or(Ok(Turn::Moved(size)), |fault| Err(Broken::KernelFault(fault))),
            Received::Eof => Ok(Turn::Ended(Ended::ClientTruncated)),
            Received::KeyExpired => Err(Broken::Internal("the kernel was not given the keys of a KeyUpdate")),
            Received::Fault(fault) => Err(Broken::KernelFault(fault)),
            Received::Data(len) => {
                self.sides.watch.touch();
                self.may_hide_key_update = self.can_rekey_in_kernel();
                self.post_handshake.data_record(len)?;
                if len > 0 {
                    buffer.split().1.push(Part { start: 0, end: len as u32 });
                    self.send_parts(&mut buffer).await?;
                    self.count(RelayPath::KernelCopy, len);
                }
                // One full record: a small buffer takes no second one as a whole.
                let is_full = buffer.len() == SMALL_LEN && len >= PLAINTEXT_LEN_MAX;
                Ok(Turn::Moved(size.next(len, is_full)))
            }
            Received::Control { content_type, len, .. } => {
                self.sides.watch.touch();
                let content_type = ContentType::from_code(content_type).ok_or(Broken::UnexpectedChangeCipherSpec)?;
                let found = self.control_record(content_type, &buffer[..len])?;
                drop(buffer);
                if self.writer.has_queued() {
                    self.writer.flush().await?;
                }
                if found == Found::CloseNotify {
                    Ok(Turn::Ended(Ended::ClientClosed))
                } else {
                    Ok(Turn::Moved(Size::Small))
                }
            }
        }
    }

    fn count(&self, path: RelayPath, bytes: usize) {
        self.offload.count_moved(Direction::ClientToBackend, path, bytes as u64);
    }
}

fn failed(error: io::Error) -> Broken {
    if error.raw_os_error() == Some(libc::EKEYEXPIRED) {
        return Broken::Internal("the kernel was not given the keys of a KeyUpdate");
    }
    control::fault_of(&error).map_or(Broken::Client(error), Broken::KernelFault)
}
