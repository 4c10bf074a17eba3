//! The event loop of a thread: io_uring with the best flags that the kernel takes, epoll without a ring.

use std::future::Future;
use std::io;

use io_uring::IoUring;
use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// How a thread waits for its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// A ring whose completions run only when this thread asks for them. Linux 6.1.
    #[value(name = "io_uring-deferred")]
    RingDeferred,
    /// A ring that does not interrupt its thread. Linux 5.19.
    #[value(name = "io_uring-cooperative")]
    RingCooperative,
    /// A ring without flags: about half as many requests per CPU-second as the best one.
    #[value(name = "io_uring-plain")]
    RingPlain,
    /// No ring.
    Epoll,
}

impl Engine {
    /// The best engine of this kernel, found by building a ring.
    pub fn detect() -> Self {
        [Self::RingDeferred, Self::RingCooperative, Self::RingPlain]
            .into_iter()
            .find(|engine| engine.ring_builder().build(RING_ENTRIES).is_ok())
            .unwrap_or(Self::Epoll)
    }

    /// The name in the result's settings.
    pub fn label(self) -> &'static str {
        match self {
            Self::RingDeferred => "io_uring single_issuer defer_taskrun",
            Self::RingCooperative => "io_uring coop_taskrun",
            Self::RingPlain => "io_uring",
            Self::Epoll => "epoll",
        }
    }

    /// Runs `future` to its end on this thread.
    pub fn block_on<F: Future>(self, future: F) -> io::Result<F::Output> {
        if self == Self::Epoll {
            let mut runtime = RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()?;
            return Ok(runtime.block_on(future));
        }
        let mut runtime = RuntimeBuilder::<IoUringDriver>::new()
            .uring_builder(self.ring_builder())
            .with_entries(RING_ENTRIES)
            .enable_timer()
            .build()?;
        Ok(runtime.block_on(future))
    }

    fn ring_builder(self) -> io_uring::Builder {
        let mut builder = IoUring::builder();
        match self {
            Self::RingDeferred => {
                builder.setup_single_issuer().setup_defer_taskrun();
            }
            Self::RingCooperative => {
                builder.setup_coop_taskrun();
            }
            Self::RingPlain | Self::Epoll => {}
        }
        builder
    }
}

/// Keeps the calling thread on `cpu`.
pub fn pin_to(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)?;
    Ok(())
}

const RING_ENTRIES: u32 = 1024;
