//! Which worker gets a connection.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod run_support;
mod skip_support;

use std::net::TcpStream;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use run_support::openmetrics::value;
use run_support::{Backend, Options, Proxy, wait_until};
use skip_support::skip;

/// As many as a hash sends to one of two workers once in a million times.
const CONNECTION_COUNT: usize = 20;

#[test]
fn connections_go_to_the_worker_of_the_cpu_they_arrive_on() {
    if !may_run_on(0) || !may_run_on(1) || !sluice::worker::kernel_steers(0).unwrap() {
        return skip("needs the CPUs 0 and 1, and Linux 6.2 or later");
    }
    let proxy = Proxy::start(&Options { cpus: "0-1", steering: "cpu", ..Options::to(Backend::start().address) });
    for cpu in [1, 0] {
        pin(cpu);
        // A worker that has just started may not have told its sockets yet.
        let all_go_there = || (only_worker(&proxy) == Some(cpu)).then_some(());
        wait_until("connections go to their worker", all_go_there, || proxy.metrics());
    }
}

/// Opens connections and tells which worker got all of them; none where both got some.
fn only_worker(proxy: &Proxy) -> Option<usize> {
    let open = |worker| {
        let name = format!("sluice_worker_connections_open{{worker=\"{worker}\"}}");
        value(&proxy.metrics(), &name).unwrap()
    };
    let wait_for = |count: usize| {
        let are_open = || (open(0) + open(1) == count as f64).then_some(());
        wait_until("every connection is counted", are_open, || proxy.metrics());
    };
    wait_for(0);
    // The kernel takes a packet of loopback in on the CPU that sends it. Nothing is said: the handshake waits.
    let clients: Vec<_> = (0..CONNECTION_COUNT).map(|_| TcpStream::connect(proxy.address()).unwrap()).collect();
    wait_for(clients.len());
    [0, 1].into_iter().find(|worker| open(*worker) == clients.len() as f64)
}

fn may_run_on(cpu: usize) -> bool {
    sched_getaffinity(Pid::from_raw(0)).unwrap().is_set(cpu).unwrap()
}

fn pin(cpu: usize) {
    let mut only = CpuSet::new();
    only.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &only).unwrap();
}
