//! System calls and OpenSSL functions that have no safe wrapper.

pub mod cmsg;
pub mod splice;
pub mod tls_ulp;
