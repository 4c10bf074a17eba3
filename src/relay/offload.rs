//! Handing the directions of one connection over to kernel TLS.

use std::cell::Cell;
use std::os::fd::AsFd;

use super::Sides;
use crate::ktls::{self, Candidate, Decision, KeepReason, attach_ulp};
use crate::record::{CipherSuite, TrafficKeys};
use crate::telemetry::access::Moved;
use crate::telemetry::{Direction, Label, RelayPath};

/// What decides whether and how the directions of a connection are promoted.
pub(super) struct Offload<'a> {
    sides: &'a Sides<'a>,
    suite: &'static CipherSuite,
    max_fragment_length: Option<u16>,
    is_attached: Cell<bool>,
    /// Payload bytes relayed, by direction.
    moved: [Cell<u64>; 2],
    is_promoted: [Cell<bool>; 2],
}

/// One direction on its way to the kernel: asked at record boundaries until the answer is final.
pub(super) struct Progress {
    direction: Direction,
    bytes: Cell<u64>,
    is_bulk: Cell<bool>,
    kept: Cell<Option<KeepReason>>,
}

impl Progress {
    pub(super) fn new(direction: Direction) -> Self {
        Self { direction, bytes: Cell::new(0), is_bulk: Cell::new(false), kept: Cell::new(None) }
    }

    /// Takes note of a turn that moved `bytes`; `is_bulk`: the read filled its buffer.
    pub(super) fn moved(&self, bytes: usize, is_bulk: bool) {
        self.bytes.set(self.bytes.get() + bytes as u64);
        self.is_bulk.set(is_bulk);
    }

    /// Takes note of `bytes` that were read only to come to a record boundary.
    pub(super) fn completed(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
    }
}

impl<'a> Offload<'a> {
    pub(super) fn new(sides: &'a Sides<'a>, suite: &'static CipherSuite, max_fragment_length: Option<u16>) -> Self {
        Self {
            sides,
            suite,
            max_fragment_length,
            is_attached: Cell::new(false),
            moved: Default::default(),
            is_promoted: Default::default(),
        }
    }

    /// Whether a direction is to be promoted now. A refusal that can change is asked again later, any other is final.
    pub(super) fn wants(&self, progress: &Progress) -> bool {
        if progress.kept.get().is_some_and(|reason| !reason.may_change()) {
            return false;
        }
        let candidate = Candidate {
            direction: kernel_direction(progress.direction),
            version: self.suite.version,
            aead: self.suite.aead,
            max_fragment_length: self.max_fragment_length,
            bytes: progress.bytes.get(),
            is_bulk: progress.is_bulk.get(),
        };
        match self.sides.kernel_tls.decide(self.sides.capabilities, &candidate) {
            Decision::Promote => true,
            Decision::Keep(reason) => {
                progress.kept.set(Some(reason));
                false
            }
        }
    }

    /// Gives a direction to the kernel; false when the kernel refuses, which is final and leaves everything as it was.
    ///
    /// # Errors
    /// When the kernel has the keys and cannot keep the limit of a record: there is no way back then.
    pub(super) fn install(&self, progress: &Progress, keys: &TrafficKeys) -> Result<bool, ktls::InstallError> {
        if let Err(error) = self.try_install(progress.direction, keys) {
            tracing::debug!(direction = ?progress.direction, %error, "direction kept in userspace");
            progress.kept.set(Some(KeepReason::from(&error)));
            return Ok(false);
        }
        if let (Direction::BackendToClient, Some(limit)) = (progress.direction, self.max_fragment_length) {
            ktls::install::limit_transmit_payload(self.sides.client.as_fd(), limit)?;
        }
        progress.kept.set(None);
        self.is_promoted[progress.direction.index()].set(true);
        self.sides.metrics.kernel_tls_promoted.of(progress.direction).increment();
        Ok(true)
    }

    /// Whether kernel TLS was attached to the connection, which is before any direction is promoted.
    pub(super) fn is_attached(&self) -> bool {
        self.is_attached.get()
    }

    /// Replaces the keys of a promoted direction.
    pub(super) fn rekey(&self, direction: Direction, keys: &TrafficKeys) -> Result<(), ktls::InstallError> {
        ktls::install(self.sides.client.as_fd(), kernel_direction(direction), keys)?;
        self.sides.metrics.kernel_tls_rekeyed.of(direction).increment();
        Ok(())
    }

    /// Whether the kernel can replace the keys of a promoted direction.
    pub(super) fn can_rekey(&self, direction: Direction) -> bool {
        self.sides.capabilities.can_rekey(self.suite.version, kernel_direction(direction))
    }

    /// Counts payload that was relayed.
    pub(super) fn count_moved(&self, direction: Direction, path: RelayPath, bytes: u64) {
        self.sides.metrics.relay_bytes.of(direction).of(path).add(bytes);
        let moved = &self.moved[direction.index()];
        moved.set(moved.get() + bytes);
    }

    /// What each direction has carried.
    pub(super) fn moved(&self) -> [Moved; 2] {
        let one = |at: usize| Moved { bytes: self.moved[at].get(), is_in_kernel: self.is_promoted[at].get() };
        [one(0), one(1)]
    }

    /// Counts why a direction stayed in userspace to its end, if it did.
    pub(super) fn count_kept(&self, progress: &Progress) {
        if let Some(reason) = progress.kept.get() {
            self.sides.metrics.kernel_tls_kept.of(progress.direction).of(reason).increment();
        }
    }

    fn try_install(&self, direction: Direction, keys: &TrafficKeys) -> Result<(), ktls::InstallError> {
        let client = self.sides.client.as_fd();
        if !self.is_attached.get() {
            attach_ulp(client)?;
            self.is_attached.set(true);
        }
        ktls::install(client, kernel_direction(direction), keys)
    }
}

fn kernel_direction(direction: Direction) -> ktls::Direction {
    match direction {
        Direction::ClientToBackend => ktls::Direction::Receive,
        Direction::BackendToClient => ktls::Direction::Transmit,
    }
}
