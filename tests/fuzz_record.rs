//! Hostile bytes against the record layer: bounded under `cargo test`, endless under `cargo bolero test NAME`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

use std::time::{Duration, Instant};

use sluice::record::{
    Aead, Alert, CipherSuite, ContentType, Event, Framing, HEADER_LEN, KeyMaterial, Opener, PLAINTEXT_LEN_MAX,
    PostHandshake, ProtocolVersion, RecordHeader, Sealer, TrafficKeys, frame_protected, limit,
};

/// A stream from a stranger: framing asks for a sane number of bytes, nothing opens, and no error leaves the engine
/// further than it was.
#[test]
fn stream_of_a_stranger_never_opens() {
    bolero::check!().with_iterations(200_000).with_max_len(1024).for_each(|input: &[u8]| {
        let Some((&choice, stream)) = input.split_first() else { return };
        let suite = suite(choice);
        // Every other stream starts like a record, so that random bytes get behind the header.
        let mut stream = stream.to_vec();
        if choice & 0x80 != 0 {
            stream.splice(..stream.len().min(4), [23, 3, 3, 0]);
        }
        let mut opener = Opener::new(keys(suite)).unwrap();
        match frame_protected(suite.version, suite.aead, &stream) {
            Ok(Framing::Incomplete { needed }) => {
                assert!(needed > stream.len() && needed <= record_len_max(suite));
                assert!(opener.open(&mut stream.clone()).is_err());
            }
            Ok(Framing::Complete { len }) => {
                assert!(len > HEADER_LEN && len <= stream.len());
                let error = opener.open(&mut stream[..len].to_vec()).expect_err("nobody sealed this");
                assert_eq!(error.alert().label(), "bad_record_mac");
            }
            Err(error) => assert_ne!(error.alert().label(), "internal_error"),
        }
        assert_eq!(opener.sequence(), 0);
    });
}

/// A stream from somebody who holds the key, mangled on the way: each record opens as it was sealed or not at all.
#[test]
fn stream_mangled_on_the_way_gives_what_was_sealed_or_an_error() {
    bolero::check!().with_iterations(50_000).with_max_len(512).for_each(|input: &[u8]| {
        let Some((&[choice, at, mask, _], payload)) = input.split_first_chunk() else { return };
        let suite = suite(choice);
        let mut record = Vec::new();
        let mut sealer = Sealer::new(keys(suite)).unwrap();
        sealer.seal_control(ContentType::ApplicationData, payload, &mut record).unwrap();
        let good = record.clone();
        let at = usize::from(at) * record.len() / 256;
        record[at] ^= mask;
        let mut opener = Opener::new(keys(suite)).unwrap();
        match opener.open(&mut record) {
            Ok(opened) => {
                assert_eq!(mask, 0);
                assert_eq!(&record[opened.payload], payload);
            }
            Err(_) => {
                assert_ne!(mask, 0);
                assert!(opener.open(&mut good.clone()).is_ok(), "a forgery costs the owner of the key nothing");
            }
        }
    });
}

/// Inner plaintexts of somebody who holds the key and breaks the rules: never a panic, and what opens lies in bounds.
#[test]
fn plaintext_of_a_malicious_client_stays_in_bounds() {
    bolero::check!().with_iterations(50_000).with_max_len(512).for_each(|input: &[u8]| {
        let Some((&choice, inner)) = input.split_first() else { return };
        let suite = suite(choice);
        let Some((&last, payload)) = inner.split_last() else { return };
        let types = [ContentType::ChangeCipherSpec, ContentType::Alert, ContentType::Handshake];
        let content_type = types[usize::from(last) % types.len()];
        let mut record = Vec::new();
        Sealer::new(keys(suite)).unwrap().seal_control(content_type, payload, &mut record).unwrap();
        let end = record.len();
        match Opener::new(keys(suite)).unwrap().open(&mut record) {
            Ok(opened) => {
                assert!(opened.payload.end <= end && opened.payload.len() <= PLAINTEXT_LEN_MAX);
                assert_eq!(opened.content_type, content_type);
                judge(suite.version, opened.content_type, &record[opened.payload]);
            }
            Err(error) => {
                assert_eq!((content_type, error.alert().label()), (ContentType::ChangeCipherSpec, "unexpected_message"))
            }
        }
    });
}

