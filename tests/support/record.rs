//! Records that no TLS stack would send, protected with the right keys.

use sluice::record::{
    Aead, ContentType, KEY_UPDATE_NOT_REQUESTED, KEY_UPDATE_REQUESTED, MasterSecret, ProtocolVersion, Sealer,
    TrafficKeys, TrafficSecret,
};

use super::client::Tls;
use super::suite::Suite;

/// A client whose sending side was taken from OpenSSL; OpenSSL goes on reading.
pub(crate) struct Forger {
    pub(crate) tls: Tls,
    records: Records,
}

/// The sending side by itself.
pub(crate) struct Records {
    suite: Suite,
    sealer: Sealer,
    secret: Option<TrafficSecret>,
}

impl Forger {
    /// Takes over a connection on which nothing but the handshake was sent.
    pub(crate) fn new(tls: Tls, suite: Suite) -> Self {
        let description = suite.description();
        let (keys, secret) = match description.version {
            ProtocolVersion::Tls13 => {
                let secret = TrafficSecret::new(description, &tls.secret("CLIENT_TRAFFIC_SECRET_0")).unwrap();
                (secret.keys(description).unwrap(), Some(secret))
            }
            ProtocolVersion::Tls12 => (tls12_keys(&tls, suite), None),
        };
        Self { tls, records: Records { suite, sealer: Sealer::new(keys).unwrap(), secret } }
    }

    /// Parts the reading side, which is OpenSSL's, from the sending side.
    pub(crate) fn into_parts(self) -> (Tls, Records) {
        (self.tls, self.records)
    }

    /// The protected record.
    pub(crate) fn seal(&mut self, content_type: ContentType, payload: &[u8]) -> Vec<u8> {
        self.records.seal(content_type, payload)
    }

    /// `data` in records of so many bytes.
    pub(crate) fn seal_data(&mut self, data: &[u8], record_len: usize) -> Vec<u8> {
        self.records.seal_data(data, record_len)
    }

    /// Seals and sends.
    pub(crate) fn send(&mut self, content_type: ContentType, payload: &[u8]) {
        let record = self.seal(content_type, payload);
        self.tls.send_raw(&record);
    }

    /// A KeyUpdate, and the keys that go with it from here on.
    pub(crate) fn seal_key_update(&mut self, answer: Answer) -> Vec<u8> {
        self.records.seal_key_update(answer)
    }
}

impl Records {
    /// The protected record.
    pub(crate) fn seal(&mut self, content_type: ContentType, payload: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        self.sealer.seal_control(content_type, payload, &mut record).unwrap();
        record
    }

    /// `data` in records of so many bytes.
    pub(crate) fn seal_data(&mut self, data: &[u8], record_len: usize) -> Vec<u8> {
        let mut records = Vec::new();
        for part in data.chunks(record_len) {
            self.sealer.seal_control(ContentType::ApplicationData, part, &mut records).unwrap();
        }
        records
    }

    /// A KeyUpdate, and the keys that go with it from here on.
    pub(crate) fn seal_key_update(&mut self, answer: Answer) -> Vec<u8> {
        let message = match answer {
            Answer::Requested => KEY_UPDATE_REQUESTED,
            Answer::NotRequested => KEY_UPDATE_NOT_REQUESTED,
        };
        let record = self.seal(ContentType::Handshake, &message);
        let next = self.secret.as_ref().expect("TLS 1.3").next_generation().unwrap();
        self.sealer.rekey(next.keys(self.suite.description()).unwrap()).unwrap();
        self.secret = Some(next);
        record
    }
}

/// Whether a KeyUpdate asks the other side for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Requested,
    NotRequested,
}

fn tls12_keys(tls: &Tls, suite: Suite) -> TrafficKeys {
    let (mut client_random, mut server_random) = ([0; 32], [0; 32]);
    tls.ssl().client_random(&mut client_random);
    tls.ssl().server_random(&mut server_random);
    let master = MasterSecret::new(&tls.secret("CLIENT_RANDOM")).unwrap();
    let (mut keys, _) = master.key_block(suite.description(), &client_random, &server_random).unwrap();
    // Our Finished was the record with number 0.
    keys.sequence = 1;
    if suite.description().aead != Aead::ChaCha20Poly1305 {
        let explicit = u64::from_be_bytes(tls.last_record()[5..13].try_into().unwrap());
        keys.iv[4..].copy_from_slice(&explicit.wrapping_add(1).to_be_bytes());
    }
    keys
}
