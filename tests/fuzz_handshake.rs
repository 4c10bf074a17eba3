//! Hostile bytes against the handshake: bounded under `cargo test`, endless under `cargo bolero test NAME`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod handshake_support;

use std::cell::OnceCell;

use openssl::ssl::SslVersion;
use sluice::telemetry::FailureReason;
use sluice::tls::{
    ClientHello, Context, Established, Failure, HANDSHAKE_BYTES_MAX, Handshake, HandshakeKind, Progress,
};

use handshake_support::certificate::{self, KeyKind};
use handshake_support::{Client, Offer, listener, take_output};

/// A stranger's bytes, every other time behind what a handshake record begins with.
#[test]
fn bytes_of_a_stranger_fail_with_a_reason_or_wait() {
    bolero::check!().with_iterations(20_000).with_max_len(1024).for_each(|input: &[u8]| {
        let Some((&[choice, cut], bytes)) = input.split_first_chunk() else { return };
        let starts: [&[u8]; 4] = [&[], &[22, 3, 1, 0], &[22, 3, 1, 0, 0xff, 1, 0, 0, 0xfb, 3, 3], &[0x80, 0x2e, 1]];
        let stream = [starts[usize::from(choice) % starts.len()], bytes].concat();
        let whole = outcome(&stream, &[]);
        assert_ne!(whole.progress, Some(Progress::Done));
        assert_eq!(outcome(&stream, &[cut]), whole);
    });
}

/// Real first flights, cut into pieces anywhere: the server's answer is that to the flight in one piece.
#[test]
fn first_flight_cut_anywhere_is_answered_alike() {
    bolero::check!().with_iterations(2_000).with_max_len(64).for_each(|input: &[u8]| {
        let Some((&choice, cuts)) = input.split_first() else { return };
        let hello = recorded_hello(choice);
        let whole = outcome(&hello, &[]);
        assert_eq!(whole.reason, None);
        assert!(!whole.output_types.is_empty());
        assert_eq!(outcome(&hello, cuts), whole);
    });
}

/// Real first flights, mangled on the way: never a panic, and again no difference how they are cut.
#[test]
fn first_flight_mangled_on_the_way_is_judged_alike_however_it_is_cut() {
    bolero::check!().with_iterations(10_000).with_max_len(64).for_each(|input: &[u8]| {
        let Some((&[choice, cut], edits)) = input.split_first_chunk() else { return };
        let mut hello = recorded_hello(choice);
        mangle(&mut hello, edits);
        let whole = outcome(&hello, &[]);
        assert_eq!(outcome(&hello, &[cut, 1, cut]), whole);
    });
}

/// A ClientHello's body, real and mangled: whatever it says is read without a panic, and the real one says what was sent.
#[test]
fn client_hello_is_read_whatever_it_says() {
    bolero::check!().with_iterations(20_000).with_max_len(64).for_each(|input: &[u8]| {
        let Some((&choice, edits)) = input.split_first() else { return };
        let record = recorded_hello(choice);
        // Behind the headers of record and message.
        let mut body = record[9..].to_vec();
        let real = ClientHello::parse(&body).unwrap();
        assert_eq!(real.server_name(), Some(certificate::SERVER_NAME));
        assert!(real.versions().all(|version| [0x0303, 0x0304].contains(&version)));
        mangle(&mut body, edits);
        let Some(hello) = ClientHello::parse(&body) else { return };
        let _ = (hello.server_name(), hello.versions().count(), hello.suites().count(), hello.alpn().count());
        let _ = (hello.groups().map(Iterator::count), hello.signature_algorithms().map(Iterator::count));
        let _ = (hello.certificate_compressions().map(Iterator::count), hello.asks_for_status());
        assert_eq!(hello.ja4().len(), 36);
    });
}

/// Whole handshakes, each flight cut anywhere, with data behind the last one: they complete, and the data is untouched.
#[test]
fn handshake_cut_anywhere_completes_with_what_stands_behind_it() {
    bolero::check!().with_iterations(2_000).with_max_len(64).for_each(|input: &[u8]| {
        let Some((&choice, cuts)) = input.split_first() else { return };
        let mut client = client(choice);
        let (established, sent_behind) = complete(&mut client, cuts);
        assert_eq!(established.kind, HandshakeKind::Full);
        assert!(sent_behind.starts_with(&established.handover.leftover), "what was received early is kept as it came");
    });
}

