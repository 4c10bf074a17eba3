//! Handing a direction to the kernel: what comes out is what the RFCs say, from the given sequence number on, and every
//! refusal has its name.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod kernel_support;

use std::net::Shutdown;
use std::os::fd::AsFd;

use kernel_support::record::{Reference, read_record};
use kernel_support::{AEADS, VERSIONS, kernel_tls, keys, pattern, socket};
use nix::poll::PollFlags;
use sluice::ktls::install::{limit_transmit_payload, live_state};
use sluice::ktls::{Direction, InstallError, attach_ulp, install};
use sluice::record::{Aead, ProtocolVersion};

use Direction::{Receive, Transmit};
use ProtocolVersion::{Tls12, Tls13};

#[test]
fn transmit_direction_seals_from_its_sequence_number_on() {
    let Some(kernel) = kernel_tls() else { return };
    for (version, aead) in combinations() {
        let (sender, receiver) = socket::sending(&keys(version, aead, 1, 5));
        let payload = pattern(40_000);
        socket::send_all(&sender, &payload);
        let mut reference = Reference::new(keys(version, aead, 1, 5));
        let mut opened = Vec::new();
        while opened.len() < payload.len() {
            let record = reference.read(&receiver);
            assert_eq!(record.content_type, 23, "{version:?} {aead:?}");
            opened.extend(record.payload);
        }
        assert_eq!(opened, payload, "{version:?} {aead:?}");
        let state = live_state(sender.as_fd(), Transmit, version, aead).unwrap();
        assert_eq!(state.sequence, reference.sequence(), "{version:?} {aead:?}");
    }
    assert!(kernel.grown("TlsTxSw") >= 6, "the kernel sealed");
}

#[test]
fn transmit_direction_in_tls12_gcm_continues_the_explicit_nonce() {
    let Some(_kernel) = kernel_tls() else { return };
    let (sender, receiver) = socket::sending(&keys(Tls12, Aead::Aes128Gcm, 1, 9));
    let first = u64::from_be_bytes(keys(Tls12, Aead::Aes128Gcm, 1, 9).iv[4..].try_into().unwrap());
    for nth in 0..3 {
        socket::send_all(&sender, b"record");
        let explicit_nonce = u64::from_be_bytes(read_record(&receiver)[5..13].try_into().unwrap());
        assert_eq!(explicit_nonce, first + nth);
    }
    let state = live_state(sender.as_fd(), Transmit, Tls12, Aead::Aes128Gcm).unwrap();
    assert_eq!(state.sequence, 12);
    assert_eq!(state.iv[..4], keys(Tls12, Aead::Aes128Gcm, 1, 9).iv[..4]);
    assert_eq!(u64::from_be_bytes(state.iv[4..].try_into().unwrap()), first + 3);
}

#[test]
fn receive_direction_opens_what_came_before_and_after_it_was_installed() {
    let Some(kernel) = kernel_tls() else { return };
    for (version, aead) in combinations() {
        let (sender, receiver) = socket::pair();
        let mut reference = Reference::new(keys(version, aead, 2, 7));
        let payload = pattern(30_000);
        let (before, after) = payload.split_at(20_000);
        before.chunks(9_000).for_each(|part| socket::send_all(&sender, &reference.seal(23, part)));
        socket::await_readable(&receiver);
        attach_ulp(receiver.as_fd()).unwrap();
        install(receiver.as_fd(), Receive, &keys(version, aead, 2, 7)).unwrap();
        socket::send_all(&sender, &reference.seal_padded(23, after, 100));
        assert_eq!(socket::receive_data(&receiver, payload.len()), payload, "{version:?} {aead:?}");
        let state = live_state(receiver.as_fd(), Receive, version, aead).unwrap();
        assert_eq!(state.sequence, reference.sequence(), "{version:?} {aead:?}");
    }
    assert!(kernel.grown("TlsRxSw") >= 6, "the kernel opened");
    assert_eq!(kernel.grown("TlsDecryptError"), 0);
}

#[test]
fn both_directions_of_one_socket_work_at_once() {
    let Some(_kernel) = kernel_tls() else { return };
    let (peer, socket) = socket::receiving(&keys(Tls13, Aead::Aes256Gcm, 1, 0));
    install(socket.as_fd(), Transmit, &keys(Tls13, Aead::Aes256Gcm, 2, 3)).unwrap();
    let mut to_socket = Reference::new(keys(Tls13, Aead::Aes256Gcm, 1, 0));
    let mut from_socket = Reference::new(keys(Tls13, Aead::Aes256Gcm, 2, 3));
    socket::send_all(&peer, &to_socket.seal(23, b"request"));
    assert_eq!(socket::receive_data(&socket, 7), b"request");
    socket::send_all(&socket, b"response");
    assert_eq!(from_socket.read(&peer).payload, b"response");
}

#[test]
fn attached_connection_without_keys_passes_bytes_through() {
    let Some(_kernel) = kernel_tls() else { return };
    let (sender, receiver) = socket::pair();
    attach_ulp(sender.as_fd()).unwrap();
    attach_ulp(receiver.as_fd()).unwrap();
    socket::send_all(&sender, b"as it is");
    assert_eq!(socket::read_exactly(&receiver, 8), b"as it is");
}

#[test]
fn attach_twice_is_refused_and_changes_nothing() {
    let Some(_kernel) = kernel_tls() else { return };
    let (sender, _receiver) = socket::pair();
    attach_ulp(sender.as_fd()).unwrap();
    assert!(matches!(attach_ulp(sender.as_fd()), Err(InstallError::AlreadyAttached)));
    install(sender.as_fd(), Transmit, &keys(Tls13, Aead::Aes128Gcm, 1, 0)).unwrap();
}

