//! Clients that do not speak TLS, or not the TLS that we speak: the right alert or a plain close, a counted reason, and
//! the next connection served.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::Command;

use support::backend::Backend;
use support::body::{self, End};
use support::client::{Client, connect_plain};
use support::proxy::{Options, Proxy};
use support::suite::Version;
use support::tool;

const UNEXPECTED_MESSAGE: u8 = 10;
const RECORD_OVERFLOW: u8 = 22;
const HANDSHAKE_FAILURE: u8 = 40;
const DECODE_ERROR: u8 = 50;
const PROTOCOL_VERSION: u8 = 70;

/// What a client gets that sends `bytes` instead of a ClientHello: all of it, to the end of the stream.
fn answer_to(proxy: &Proxy, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect_plain(proxy);
    // The proxy may be done with it before all of it is sent.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let end = loop {
        let mut buffer = [0; 1000];
        match stream.read(&mut buffer) {
            Ok(0) => break End::EndOfStream,
            Ok(len) => answer.extend_from_slice(&buffer[..len]),
            Err(error) => break body::end_of(&error),
        }
    };
    assert_eq!(end, End::EndOfStream, "a reset could have taken the alert away");
    answer
}

/// An unprotected fatal alert, whatever version its header has.
fn assert_alert(answer: &[u8], description: u8) {
    let [21, 3, _, 0, 2, 2, got] = *answer else { panic!("not one alert: {answer:?}") };
    assert_eq!(got, description);
}

fn assert_serves(proxy: &Proxy) {
    for version in Version::ALL {
        let mut client = Client::of(proxy).version(version).connect();
        client.send(b"still there?");
        assert_eq!(client.receive(12), b"still there?");
    }
}

fn echoing() -> Proxy {
    Proxy::start(&Options::to([Backend::echo()]))
}

#[test]
fn plain_http_is_closed_without_tls_in_the_answer() {
    let proxy = echoing();
    for request in ["GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "POST / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\n"] {
        assert_eq!(answer_to(&proxy, request.as_bytes()), b"");
    }
    assert_eq!(proxy.handshakes_failed("plain_http"), 3);
    assert_serves(&proxy);
}

#[test]
fn sslv2_hello_gets_protocol_version() {
    let proxy = echoing();
    // RFC 6101 appendix E: length, type, version, lengths of specs, session id and challenge.
    let mut hello = vec![0x80, 0x2e, 1, 3, 1, 0, 21, 0, 0, 0, 16];
    hello.extend([7; 37]);
    assert_alert(&answer_to(&proxy, &hello), PROTOCOL_VERSION);
    assert_eq!(proxy.handshakes_failed("sslv2_hello"), 1);
    assert_serves(&proxy);
}

#[test]
fn garbage_gets_unexpected_message() {
    let proxy = echoing();
    let garbage: [&[u8]; 4] = [b"SSH-2.0-client\r\n", &[0; 64], &[23, 3, 3, 0, 1, 0], &[21, 3, 3, 0, 2, 2, 40]];
    for bytes in garbage {
        assert_alert(&answer_to(&proxy, bytes), UNEXPECTED_MESSAGE);
    }
    assert_eq!(proxy.handshakes_failed("not_tls"), 4);
    assert_serves(&proxy);
}

#[test]
fn record_of_unknown_version_gets_protocol_version() {
    let proxy = echoing();
    assert_alert(&answer_to(&proxy, &[22, 4, 0, 0, 4, 1, 0, 0, 0]), PROTOCOL_VERSION);
    assert_serves(&proxy);
}

#[test]
fn oversized_record_gets_record_overflow() {
    let proxy = echoing();
    assert_alert(&answer_to(&proxy, &[22, 3, 1, 0x50, 0]), RECORD_OVERFLOW);
    assert_eq!(proxy.handshakes_failed("too_long"), 1);
    assert_serves(&proxy);
}

#[test]
fn huge_client_hello_is_refused_with_an_alert() {
    let proxy = echoing();
    // A ClientHello that announces 16 MiB and comes in full records.
    let mut records = Vec::new();
    let mut body = vec![1, 0xff, 0xff, 0xff, 3, 3];
    body.resize(1 << 20, 0);
    for payload in body.chunks(1 << 14) {
        records.extend([22, 3, 1]);
        records.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        records.extend(payload);
    }
    let mut stream = connect_plain(&proxy);
    let _ = stream.write_all(&records);
    let mut answer = Vec::new();
    // So much unread input may well end in a reset.
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty() || (answer[0], answer[5]) == (21, 2), "{answer:?}");
    support::wait_until("it is counted", || {
        proxy.handshakes_failed("too_long") + proxy.handshakes_failed("protocol") == 1
    });
    assert_serves(&proxy);
}

