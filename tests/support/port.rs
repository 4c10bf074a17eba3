//! Free ports that stay the test's own.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A port on 127.0.0.1 that the kernel gives to nobody else while this lives.
///
/// The socket is bound but does not listen: a server that sets SO_REUSEADDR (all do) can bind the same port, and until
/// it listens the kernel refuses connections.
pub(crate) struct Port {
    address: SocketAddr,
    _holder: Socket,
}

impl Port {
    /// Reserves a free port.
    pub(crate) fn reserve() -> Self {
        let holder = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None).unwrap();
        holder.set_reuse_address(true).unwrap();
        holder.set_reuse_port(true).unwrap();
        holder.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let address = holder.local_addr().unwrap().as_socket().unwrap();
        Self { address, _holder: holder }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}
