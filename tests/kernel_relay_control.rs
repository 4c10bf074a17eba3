//! Control records on promoted directions: KeyUpdate, alerts, forged records, the limit of a key, and the close.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod kernel_support;
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use kernel_support::KernelTls;
use sluice::ktls;
use sluice::record::ContentType;
use support::backend::{self, Backend};
use support::body::{self, End, Received};
use support::certificate::KeyKind;
use support::client::{Client, Tls};
use support::proxy::{Options, Proxy};
use support::record::{Answer, Forger};
use support::suite::{Suite, Version};
use support::wait_until;

const UNEXPECTED_MESSAGE: u8 = 10;
const BAD_RECORD_MAC: u8 = 20;
const RECORD_OVERFLOW: u8 = 22;
const PROTOCOL_VERSION: u8 = 70;
const INTERNAL_ERROR: u8 = 80;

/// A proxy that promotes both directions at once, in front of a backend that the test plays.
struct World {
    kernel: KernelTls,
    proxy: Proxy,
    backend: Backend,
}

impl World {
    /// None where the kernel has no TLS.
    fn start() -> Option<Self> {
        Self::with(|options| options)
    }

    fn with(change: impl FnOnce(Options) -> Options) -> Option<Self> {
        let (mut kernel, backend) = (kernel_support::kernel_tls()?, Backend::listen());
        let options = Options { kernel_tls: "always".into(), ..Options::to([backend.address()]) };
        let proxy = Proxy::start(&change(options));
        kernel.begin();
        Some(Self { kernel, proxy, backend })
    }

    /// A client whose records the test seals itself, and what the backend sees of it. Both directions are promoted.
    fn connect(&self, suite: Suite) -> (Forger, TcpStream) {
        let before = self.promoted();
        let client = Client::of(&self.proxy).suite(suite).connect();
        let server = self.backend.accept();
        wait_until("both directions are promoted", || self.promoted() == before + 2);
        (Forger::new(client, suite), server)
    }

    fn promoted(&self) -> u64 {
        ["client_to_backend", "backend_to_client"]
            .map(|way| self.proxy.metric(&format!("sluice_kernel_tls_promoted_total{{direction=\"{way}\"}}")))
            .iter()
            .sum()
    }

    fn rekeyed(&self, direction: &str) -> u64 {
        self.proxy.metric(&format!("sluice_kernel_tls_rekeyed_total{{direction=\"{direction}\"}}"))
    }

    /// A connection comes in and works.
    fn assert_serves(&self) {
        let (mut forger, mut server) = self.connect(Version::Tls13.usual_suite());
        forger.send(ContentType::ApplicationData, b"still there?");
        assert_eq!(backend::receive(&mut server, 12), b"still there?");
    }
}

fn can_rekey() -> bool {
    let capabilities = ktls::probe();
    assert_eq!(capabilities.rekey_receive, capabilities.rekey_transmit);
    capabilities.rekey_receive
}

fn tls13() -> impl Iterator<Item = Suite> {
    Suite::with_key(KeyKind::EcdsaP256).filter(|suite| suite.version == Version::Tls13)
}

#[test]
fn key_update_re_keys_the_kernel_where_it_can_and_data_flows_on() {
    if !can_rekey() {
        return;
    }
    let Some(mut world) = World::start() else { return };
    for (suite, answer) in tls13().flat_map(|suite| [(suite, Answer::NotRequested), (suite, Answer::Requested)]) {
        world.kernel.begin();
        let rekeyed = [world.rekeyed("client_to_backend"), world.rekeyed("backend_to_client")];
        let (mut forger, mut server) = world.connect(suite);
        let bulk = body::bytes(100_000, 1);
        for round in 0..3 {
            // In one flight: what follows the KeyUpdate waits in the kernel until the new keys are there.
            let mut records = forger.seal(ContentType::ApplicationData, b"old");
            records.extend(forger.seal_key_update(answer));
            records.extend(forger.seal_data(&bulk, 16_384));
            let writing = forger.tls.socket().try_clone().unwrap();
            let sending = std::thread::spawn(move || (&writing).write_all(&records).unwrap());
            assert_eq!(backend::receive(&mut server, 3), b"old", "{} {answer:?} {round}", suite.iana);
            assert!(backend::receive(&mut server, bulk.len()) == bulk, "{} {answer:?} {round}", suite.iana);
            sending.join().unwrap();
            server.write_all(&bulk).unwrap();
            assert!(forger.tls.receive(bulk.len()) == bulk, "{} {answer:?} {round}", suite.iana);
        }
        let sent = if answer == Answer::Requested { 3 } else { 0 };
        assert_eq!(world.rekeyed("client_to_backend") - rekeyed[0], 3, "{}", suite.iana);
        assert_eq!(world.rekeyed("backend_to_client") - rekeyed[1], sent, "{}", suite.iana);
        let kernel = ["TlsRxRekeyReceived", "TlsRxRekeyOk", "TlsTxRekeyOk", "TlsRxRekeyError", "TlsTxRekeyError"];
        assert_eq!(kernel.map(|name| world.kernel.grown(name)), [3, 3, sent, 0, 0], "{} {answer:?}", suite.iana);
    }
}

