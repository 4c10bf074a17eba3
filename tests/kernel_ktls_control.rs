//! Records other than application data, faults and ends on directions that the kernel protects.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod kernel_support;

use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use kernel_support::record::{Opened, Reference};
use kernel_support::{VERSIONS, kernel_tls, kernel_version, keys, pattern, socket};
use nix::poll::PollFlags;
use sluice::ktls::control::{self, KeyUpdateRequest, Received, RecordFault, Sent, content_type};
use sluice::ktls::{Direction, InstallError, install};
use sluice::record::{Aead, ProtocolVersion};
use sluice::record::{Alert, AlertDescription};

use ProtocolVersion::{Tls12, Tls13};
use content_type::{ALERT, APPLICATION_DATA, HANDSHAKE};

const AEAD: Aead = Aead::Aes128Gcm;
const CLOSE_NOTIFY: [u8; 2] = [1, 0];
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
/// How long a socket has to stay silent to count as silent.
const SILENCE: Duration = Duration::from_millis(500);

/// A socket with both directions in the kernel, and its peer's record layer.
struct Promoted {
    socket: TcpStream,
    peer: TcpStream,
    to_socket: Reference,
    from_socket: Reference,
}

impl Promoted {
    fn new(version: ProtocolVersion) -> Self {
        let (peer, socket) = socket::receiving(&keys(version, AEAD, 1, 0));
        install(socket.as_fd(), Direction::Transmit, &keys(version, AEAD, 2, 0)).unwrap();
        let to_socket = Reference::new(keys(version, AEAD, 1, 0));
        Self { socket, peer, to_socket, from_socket: Reference::new(keys(version, AEAD, 2, 0)) }
    }

    fn peer_sends(&mut self, content_type: u8, payload: &[u8]) {
        socket::send_all(&self.peer, &self.to_socket.seal(content_type, payload));
    }

    fn receives(&self) -> Received {
        socket::receive(&self.socket, &mut [0; 1024])
    }

    fn receives_now(&self) -> Received {
        control::receive(self.socket.as_fd(), &mut [0; 1024]).unwrap()
    }

    fn peer_reads(&mut self) -> Opened {
        self.from_socket.read(&self.peer)
    }
}

fn whole(content_type: u8, len: usize) -> Received {
    Received::Control { content_type, len, end_of_record: true }
}

#[test]
fn control_record_between_data_is_received_alone_and_in_order() {
    let Some(kernel) = kernel_tls() else { return };
    for version in VERSIONS {
        let mut promoted = Promoted::new(version);
        for (content_type, payload) in [(23, &b"one"[..]), (23, b"two"), (21, &[1, 90]), (22, &[0; 4]), (23, b"three")]
        {
            promoted.peer_sends(content_type, payload);
        }
        assert_eq!(socket::receive_data(&promoted.socket, 6), b"onetwo", "{version:?}");
        assert_eq!(promoted.receives(), whole(ALERT, 2), "{version:?}");
        assert_eq!(promoted.receives(), whole(HANDSHAKE, 4), "{version:?}");
        assert_eq!(promoted.receives(), Received::Data(5), "{version:?}");
    }
    assert!(kernel.grown("TlsRxSw") >= 2);
}

#[test]
fn control_record_larger_than_the_buffer_comes_in_parts() {
    let Some(_kernel) = kernel_tls() else { return };
    let mut promoted = Promoted::new(Tls13);
    let message = pattern(1000);
    promoted.peer_sends(HANDSHAKE, &message);
    let (mut bytes, mut buffer) = (Vec::new(), [0; 400]);
    loop {
        let Received::Control { content_type: HANDSHAKE, len, .. } = socket::receive(&promoted.socket, &mut buffer)
        else {
            panic!("a part of the handshake message after {} bytes", bytes.len());
        };
        bytes.extend_from_slice(&buffer[..len]);
        if bytes.len() == message.len() {
            break;
        }
    }
    assert_eq!(bytes, message);
}

