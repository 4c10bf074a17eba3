//! The runtime of a worker: monoio on io_uring, with the best ring that the kernel grants, or on epoll.

use std::io;

use io_uring::IoUring;
use monoio::time::TimeDriver;
use monoio::{IoUringDriver, LegacyDriver, Runtime, RuntimeBuilder};

use super::settings::IoDriver;

/// A runtime of one of both kinds, for the thread that it was built on.
pub enum WorkerRuntime {
    /// io_uring.
    Uring(Runtime<TimeDriver<IoUringDriver>>),
    /// epoll.
    Epoll(Runtime<TimeDriver<LegacyDriver>>),
}

/// How a runtime waits for its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// io_uring that runs completions only when the worker asks for them (Linux 6.1).
    DeferTaskrun,
    /// io_uring that never interrupts the worker for a completion (Linux 5.19).
    CoopTaskrun,
    /// io_uring with no flags.
    Plain,
    /// epoll: no io_uring.
    Epoll,
}

impl Ring {
    /// The name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::DeferTaskrun => "io_uring SINGLE_ISSUER|DEFER_TASKRUN",
            Self::CoopTaskrun => "io_uring COOP_TASKRUN|TASKRUN_FLAG",
            Self::Plain => "io_uring without flags",
            Self::Epoll => "epoll",
        }
    }
}

/// Why there is no io_uring here, with what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("io_uring is not available: {source}; {remedy}")]
pub struct RingError {
    /// What io_uring_setup said.
    pub source: io::Error,
    /// What the operator can do.
    pub remedy: &'static str,
}

/// Submission queue entries of a worker's ring; a full queue is submitted, nothing is lost.
const RING_ENTRIES: u32 = 1024;

/// Finds the best ring that this kernel grants this process, without keeping it.
///
/// # Errors
/// [`RingError`] when `driver` demands io_uring and there is none. With [`IoDriver::Auto`] the error comes back beside
/// [`Ring::Epoll`], to be logged.
pub fn choose_ring(driver: IoDriver) -> Result<(Ring, Option<RingError>), RingError> {
    if driver == IoDriver::Epoll {
        return Ok((Ring::Epoll, None));
    }
    let mut last = None;
    for ring in [Ring::DeferTaskrun, Ring::CoopTaskrun, Ring::Plain] {
        match ring_builder(ring).build(RING_ENTRIES) {
            Ok(probe) => {
                drop(probe);
                return Ok((ring, None));
            }
            Err(error) => last = Some(error),
        }
    }
    let source = last.unwrap_or_else(|| io::ErrorKind::Unsupported.into());
    let error = RingError { remedy: remedy(&source), source };
    if driver == IoDriver::Uring { Err(error) } else { Ok((Ring::Epoll, Some(error))) }
}

impl WorkerRuntime {
    /// Builds the runtime; to be called on the worker's own thread.
    ///
    /// # Errors
    /// When the kernel grants less than it did when [`choose_ring`] asked, for instance because memory is short.
    pub fn build(ring: Ring) -> io::Result<Self> {
        Ok(match ring {
            Ring::Epoll => Self::Epoll(RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()?),
            _ => Self::Uring(
                RuntimeBuilder::<IoUringDriver>::new()
                    .with_entries(RING_ENTRIES)
                    .uring_builder(ring_builder(ring))
                    .enable_timer()
                    .build()?,
            ),
        })
    }

    /// Runs `future` to its end, and the tasks that it spawns meanwhile.
    pub fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        match self {
            Self::Uring(runtime) => runtime.block_on(future),
            Self::Epoll(runtime) => runtime.block_on(future),
        }
    }
}

fn ring_builder(ring: Ring) -> io_uring::Builder {
    let mut builder = IoUring::builder();
    match ring {
        Ring::DeferTaskrun => builder.setup_single_issuer().setup_defer_taskrun(),
        Ring::CoopTaskrun => builder.setup_coop_taskrun().setup_taskrun_flag(),
        Ring::Plain | Ring::Epoll => &mut builder,
    };
    builder
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "the kernel is older than 5.1 or was built without it: use a newer kernel",
        Some(libc::EPERM) => {
            "it is switched off by kernel.io_uring_disabled or a seccomp filter: set the sysctl to 0, or allow \
             io_uring_setup, io_uring_enter and io_uring_register"
        }
        Some(libc::ENOMEM) => "locked memory is short: raise LimitMEMLOCK= (ulimit -l) to 8 MiB for each worker",
        Some(libc::EMFILE | libc::ENFILE) => "descriptors are short: raise LimitNOFILE= (ulimit -n)",
        _ => "see dmesg and the limits of the process",
    }
}