#[test]
fn key_update_where_the_kernel_cannot_re_key_ends_with_an_alert_and_a_reset_of_the_backend() {
    if can_rekey() {
        return;
    }
    let Some(world) = World::start() else { return };
    let both = |suite| [(suite, Answer::NotRequested), (suite, Answer::Requested)];
    for (before, (suite, answer)) in tls13().flat_map(both).enumerate() {
        let (mut forger, mut server) = world.connect(suite);
        let mut records = forger.seal(ContentType::ApplicationData, b"before");
        records.extend(forger.seal_key_update(answer));
        records.extend(forger.seal(ContentType::ApplicationData, b"behind"));
        forger.tls.send_raw(&records);
        assert_eq!(body::drain(&mut server), Received::of(b"before", End::Reset), "{} {answer:?}", suite.iana);
        assert_eq!(forger.tls.drain(), Received::of(b"", End::Alert(INTERNAL_ERROR)), "{} {answer:?}", suite.iana);
        wait_until("it is counted", || world.proxy.closed("rekey_unsupported") == before as u64 + 1);
    }
    world.assert_serves();
}

#[test]
fn key_update_storm_is_cut_off() {
    let Some(world) = World::start() else { return };
    let (mut forger, mut server) = world.connect(Version::Tls13.usual_suite());
    let storm: Vec<u8> = (0..200).flat_map(|_| forger.seal_key_update(Answer::Requested)).collect();
    let _ = forger.tls.socket().write_all(&storm);
    let end = forger.tls.drain().end;
    assert!(matches!(end, End::Alert(_) | End::Reset), "{end:?}");
    assert_eq!(body::drain(&mut server).end, End::Reset);
    world.proxy.wait_closed(if can_rekey() { "protocol_violation" } else { "rekey_unsupported" });
    // The probe of can_rekey counts too, hence the proxy's own figure.
    assert!(world.rekeyed("client_to_backend") <= 32);
    world.assert_serves();
}

#[test]
fn forged_record_gets_its_alert_and_the_connection_ends_without_spinning() {
    let Some(mut world) = World::start() else { return };
    for (version, len) in Version::ALL.into_iter().flat_map(|version| [(version, 9), (version, 40_000)]) {
        world.kernel.begin();
        let (mut forger, mut server) = world.connect(version.usual_suite());
        let data = body::bytes(len, 2);
        let mut records = forger.seal_data(&data, 16_384);
        let mut forged = forger.seal(ContentType::ApplicationData, b"forged");
        *forged.last_mut().unwrap() ^= 1;
        records.extend(forged);
        // What follows keeps the socket readable, and a careless reader busy.
        records.extend(forger.seal(ContentType::ApplicationData, &data[..9]));
        let (begun, cpu) = (Instant::now(), world.proxy.cpu_time());
        forger.tls.send_raw(&records);
        assert_eq!(body::drain(&mut server), Received::of(&data, End::Reset), "{version:?} {len}");
        assert_eq!(forger.tls.drain().end, End::Alert(BAD_RECORD_MAC), "{version:?} {len}");
        // The client stays: the proxy waits a moment for it to leave, and must not burn CPU over that.
        wait_until("the connection is over", || world.proxy.connections_open() == 0);
        let (elapsed, cpu) = (begun.elapsed(), world.proxy.cpu_time() - cpu);
        assert!(cpu < elapsed / 2 || cpu < Duration::from_millis(100), "{cpu:?} of CPU in {elapsed:?}");
        // Once more when recvmsg has to tell what made splice stop.
        assert!((1..=2).contains(&world.kernel.grown("TlsDecryptError")), "{version:?} {len}");
    }
    assert_eq!(world.proxy.closed("bad_record"), 4);
    world.assert_serves();
}

