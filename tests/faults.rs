//! What must not bring down the rest: a backend that dies and returns, a worker that panics, one that stands still.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;
use support::backend::Backend;
use support::client::{Client, Tls, assert_echoes};
use support::port::Port;
use support::proxy::{Options, Proxy};
use support::wait_until;

#[test]
fn backend_that_dies_under_load_and_returns_is_used_again_and_the_other_carries_on() {
    let steady = Backend::echo();
    let port = Port::reserve();
    let mortal = Mortal::start(port.address());
    let proxy = Proxy::start(&Options::to([steady, port.address()]));
    let (is_over, served) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    // A connection that is open when its server dies is lost with it; a new one never is.
                    let mut client = Client::of(&proxy).connect();
                    if client.try_send(b"still there?").is_ok() {
                        let mut answer = [0; 12];
                        if client.read(&mut answer).is_ok() {
                            served.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        let more = |what: &str| {
            let before = served.load(Ordering::Relaxed);
            wait_until(what, || served.load(Ordering::Relaxed) >= before + 20);
        };
        more("both serve");
        mortal.die();
        wait_until("it is missed", || proxy.metric("sluice_backend_dials_total{result=\"refused\"}") > 0);
        more("the other one carries on");
        let reborn = Mortal::start(port.address());
        wait_until("it is used again", || reborn.count() > 10);
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(proxy.closed("backend_unavailable"), 0, "there was a server at all times");
    assert_eq!(proxy.closed("internal"), 0);
}

#[test]
fn worker_that_panics_is_seen_and_the_others_serve_on() {
    let trigger = tempfile::tempdir().unwrap();
    let trigger = trigger.path().join("panic");
    // The trigger lies outside of what the sandbox lets the proxy see.
    let server_keys = "sandbox = \"off\"".to_owned();
    let trigger_option = Some(trigger.clone());
    let options = Options { workers: 2, panic_trigger: trigger_option, server_keys, ..Options::to([Backend::echo()]) };
    let proxy = Proxy::start(&options);
    let mut before: Vec<_> = (0..16).map(|_| Client::of(&proxy).connect()).collect();
    before.iter_mut().for_each(assert_echoes);

    std::fs::write(&trigger, "0").unwrap();
    wait_until("it is seen", || proxy.metric("sluice_workers{state=\"failed\"}") == 1);
    assert_eq!(proxy.metric("sluice_workers{state=\"running\"}"), 1);
    assert!(proxy.log().contains("a worker panicked: this is a bug"));
    // Its connections have ended, in good order; those of the other one go on.
    let is_kept = |client: &mut Tls| client.try_send(b"still there?").is_ok() && client.read(&mut [0; 12]).is_ok();
    let kept = before.iter_mut().map(is_kept).filter(|is_kept| *is_kept).count();
    assert_eq!(kept as u64, proxy.connections_open());
    assert!(kept < 16, "some were on the worker that panicked");
    for _ in 0..16 {
        assert_echoes(&mut Client::of(&proxy).connect());
    }
}

#[test]
fn worker_that_stands_still_is_seen_until_it_goes_on_and_the_other_serves() {
    let folder = tempfile::tempdir().unwrap();
    let (trigger, notify) = (folder.path().join("stall"), folder.path().join("notify"));
    // What systemd would hear: a keep-alive each 100 ms.
    let manager = UnixDatagram::bind(&notify).unwrap();
    let alive_count = Arc::<AtomicU64>::default();
    let counted = Arc::clone(&alive_count);
    std::thread::spawn(move || {
        let mut message = [0; 4096];
        while let Ok(len) = manager.recv(&mut message) {
            if message[..len].starts_with(b"WATCHDOG=1") {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let is_told_alive = || {
        let before = alive_count.load(Ordering::Relaxed);
        std::thread::park_timeout(Duration::from_secs(1));
        alive_count.load(Ordering::Relaxed) > before
    };
    let environment =
        vec![("SLUICE_FAULT_STALL", trigger.clone()), ("NOTIFY_SOCKET", notify), ("WATCHDOG_USEC", "200000".into())];
    // The trigger lies outside of what the sandbox lets the proxy see.
    let server_keys = "sandbox = \"off\"".to_owned();
    let options = Options { workers: 2, environment, server_keys, ..Options::to([Backend::echo()]) };
    let proxy = Proxy::start(&options);
    let mut clients: Vec<_> = (0..16).map(|_| Client::of(&proxy).connect()).collect();
    clients.iter_mut().for_each(assert_echoes);
    assert!(is_told_alive());

    std::fs::write(&trigger, "0").unwrap();
    wait_until("it is seen", || proxy.metric("sluice_workers{state=\"stalled\"}") == 1);
    assert!(proxy.log().contains("a worker stands still"));
    let answer = proxy.ask_admin("/livez");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("1 of 2 workers stand still"), "{answer}");
    assert!(proxy.ask_admin("/readyz").starts_with("HTTP/1.1 200"), "the other one serves");
    assert!(!is_told_alive(), "systemd is to restart the process");
    clients.iter_mut().for_each(|client| client.send(b"still there?"));
    let is_answered = |client: &Tls| {
        let socket = client.socket();
        socket.set_nonblocking(true).unwrap();
        let answered = socket.peek(&mut [0]).is_ok_and(|len| len > 0);
        socket.set_nonblocking(false).unwrap();
        answered
    };
    wait_until("some are answered", || clients.iter().any(is_answered));

    std::fs::remove_file(&trigger).unwrap();
    // Its connections have lost nothing but time.
    clients.iter_mut().for_each(|client| assert_eq!(client.receive(12), b"still there?"));
    wait_until("it is seen to go on", || proxy.metric("sluice_workers{state=\"running\"}") == 2);
    assert!(proxy.ask_admin("/livez").starts_with("HTTP/1.1 200"));
    assert!(is_told_alive());
    assert!(proxy.log().contains("a worker goes on that had stood still"));
}

/// An echo that can be made to die with all its connections.
struct Mortal {
    listener: Arc<TcpListener>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Mortal {
    fn start(address: SocketAddr) -> Self {
        let listener = Arc::new(TcpListener::bind(address).unwrap());
        let mortal = Self { listener: Arc::clone(&listener), connections: Arc::default() };
        let connections = Arc::clone(&mortal.connections);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                connections.lock().unwrap().push(stream.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut &stream));
            }
        });
        mortal
    }

    fn count(&self) -> usize {
        self.connections.lock().unwrap().len()
    }

    fn die(self) {
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
        for connection in self.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}
