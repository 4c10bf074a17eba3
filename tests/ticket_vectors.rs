//! The vectors of `docs/ticket-ring.md`, which were computed by another implementation (Python's hmac and hashlib, the
//! `openssl` command). A change here is a change of the format: old rings and tickets stop working.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

use std::fmt::Write;
use std::time::Duration;

use sluice::ticket::provenance::{NameHash, Provenance};
use sluice::ticket::{
    ChainSecret, KeyTable, ScheduledKey, ScopeHash, TicketKey, UnixSeconds, decode_ring, encode_ring, seal,
};

const DOCUMENT: &str = include_str!("../docs/ticket-ring.md");

const RING: &str = "\
sluice-ticket-ring v1
id a0a1a2a3a4a5a6a7a8a9aaabacadaeaf
generation 7
epoch-length 3600
retention 43200
first-epoch 500000
chain-secret 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
check bc261eec6e985f3bbee0400bac4ccca6
";
const SCOPE: &str = "b50a4563e1e809a953de076c52e0a379a96a20d59b2b185ae6cecb4575c15218";
/// Name, HMAC key, AES key and fingerprint of the epochs 500000 to 500002.
const EPOCHS: [[&str; 4]; 3] = [
    [
        "1a7ac7a5a825157004bbe0ff0f6c6aac",
        "be22131a06b99f15a0cee32c99e2147890c95420585de62749165ddfd843addf",
        "518a6db43c1733ae8e0d45f801a159dc23e0ea8c44504408fd948d85a149b34f",
        "c94d4ac67ef1e859",
    ],
    [
        "50329dfecf16794aa7a974ef82994869",
        "2363e3bcd720f99cf4c85159b59cac3d950017bcda3326e9518c3dfb732715db",
        "e1e55398e290ef0893326bba5737fe3e3feb4755222d168a72206830faedce30",
        "66a19651a6d01c7f",
    ],
    [
        "835d0bd667e6e35925f7cfe774b3a7be",
        "6538b3c8ea8ab59822e10c9762a01ae2b179afe3edd25313190319e09421c0a5",
        "5138af5dfcbebd73e425ec34c9d78b8efec840ae985d6d8219dca81c66264623",
        "b87f34068771611a",
    ],
];
const TICKET: &str = "1a7ac7a5a825157004bbe0ff0f6c6aacf0f1f2f3f4f5f6f7f8f9fafbfcfdfeff153ab901fd038d604e9bb5e571be8c9fb7d31427a7bf4dcbe771456b569493ea2c6055788306da70162b91fb37f1e374ec5585a525b61c7b4f026ff2b9aaf9c3";
const PROVENANCE: &str = "01000000006b49d200c16ee6a6d00059229358d86b986b1ed2";

/// The first second of epoch 500000.
const START: UnixSeconds = UnixSeconds(1_800_000_000);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn scope() -> ScopeHash {
    ScopeHash::of(&[("listener", b"edge"), ("client_auth", b"required"), ("ca", b"")])
}

fn first_key() -> TicketKey {
    TicketKey::from_block(&unhex(&EPOCHS[0][..3].concat()).try_into().unwrap())
}

#[test]
fn document_shows_the_vectors_that_are_tested() {
    let shown: String = DOCUMENT.split_whitespace().collect();
    for vector in [SCOPE, TICKET, PROVENANCE].iter().chain(EPOCHS.as_flattened()) {
        assert!(shown.contains(vector), "{vector}");
    }
    assert!(DOCUMENT.contains(RING));
}

#[test]
fn ring_file_reads_and_writes_as_documented() {
    let ring = decode_ring(RING.as_bytes()).unwrap();
    assert_eq!(encode_ring(&ring).unwrap().as_str(), RING);
    assert_eq!((ring.first_epoch(), ring.generation()), (500_000, 7));
}

#[test]
fn scope_is_as_documented() {
    assert_eq!(hex(scope().as_bytes()), SCOPE);
}

#[test]
fn keys_and_fingerprints_are_as_documented() {
    let ring = decode_ring(RING.as_bytes()).unwrap();
    // The ring's first epoch is the present one: an hour later the table ends with the third.
    let keys = ring.keys_at(&scope(), START.plus(Duration::from_secs(3600))).unwrap();
    assert_eq!(keys.len(), 3);
    for (index, (scheduled, [name, mac, cipher, fingerprint])) in keys.iter().zip(EPOCHS).enumerate() {
        assert_eq!(scheduled.key.name().to_string(), name);
        assert_eq!(hex(scheduled.key.mac_key()), mac);
        assert_eq!(hex(scheduled.key.cipher_key()), cipher);
        let starts = START.plus(Duration::from_secs(3600 * index as u64));
        assert_eq!(scheduled.seals.start, starts.0);
        assert_eq!(hex(&ring.fingerprint_at(starts).unwrap().unwrap()), fingerprint);
    }
}

#[test]
fn ratcheted_ring_has_the_documented_chain_secret() {
    let mut chain = ChainSecret::from_bytes(
        &unhex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f").try_into().unwrap(),
    );
    chain.advance().unwrap();
    let expected = "7fb1c1b1a6424d985288102e16429e61b93748cfe1ed7f10d8ef47179cfb1fb8";
    let mut ring = decode_ring(RING.as_bytes()).unwrap();
    let kept = Duration::from_secs(43_200 + 120 + 3600);
    assert_eq!(ring.ratchet_at(START.plus(kept)).unwrap(), 1);
    assert!(encode_ring(&ring).unwrap().contains(expected));
    assert!(DOCUMENT.contains(expected));
    let later = chain.epoch_secret(500_001, 3600).unwrap().ticket_key(&scope()).unwrap();
    assert_eq!(later.name().to_string(), EPOCHS[1][0]);
}

#[test]
fn ticket_seals_and_opens_as_documented() {
    let iv: [u8; 16] = std::array::from_fn(|index| 0xf0 + index as u8);
    assert_eq!(hex(&seal::seal(&first_key(), &iv, b"a serialised session").unwrap()), TICKET);
    let always = 0..u64::MAX;
    let key = ScheduledKey { key: first_key(), seals: always.clone(), opens: always };
    let table = KeyTable::new(vec![key], Vec::new(), Duration::from_secs(43_200));
    assert_eq!(seal::open(&table, &unhex(TICKET), START).unwrap().content, b"a serialised session");
}

#[test]
fn provenance_is_as_documented() {
    let provenance = Provenance { issued_at: START, server_name: NameHash::of(Some(b"A.example")) };
    assert_eq!(hex(&provenance.encode()), PROVENANCE);
}