#[test]
fn record_with_a_header_that_cannot_be_gets_its_alert() {
    let Some(world) = World::start() else { return };
    // Before a header counts, the kernel wants the explicit nonce of TLS 1.2 too.
    let overflow = [&[23, 3, 3, 0x48, 0x01][..], &[0; 8]].concat();
    let version_1_0 = [&[23, 3, 1, 0, 32][..], &[0; 32]].concat();
    for (version, (bytes, alert)) in Version::ALL
        .into_iter()
        .flat_map(|version| [(version, (&overflow, RECORD_OVERFLOW)), (version, (&version_1_0, PROTOCOL_VERSION))])
    {
        let (mut forger, mut server) = world.connect(version.usual_suite());
        forger.tls.send_raw(bytes);
        assert_eq!(forger.tls.drain(), Received::of(b"", End::Alert(alert)), "{version:?}");
        assert_eq!(body::drain(&mut server), Received::of(b"", End::Reset), "{version:?}");
    }
    world.assert_serves();
}

#[test]
fn flood_of_empty_records_is_swallowed_by_the_kernel_and_data_behind_it_arrives() {
    let Some(world) = World::start() else { return };
    for version in Version::ALL {
        let (mut forger, mut server) = world.connect(version.usual_suite());
        let mut records: Vec<u8> = (0..2000).flat_map(|_| forger.seal(ContentType::ApplicationData, b"")).collect();
        records.extend(forger.seal(ContentType::ApplicationData, b"at last"));
        // Where the relay meets more than a few of them by itself, it cuts the connection off.
        let _ = forger.tls.socket().write_all(&records);
        let mut received = [0; 7];
        match server.read_exact(&mut received) {
            Ok(()) => assert_eq!(&received, b"at last", "{version:?}"),
            Err(_) => assert_eq!(forger.tls.drain().end, End::Alert(UNEXPECTED_MESSAGE), "{version:?}"),
        }
    }
    world.assert_serves();
}

#[test]
fn empty_records_in_the_middle_of_bulk_are_not_an_end() {
    let Some(world) = World::start() else { return };
    for suite in Suite::with_key(KeyKind::EcdsaP256) {
        let (mut forger, mut server) = world.connect(suite);
        let data = body::bytes(400_000, 3);
        let mut records = Vec::new();
        for part in data.chunks(16_384) {
            records.extend(forger.seal(ContentType::ApplicationData, part));
            records.extend(forger.seal(ContentType::ApplicationData, b""));
        }
        records.extend(forger.seal(ContentType::Alert, &[1, 0]));
        let writing = forger.tls.socket().try_clone().unwrap();
        let sending = std::thread::spawn(move || (&writing).write_all(&records).unwrap());
        assert_eq!(body::drain(&mut server), Received::of(&data, End::EndOfStream), "{}", suite.iana);
        sending.join().unwrap();
    }
}

#[test]
fn renegotiation_is_refused_in_the_kernel_too_and_the_connection_goes_on() {
    let Some(world) = World::start() else { return };
    let suites = Suite::with_key(KeyKind::EcdsaP256).filter(|suite| suite.version == Version::Tls12);
    for (round, suite) in suites.enumerate() {
        let (mut forger, mut server) = world.connect(suite);
        forger.send(ContentType::Handshake, &client_hello());
        forger.send(ContentType::ApplicationData, b"goes on");
        assert_eq!(backend::receive(&mut server, 7), b"goes on", "{}", suite.iana);
        assert_eq!(world.proxy.metric("sluice_renegotiations_refused_total"), round as u64 + 1);
        // OpenSSL's client takes the refusal for the end, so the way back is looked at no further.
    }
}

