//! Session tickets: the key ring.