#[test]
fn part_of_a_record_does_not_make_the_socket_readable() {
    let Some(_kernel) = kernel_tls() else { return };
    for version in VERSIONS {
        let mut promoted = Promoted::new(version);
        let record = promoted.to_socket.seal(APPLICATION_DATA, b"whole");
        let (most, last) = record.split_at(record.len() - 1);
        socket::send_all(&promoted.peer, most);
        assert!(!socket::becomes(&promoted.socket, PollFlags::POLLIN, SILENCE), "{version:?}");
        assert_eq!(promoted.receives_now(), Received::WouldBlock, "{version:?}");
        socket::send_all(&promoted.peer, last);
        assert_eq!(promoted.receives(), Received::Data(5), "{version:?}");
    }
}

#[test]
fn control_record_met_by_a_plain_read_is_not_lost() {
    let Some(_kernel) = kernel_tls() else { return };
    let mut promoted = Promoted::new(Tls13);
    promoted.peer_sends(ALERT, &CLOSE_NOTIFY);
    socket::await_readable(&promoted.socket);
    let error = (&promoted.socket).read(&mut [0; 100]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert_eq!(promoted.receives(), whole(ALERT, 2));
}

#[test]
fn sent_control_records_keep_their_place_between_data() {
    let Some(_kernel) = kernel_tls() else { return };
    for version in VERSIONS {
        let mut promoted = Promoted::new(version);
        socket::send_all(&promoted.socket, b"before");
        assert_eq!(
            control::send_alert(promoted.socket.as_fd(), Alert::fatal(AlertDescription::HandshakeFailure)).unwrap(),
            Sent::Done
        );
        socket::send_all(&promoted.socket, b"after");
        assert_eq!(control::send_alert(promoted.socket.as_fd(), Alert::CLOSE_NOTIFY).unwrap(), Sent::Done);
        let record = |content_type, payload: &[u8]| Opened { content_type, payload: payload.to_vec() };
        assert_eq!(promoted.peer_reads(), record(APPLICATION_DATA, b"before"), "{version:?}");
        assert_eq!(promoted.peer_reads(), record(ALERT, &[2, 40]), "{version:?}");
        assert_eq!(promoted.peer_reads(), record(APPLICATION_DATA, b"after"), "{version:?}");
        assert_eq!(promoted.peer_reads(), record(ALERT, &CLOSE_NOTIFY), "{version:?}");
    }
}

#[test]
fn sent_key_update_is_the_handshake_message() {
    let Some(_kernel) = kernel_tls() else { return };
    let mut promoted = Promoted::new(Tls13);
    let sent = control::send_key_update(promoted.socket.as_fd(), KeyUpdateRequest::Requested).unwrap();
    assert_eq!(sent, Sent::Done);
    assert_eq!(promoted.peer_reads(), Opened { content_type: HANDSHAKE, payload: vec![24, 0, 0, 1, 1] });
}

#[test]
fn sending_into_a_full_buffer_would_block_and_sends_nothing() {
    let Some(_kernel) = kernel_tls() else { return };
    let mut promoted = Promoted::new(Tls13);
    socket2::SockRef::from(&promoted.socket).set_send_buffer_size(64 * 1024).unwrap();
    let sent = socket::stuff(&promoted.socket).len();
    assert_eq!(control::send_alert(promoted.socket.as_fd(), Alert::CLOSE_NOTIFY).unwrap(), Sent::WouldBlock);
    let mut got = 0;
    while got < sent {
        let record = promoted.peer_reads();
        assert_eq!(record.content_type, APPLICATION_DATA);
        got += record.payload.len();
    }
    assert!(!socket::becomes(&promoted.peer, PollFlags::POLLIN, SILENCE), "nothing but the data");
}

/// RFC 8446 section 5.1 allows records of application data without content.
#[test]
fn empty_record_is_not_the_end() {
    let Some(_kernel) = kernel_tls() else { return };
    for version in VERSIONS {
        let mut promoted = Promoted::new(version);
        promoted.peer_sends(APPLICATION_DATA, b"");
        socket::await_readable(&promoted.socket);
        assert!(matches!(promoted.receives_now(), Received::WouldBlock | Received::Data(0)), "{version:?}");
        promoted.peer_sends(APPLICATION_DATA, b"");
        promoted.peer_sends(APPLICATION_DATA, b"data");
        assert_eq!(socket::receive_data(&promoted.socket, 4), b"data", "{version:?}");
    }
}

/// Only close_notify tells a truncation apart.
#[test]
fn end_in_mid_record_looks_like_any_other_end() {
    let Some(_kernel) = kernel_tls() else { return };
    let mut promoted = Promoted::new(Tls13);
    let record = promoted.to_socket.seal(APPLICATION_DATA, b"never whole");
    socket::send_all(&promoted.peer, &record[..record.len() - 1]);
    promoted.peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(promoted.receives(), Received::Eof);
}

#[test]
fn reset_in_mid_record_is_an_error_and_not_an_end() {
    let Some(_kernel) = kernel_tls() else { return };
    let mut promoted = Promoted::new(Tls13);
    let record = promoted.to_socket.seal(APPLICATION_DATA, b"never whole");
    socket::send_all(&promoted.peer, &record[..10]);
    socket2::SockRef::from(&promoted.peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(promoted.peer);
    socket::await_readable(&promoted.socket);
    let receive = || control::receive(promoted.socket.as_fd(), &mut [0; 100]);
    assert_eq!(receive().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(receive().unwrap(), Received::Eof, "whoever reads next sees an end");
}

/// What did not authenticate stays: every read decrypts it again. Sending fails until the pending error is taken.
#[test]
fn record_that_does_not_authenticate_blocks_sending_until_its_error_is_taken() {
    let Some(kernel) = kernel_tls() else { return };
    for version in VERSIONS {
        let mut promoted = Promoted::new(version);
        let mut record = promoted.to_socket.seal(APPLICATION_DATA, b"forged");
        *record.last_mut().unwrap() ^= 1;
        socket::send_all(&promoted.peer, &record);
        assert_eq!(promoted.receives(), Received::Fault(RecordFault::BadRecordMac), "{version:?}");
        assert_eq!(promoted.receives_now(), Received::Fault(RecordFault::BadRecordMac), "{version:?}");
        let error =
            control::send_alert(promoted.socket.as_fd(), Alert::fatal(AlertDescription::BadRecordMac)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADMSG), "{version:?}");
        let sent = control::send_fault_alert(promoted.socket.as_fd(), RecordFault::BadRecordMac).unwrap();
        assert_eq!(sent, Sent::Done, "{version:?}");
        assert_eq!(promoted.peer_reads(), Opened { content_type: ALERT, payload: vec![2, 20] }, "{version:?}");
    }
    assert_eq!(kernel.grown("TlsDecryptError"), 4);
}

/// The error goes to the first who reads; afterwards the socket is silent, although more records arrived.
#[test]
fn record_with_a_bad_header_is_reported_once_and_silences_the_socket() {
    let Some(_kernel) = kernel_tls() else { return };
    let overflow: fn(&mut Vec<u8>) = |record| record[3..5].copy_from_slice(&0x4150_u16.to_be_bytes());
    let version_1_0: fn(&mut Vec<u8>) = |record| record[2] = 1;
    let faults = [(overflow, RecordFault::RecordOverflow), (version_1_0, RecordFault::ProtocolVersion)];
    for (version, (spoil, fault)) in VERSIONS.into_iter().flat_map(|version| faults.map(|fault| (version, fault))) {
        let mut promoted = Promoted::new(version);
        let mut record = promoted.to_socket.seal(APPLICATION_DATA, b"spoiled header");
        spoil(&mut record);
        socket::send_all(&promoted.peer, &record);
        promoted.peer_sends(APPLICATION_DATA, b"next");
        assert_eq!(promoted.receives(), Received::Fault(fault), "{version:?}");
        assert_eq!(promoted.receives_now(), Received::WouldBlock, "{version:?} {fault:?}");
        assert!(!socket::becomes(&promoted.socket, PollFlags::POLLIN, SILENCE), "{version:?} {fault:?}");
        assert_eq!(control::send_fault_alert(promoted.socket.as_fd(), fault).unwrap(), Sent::Done);
        let alert = Opened { content_type: ALERT, payload: vec![2, fault.alert().code()] };
        assert_eq!(promoted.peer_reads(), alert, "{version:?}");
    }
}

#[test]
fn key_update_received_pauses_reading_until_the_new_keys_where_the_kernel_can_re_key() {
    let Some(kernel) = kernel_tls() else { return };
    let mut promoted = Promoted::new(Tls13);
    promoted.peer_sends(HANDSHAKE, &KEY_UPDATE);
    promoted.to_socket = Reference::new(keys(Tls13, AEAD, 3, 0));
    promoted.peer_sends(APPLICATION_DATA, b"under the new keys");
    assert_eq!(promoted.receives(), whole(HANDSHAKE, 5));
    if kernel_version() < (6, 14) {
        // The kernel goes on with the old keys: the connection has to end before the next record is read.
        assert_eq!(promoted.receives(), Received::Fault(RecordFault::BadRecordMac));
        let refused = install(promoted.socket.as_fd(), Direction::Receive, &keys(Tls13, AEAD, 3, 0));
        assert!(matches!(refused, Err(InstallError::RekeyUnsupported)), "{refused:?}");
        return;
    }
    assert!(!socket::becomes(&promoted.socket, PollFlags::POLLIN, SILENCE), "not readable without keys");
    assert_eq!(promoted.receives_now(), Received::KeyExpired);
    install(promoted.socket.as_fd(), Direction::Receive, &keys(Tls13, AEAD, 3, 0)).unwrap();
    assert_eq!(socket::receive_data(&promoted.socket, 18), b"under the new keys");
    assert_eq!((kernel.grown("TlsRxRekeyReceived"), kernel.grown("TlsRxRekeyOk")), (1, 1));
}

#[test]
fn key_update_behind_data_in_one_read_is_there_but_not_readable_where_the_kernel_can_re_key() {
    let Some(_kernel) = kernel_tls() else { return };
    let mut promoted = Promoted::new(Tls13);
    let data = promoted.to_socket.seal(APPLICATION_DATA, b"data");
    let key_update = promoted.to_socket.seal(HANDSHAKE, &KEY_UPDATE);
    socket::send_all(&promoted.peer, &[data, key_update].concat());
    // The read that takes the data meets the KeyUpdate.
    assert_eq!(promoted.receives(), Received::Data(4));
    let is_readable = socket::becomes(&promoted.socket, PollFlags::POLLIN, SILENCE);
    assert_eq!(is_readable, kernel_version() < (6, 14), "the KeyUpdate shows");
    assert_eq!(promoted.receives_now(), whole(HANDSHAKE, 5));
}

#[test]
fn key_update_sent_switches_keys_without_a_gap_where_the_kernel_can_re_key() {
    let Some(kernel) = kernel_tls() else { return };
    if kernel_version() < (6, 14) {
        assert!(!sluice::ktls::probe().can_rekey(Tls13, Direction::Transmit));
        return;
    }
    let mut promoted = Promoted::new(Tls13);
    socket::send_all(&promoted.socket, b"old");
    let sent = control::send_key_update(promoted.socket.as_fd(), KeyUpdateRequest::NotRequested).unwrap();
    assert_eq!(sent, Sent::Done);
    install(promoted.socket.as_fd(), Direction::Transmit, &keys(Tls13, AEAD, 4, 0)).unwrap();
    socket::send_all(&promoted.socket, b"new");
    assert_eq!(promoted.peer_reads().payload, b"old");
    assert_eq!(promoted.peer_reads().payload, KEY_UPDATE);
    promoted.from_socket = Reference::new(keys(Tls13, AEAD, 4, 0));
    assert_eq!(promoted.peer_reads().payload, b"new");
    assert_eq!(kernel.grown("TlsTxRekeyOk"), 1);
}

#[test]
fn renegotiation_request_in_tls12_is_a_handshake_record() {
    let Some(_kernel) = kernel_tls() else { return };
    let mut promoted = Promoted::new(Tls12);
    promoted.peer_sends(HANDSHAKE, &[1, 0, 0, 0]);
    assert_eq!(promoted.receives(), whole(HANDSHAKE, 4));
    // no_renegotiation
    assert_eq!(
        control::send_alert(promoted.socket.as_fd(), Alert::warning(AlertDescription::NoRenegotiation)).unwrap(),
        Sent::Done
    );
    assert_eq!(promoted.peer_reads(), Opened { content_type: ALERT, payload: vec![1, 100] });
}