#[test]
fn close_notify_and_everything_before_it_reach_a_reader_that_was_late() {
    let Some(world) = World::start() else { return };
    // What is lost at the end is lost by TCP, which knows nothing of suites.
    for suite in Version::ALL.map(Version::usual_suite) {
        let client = Client::of(&world.proxy).suite(suite).small_receive_buffer();
        let mut client = client.connect();
        let mut server = world.backend.accept();
        // More than the buffers on the way hold: the last of it is sent into a full one.
        let data = body::bytes(6_000_000, 4);
        let expected = Received::of(&data, End::CloseNotify);
        let sending = std::thread::spawn(move || server.write_all(&data).unwrap());
        wait_until("nothing moves any more", || is_stalled(&world.proxy));
        assert_eq!(slowly(&mut client), expected, "{}", suite.iana);
        sending.join().unwrap();
    }
    wait_until("each end is counted", || world.proxy.closed("backend_closed") == 2);
}

#[test]
fn client_that_stops_reading_is_not_told_a_clean_end() {
    let change = |options| Options { idle_timeout: Duration::from_secs(2), ..options };
    let Some(world) = World::with(change) else { return };
    for version in Version::ALL {
        let mut client = Client::of(&world.proxy).version(version).small_receive_buffer().connect();
        let mut server = world.backend.accept();
        let sending = std::thread::spawn(move || while server.write_all(&[7; 65_536]).is_ok() {});
        wait_until("it is idle", || world.proxy.connections_open() == 0);
        sending.join().unwrap();
        let end = client.drain().end;
        assert!(matches!(end, End::EndOfStream | End::Reset), "{version:?}: {end:?}");
    }
    assert_eq!(world.proxy.closed("idle_timeout"), 2);
}

#[test]
fn key_limit_is_obeyed_by_re_keying_or_by_a_clean_close() {
    const LIMIT: u64 = 1024;
    let change = |options| Options { records_per_key: Some(LIMIT), ..options };
    let Some(mut world) = World::with(change) else { return };
    // Beyond the limit in records of full length.
    let data = body::bytes(20_000_000, 5);
    for suite in [Version::Tls12.usual_suite(), Version::Tls13.usual_suite()] {
        world.kernel.begin();
        let before = world.proxy.closed("record_limit");
        let (mut forger, mut server) = world.connect(suite);
        let sent = data.clone();
        let sending = std::thread::spawn(move || server.write_all(&sent));
        let received = forger.tls.drain();
        let goes_on = suite.version == Version::Tls13 && can_rekey();
        assert_eq!(received.end, End::CloseNotify, "{}", suite.iana);
        if goes_on {
            assert_eq!(received, Received::of(&data, End::CloseNotify));
            sending.join().unwrap().unwrap();
            assert!(world.kernel.grown("TlsTxRekeyOk") > 0 && world.rekeyed("backend_to_client") > 0);
        } else {
            let _ = sending.join().unwrap();
            let len = usize::try_from(received.len).unwrap();
            assert!(len <= 16_384 * LIMIT as usize, "{} sent {len} bytes under one key", suite.iana);
            assert_eq!(received, Received::of(&data[..len], End::CloseNotify), "{}", suite.iana);
        }
        drop(forger);
        wait_until("it is counted", || world.proxy.closed("record_limit") - before == u64::from(!goes_on));
    }
}

/// Reads in small pieces to the end.
fn slowly(client: &mut Tls) -> Received {
    body::drain_with(|buffer| client.read(&mut buffer[..3000]))
}

/// Whether the relay has stopped for want of room.
fn is_stalled(proxy: &Proxy) -> bool {
    let moved = || {
        ["userspace", "kernel_copy", "kernel_splice"]
            .map(|path| {
                proxy.metric(&format!("sluice_relay_bytes_total{{direction=\"backend_to_client\",path=\"{path}\"}}"))
            })
            .iter()
            .sum::<u64>()
    };
    let before = moved();
    std::thread::park_timeout(Duration::from_millis(300));
    moved() == before && before > 0
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
