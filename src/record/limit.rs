//! Limits of the record layer, each with what happens when it is reached.

use std::time::Duration;

use super::suite::Aead;

/// Most payload bytes in one record (RFC 8446 section 5.1, RFC 5246 section 6.2.1). A sender splits; a receiver
/// answers more with `record_overflow`.
pub const PLAINTEXT_LEN_MAX: usize = 1 << 14;

/// Most bytes by which a TLS 1.3 record may outgrow its payload: content type, padding and tag (RFC 8446 section 5.2).
pub const TLS13_EXPANSION_MAX: usize = 256;

/// Most bytes by which any TLS record may outgrow its payload (RFC 5246 section 6.2.3).
pub const TLS12_EXPANSION_MAX: usize = 2048;

/// Records that stay in reserve behind the record limit of a key for alerts and a KeyUpdate, so that a direction that
/// may not send data any more can still say so.
pub const CONTROL_RECORDS_RESERVE: u64 = 16;

/// Records that one AES-GCM key may protect: RFC 9846 section 5.5 (RFC 8446 section 5.5) allows 2^24.5 full-size
/// records. At the limit the sealer refuses data; TLS 1.3 goes on with a KeyUpdate, TLS 1.2 closes. The limit binds
/// whoever seals, so that an opener does not end the connections of clients that never update their keys.
pub const AES_GCM_RECORDS_MAX: u64 = 23_726_566 - CONTROL_RECORDS_RESERVE;

/// Records of data that one key may protect. Without a limit of the algorithm, the sequence number must not wrap
/// (RFC 8446 section 5.3, RFC 5246 section 6.1).
pub const fn records_max(aead: Aead) -> u64 {
    match aead {
        Aead::Aes128Gcm | Aead::Aes256Gcm => AES_GCM_RECORDS_MAX,
        Aead::ChaCha20Poly1305 => u64::MAX - CONTROL_RECORDS_RESERVE,
    }
}

/// KeyUpdates that a peer may send in a burst. A KeyUpdate costs the peer 27 bytes and us a key schedule, two cipher
/// set-ups and an answer; above the limit the connection ends with `unexpected_message`.
pub const KEY_UPDATE_BURST_MAX: u32 = 32;

/// Time after which a peer that used up its burst may send one KeyUpdate more.
pub const KEY_UPDATE_INTERVAL: Duration = Duration::from_secs(1);

/// Empty application-data records in a row (RFC 8446 section 5.1 allows them, as a defence against traffic analysis).
/// They cost us a decryption and move nothing; above the limit the connection ends with `unexpected_message`.
pub const EMPTY_RECORDS_MAX: u32 = 32;

/// Alerts in a row that do not end the connection; above the limit it ends with `unexpected_message`.
pub const WARNING_ALERTS_MAX: u32 = 4;

/// ClientHellos after a TLS 1.2 handshake that are answered with `no_renegotiation`; one more ends the connection with
/// `handshake_failure`.
pub const RENEGOTIATIONS_REFUSED_MAX: u32 = 3;

/// Largest handshake message accepted after a TLS 1.2 handshake. It is skipped, not buffered; a larger one ends the
/// connection with `illegal_parameter`.
pub const RENEGOTIATION_HELLO_BYTES_MAX: usize = 16 * 1024;
