//! The handshake and what it is configured with.