/// The client's last flight, mangled on the way: it fails, waits for more, or was not touched.
#[test]
fn last_flight_mangled_on_the_way_never_completes() {
    bolero::check!().with_iterations(2_000).with_max_len(32).for_each(|input: &[u8]| {
        let Some((&[choice, cut], edits)) = input.split_first_chunk() else { return };
        let mut client = client(choice);
        let mut server = Server::new();
        let hello = client.answer(&[]).unwrap();
        server.receive(&hello, &[]).unwrap();
        let mut flight = client.answer(&take_output(&mut server.handshake)).unwrap();
        let original = flight.clone();
        mangle(&mut flight, edits);
        if let Ok(Progress::Done) = server.receive(&flight, &[cut]) {
            assert!(protected(&flight).starts_with(&protected(&original)), "it completed with what the client sent");
        }
    });
}

/// Streams that could go on for ever fail, or are taken no further, at the limit.
#[test]
fn handshake_that_never_ends_fails_within_the_limit() {
    let hello = recorded_hello(0);
    let fragments: Vec<u8> = hello[5..].iter().flat_map(|byte| [22, 3, 1, 0, 1, *byte]).collect();
    let starts: [&[u8]; 4] = [&[], &hello, &hello[..60], &fragments[..600]];
    let endless: [&[u8]; 9] = [
        &[20, 3, 3, 0, 1, 1],
        &[21, 3, 3, 0, 2, 1, 90],
        &[21, 3, 3, 0, 2, 1, 0],
        &[22, 3, 3, 0, 0],
        &[22, 3, 3, 0, 1, 1],
        &[22, 3, 3, 0, 4, 0, 0, 0, 0],
        &[23, 3, 3, 0, 0],
        &[
            23, 3, 3, 0, 32, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9,
            9, 9,
        ],
        // The longest message there is, in the longest records there are.
        &[&[22, 3, 3, 0x40, 0, 1, 0xff, 0xff, 0xff][..], &[0; 16380]].concat(),
    ];
    for start in starts {
        for repeated in endless {
            let mut server = Server::new();
            if !matches!(server.receive(start, &[]), Ok(Progress::Continue)) {
                continue;
            }
            while let Ok(progress) = server.receive(repeated, &[]) {
                assert_eq!(progress, Progress::Continue);
            }
            assert!(server.received_bytes <= HANDSHAKE_BYTES_MAX + repeated.len(), "{repeated:?}");
        }
    }
}

/// What came of a stream, as far as it does not depend on random numbers.
#[derive(Debug, PartialEq)]
struct Outcome {
    /// None: it failed.
    progress: Option<Progress>,
    reason: Option<FailureReason>,
    output_types: Vec<u8>,
    /// An alert in the clear.
    alert: Option<Vec<u8>>,
}

/// What a server makes of a stream that arrives in pieces of these sizes, in turn; none: in one piece.
fn outcome(stream: &[u8], cuts: &[u8]) -> Outcome {
    let mut server = Server::new();
    let result = server.receive(stream, cuts);
    let output = take_output(&mut server.handshake);
    let records = records(&output);
    Outcome {
        progress: result.as_ref().ok().copied(),
        reason: result.as_ref().err().map(Failure::reason),
        output_types: records.iter().map(|record| record[0]).collect(),
        alert: records.iter().find(|record| record[0] == 21).map(|record| record[5..].to_vec()),
    }
}

/// A server in a handshake, which keeps its promises under each call.
struct Server {
    handshake: Handshake,
    received_bytes: usize,
}

impl Server {
    fn new() -> Self {
        thread_local! {
            // As in the proxy, each thread has its own.
            static LISTENER: OnceCell<Context> = const { OnceCell::new() };
        }
        let handshake = LISTENER.with(|context| Handshake::new(context.get_or_init(|| listener(KeyKind::EcdsaP256))));
        Self { handshake, received_bytes: 0 }
    }

    /// Receives the bytes in pieces of these sizes, in turn, until it is done or has failed.
    fn receive(&mut self, mut bytes: &[u8], cuts: &[u8]) -> Result<Progress, Failure> {
        let mut cuts = cuts.iter().map(|cut| usize::from(*cut).max(1)).cycle();
        let mut progress = Ok(Progress::Continue);
        while let (false, Ok(Progress::Continue)) = (bytes.is_empty(), &progress) {
            let (piece, behind) = bytes.split_at(cuts.next().unwrap_or(bytes.len()).min(bytes.len()));
            bytes = behind;
            self.received_bytes += piece.len();
            progress = self.handshake.receive(piece);
            self.check(&progress);
        }
        progress
    }

