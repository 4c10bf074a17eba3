//! Backend to client once the kernel seals: splice through a pipe or copy through a large buffer while data comes in
//! bulk, copy through a small one while it does not.

use std::io;
use std::os::fd::AsFd;

use super::backend_to_client::{BackendToClient, Turn};
use super::buffer::{SMALL_LEN, Size};
use super::close::{Broken, Side};
use super::pipe::PIPE_LEN;
use super::stall;
use crate::ktls::control;
use crate::record::PLAINTEXT_LEN_MAX;
use crate::telemetry::{Direction, RelayPath};

impl BackendToClient<'_> {
    /// Relays until the backend's end of stream.
    pub(super) async fn run_in_kernel(&self) -> Result<(), Broken> {
        let splices = self.sides.kernel_tls.splices();
        let mut size = Size::Large;
        loop {
            self.sides.backend.readable().await.map_err(Broken::Backend)?;
            self.writer.reserve(0)?;
            if self.writer.has_queued() {
                self.writer.flush().await?;
            }
            let turn = match size {
                Size::Large if splices => self.splice_turn().await?,
                size => self.copy_turn(size).await?,
            };
            match turn {
                Turn::Moved(next) => size = next,
                Turn::NothingThere => {}
                Turn::EndOfStream => return Ok(()),
            }
        }
    }

    async fn splice_turn(&self) -> Result<Turn, Broken> {
        let mut pipe = self.sides.pipes.take().map_err(Broken::Resource)?;
        let received = match pipe.fill(self.sides.backend.as_fd(), PIPE_LEN) {
            Ok(0) => return Ok(Turn::EndOfStream),
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Turn::NothingThere),
            Err(error) => return Err(Broken::Backend(error)),
        };
        self.sides.watch.touch();
        self.writer.takes_for_kernel(received);
        while pipe.filled() > 0 {
            match self.in_full_segments(pipe.filled(), || pipe.drain(self.sides.client.as_fd())) {
                Ok(sent) => self.writer.sent_to_kernel(sent, pipe.filled()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    stall::writable(self.sides, Side::Client).await?;
                }
                Err(error) => return Err(send_failed(error)),
            }
        }
        self.count(RelayPath::KernelSplice, received);
        Ok(Turn::Moved(if received < SMALL_LEN { Size::Small } else { Size::Large }))
    }

    async fn copy_turn(&self, size: Size) -> Result<Turn, Broken> {
        let mut buffer = self.sides.pool.take(size);
        let received = match self.sides.backend.recv(&mut buffer) {
            Ok(0) => return Ok(Turn::EndOfStream),
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Turn::NothingThere),
            Err(error) => return Err(Broken::Backend(error)),
        };
        self.sides.watch.touch();
        self.writer.takes_for_kernel(received);
        let mut sent = 0;
        while sent < received {
            match self.in_full_segments(received - sent, || self.sides.client.send(&buffer[sent..received])) {
                Ok(len) => {
                    sent += len;
                    self.writer.sent_to_kernel(len, received - sent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    stall::writable(self.sides, Side::Client).await?;
                }
                Err(error) => return Err(send_failed(error)),
            }
        }
        self.count(RelayPath::KernelCopy, received);
        Ok(Turn::Moved(size.next(received, received == buffer.len())))
    }

    /// Calls `send`, which gives the kernel so many bytes to seal. What becomes several records leaves in as few segments as
    /// in userspace, where it is one call to TCP: 10 % less CPU (docs/kernel-tls.md).
    fn in_full_segments<T>(&self, len: usize, send: impl FnOnce() -> T) -> T {
        let _cork = (len > PLAINTEXT_LEN_MAX).then(|| self.sides.client.cork());
        send()
    }

    fn count(&self, path: RelayPath, bytes: usize) {
        self.offload.count_moved(Direction::BackendToClient, path, bytes as u64);
    }
}

/// The kernel looks at records when they arrive and leaves a fault on the socket, where sending may meet it first.
fn send_failed(error: io::Error) -> Broken {
    match error.raw_os_error() {
        Some(libc::EBADMSG | libc::EMSGSIZE) => {
            control::fault_of(&error).map_or(Broken::Client(error), Broken::KernelFault)
        }
        _ => Broken::Client(error),
    }
}
