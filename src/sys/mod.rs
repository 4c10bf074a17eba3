//! System calls and OpenSSL functions that have no safe wrapper.

pub mod openssl_ext;