#[test]
fn malformed_client_hello_gets_decode_error() {
    let proxy = echoing();
    // Says 40 bytes, which end in the middle of the suites.
    let mut record = vec![22, 3, 1, 0, 44, 1, 0, 0, 40, 3, 3];
    record.extend([9; 32]);
    record.extend([0, 0, 60, 0x13, 1, 0]);
    assert_alert(&answer_to(&proxy, &record), DECODE_ERROR);
    assert_eq!(proxy.handshakes_failed("protocol"), 1);
    assert_serves(&proxy);
}

#[test]
fn other_handshake_message_first_gets_unexpected_message() {
    let proxy = echoing();
    assert_alert(&answer_to(&proxy, &[22, 3, 1, 0, 4, 20, 0, 0, 0]), UNEXPECTED_MESSAGE);
    assert_serves(&proxy);
}

#[test]
fn silent_close_and_close_midway_are_told_apart() {
    let proxy = echoing();
    // Start-up has left one silent close.
    drop(connect_plain(&proxy));
    support::wait_until("it is counted", || proxy.handshakes_failed("closed_silently") == 2);
    let mut stream = connect_plain(&proxy);
    stream.write_all(&[22, 3, 1, 2]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(body::drain(&mut stream).len, 0);
    proxy.wait_handshake_failed("closed");
    assert_serves(&proxy);
}

#[test]
fn client_of_old_versions_gets_protocol_version() {
    let proxy = echoing();
    for version in ["-tls1", "-tls1_1"] {
        let output = s_client(&proxy, &[version, "-cipher", "ALL:@SECLEVEL=0"]);
        assert!(output.contains(&format!("SSL alert number {PROTOCOL_VERSION}")), "{version}: {output}");
    }
    assert_eq!(proxy.handshakes_failed("version"), 2);
    assert_serves(&proxy);
}

#[test]
fn client_of_suites_that_we_refuse_gets_handshake_failure() {
    let proxy = echoing();
    let refused =
        ["ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384", "AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-CCM"];
    for suite in refused {
        let output = s_client(&proxy, &["-tls1_2", "-cipher", suite]);
        assert!(output.contains(&format!("SSL alert number {HANDSHAKE_FAILURE}")), "{suite}: {output}");
    }
    assert_eq!(proxy.handshakes_failed("nothing_in_common"), refused.len() as u64);
    assert_serves(&proxy);
}

#[test]
fn client_that_distrusts_us_is_counted_by_its_alert() {
    let proxy = echoing();
    // Without our authority in its trust store, it refuses the certificate.
    let output = s_client(&proxy, &["-tls1_3", "-verify_return_error", "-no-CAfile", "-no-CApath", "-no-CAstore"]);
    assert!(output.contains("verify"), "{output}");
    let gone = || proxy.handshakes_failed("alert_received") + proxy.handshakes_failed("closed");
    support::wait_until("it is counted", || gone() == 1);
    assert_serves(&proxy);
}

#[test]
fn flood_of_bad_clients_does_not_stop_good_ones() {
    let proxy = echoing();
    let bad: [&[u8]; 5] = [b"GET / HTTP/1.0\r\n\r\n", &[0x80, 0x2e, 1, 3, 1], &[0; 9], &[22, 3, 1, 0x7f, 0], &[22, 3]];
    std::thread::scope(|scope| {
        for bytes in bad {
            let proxy = &proxy;
            scope.spawn(move || {
                for _ in 0..60 {
                    let mut stream = connect_plain(proxy);
                    let _ = stream.write_all(bytes);
                }
            });
        }
        for _ in 0..20 {
            assert_serves(&proxy);
        }
    });
    support::wait_until("every connection is over", || proxy.connections_open() == 0);
    assert_eq!(proxy.metric("sluice_panics_total"), 0);
}

/// Both outputs of an `openssl s_client` whose handshake fails.
fn s_client(proxy: &Proxy, arguments: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-servername", "localhost", "-connect", &proxy.address().to_string()]).args(arguments);
    let output = tool::run(&mut command, b"");
    assert!(!output.success, "{arguments:?}: {}", output.text());
    output.text()
}
