//! System calls and OpenSSL functions that have no safe wrapper: the only unsafe code of the crate.

pub mod allocator;
pub mod certificate;
pub mod cmsg;
pub mod compression;
pub mod handover;
pub mod kdf;
pub mod openssl_ext;
#[cfg(feature = "vendored-openssl")]
pub mod provider;
pub mod signal;
pub mod socket;
pub mod splice;
pub mod ssl;
pub mod tls_ulp;
pub mod wiped;
