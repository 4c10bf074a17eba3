//! Properties of the record layer over random connections.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

use proptest::collection::vec;
use proptest::prelude::*;
use sluice::record::{
    CipherSuite, ContentType, Framing, KeyMaterial, Opener, ProtocolVersion, Sealer, TrafficKeys, TrafficSecret,
    frame_protected,
};

/// What happens next in one direction of a connection.
#[derive(Clone, Debug)]
enum Step {
    Record(ContentType, Vec<u8>),
    /// Both ends move their keys to another engine and back.
    HandOver,
    /// TLS 1.3: both ends go on with the next generation.
    KeyUpdate,
}

fn step() -> impl Strategy<Value = Step> {
    let content_type =
        prop_oneof![Just(ContentType::Alert), Just(ContentType::Handshake), Just(ContentType::ApplicationData)];
    let payload = prop_oneof![8 => vec(any::<u8>(), 0..200), 1 => vec(any::<u8>(), 16_000..=16_384)];
    prop_oneof![
        10 => (content_type, payload).prop_map(|(content_type, payload)| Step::Record(content_type, payload)),
        1 => Just(Step::HandOver),
        1 => Just(Step::KeyUpdate),
    ]
}

fn suite() -> impl Strategy<Value = &'static CipherSuite> {
    (0..CipherSuite::all().len()).prop_map(|at| &CipherSuite::all()[at])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn connection_of_any_shape_arrives_as_it_was_sent(
        suite in suite(),
        steps in vec(step(), 1..20),
        secret in vec(any::<u8>(), 48),
        chunk in 1_usize..5000,
    ) {
        let hash_len = if suite.sha384 { 48 } else { 32 };
        let mut generation = match suite.version {
            ProtocolVersion::Tls13 => Some(TrafficSecret::new(suite, &secret[..hash_len]).unwrap()),
            ProtocolVersion::Tls12 => None,
        };
        let current = |generation: &Option<TrafficSecret>| match generation {
            Some(secret) => secret.keys(suite).unwrap(),
            None => fixed_keys(suite, &secret),
        };
        let mut sealer = Sealer::new(current(&generation)).unwrap();
        let mut opener = Opener::new(current(&generation)).unwrap();
        let mut sent = Vec::new();
        for step in steps {
            let mut stream = Vec::new();
            match step {
                Step::Record(content_type, payload) => {
                    sealer.seal_control(content_type, &payload, &mut stream).unwrap();
                    sent.push((content_type, payload));
                }
                Step::HandOver => {
                    sealer = Sealer::new(sealer.into_keys()).unwrap();
                    opener = Opener::new(opener.into_keys()).unwrap();
                }
                Step::KeyUpdate => if let Some(secret) = &generation {
                    let next = secret.next_generation().unwrap();
                    sealer.rekey(next.keys(suite).unwrap()).unwrap();
                    opener.rekey(next.keys(suite).unwrap()).unwrap();
                    generation = Some(next);
                },
            }
            let arrived = receive(suite, &mut opener, &stream, chunk);
            prop_assert_eq!(arrived, std::mem::take(&mut sent));
        }
        prop_assert_eq!(sealer.sequence(), opener.sequence());
    }

    #[test]
    fn record_with_any_change_is_refused(
        suite in suite(),
        payload in vec(any::<u8>(), 0..100),
        changes in vec((any::<prop::sample::Index>(), 1_u8..), 1..4),
    ) {
        let mut record = Vec::new();
        let mut sealer = Sealer::new(fixed_keys(suite, &[7; 48])).unwrap();
        sealer.seal_control(ContentType::ApplicationData, &payload, &mut record).unwrap();
        let good = record.clone();
        for (at, mask) in changes {
            let at = at.index(record.len());
            record[at] ^= mask;
        }
        prop_assume!(record != good);
        let mut opener = Opener::new(fixed_keys(suite, &[7; 48])).unwrap();
        prop_assert!(opener.open(&mut record).is_err());
        prop_assert_eq!(opener.sequence(), 0);
    }
}

/// Receives `stream` in pieces of `chunk` bytes, as a socket would give them.
fn receive(suite: &CipherSuite, opener: &mut Opener, stream: &[u8], chunk: usize) -> Vec<(ContentType, Vec<u8>)> {
    let mut buffer = Vec::new();
    let mut arrived = Vec::new();
    for piece in stream.chunks(chunk) {
        buffer.extend_from_slice(piece);
        while let Framing::Complete { len } = frame_protected(suite.version, suite.aead, &buffer).unwrap() {
            let opened = opener.open(&mut buffer[..len]).unwrap();
            arrived.push((opened.content_type, buffer[opened.payload].to_vec()));
            buffer.drain(..len);
        }
    }
    assert!(buffer.is_empty(), "{} bytes left", buffer.len());
    arrived
}

fn fixed_keys(suite: &CipherSuite, bytes: &[u8]) -> TrafficKeys {
    TrafficKeys {
        version: suite.version,
        aead: suite.aead,
        key: KeyMaterial::new(&bytes[..suite.aead.key_len()]),
        iv: bytes[32..44].try_into().unwrap(),
        sequence: 0,
    }
}
