//! Record protection in userspace: TLS 1.2 and 1.3 records with AEAD suites.
//!
//! Sans-I/O: bytes and `now` in, values out. [`frame_protected`] cuts a stream of ciphertext into records, [`Opener`]
//! and [`Sealer`] open and protect them in place, [`PostHandshake`] judges what is not data, and [`TrafficSecret`] and
//! [`MasterSecret`] make the keys.

mod alert;
mod cipher;
mod context;
mod handover;
mod header;
mod key_schedule;
pub mod limit;
mod open;
mod post_handshake;
mod protect;
mod seal;
mod suite;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
mod testing;

pub use alert::{Alert, AlertDescription, AlertError, AlertLevel};
pub use cipher::Library;
pub use context::{lent_count, reclaim_idle};
pub use handover::{Handover, TrafficSecrets};
pub use header::{ContentType, Framing, HEADER_LEN, HeaderError, RECORD_VERSION, RecordHeader, frame_protected};
pub use key_schedule::{MasterSecret, TrafficSecret};
pub use limit::{AES_GCM_RECORDS_MAX, PLAINTEXT_LEN_MAX};
pub use open::{OpenError, Opened, Opener};
pub use post_handshake::{Event, KEY_UPDATE_NOT_REQUESTED, KEY_UPDATE_REQUESTED, PostHandshake, PostHandshakeError};
pub use protect::CryptoError;
pub use seal::{SealError, Sealer};
pub use suite::{Aead, CipherSuite, KeyMaterial, ProtocolVersion, TrafficKeys};
