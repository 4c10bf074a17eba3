//! More handshakes than there may be, and more than the CPU can do: who gives way, who waits, and that all ends well.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use openssl::ssl::{HandshakeError, Ssl, SslContext, SslMethod};
use support::backend::Backend;
use support::client::{Client, assert_echoes, connect_plain};
use support::proxy::{Options, Proxy};
use support::{DEADLINE, crowd, wait_until};

#[test]
fn silent_clients_give_way_to_new_ones_and_nobody_else_does() {
    let options = Options { worker_keys: "handshakes_max = 16\n".into(), ..Options::to([Backend::echo()]) };
    let proxy = Proxy::start(&options);
    let mut served = Client::of(&proxy).connect();
    let silent: Vec<_> = (0..40).map(|_| connect_plain(&proxy)).collect();
    wait_until("those beyond the bound have given way", || proxy.handshakes_failed("gave_way") == 40 - 16);
    // The first ones did, and were told nothing.
    for (number, client) in silent.iter().enumerate() {
        client.set_nonblocking(true).unwrap();
        let is_open = matches!((&*client).read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
        assert_eq!(is_open, number >= 40 - 16, "{number}");
    }
    for _ in 0..10 {
        assert_echoes(&mut Client::of(&proxy).connect());
    }
    assert_echoes(&mut served);
    assert!(proxy.log().contains("workers.handshakes_max"), "it is said which bound that was");
}

#[test]
fn flood_of_hellos_is_served_whole_while_others_are_served_between() {
    const FLOOD: usize = 1500;
    crowd::allow_descriptors();
    for io in ["auto", "epoll"] {
        let proxy = Proxy::start(&Options { io, ..Options::to([Backend::echo()]) });
        let hello = client_hello();
        let mut established = Client::of(&proxy).connect();
        // All at once, and a request behind them on a connection that is open.
        let flood = proxy.freeze(|| {
            let flood: Vec<_> = (0..FLOOD).map(|_| hello_on(connect_plain(&proxy), &hello)).collect();
            established.send(b"still there?");
            flood
        });
        assert_eq!(established.receive(12), b"still there?");
        let is_answered = |client: &TcpStream| {
            client.set_nonblocking(true).unwrap();
            let answered = client.peek(&mut [0]).is_ok_and(|len| len > 0);
            client.set_nonblocking(false).unwrap();
            answered
        };
        let answered_before = flood.iter().filter(|client| is_answered(client)).count();
        assert!(answered_before < FLOOD, "{io}: the open connection had to wait for all of them");
        for mut client in flood {
            assert_eq!(client.read(&mut [0; 5]).unwrap(), 5, "{io}: each gets its ServerHello");
            drop(client);
        }
        let has_paused = proxy.metric("sluice_handshake_backlogs_total") > 0;
        assert!(has_paused, "{io}: accepting paused meanwhile");
        wait_until("nothing is left of it", || proxy.connections_open() == 1);
        wait_until("nobody waits", || proxy.metric("sluice_handshakes_waiting") == 0);
        assert_echoes(&mut established);
        assert_echoes(&mut Client::of(&proxy).connect());
    }
}

#[test]
fn hello_of_a_client_that_has_gone_costs_no_cryptography() {
    const FLOOD: usize = 600;
    let proxy = Proxy::start(&Options::to([Backend::echo()]));
    let hello = client_hello();
    let cost = |leaves: bool| {
        let before = proxy.cpu_time();
        let stayed = proxy.freeze(|| {
            let mut stayed = Vec::new();
            for _ in 0..FLOOD {
                let client = hello_on(connect_plain(&proxy), &hello);
                if !leaves {
                    stayed.push(client);
                }
            }
            stayed
        });
        for mut client in stayed {
            client.read_exact(&mut [0; 5]).unwrap();
        }
        wait_until("all are over", || proxy.connections_open() == 0);
        proxy.cpu_time() - before
    };
    let (stayed, left) = (cost(false), cost(true));
    // The first turn is taken without a wait, and everything but the cryptography is done for both.
    assert!(left < stayed * 3 / 4, "{left:?} for those that left, {stayed:?} for those that stayed");
}

#[test]
fn worker_that_was_overloaded_is_as_fast_as_before_afterwards() {
    crowd::allow_descriptors();
    let proxy = Proxy::start(&Options::to([Backend::echo()]));
    let hello = client_hello();
    let rate = || {
        let before = proxy.cpu_time();
        for _ in 0..50 {
            assert_echoes(&mut Client::of(&proxy).connect());
        }
        // The kernel counts in steps of 10 ms.
        (proxy.cpu_time() - before).max(Duration::from_millis(20))
    };
    rate();
    let before = rate();
    let (is_over, begun) = (AtomicBool::new(false), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                // Open-loop: they do not care for answers.
                let mut open = std::collections::VecDeque::new();
                while !is_over.load(Ordering::Relaxed) && begun.elapsed() < DEADLINE {
                    open.push_back(hello_on(connect_plain(&proxy), &hello));
                    if open.len() > 64 {
                        open.pop_front();
                    }
                }
            });
        }
        // The same clients are served all the same, each within the deadline of its socket.
        for _ in 0..3 {
            assert_echoes(&mut Client::of(&proxy).connect());
        }
        is_over.store(true, Ordering::Relaxed);
    });
    wait_until("the flood is over", || proxy.connections_open() == 0);
    let after = rate();
    assert!(after < before * 3, "{before:?} of CPU before, {after:?} after");
    wait_until("nobody waits", || proxy.metric("sluice_handshakes_waiting") == 0);
    assert_eq!(proxy.metric("sluice_panics_total"), 0);
}

fn hello_on(mut client: TcpStream, hello: &[u8]) -> TcpStream {
    client.write_all(hello).unwrap();
    client
}

/// The first flight of a TLS 1.3 client. It may be sent any number of times: nobody goes on from the answer.
fn client_hello() -> Vec<u8> {
    struct Wire(Vec<u8>);
    impl Read for Wire {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(ErrorKind::WouldBlock.into())
        }
    }
    impl Write for Wire {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let context = SslContext::builder(SslMethod::tls_client()).unwrap().build();
    match Ssl::new(&context).unwrap().connect(Wire(Vec::new())) {
        Err(HandshakeError::WouldBlock(waiting)) => waiting.get_ref().0.clone(),
        _ => panic!("a client waits for the answer to its hello"),
    }
}
