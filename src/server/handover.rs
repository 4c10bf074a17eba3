//! What one process hands over to its successor, and how it travels: over a pair of connected unix sockets, of which the
//! successor inherits one end. Sockets go as descriptors, the ticket ring as bytes of a message; nothing of it is ever in
//! the environment or on a command line.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::SockRef;
use zeroize::Zeroizing;

use crate::sys::handover::{self, DESCRIPTORS_PER_MESSAGE_MAX};

/// Everything that is handed over.
#[derive(Debug, Default)]
pub(super) struct Handover {
    /// The listening sockets of each address, in the order in which they were bound: the kernel spreads connections over
    /// them by their places.
    pub(super) listeners: Vec<(SocketAddr, Vec<OwnedFd>)>,
    /// The listening socket of the admin endpoint, with its address as the configuration spells it.
    pub(super) admin: Option<(String, OwnedFd)>,
    /// The ticket ring, where it is in memory only.
    pub(super) ring: Option<Zeroizing<Vec<u8>>>,
}

/// The first message.
#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    listeners: Vec<(SocketAddr, usize)>,
    admin: Option<String>,
    has_ring: bool,
}

/// Why nothing was handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The machine, or the other process has gone.
    #[error("the channel to the other process: {0}")]
    Io(#[from] io::Error),
    /// The other process ended, or gave up.
    #[error("the other process closed the channel early")]
    Closed,
    /// The other version of Sluice speaks another format.
    #[error("the other process speaks format {found} of the handover, this one {FORMAT}: restart instead")]
    Format {
        /// What it speaks.
        found: u32,
    },
    /// A bug, or something else than Sluice on the other end.
    #[error("the other process sent what nobody understands")]
    Malformed,
}

/// The format of the messages; another one is refused.
const FORMAT: u32 = 1;
/// How long one message may take: the other end does nothing else meanwhile.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest message: a header with every listener that a configuration may have.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// What the successor says when it serves.
const READY: &[u8] = b"ready";

/// Sends everything. Blocks.
pub(super) fn send(channel: &OwnedFd, handover: &Handover) -> Result<(), HandoverError> {
    SockRef::from(channel).set_write_timeout(Some(MESSAGE_TIMEOUT))?;
    let header = Header {
        format: FORMAT,
        listeners: handover.listeners.iter().map(|(address, sockets)| (*address, sockets.len())).collect(),
        admin: handover.admin.as_ref().map(|(address, _)| address.clone()),
        has_ring: handover.ring.is_some(),
    };
    let header = serde_json::to_vec(&header).map_err(|_| HandoverError::Malformed)?;
    handover::send(channel.as_fd(), &header, &[])?;
    let listening = handover.listeners.iter().flat_map(|(_, sockets)| sockets);
    let descriptors: Vec<BorrowedFd<'_>> =
        listening.chain(handover.admin.as_ref().map(|(_, socket)| socket)).map(AsFd::as_fd).collect();
    for batch in descriptors.chunks(DESCRIPTORS_PER_MESSAGE_MAX) {
        handover::send(channel.as_fd(), b"sockets", batch)?;
    }
    if let Some(ring) = &handover.ring {
        handover::send(channel.as_fd(), ring, &[])?;
    }
    Ok(())
}

/// Receives everything. Blocks.
pub(super) fn receive(channel: &OwnedFd) -> Result<Handover, HandoverError> {
    SockRef::from(channel).set_read_timeout(Some(MESSAGE_TIMEOUT))?;
    let mut buffer = Zeroizing::new(vec![0; MESSAGE_BYTES_MAX]);
    let len = receive_some(channel, &mut buffer)?.0;
    // The format first: what else another one says is not ours to judge.
    let format = serde_json::from_slice::<serde_json::Value>(&buffer[..len]).map_err(|_| HandoverError::Malformed)?;
    match format["format"].as_u64() {
        Some(found) if found == u64::from(FORMAT) => {}
        Some(found) => return Err(HandoverError::Format { found: u32::try_from(found).unwrap_or(u32::MAX) }),
        None => return Err(HandoverError::Malformed),
    }
    let header: Header = serde_json::from_slice(&buffer[..len]).map_err(|_| HandoverError::Malformed)?;

    let wanted = header.listeners.iter().map(|(_, count)| count).sum::<usize>() + usize::from(header.admin.is_some());
    let mut descriptors = Vec::new();
    while descriptors.len() < wanted {
        let (_, batch) = receive_some(channel, &mut buffer)?;
        if batch.is_empty() {
            return Err(HandoverError::Malformed);
        }
        descriptors.extend(batch);
    }
    let mut descriptors = descriptors.into_iter();
    let listeners = header
        .listeners
        .iter()
        .map(|(address, count)| (*address, descriptors.by_ref().take(*count).collect()))
        .collect();
    let admin = header.admin.and_then(|address| Some((address, descriptors.next()?)));
    let ring = if header.has_ring {
        let len = receive_some(channel, &mut buffer)?.0;
        Some(Zeroizing::new(buffer[..len].to_vec()))
    } else {
        None
    };
    Ok(Handover { listeners, admin, ring })
}