/// Control records in any order and shape: never a panic, and never more events than the limits allow.
#[test]
fn control_records_in_any_order_meet_the_limits() {
    bolero::check!().with_iterations(200_000).with_max_len(2048).for_each(|input: &[u8]| {
        for version in [ProtocolVersion::Tls12, ProtocolVersion::Tls13] {
            let now = Instant::now();
            let mut state = PostHandshake::new(version);
            let (mut key_updates, mut refused) = (0, 0);
            let mut rest = input;
            // One byte says what the record is and how long.
            while let Some((&shape, behind)) = rest.split_first() {
                let (payload, behind) = behind.split_at(usize::from(shape >> 2).min(behind.len()));
                rest = behind;
                let event = match shape & 3 {
                    0 | 1 => state.handshake_record(payload, now + Duration::from_millis(u64::from(shape))),
                    2 => state.alert_record(payload).map(Some),
                    _ => state.data_record(payload.len()).map(|()| None),
                };
                match event {
                    Ok(Some(Event::KeyUpdate { .. })) => key_updates += 1,
                    Ok(Some(Event::RenegotiationRefused)) => refused += 1,
                    Ok(Some(Event::FatalAlert(_) | Event::CloseNotify)) => break,
                    Ok(_) => {}
                    Err(error) => {
                        assert_ne!(error.alert().label(), "internal_error");
                        break;
                    }
                }
            }
            assert!(key_updates <= limit::KEY_UPDATE_BURST_MAX && refused <= limit::RENEGOTIATIONS_REFUSED_MAX);
            assert!(version == ProtocolVersion::Tls13 || key_updates == 0);
            assert!(version == ProtocolVersion::Tls12 || refused == 0);
        }
    });
}

/// Any cut of a handshake stream into records is judged like the uncut stream, up to the rules about record borders.
#[test]
fn renegotiation_cut_into_records_anywhere_is_judged_alike() {
    bolero::check!().with_iterations(50_000).with_max_len(256).for_each(|input: &[u8]| {
        let mut hello = vec![1, 0, 0, 100];
        hello.resize(104, 0);
        let stream = hello.repeat(2);
        let mut state = PostHandshake::new(ProtocolVersion::Tls12);
        let (mut refused, mut rest) = (0, &stream[..]);
        let mut cuts = input.iter().map(|&cut| usize::from(cut).max(1));
        while !rest.is_empty() {
            let (record, behind) = rest.split_at(cuts.next().unwrap_or(rest.len()).min(rest.len()));
            rest = behind;
            refused += usize::from(state.handshake_record(record, Instant::now()).unwrap().is_some());
        }
        // Two ends inside one record give one event.
        assert!(refused == 2 || refused == 1);
        assert!(!state.is_mid_message());
    });
}

/// Headers and alerts are read without loss, whatever they hold.
#[test]
fn headers_and_alerts_that_parse_encode_to_the_same_bytes() {
    bolero::check!().with_iterations(200_000).with_type::<([u8; HEADER_LEN], [u8; 2])>().for_each(|(header, alert)| {
        if let Ok(parsed) = RecordHeader::parse(header) {
            assert_eq!(parsed.encode(), *header);
        }
        if let Ok(parsed) = Alert::parse(alert) {
            assert_eq!(parsed.encode(), *alert);
        }
    });
}

fn judge(version: ProtocolVersion, content_type: ContentType, payload: &[u8]) {
    let mut state = PostHandshake::new(version);
    let _ = match content_type {
        ContentType::Handshake => state.handshake_record(payload, Instant::now()),
        ContentType::Alert => state.alert_record(payload).map(Some),
        _ => state.data_record(payload.len()).map(|()| None),
    };
}

fn record_len_max(suite: &CipherSuite) -> usize {
    match suite.version {
        ProtocolVersion::Tls13 => HEADER_LEN + PLAINTEXT_LEN_MAX + 256,
        ProtocolVersion::Tls12 if suite.aead == Aead::ChaCha20Poly1305 => HEADER_LEN + PLAINTEXT_LEN_MAX + 16,
        ProtocolVersion::Tls12 => HEADER_LEN + PLAINTEXT_LEN_MAX + 24,
    }
}

fn suite(choice: u8) -> &'static CipherSuite {
    &CipherSuite::all()[usize::from(choice) % CipherSuite::all().len()]
}

fn keys(suite: &CipherSuite) -> TrafficKeys {
    TrafficKeys {
        version: suite.version,
        aead: suite.aead,
        key: KeyMaterial::new(&[0x42; 32][..suite.aead.key_len()]),
        iv: [0x24; 12],
        sequence: 0,
    }
}
