//! Which worker gets a new connection: SO_INCOMING_CPU on the listening sockets of a SO_REUSEPORT group.
//!
//! A program of BPF could do the same by the position of a socket in its group, but positions change when a socket
//! leaves; the CPU stays with the socket.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use socket2::{Domain, SockRef, Socket, Type};

use super::settings::Steering;

/// What the kernel takes for "no CPU in particular": -1, as a number that becomes it.
const ANY_CPU: usize = usize::MAX;
/// Connections of the probe. A kernel that goes by the hash sends all of them to one of two sockets once in 2^32.
const PROBE_COUNT: usize = 32;
/// How long the connections of the probe may take to arrive.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Tells the kernel which connections this listening socket of the worker on `cpu` is to get. Said in both cases: a
/// socket that was taken over may have been told otherwise.
pub(super) fn set(socket: &impl AsFd, steering: Steering, cpu: usize) -> io::Result<()> {
    let cpu = match steering {
        Steering::Hash => ANY_CPU,
        Steering::Cpu => cpu,
    };
    SockRef::from(socket).set_cpu_affinity(cpu)
}

/// Whether this kernel heeds the CPU of a listening socket in a group (Linux 6.2 and later do), found out by doing: from
/// `cpu`, which the calling thread must be free to run on, connections are made over loopback to two sockets of a group.
///
/// # Errors
/// When the probe itself is not possible: no sockets, or a CPU that the thread may not run on.
pub fn kernel_steers(cpu: usize) -> io::Result<bool> {
    let _pinned = Pinned::to(cpu)?;
    let elsewhere = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let address = elsewhere.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
    let here = listen(address)?;
    set(&here, Steering::Cpu, cpu)?;
    // Another CPU than ours, whether there is one or not.
    set(&elsewhere, Steering::Cpu, cpu + 1)?;
    let _clients = (0..PROBE_COUNT).map(|_| TcpStream::connect(address)).collect::<io::Result<Vec<_>>>()?;
    let (mut arrived, deadline) = (0, Instant::now() + PROBE_TIMEOUT);
    while arrived < PROBE_COUNT && wait_for_connection([&here, &elsewhere], deadline)? {
        while here.accept().is_ok() {
            arrived += 1;
        }
        if elsewhere.accept().is_ok() {
            return Ok(false);
        }
    }
    Ok(arrived == PROBE_COUNT)
}

/// False where none came in time.
fn wait_for_connection(sockets: [&Socket; 2], deadline: Instant) -> io::Result<bool> {
    let mut waits = sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
    let left = deadline.saturating_duration_since(Instant::now());
    Ok(poll(&mut waits, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO))? > 0)
}

fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(PROBE_COUNT).unwrap_or(i32::MAX))?;
    Ok(socket)
}

/// Keeps the thread on one CPU, and then lets it go where it could go before.
struct Pinned {
    before: CpuSet,
}

impl Pinned {
    fn to(cpu: usize) -> io::Result<Self> {
        let before = sched_getaffinity(Pid::from_raw(0))?;
        let mut only = CpuSet::new();
        only.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &only)?;
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // What was allowed before is allowed now; if not, the thread stays where it is.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.before);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use std::collections::BTreeSet;

    use super::*;

    fn allowed() -> BTreeSet<usize> {
        let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
        (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap()).collect()
    }

    #[test]
    fn probe_leaves_the_thread_where_it_could_run_before() {
        let before = allowed();
        let cpu = *before.last().unwrap();
        kernel_steers(cpu).unwrap();
        assert_eq!(allowed(), before);
    }

    #[test]
    fn steering_is_told_to_the_socket_and_taken_back() {
        let socket = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let told = || SockRef::from(&socket).cpu_affinity().unwrap();
        set(&socket, Steering::Cpu, 1).unwrap();
        assert_eq!(told(), 1);
        set(&socket, Steering::Hash, 1).unwrap();
        assert_eq!(told(), ANY_CPU);
    }
}