fn receive_some(channel: &OwnedFd, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), HandoverError> {
    match handover::receive(channel.as_fd(), buffer)? {
        (0, _) => Err(HandoverError::Closed),
        received => Ok(received),
    }
}

/// Tells the predecessor that this process serves, so that it can go.
pub(super) fn tell_ready(channel: &OwnedFd) -> Result<(), HandoverError> {
    Ok(handover::send(channel.as_fd(), READY, &[])?)
}

/// Waits until the successor serves, at most `timeout`. Blocks.
pub(super) fn wait_ready(channel: &OwnedFd, timeout: Duration) -> Result<(), HandoverError> {
    SockRef::from(channel).set_read_timeout(Some(timeout))?;
    let mut buffer = [0; 16];
    let (len, _) = receive_some(channel, &mut buffer)?;
    if &buffer[..len] == READY { Ok(()) } else { Err(HandoverError::Malformed) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
    }

    fn socket() -> (SocketAddr, OwnedFd) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        (listener.local_addr().unwrap(), listener.into())
    }

    #[test]
    fn everything_arrives_in_order_however_many_sockets_there_are() {
        let (near, far) = pair();
        let first: Vec<_> = (0..DESCRIPTORS_PER_MESSAGE_MAX + 5).map(|_| socket()).collect();
        let addresses: Vec<_> = first.iter().map(|(address, _)| *address).collect();
        let (second, admin) = (socket(), socket());
        let handover = Handover {
            listeners: vec![
                (addresses[0], first.into_iter().map(|(_, socket)| socket).collect()),
                (second.0, vec![second.1]),
            ],
            admin: Some(("unix:/admin".to_owned(), admin.1)),
            ring: Some(Zeroizing::new(b"secret".to_vec())),
        };
        let sender = std::thread::spawn(move || send(&near, &handover).map(|()| near));
        let received = receive(&far).unwrap();
        let near = sender.join().unwrap().unwrap();
        let bound: Vec<_> = received.listeners[0]
            .1
            .iter()
            .map(|socket| SockRef::from(socket).local_addr().unwrap().as_socket().unwrap())
            .collect();
        assert_eq!(bound, addresses);
        assert_eq!(received.listeners[1].1.len(), 1);
        assert_eq!(received.admin.unwrap().0, "unix:/admin");
        assert_eq!(received.ring.unwrap().as_slice(), b"secret");
        tell_ready(&far).unwrap();
        wait_ready(&near, Duration::from_secs(20)).unwrap();
    }

    #[test]
    fn other_format_is_refused_with_the_remedy() {
        let (near, far) = pair();
        handover::send(near.as_fd(), br#"{"format":2,"sockets":[]}"#, &[]).unwrap();
        let error = receive(&far).unwrap_err();
        assert!(error.to_string().ends_with("format 2 of the handover, this one 1: restart instead"), "{error}");
    }

    #[test]
    fn nonsense_and_an_early_end_are_errors() {
        for message in [&b"nonsense"[..], br#"{"format":1}"#, br#"{"format":1,"listeners":[["127.0.0.1:1",1]]}"#] {
            let (near, far) = pair();
            handover::send(near.as_fd(), message, &[]).unwrap();
            handover::send(near.as_fd(), b"no sockets", &[]).unwrap();
            assert!(matches!(receive(&far), Err(HandoverError::Malformed)));
        }
        let (near, far) = pair();
        drop(near);
        assert!(matches!(receive(&far), Err(HandoverError::Closed)));
        assert!(matches!(wait_ready(&far, Duration::from_secs(20)), Err(HandoverError::Closed)));
    }
}
