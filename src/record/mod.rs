//! Record protection in userspace: TLS 1.2 and 1.3 records with AEAD suites.

mod suite;

pub use suite::{Aead, CipherSuite, KeyMaterial, ProtocolVersion, TrafficKeys};
