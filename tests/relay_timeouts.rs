//! Each time-out ends what it is for, after its time, and is counted under its name.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::io::Write;
use std::net::Shutdown;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use support::backend::Backend;
use support::body::{self, End, Received};
use support::client::{Client, connect_plain};
use support::proxy::{Options, Proxy};
use support::suite::Version;
use support::{DEADLINE, wait_until};

/// The time-out under test: ten times what connecting and one exchange take on this machine as busy as it is, so that what a
/// test does before the time-out is done by then.
fn short() -> Duration {
    static MEASURED: OnceLock<Duration> = OnceLock::new();
    *MEASURED.get_or_init(|| {
        let proxy = Proxy::start(&Options::to([Backend::echo()]));
        let longest = Version::ALL.map(|version| {
            let begun = Instant::now();
            let mut client = Client::of(&proxy).version(version).connect();
            client.send(b"there and back");
            client.receive(14);
            begun.elapsed()
        });
        longest.into_iter().fold(SHORT_MIN, |longest, one| longest.max(10 * one)).min(SHORT_MAX)
    })
}

const SHORT_MIN: Duration = Duration::from_millis(800);
/// The patience of who waits for the test.
const SHORT_MAX: Duration = Duration::from_secs(10);

#[test]
fn idle_connection_ends_with_close_notify_and_a_reset_of_the_backend() {
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options { idle_timeout: short(), ..Options::to([backend.address()]) });
    for version in Version::ALL {
        let begun = Instant::now();
        let mut client = Client::of(&proxy).version(version).connect();
        let mut server = backend.accept();
        assert_eq!(client.drain(), Received::of(b"", End::CloseNotify), "{version:?}");
        assert_in_time(begun, short());
        client.end_stream();
        assert_eq!(body::drain(&mut server).end, End::Reset, "the client never said that it was done");
    }
    wait_until("both are counted", || proxy.closed("idle_timeout") == 2);
}

#[test]
fn bytes_in_one_direction_keep_the_connection_from_being_idle() {
    // So long that no stall of an emulated machine is as long.
    let patient = (2 * short()).max(Duration::from_secs(4));
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options { idle_timeout: patient, ..Options::to([backend.address()]) });
    let mut client = Client::of(&proxy).connect();
    let mut server = backend.accept();
    let begun = Instant::now();
    while begun.elapsed() < patient + patient / 4 {
        // The pause is what is tested: shorter than the time-out, again and again.
        std::thread::park_timeout(patient / 16);
        server.write_all(b"tick").unwrap();
        assert_eq!(client.receive(4), b"tick");
    }
    assert_eq!(proxy.closed("idle_timeout"), 0);
}

#[test]
fn client_that_stops_reading_is_idle_and_is_not_told_a_clean_end() {
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options { idle_timeout: short(), ..Options::to([backend.address()]) });
    let mut client = Client::of(&proxy).small_receive_buffer().connect();
    let mut server = backend.accept();
    // Sent until the reset: far more than all buffers on the way can take.
    let sending = std::thread::spawn(move || {
        let block = body::bytes(1 << 20, 1);
        while server.write_all(&block).is_ok() {}
    });
    proxy.wait_closed("idle_timeout");
    sending.join().unwrap();
    let received = client.drain();
    assert_ne!(received.end, End::CloseNotify, "the stream was cut within a record");
}

#[test]
fn backend_that_stops_reading_is_idle_and_is_reset() {
    let backend = Backend::listen_with_small_buffers();
    let proxy = Proxy::start(&Options { idle_timeout: short(), ..Options::to([backend.address()]) });
    let mut client = Client::of(&proxy).connect();
    let mut server = backend.accept();
    let block = body::bytes(1 << 20, 1);
    while client.try_send(&block).is_ok() {}
    proxy.wait_closed("idle_timeout");
    assert_eq!(body::drain(&mut server).end, End::Reset);
}

#[test]
fn client_that_never_answers_close_notify_is_closed_after_the_close_timeout() {
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options { close_timeout: short(), ..Options::to([backend.address()]) });
    for version in Version::ALL {
        let mut client = Client::of(&proxy).version(version).connect();
        let mut server = backend.accept();
        let begun = Instant::now();
        server.write_all(b"answer").unwrap();
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.drain(), Received::of(b"answer", End::CloseNotify));
        assert_eq!(body::drain(&mut server).end, End::Reset, "{version:?}");
        assert_in_time(begun, short());
    }
    wait_until("both are counted", || proxy.closed("close_timeout") == 2);
}

#[test]
fn backend_that_never_answers_a_finished_client_is_bound_by_the_idle_timeout() {
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options { idle_timeout: short(), ..Options::to([backend.address()]) });
    let mut client = Client::of(&proxy).connect();
    let mut server = backend.accept();
    client.send(b"request");
    client.close_notify();
    assert_eq!(body::drain(&mut server), Received::of(b"request", End::EndOfStream));
    assert_eq!(client.drain().end, End::CloseNotify);
    proxy.wait_closed("idle_timeout");
}

#[test]
fn truncated_client_is_let_go_when_the_backend_stays_silent() {
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options::to([backend.address()]));
    let client = Client::of(&proxy).connect();
    let mut server = backend.accept();
    let begun = Instant::now();
    client.end_stream();
    assert_eq!(body::drain(&mut server).end, End::Reset);
    assert!(begun.elapsed() < DEADLINE / 2, "well before the idle time-out");
    proxy.wait_closed("client_truncated");
}

#[test]
fn silent_client_is_closed_after_the_handshake_timeout() {
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options { handshake_timeout: short(), ..Options::to([backend.address()]) });
    for first_bytes in [&b""[..], &[22, 3, 1], &[22, 3, 1, 2, 0, 1, 0]] {
        let begun = Instant::now();
        let mut client = connect_plain(&proxy);
        client.write_all(first_bytes).unwrap();
        assert_eq!(body::drain(&mut client).len, 0);
        assert_in_time(begun, short());
    }
    wait_until("all are counted", || proxy.handshakes_failed("timed_out") == 3);
}

#[test]
fn client_that_trickles_its_hello_does_not_outlive_the_handshake_timeout() {
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options { handshake_timeout: short(), ..Options::to([backend.address()]) });
    let begun = Instant::now();
    let mut client = connect_plain(&proxy);
    client.write_all(&[22, 3, 1, 2, 0]).unwrap();
    while client.write_all(&[1]).is_ok() {
        assert!(
            begun.elapsed() < short() + DEADLINE / 2,
            "the time-out begins with the connection, not with each byte"
        );
        std::thread::park_timeout(short() / 20);
    }
    proxy.wait_handshake_failed("timed_out");
}

/// Not before its time, and not long after it.
fn assert_in_time(begun: Instant, timeout: Duration) {
    let elapsed = begun.elapsed();
    assert!(elapsed >= timeout, "{elapsed:?} is before the time-out of {timeout:?}");
    assert!(elapsed < timeout + DEADLINE / 3, "{elapsed:?} is long after the time-out of {timeout:?}");
}
