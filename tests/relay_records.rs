//! Records as peers may send them: split anywhere, tiny, coalesced, with new keys in between; and those they may not.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::io::Write;
use std::process::Command;

use sluice::record::ContentType;
use support::backend::{self, Backend};
use support::body::{self, End, Received};
use support::certificate::KeyKind;
use support::client::{Client, Delivery, Tls};
use support::proxy::{Options, Proxy};
use support::record::{Answer, Forger};
use support::suite::{Suite, Version};
use support::tool::Dialog;
use support::wait_until;

const UNEXPECTED_MESSAGE: u8 = 10;
const BAD_RECORD_MAC: u8 = 20;
const RECORD_OVERFLOW: u8 = 22;

fn echoing() -> Proxy {
    Proxy::start(&Options::to([Backend::echo()]))
}

fn forger(proxy: &Proxy, version: Version) -> Forger {
    let suite = version.usual_suite();
    Forger::new(Client::of(proxy).suite(suite).connect(), suite)
}

fn assert_serves(proxy: &Proxy) {
    let mut client = Client::of(proxy).connect();
    client.send(b"still there?");
    assert_eq!(client.receive(12), b"still there?");
}

#[test]
fn record_split_at_any_byte_is_opened() {
    let proxy = echoing();
    for suite in Suite::with_key(KeyKind::EcdsaP256) {
        let mut client = Client::of(&proxy).suite(suite).connect();
        client.deliver(Delivery::Held);
        let split_len = record_of(&mut client, b"split").len();
        // What that measured has not been sent, but has been numbered: begin anew.
        let mut client = Client::of(&proxy).suite(suite).connect();
        client.deliver(Delivery::Held);
        for at in 1..split_len {
            // One segment: a whole record and the beginning of the next one. Its echo proves that both have arrived.
            let mut segment = record_of(&mut client, b"whole");
            let split = record_of(&mut client, b"split");
            segment.extend_from_slice(&split[..at]);
            client.send_raw(&segment);
            assert_eq!(client.receive(5), b"whole", "{} at {at}", suite.iana);
            client.send_raw(&split[at..]);
            assert_eq!(client.receive(5), b"split", "{} at {at}", suite.iana);
        }
    }
}

#[test]
fn handshake_and_records_sent_byte_by_byte_are_taken() {
    let proxy = echoing();
    for suite in Suite::with_key(KeyKind::EcdsaP256) {
        let mut client = Client::of(&proxy).suite(suite).delivery(Delivery::Bytewise).connect();
        let data = body::bytes(300, 1);
        client.send(&data);
        assert_eq!(client.receive(300), data, "{}", suite.iana);
        client.close_notify();
        assert_eq!(client.drain().end, End::CloseNotify);
    }
}

#[test]
fn data_in_one_segment_with_the_end_of_the_handshake_is_not_lost() {
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options::to([backend.address()]));
    for suite in Suite::with_key(KeyKind::EcdsaP256).filter(|suite| suite.version == Version::Tls13) {
        // The client's Finished stays held, so that it leaves together with 40 KiB of data and close_notify.
        let client = Client::of(&proxy).suite(suite).delivery(Delivery::HeldAfterHello);
        let mut client = client.connect();
        let data = body::bytes(40_000, 2);
        client.send(&data);
        client.close_notify();
        let flight = client.take_held();
        client.send_raw(&flight);
        client.end_stream();
        let mut server = backend.accept();
        assert_eq!(body::drain(&mut server), Received::of(&data, End::EndOfStream), "{}", suite.iana);
    }
}

#[test]
fn many_tiny_records_arrive_in_order() {
    let proxy = echoing();
    for suite in Suite::with_key(KeyKind::EcdsaP256) {
        let mut client = Client::of(&proxy).suite(suite).connect();
        let data = body::bytes(5000, 3);
        client.deliver(Delivery::Held);
        let records: Vec<u8> = data.chunks(1).flat_map(|byte| record_of(&mut client, byte)).collect();
        client.send_raw(&records);
        assert_eq!(client.receive(data.len()), data, "{}", suite.iana);
    }
}

#[test]
fn empty_data_records_between_others_are_passed_over() {
    let proxy = echoing();
    for version in Version::ALL {
        let mut forger = forger(&proxy, version);
        let mut records = Vec::new();
        for piece in [&b""[..], b"with", b"", b"", b"out", b""] {
            records.extend(forger.seal(ContentType::ApplicationData, piece));
        }
        forger.tls.send_raw(&records);
        assert_eq!(forger.tls.receive(7), b"without", "{version:?}");
    }
}

#[test]
fn padding_of_client_is_stripped() {
    let proxy = echoing();
    // RFC 8446 section 5.4: zeros behind the content type.
    let mut client = s_client(&proxy, &["-tls1_3", "-record_padding", "4096"]);
    for data in ["first\n", "second\n"] {
        client.say(data);
        client.wait_for(data);
    }
    assert_eq!(proxy.closed("bad_record"), 0);
}

