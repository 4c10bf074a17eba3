//! Limits of one client, and of one listener: who is refused, how, and that the others are served.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use support::backend::Backend;
use support::body::{self, End};
use support::client::{Client, assert_echoes, connect_plain};
use support::proxy::{Options, Proxy};
use support::{DEADLINE, wait_until};

/// A client that is none of those that the proxy was started with.
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn limited(workers: usize, limits: &str) -> Proxy {
    let listener = format!("[listener.client_limits]\n{limits}\n");
    Proxy::start(&Options { workers, listener, ..Options::to([Backend::echo()]) })
}

fn refused(proxy: &Proxy, reason: &str) -> u64 {
    proxy.metric(&format!("sluice_connections_refused_total{{reason=\"{reason}\"}}"))
}

#[test]
fn client_at_its_limit_of_connections_is_reset_over_all_workers_and_others_are_served() {
    let proxy = limited(2, "connections_max = 4");
    let mut clients: Vec<_> = (0..4).map(|_| Client::of(&proxy).connect()).collect();
    let accepted = proxy.metric("sluice_connections_accepted_total");
    // Whichever worker they come to.
    for number in 1..=8 {
        assert!(is_reset(&proxy));
        wait_until("it is counted", || refused(&proxy, "client_connections") == number);
    }
    assert_echoes(&mut Client::of(&proxy).from(OTHER).connect());
    clients.iter_mut().for_each(assert_echoes);
    let line = proxy.log().lines().find(|line| line.contains("connection refused")).map(str::to_owned);
    assert!(
        line.is_some_and(|line| line.contains("reason=\"client_connections\"") && line.contains("client=127.0.0.1"))
    );
    assert_eq!(proxy.metric("sluice_connections_accepted_total"), accepted + 1, "refused ones are in no other count");

    let mut last = clients.pop().unwrap();
    last.close_notify();
    last.drain();
    wait_until("its place is free", || proxy.connections_open() <= 3);
    assert_echoes(&mut Client::of(&proxy).connect());
}

#[test]
fn client_beyond_its_rate_is_reset_until_it_has_earned_a_connection() {
    // The connection that proved that the proxy listens was one of the burst.
    let proxy = limited(2, "connection_rate = 1\nconnection_burst = 4");
    let outcomes: Vec<_> = (0..12).map(|_| Client::of(&proxy).try_connect().is_ok()).collect();
    let granted = outcomes.iter().filter(|is_granted| **is_granted).count();
    // A slow machine earns some while it is at it.
    assert!((3..12).contains(&granted), "{outcomes:?}");
    assert_eq!(refused(&proxy, "client_rate"), 12 - granted as u64);
    assert_echoes(&mut Client::of(&proxy).from(OTHER).connect());
    wait_until("it has earned one", || {
        // The pause is what is tested: a connection per second.
        std::thread::park_timeout(Duration::from_millis(200));
        Client::of(&proxy).try_connect().is_ok()
    });
}

#[test]
fn networks_that_are_exempt_and_prefixes_decide_who_is_one_client() {
    let proxy = limited(1, "connections_max = 2\nipv4_prefix = 24\nexempt = [\"127.0.1.0/24\"]");
    let _two: Vec<_> = [1, 2].map(|last| Client::of(&proxy).from(Ipv4Addr::new(127, 0, 0, last)).connect()).into();
    assert!(Client::of(&proxy).from(Ipv4Addr::new(127, 0, 0, 3)).try_connect().is_err(), "the same /24");
    assert_eq!(refused(&proxy, "client_connections"), 1);
    let exempt: Vec<_> =
        (1..=4).map(|last| Client::of(&proxy).from(Ipv4Addr::new(127, 0, 1, last)).connect()).collect();
    exempt.into_iter().for_each(|mut client| assert_echoes(&mut client));
}

#[test]
fn refused_connections_leave_nothing_behind() {
    let proxy = limited(1, "connections_max = 1");
    let mut only = Client::of(&proxy).connect();
    let refuse = |count, in_all| {
        (0..count).for_each(|_| assert!(is_reset(&proxy)));
        wait_until("all are refused", || refused(&proxy, "client_connections") == in_all);
    };
    // The first ones pay for memory that stays.
    refuse(200, 200);
    let before = proxy.usage();
    // Twice as many for twice the room: memory grows by huge pages of 2 MiB.
    refuse(1000, 1200);
    let after = proxy.usage();
    assert!(after.descriptors <= before.descriptors + 1, "{before:?} {after:?}");
    assert!(after.memory_bytes < before.memory_bytes + (2 << 20), "{before:?} {after:?}");
    let lines = proxy.log().lines().filter(|line| line.contains("connection refused")).count();
    assert!(lines < 500, "a flood of connections is no flood of lines: {lines}");
    assert_echoes(&mut only);
}

#[test]
fn listener_at_its_limit_stops_accepting_until_one_of_its_connections_closes() {
    let options = Options { listener: "connections_max = 2\n".into(), ..Options::to([Backend::echo()]) };
    let proxy = Proxy::start(&options);
    let mut clients: Vec<_> = (0..2).map(|_| Client::of(&proxy).connect()).collect();
    wait_until("the limit is noticed", || proxy.metric("sluice_connection_limit_reached_total") > 0);
    let waiting = {
        let (client, socket) = (Client::of(&proxy), connect_plain(&proxy));
        std::thread::spawn(move || client.handshake_over(socket).expect("a place in the end"))
    };
    clients.iter_mut().for_each(assert_echoes);
    assert!(!waiting.is_finished());
    clients.pop();
    assert_echoes(&mut waiting.join().unwrap());
}

/// Whether a new connection is reset: as soon as it is made, or even before that is noticed here.
fn is_reset(proxy: &Proxy) -> bool {
    match TcpStream::connect_timeout(&proxy.address(), DEADLINE) {
        Ok(mut stream) => body::drain(&mut stream).end == End::Reset,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}