#[test]
fn attach_after_the_peer_ended_its_side_is_refused() {
    let Some(_kernel) = kernel_tls() else { return };
    let (sender, receiver) = socket::pair();
    sender.shutdown(Shutdown::Write).unwrap();
    socket::await_readable(&receiver);
    assert!(matches!(attach_ulp(receiver.as_fd()), Err(InstallError::NotEstablished)));
}

/// The state of the connection is checked when kernel TLS is attached, and not again for the keys.
#[test]
fn keys_after_the_peer_ended_its_side_are_accepted_when_attached_before() {
    let Some(_kernel) = kernel_tls() else { return };
    let (peer, socket) = socket::pair();
    attach_ulp(socket.as_fd()).unwrap();
    let mut to_socket = Reference::new(keys(Tls13, Aead::Aes128Gcm, 1, 0));
    let mut from_socket = Reference::new(keys(Tls13, Aead::Aes128Gcm, 2, 0));
    socket::send_all(&peer, &to_socket.seal(23, b"last request"));
    peer.shutdown(Shutdown::Write).unwrap();
    assert!(
        socket::becomes(&socket, PollFlags::from_bits_retain(libc::POLLRDHUP), socket::DEADLINE),
        "the end arrived"
    );
    install(socket.as_fd(), Receive, &keys(Tls13, Aead::Aes128Gcm, 1, 0)).unwrap();
    install(socket.as_fd(), Transmit, &keys(Tls13, Aead::Aes128Gcm, 2, 0)).unwrap();
    assert_eq!(socket::receive_data(&socket, 12), b"last request");
    socket::send_all(&socket, b"last response");
    assert_eq!(from_socket.read(&peer).payload, b"last response");
}

#[test]
fn keys_without_attaching_first_are_refused() {
    let Some(_kernel) = kernel_tls() else { return };
    let (sender, _receiver) = socket::pair();
    let refused = install(sender.as_fd(), Transmit, &keys(Tls13, Aead::Aes128Gcm, 1, 0));
    assert!(matches!(refused, Err(InstallError::NotAttached)), "{refused:?}");
}

#[test]
fn keys_of_another_suite_than_the_other_direction_are_refused_and_leave_it_as_it_was() {
    let Some(_kernel) = kernel_tls() else { return };
    let (peer, socket) = socket::receiving(&keys(Tls13, Aead::Aes128Gcm, 1, 0));
    let refused = install(socket.as_fd(), Transmit, &keys(Tls13, Aead::Aes256Gcm, 1, 0));
    assert!(matches!(refused, Err(InstallError::Suite { .. })), "{refused:?}");
    socket::send_all(&socket, b"plain");
    assert_eq!(socket::read_exactly(&peer, 5), b"plain");
}

#[test]
fn keys_are_replaced_in_tls13_exactly_where_the_kernel_can() {
    let Some(kernel) = kernel_tls() else { return };
    let can_rekey = kernel_support::kernel_version() >= (6, 14);
    let (sender, receiver) = socket::sending(&keys(Tls13, Aead::Aes128Gcm, 1, 0));
    socket::send_all(&sender, b"old keys");
    let replaced = install(sender.as_fd(), Transmit, &keys(Tls13, Aead::Aes128Gcm, 2, 0));
    socket::send_all(&sender, b"and then");
    assert_eq!(Reference::new(keys(Tls13, Aead::Aes128Gcm, 1, 0)).read(&receiver).payload, b"old keys");
    if can_rekey {
        replaced.unwrap();
        assert_eq!(Reference::new(keys(Tls13, Aead::Aes128Gcm, 2, 0)).read(&receiver).payload, b"and then");
        assert_eq!(kernel.grown("TlsTxRekeyOk"), 1);
    } else {
        assert!(matches!(replaced, Err(InstallError::RekeyUnsupported)), "{replaced:?}");
        assert_eq!(Reference::new(keys(Tls13, Aead::Aes128Gcm, 1, 1)).read(&receiver).payload, b"and then");
    }
}

#[test]
fn keys_are_never_replaced_in_tls12() {
    let Some(_kernel) = kernel_tls() else { return };
    let (sender, _receiver) = socket::sending(&keys(Tls12, Aead::Aes128Gcm, 1, 0));
    let replaced = install(sender.as_fd(), Transmit, &keys(Tls12, Aead::Aes128Gcm, 2, 0));
    assert!(matches!(replaced, Err(InstallError::RekeyUnsupported)), "{replaced:?}");
}

#[test]
fn payload_limit_is_kept_exactly_where_the_kernel_can() {
    let Some(_kernel) = kernel_tls() else { return };
    for version in VERSIONS {
        let (sender, receiver) = socket::sending(&keys(version, Aead::Aes128Gcm, 1, 0));
        let limited = limit_transmit_payload(sender.as_fd(), 512);
        if kernel_support::kernel_version() < (6, 19) {
            let Err(InstallError::Other(error)) = limited else { panic!("{limited:?}") };
            assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT));
            continue;
        }
        limited.unwrap();
        socket::send_all(&sender, &pattern(1500));
        let mut reference = Reference::new(keys(version, Aead::Aes128Gcm, 1, 0));
        let lengths = [0; 3].map(|_| reference.read(&receiver).payload.len());
        assert_eq!(lengths, [512, 512, 476], "{version:?}");
    }
}

fn combinations() -> impl Iterator<Item = (ProtocolVersion, Aead)> {
    VERSIONS.into_iter().flat_map(|version| AEADS.map(|aead| (version, aead)))
}