#[test]
fn flood_of_empty_records_is_cut_off() {
    let proxy = echoing();
    for version in Version::ALL {
        let mut forger = forger(&proxy, version);
        let records: Vec<u8> = (0..5000).flat_map(|_| forger.seal(ContentType::ApplicationData, b"")).collect();
        forger.tls.send_raw(&records);
        assert!(matches!(forger.tls.drain().end, End::Alert(UNEXPECTED_MESSAGE) | End::Reset), "{version:?}");
    }
    wait_until("both are counted", || proxy.closed("protocol_violation") == 2);
    assert_serves(&proxy);
}

#[test]
fn key_updates_of_client_keep_data_flowing() {
    let proxy = echoing();
    for suite in Suite::with_key(KeyKind::EcdsaP256).filter(|suite| suite.version == Version::Tls13) {
        for answer in [Answer::NotRequested, Answer::Requested] {
            let mut forger = Forger::new(Client::of(&proxy).suite(suite).connect(), suite);
            for round in 0..4 {
                let mut records = forger.seal(ContentType::ApplicationData, b"old");
                records.extend(forger.seal_key_update(answer));
                records.extend(forger.seal(ContentType::ApplicationData, b"new"));
                forger.tls.send_raw(&records);
                assert_eq!(forger.tls.receive(6), b"oldnew", "{} {answer:?} {round}", suite.iana);
            }
        }
    }
    assert_eq!(proxy.metric("sluice_key_updates_received_total"), 3 * 2 * 4);
    assert_eq!(proxy.metric("sluice_key_updates_sent_total"), 3 * 4, "one for each that was requested");
}

#[test]
fn key_update_storm_is_cut_off() {
    let proxy = echoing();
    let mut forger = forger(&proxy, Version::Tls13);
    let storm: Vec<u8> = (0..5000).flat_map(|_| forger.seal_key_update(Answer::Requested)).collect();
    // It may be cut off before the last byte is out.
    let _ = forger.tls.socket().write_all(&storm);
    let end = forger.tls.drain().end;
    assert!(matches!(end, End::Alert(_) | End::Reset), "{end:?}");
    proxy.wait_closed("protocol_violation");
    assert_serves(&proxy);
}

#[test]
fn key_updates_of_openssl_client_keep_data_flowing() {
    let proxy = echoing();
    let mut client = s_client(&proxy, &["-tls1_3"]);
    client.say("before\n");
    client.wait_for("before\n");
    // k: new keys of the client; K: and of the server too.
    for (command, data) in [("k\n", "first\n"), ("K\n", "second\n"), ("K\n", "third\n")] {
        let announced = client.text().matches("KEYUPDATE").count();
        client.say(command);
        wait_until("s_client sends KeyUpdate", || client.text().matches("KEYUPDATE").count() > announced);
        client.say(data);
        client.wait_for(data);
    }
    assert_eq!(proxy.metric("sluice_key_updates_received_total"), 3);
    assert_eq!(proxy.metric("sluice_key_updates_sent_total"), 2);
}

#[test]
fn renegotiation_by_openssl_client_is_refused() {
    let proxy = echoing();
    let mut client = s_client(&proxy, &["-tls1_2"]);
    client.say("before\n");
    client.wait_for("before\n");
    client.say("R\n");
    // OpenSSL's client takes the refusal for the end.
    client.wait_for("no renegotiation");
    assert_eq!(proxy.metric("sluice_renegotiations_refused_total"), 1);
    assert_serves(&proxy);
}

#[test]
fn connection_goes_on_after_a_refused_renegotiation() {
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options::to([backend.address()]));
    for suite in Suite::with_key(KeyKind::EcdsaP256).filter(|suite| suite.version == Version::Tls12) {
        let mut forger = Forger::new(Client::of(&proxy).suite(suite).connect(), suite);
        let mut server = backend.accept();
        let refused = proxy.metric("sluice_renegotiations_refused_total");
        forger.send(ContentType::Handshake, &client_hello());
        forger.send(ContentType::ApplicationData, b"goes on");
        assert_eq!(backend::receive(&mut server, 7), b"goes on", "{}", suite.iana);
        assert_eq!(proxy.metric("sluice_renegotiations_refused_total"), refused + 1);
    }
}

#[test]
fn max_fragment_length_is_honoured() {
    let backend = Backend::listen();
    let data = body::bytes(100_000, 4);
    let directory = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&Options::to([backend.address()]));
    for version in ["-tls1_2", "-tls1_3"] {
        for limit in [512, 1024, 2048, 4096] {
            let log = directory.path().join(format!("{version}{limit}"));
            let arguments = [version, "-maxfraglen", &limit.to_string(), "-quiet", "-msg", "-msgfile"];
            let client = s_client(&proxy, &[&arguments[..], &[log.to_str().unwrap()]].concat());
            let mut server = backend.accept();
            server.write_all(&data).unwrap();
            drop(server);
            assert!(client.finish().stdout == data, "{version} {limit}: everything arrives");
            // 8 bytes of explicit nonce, 1 of content type, 16 of tag.
            let longest = received_data_records(&std::fs::read_to_string(log).unwrap()).into_iter().max();
            assert!(longest.is_some_and(|len| (limit..=limit + 25).contains(&len)), "{version} {limit}: {longest:?}");
        }
    }
}