    fn check(&mut self, progress: &Result<Progress, Failure>) {
        let output = records(self.handshake.output());
        match progress {
            Ok(Progress::Continue) => assert!(self.received_bytes <= HANDSHAKE_BYTES_MAX),
            Ok(Progress::Done) => {}
            Err(failure) => {
                use FailureReason::{Closed, ClosedSilently, Internal, TimedOut};
                let reason = failure.reason();
                assert!(![Internal, TimedOut, Closed, ClosedSilently].contains(&reason), "the peer's fault: {failure}");
                // Before the keys it is an alert, behind them a protected record.
                let is_told = output.last().is_some_and(|record| [21, 23].contains(&record[0]));
                assert!(is_told || !failure.has_alert(), "no alert for {failure}");
            }
        }
    }
}

/// Drives a handshake to its end, with a record of data behind the client's last flight.
fn complete(client: &mut Client, cuts: &[u8]) -> (Established, Vec<u8>) {
    let mut server = Server::new();
    let mut flight = client.answer(&[]).unwrap();
    let mut behind = Vec::new();
    loop {
        if client.is_done() {
            behind = client.seal(b"early bird");
            flight.extend_from_slice(&behind);
        }
        let progress = server.receive(&flight, cuts).unwrap();
        let output = take_output(&mut server.handshake);
        if progress == Progress::Done {
            return (server.handshake.finish().unwrap(), behind);
        }
        assert!(!output.is_empty(), "the server has an answer to each flight");
        flight = client.answer(&output).unwrap();
    }
}

/// The first flight that a client of this kind once sent.
fn recorded_hello(choice: u8) -> Vec<u8> {
    thread_local! {
        static HELLOS: [Vec<u8>; KINDS as usize] = std::array::from_fn(|kind| client(kind as u8).answer(&[]).unwrap());
    }
    HELLOS.with(|hellos| hellos[usize::from(choice % KINDS)].clone())
}

/// Kinds of clients.
const KINDS: u8 = 5;

/// A client of one of the usual kinds.
fn client(choice: u8) -> Client {
    const V12: SslVersion = SslVersion::TLS1_2;
    const V13: SslVersion = SslVersion::TLS1_3;
    thread_local! {
        static OFFERS: [Offer; KINDS as usize] = [
            Offer::new([V12, V13], "X25519:P-256"),
            Offer::new([V12, V12], "X25519:P-256"),
            Offer::new([V13, V13], "X25519MLKEM768:X25519:P-256"),
            Offer::new([V12, V12], "P-256"),
            // Its key share is for a group that the server does not have: a HelloRetryRequest.
            Offer::new([V13, V13], "P-521:X25519"),
        ];
    }
    OFFERS.with(|offers| offers[usize::from(choice % KINDS)].client())
}

/// Changes the bytes: of each three bytes of `edits` one says what is done, one where, one with what.
fn mangle(bytes: &mut Vec<u8>, edits: &[u8]) {
    for edit in edits.chunks_exact(3) {
        let at = usize::from(edit[1]) * bytes.len() / 256;
        let end = (at + usize::from(edit[2])).min(bytes.len());
        match edit[0] % 6 {
            0 if at < bytes.len() => bytes[at] ^= edit[2],
            // The first bytes hold what the rest is read by: record header, message header, version.
            1 => bytes.iter_mut().skip(usize::from(edit[1]) % 11).take(1).for_each(|byte| *byte = edit[2]),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => drop(bytes.splice(at..at, [edit[2]; 3])),
            _ => bytes.extend_from_within(at..end),
        }
    }
}

/// The records of a flight but for ChangeCipherSpec, which means nothing in TLS 1.3.
fn protected(flight: &[u8]) -> Vec<&[u8]> {
    let mut rest = flight;
    let mut found = Vec::new();
    while let Some((record, behind)) = split_record(rest) {
        let is_compatibility = record[0] == 20;
        found.extend((!is_compatibility).then_some(record));
        rest = behind;
    }
    found
}

/// The records of an output, which must be whole ones.
fn records(mut output: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    while !output.is_empty() {
        let (record, rest) = split_record(output).expect("whole records");
        // OpenSSL refuses a hello of an unknown version with an alert of that version.
        assert!((20..=23).contains(&record[0]) && (record[1] == 3 || record[0] == 21), "{record:x?}");
        records.push(record);
        output = rest;
    }
    records
}

fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let header = bytes.first_chunk::<5>()?;
    bytes.split_at_checked(header.len() + usize::from(u16::from_be_bytes([header[3], header[4]])))
}
