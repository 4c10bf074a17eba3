//! Which server a connection goes to.

use std::cell::Cell;

use super::AddressError;
use super::settings::{ServerAddress, Settings};
use socket2::SockAddr;

/// The servers of one backend as one worker sees them.
pub struct Servers {
    name: String,
    addresses: Vec<(ServerAddress, SockAddr)>,
    next: Cell<usize>,
}

impl Servers {
    /// Prepares the servers of a backend. `start` shifts the round robin, so that workers do not all begin with the
    /// same server.
    ///
    /// # Errors
    /// When the path of a unix socket is longer than the kernel allows (107 bytes).
    pub fn new(settings: &Settings, start: usize) -> Result<Self, AddressError> {
        let addresses = settings.servers.iter().map(|server| Ok((server.clone(), socket_address(server)?)));
        Ok(Self {
            name: settings.name.clone(),
            addresses: addresses.collect::<Result<_, AddressError>>()?,
            next: Cell::new(start),
        })
    }

    /// The name of the backend.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Every server once, in the order in which this connection tries them: round robin from one connection to the
    /// next.
    pub fn in_turn(&self) -> impl Iterator<Item = (&ServerAddress, &SockAddr)> {
        let count = self.addresses.len();
        let first = self.next.get() % count.max(1);
        self.next.set(first + 1);
        self.addresses.iter().cycle().skip(first).take(count).map(|(server, address)| (server, address))
    }
}

fn socket_address(server: &ServerAddress) -> Result<SockAddr, AddressError> {
    match server {
        ServerAddress::Tcp(address) => Ok((*address).into()),
        ServerAddress::Unix(path) => SockAddr::unix(path).map_err(|source| AddressError { path: path.clone(), source }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::*;
    use std::time::Duration;

    fn servers(addresses: &[&str], start: usize) -> Servers {
        let settings = Settings {
            name: "app".into(),
            servers: addresses.iter().map(|address| ServerAddress::Tcp(address.parse().unwrap())).collect(),
            connect_timeout: Duration::from_secs(1),
            proxy_protocol: None,
        };
        Servers::new(&settings, start).unwrap()
    }

    fn turn(servers: &Servers) -> Vec<String> {
        servers.in_turn().map(|(server, _)| server.to_string()).collect()
    }

    #[test]
    fn connections_take_turns_and_each_can_try_every_server() {
        let servers = servers(&["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"], 1);
        assert_eq!(turn(&servers), ["127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:1"]);
        assert_eq!(turn(&servers), ["127.0.0.1:3", "127.0.0.1:1", "127.0.0.1:2"]);
        assert_eq!(turn(&servers)[0], "127.0.0.1:1");
    }

    #[test]
    fn unix_path_that_is_too_long_is_refused() {
        let path = std::path::PathBuf::from("/".repeat(200));
        let settings = Settings {
            name: "app".into(),
            servers: vec![ServerAddress::Unix(path.clone())],
            connect_timeout: Duration::from_secs(1),
            proxy_protocol: None,
        };
        assert_eq!(Servers::new(&settings, 0).err().map(|error| error.path), Some(path));
    }
}
