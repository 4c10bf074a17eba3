//! What the process was started with beside its command line: sockets of a predecessor (an upgrade), or of systemd (socket
//! activation, and the descriptor store that outlives a restart).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::sys::socket::{SockType, SockaddrStorage, getsockname, getsockopt, sockopt};
use zeroize::Zeroizing;

use super::handover::{self, HandoverError};
use crate::admin;
use crate::sys::handover::take_inherited;
use crate::sys::socket;

/// The variable that tells a successor under which number it has the channel to its predecessor.
pub(super) const CHANNEL_VARIABLE: &str = "SLUICE_UPGRADE_CHANNEL";

/// What was inherited and nobody has taken yet.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    listeners: Vec<(SocketAddr, OwnedFd)>,
    admin: Option<(String, OwnedFd)>,
    ring: Option<Zeroizing<Vec<u8>>>,
    channel: Option<OwnedFd>,
}

/// Why what was inherited cannot be used; nothing is served then.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// Whoever started the process: the variable names no such channel.
    #[error("{CHANNEL_VARIABLE}={value:?} is not the channel of an upgrade: unset it")]
    Channel {
        /// The value.
        value: String,
    },
    /// The predecessor.
    #[error("upgrade: {0}")]
    Handover(#[from] HandoverError),
    /// systemd, or whoever set its variables.
    #[error("sockets of systemd ($LISTEN_FDS): {0}")]
    Systemd(io::Error),
}

impl Inherited {
    /// Takes what the environment tells of. Blocks until a predecessor has handed everything over.
    pub(super) fn take() -> Result<Self, InheritError> {
        let mut inherited = match std::env::var(CHANNEL_VARIABLE) {
            Ok(value) => Self::from_predecessor(&value)?,
            Err(_) => Self::default(),
        };
        for number in sd_notify::listen_fds().map_err(InheritError::Systemd)? {
            inherited.take_activated(number)?;
        }
        Ok(inherited)
    }

    fn from_predecessor(value: &str) -> Result<Self, InheritError> {
        let channel = channel(value).ok_or_else(|| InheritError::Channel { value: value.to_owned() })?;
        let handover = handover::receive(&channel)?;
        let listeners = handover.listeners.into_iter();
        let listeners =
            listeners.flat_map(|(address, sockets)| sockets.into_iter().map(move |socket| (address, socket)));
        Ok(Self { listeners: listeners.collect(), admin: handover.admin, ring: handover.ring, channel: Some(channel) })
    }

    fn take_activated(&mut self, number: RawFd) -> Result<(), InheritError> {
        let socket = take_inherited(number).map_err(InheritError::Systemd)?;
        match socket::take_listener(&socket) {
            Ok(address) => self.listeners.push((address, socket)),
            Err(error) => {
                tracing::warn!(%error, number, "a descriptor of systemd is no listening TCP socket: left alone")
            }
        }
        Ok(())
    }

    /// The sockets that listen on `address`, in the order of the predecessor.
    pub(super) fn take_listeners(&mut self, address: SocketAddr) -> Vec<OwnedFd> {
        let taken = self.listeners.extract_if(.., |(other, _)| *other == address);
        taken.map(|(_, socket)| socket).collect()
    }

    /// The socket of the admin endpoint, if it listens on `address`.
    pub(super) fn take_admin(&mut self, address: Option<&admin::Address>) -> Option<OwnedFd> {
        let address = address?.to_string();
        self.admin.take_if(|(other, _)| *other == address).map(|(_, socket)| socket)
    }

    /// The ticket ring of the predecessor, as a ring file has it.
    pub(super) fn take_ring(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        self.ring.take()
    }

    /// Closes what nobody took, and gives the channel on which the predecessor waits for word that this process serves.
    pub(super) fn finish(self) -> Option<OwnedFd> {
        let mut addresses: Vec<_> = self.listeners.iter().map(|(address, _)| *address).collect();
        addresses.dedup();
        for address in addresses {
            tracing::warn!(%address, "an inherited socket is closed: no listener has this address");
        }
        self.channel
    }
}

/// The channel under the number that a variable tells, if it is one.
fn channel(value: &str) -> Option<OwnedFd> {
    let channel = take_inherited(value.parse().ok()?).ok()?;
    let is_channel = getsockopt(&channel, sockopt::SockType).is_ok_and(|kind| kind == SockType::SeqPacket)
        && getsockname::<SockaddrStorage>(channel.as_raw_fd()).is_ok_and(|name| name.as_unix_addr().is_some());
    if is_channel {
        return Some(channel);
    }
    // Whatever it is, it is not ours to close.
    let _ = std::os::fd::IntoRawFd::into_raw_fd(channel);
    None
}
