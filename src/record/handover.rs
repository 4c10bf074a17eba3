//! What a handshake hands over to record protection.

use super::key_schedule::TrafficSecret;
use super::suite::{CipherSuite, TrafficKeys};

/// The keys of both directions and where each stands, as the handshake left them.
pub struct Handover {
    /// The negotiated suite, which names the version too.
    pub suite: &'static CipherSuite,
    /// The largest plaintext per record that the client accepts, when it asked for less than 2^14 (RFC 6066 section 4).
    pub max_fragment_length: Option<u16>,
    /// Keys and position of the client's records.
    pub receive: TrafficKeys,
    /// Keys and position of our records.
    pub send: TrafficKeys,
    /// TLS 1.3: what a KeyUpdate derives the next keys from.
    pub traffic_secrets: Option<TrafficSecrets>,
    /// What the client sent behind the handshake: protected records, the last one perhaps not whole.
    pub leftover: Vec<u8>,
    /// What the handshake has sealed and not sent: session tickets of TLS 1.3, to go ahead of everything else.
    pub unsent: Vec<u8>,
}

/// The current traffic secrets of both directions (RFC 8446 section 7.2).
pub struct TrafficSecrets {
    /// Protects what the client sends.
    pub client: TrafficSecret,
    /// Protects what we send.
    pub server: TrafficSecret,
}
