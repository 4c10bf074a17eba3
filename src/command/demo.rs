//! `sluice demo`: try it without a configuration.

use std::net::SocketAddr;

/// The options of `sluice demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    pub listen: SocketAddr,
    /// Check itself through the socket, then exit
    #[arg(long)]
    pub once: bool,
}
