//! Load harness for TLS termination proxies.
fn main() {}
