//! Answers as they may come: framing of every kind, and what is no answer at all.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod common;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use common::{read_until, run};
use sluice_loadtest::plan::Plan;
use sluice_loadtest::result::{ErrorClass, RunResult, Scenario};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Keep,
    Close,
}

/// A target without TLS that answers every request with the same bytes, one by one or at once.
fn target(answer: &'static [u8], chunk_bytes: usize, then: Then) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                stream.set_nodelay(true).unwrap();
                let mut first = [0];
                while stream.peek(&mut first).is_ok_and(|count| count == 1) {
                    read_until(&mut stream, "\r\n\r\n");
                    for chunk in answer.chunks(chunk_bytes) {
                        if stream.write_all(chunk).is_err() {
                            return;
                        }
                    }
                    if then == Then::Close {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn requests(address: SocketAddr) -> RunResult {
    let plan = Plan::new(Scenario::Request, address);
    run(&Plan { connections: 2, requests: Some(10), duration: Duration::from_secs(20), ..plan })
}

#[test]
fn answers_of_every_framing_are_read_whole() {
    let answers: [(&[u8], u64, Then); 6] = [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 5, Then::Keep),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x\r\ndefg\r\n0\r\nT: v\r\n\r\n",
            7,
            Then::Keep,
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 2, Then::Keep),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 0, Then::Keep),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", 13, Then::Close),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold", 3, Then::Close),
    ];
    for (answer, body_bytes, then) in answers {
        for chunk_bytes in [1, 1000] {
            let result = requests(target(answer, chunk_bytes, then));
            let shown = String::from_utf8_lossy(answer);
            assert_eq!(result.errors, BTreeMap::new(), "{shown}");
            assert_eq!((result.work.count, result.bytes.received), (10, 10 * body_bytes), "{shown}");
        }
    }
}

#[test]
fn what_is_no_answer_is_a_protocol_error() {
    let answers: [&[u8]; 6] = [
        b"220 mail.example ESMTP\r\n\r\n",
        b"HTTP/1.1 twohundred OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more than that",
    ];
    for answer in answers {
        let result = requests(target(answer, 1000, Then::Keep));
        let shown = String::from_utf8_lossy(answer);
        assert_eq!(result.errors, BTreeMap::from([(ErrorClass::Protocol, 10)]), "{shown}");
        assert_eq!(result.work.count, 0, "{shown}");
    }
}

#[test]
fn head_without_an_end_is_refused_at_its_limit() {
    static ENDLESS: [u8; 100_000] = [b'h'; 100_000];
    let result = requests(target(&ENDLESS, 10_000, Then::Keep));
    assert_eq!(result.errors, BTreeMap::from([(ErrorClass::Protocol, 10)]));
}

#[test]
fn close_before_any_answer_is_an_error_on_a_fresh_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || read_until(&mut stream.unwrap(), "\r\n\r\n"));
        }
    });
    let result = requests(address);
    assert_eq!(result.work.count, 0);
    assert_eq!(result.errors, BTreeMap::from([(ErrorClass::Closed, 10)]));
}

#[test]
fn connections_come_from_the_given_addresses_in_turn() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sources = ["127.0.0.2", "127.0.0.3"].map(|source| source.parse().unwrap());
    let plan = Plan {
        sources: sources.to_vec(),
        connections: 4,
        duration: Duration::from_millis(100),
        ..Plan::new(Scenario::Idle, listener.local_addr().unwrap())
    };
    let result = run(&plan);
    assert_eq!((result.work.count, result.errors.len()), (4, 0), "{result:#?}");
    // The probe is the first in the queue.
    let from: Vec<_> = (0..5).map(|_| listener.accept().unwrap().1.ip()).collect();
    for source in sources {
        assert_eq!(from.iter().filter(|ip| **ip == source).count(), 2, "{from:?}");
    }
}