#[test]
fn forged_record_ends_the_connection_with_bad_record_mac() {
    let proxy = echoing();
    for version in Version::ALL {
        let mut client = Client::of(&proxy).version(version).connect();
        client.send_raw(&[&[23, 3, 3, 0, 50][..], &[0x5a; 50]].concat());
        assert_eq!(client.drain(), Received::of(b"", End::Alert(BAD_RECORD_MAC)), "{version:?}");
    }
    wait_until("both are counted", || proxy.closed("bad_record") == 2);
    assert_serves(&proxy);
}

#[test]
fn data_before_a_forged_record_reaches_the_backend_and_then_a_reset() {
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options::to([backend.address()]));
    for version in Version::ALL {
        let mut forger = forger(&proxy, version);
        let mut server = backend.accept();
        let mut records = forger.seal(ContentType::ApplicationData, b"authentic");
        records.extend([23, 3, 3, 0, 50].iter().chain(&[1; 50]));
        forger.tls.send_raw(&records);
        assert_eq!(backend::receive(&mut server, 9), b"authentic");
        assert_eq!(forger.tls.drain().end, End::Alert(BAD_RECORD_MAC));
        assert_eq!(body::drain(&mut server).end, End::Reset, "{version:?}");
    }
}

#[test]
fn replayed_and_reordered_records_are_forged_records() {
    let backend = Backend::listen();
    let proxy = Proxy::start(&Options::to([backend.address()]));
    for version in Version::ALL {
        let mut replaying = forger(&proxy, version);
        let record = replaying.seal(ContentType::ApplicationData, b"once");
        replaying.tls.send_raw(&[&record[..], &record].concat());
        assert_eq!(body::drain(&mut backend.accept()), Received::of(b"once", End::Reset));
        assert_eq!(replaying.tls.drain().end, End::Alert(BAD_RECORD_MAC), "{version:?}");

        let mut reordering = forger(&proxy, version);
        let first = reordering.seal(ContentType::ApplicationData, b"first");
        let second = reordering.seal(ContentType::ApplicationData, b"second");
        reordering.tls.send_raw(&[second, first].concat());
        assert_eq!(body::drain(&mut backend.accept()), Received::of(b"", End::Reset));
        assert_eq!(reordering.tls.drain(), Received::of(b"", End::Alert(BAD_RECORD_MAC)), "{version:?}");
    }
}

#[test]
fn oversized_record_is_refused_by_its_header() {
    let proxy = echoing();
    for version in Version::ALL {
        let mut client = Client::of(&proxy).version(version).connect();
        client.send_raw(&[23, 3, 3, 0x48, 0x01]);
        assert_eq!(client.drain().end, End::Alert(RECORD_OVERFLOW), "{version:?}");
    }
    assert_serves(&proxy);
}

#[test]
fn change_cipher_spec_after_the_handshake_is_unexpected() {
    let proxy = echoing();
    for version in Version::ALL {
        let mut client = Client::of(&proxy).version(version).connect();
        client.send(b"x");
        client.receive(1);
        client.send_raw(&[20, 3, 3, 0, 1, 1]);
        let end = client.drain().end;
        assert!(matches!(end, End::Alert(UNEXPECTED_MESSAGE | BAD_RECORD_MAC)), "{version:?}: {end:?}");
    }
    assert_serves(&proxy);
}

/// The record that OpenSSL makes of `data`; it is numbered and must be sent.
fn record_of(client: &mut Tls, data: &[u8]) -> Vec<u8> {
    client.send(data);
    client.take_held()
}

fn s_client(proxy: &Proxy, arguments: &[&str]) -> Dialog {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-servername", "localhost", "-verify_return_error"]).args(arguments);
    command.args(["-connect", &proxy.address().to_string()]).arg("-CAfile").arg(proxy.ca());
    Dialog::start(&mut command)
}

/// Lengths of the protected application-data records in the output of `s_client -msg`.
fn received_data_records(text: &str) -> Vec<usize> {
    let mut lengths = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("<<<")
            && line.contains("RecordHeader")
            && let Some(header) = lines.next().map(|line| line.split_whitespace().collect::<Vec<_>>())
            && let ["17", _, _, high, low] = header[..]
        {
            lengths.push(usize::from_str_radix(&format!("{high}{low}"), 16).unwrap());
        }
    }
    lengths
}

/// A ClientHello (RFC 5246 section 7.4.1.2) with one suite and nothing else.
fn client_hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    let mut message = vec![1, 0, 0, body.len() as u8];
    message.extend(body);
    message
}
