//! The client: sockets on io_uring readiness, OpenSSL over memory, HTTP/1.1, pacing and counting.

pub mod client_tls;
pub mod connection;
pub mod exchange;
pub mod http;
pub mod kernel_tls;
pub mod pace;
pub mod probe;
pub mod runtime;
pub mod socket;
pub mod tally;
pub mod worker;
