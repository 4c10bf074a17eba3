//! Ending the stream of a promoted direction whose send buffer is full: what is lost without care, and that the care
//! taken in `ktls::control` loses nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod kernel_support;

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::thread;

use kernel_support::record::{Opened, Reference};
use kernel_support::{VERSIONS, kernel_tls, keys, socket};
use sluice::ktls::control::{self, Sent};
use sluice::ktls::{Direction, attach_ulp, install};
use sluice::record::Alert;
use sluice::record::{Aead, ProtocolVersion};

use ProtocolVersion::Tls13;

const AEAD: Aead = Aead::Aes128Gcm;
const SMALL_BUFFER_BYTES: usize = 20_000;
/// The kernel doubles them and lets one segment exceed them: with most of them the buffer fills in mid-record.
const CUTTING_BUFFERS_BYTES: [usize; 4] = [SMALL_BUFFER_BYTES, 22_000, 25_000, 30_000];
const ROOMY_BUFFER_BYTES: usize = 256 * 1024;

/// A sender whose buffer is full of sealed records and stays so, its peer, and the plaintext that the sender took.
fn stuffed(version: ProtocolVersion, buffer_bytes: usize) -> (TcpStream, TcpStream, Vec<u8>) {
    let (sender, peer) = socket::pair();
    socket2::SockRef::from(&sender).set_send_buffer_size(buffer_bytes).unwrap();
    socket2::SockRef::from(&peer).set_recv_buffer_size(buffer_bytes).unwrap();
    attach_ulp(sender.as_fd()).unwrap();
    install(sender.as_fd(), Direction::Transmit, &keys(version, AEAD, 1, 0)).unwrap();
    let taken = socket::stuff(&sender);
    (sender, peer, taken)
}

/// Opens everything that the peer gets; what is left over is an incomplete record.
fn read_all(peer: &TcpStream, version: ProtocolVersion) -> (Vec<Opened>, usize) {
    let bytes = socket::read_to_end(peer);
    let (records, rest) = Reference::new(keys(version, AEAD, 1, 0)).open_all(&bytes);
    (records, rest.len())
}

fn data(records: &[Opened]) -> Vec<u8> {
    let data = records.iter().filter(|record| record.content_type == 23);
    data.map(|record| &record.payload[..]).collect::<Vec<_>>().concat()
}

#[test]
fn close_of_a_full_buffer_cuts_the_last_record() {
    let Some(_kernel) = kernel_tls() else { return };
    assert!(CUTTING_BUFFERS_BYTES.into_iter().any(|buffer_bytes| is_cut(buffer_bytes, drop)));
}

#[test]
fn shutdown_of_a_full_buffer_cuts_the_last_record() {
    let Some(_kernel) = kernel_tls() else { return };
    let shut_down = |sender: TcpStream| sender.shutdown(Shutdown::Write).unwrap();
    assert!(CUTTING_BUFFERS_BYTES.into_iter().any(|buffer_bytes| is_cut(buffer_bytes, shut_down)));
}

/// Whether ending the stream in this way lost a part of what the sender had taken.
fn is_cut(buffer_bytes: usize, end: fn(TcpStream)) -> bool {
    let (sender, peer, taken) = stuffed(Tls13, buffer_bytes);
    end(sender);
    let (records, incomplete_bytes) = read_all(&peer, Tls13);
    assert!(taken.starts_with(&data(&records)), "what arrives is what was sent");
    let lost_bytes = taken.len() - data(&records).len();
    assert!(incomplete_bytes == 0 || lost_bytes > 0, "a part of a record belongs to what is lost");
    lost_bytes > 0
}

#[test]
fn close_after_waiting_for_room_delivers_everything_and_close_notify() {
    let Some(kernel) = kernel_tls() else { return };
    for version in VERSIONS {
        for buffer_bytes in [SMALL_BUFFER_BYTES, ROOMY_BUFFER_BYTES] {
            let (sender, peer, taken) = stuffed(version, buffer_bytes);
            let reader = thread::spawn(move || read_all(&peer, version));
            socket::await_that("room for the close", || {
                socket::await_writable(&sender);
                control::has_room_for_close(sender.as_fd()).unwrap()
            });
            assert_eq!(control::send_alert(sender.as_fd(), Alert::CLOSE_NOTIFY).unwrap(), Sent::Done);
            sender.shutdown(Shutdown::Write).unwrap();
            drop(sender);
            let (records, incomplete_bytes) = reader.join().unwrap();
            let case = format!("{version:?} with {buffer_bytes} bytes");
            assert_eq!(incomplete_bytes, 0, "{case}");
            assert!(data(&records) == taken, "{case}: every byte, in order");
            let last = records.last().unwrap();
            assert_eq!((last.content_type, &last.payload[..]), (21, &[1, 0][..]), "{case}");
        }
    }
    assert!(kernel.grown("TlsTxSw") >= 4);
}

#[test]
fn buffer_is_flushed_once_the_peer_has_everything() {
    let Some(_kernel) = kernel_tls() else { return };
    let (sender, peer, taken) = stuffed(Tls13, ROOMY_BUFFER_BYTES);
    assert!(!control::is_flushed(sender.as_fd()).unwrap());
    let mut from_sender = Reference::new(keys(Tls13, AEAD, 1, 0));
    let mut received = 0;
    while received < taken.len() {
        received += from_sender.read(&peer).payload.len();
    }
    socket::await_that("acknowledgement of everything", || control::is_flushed(sender.as_fd()).unwrap());
    assert!(control::has_room_for_close(sender.as_fd()).unwrap());
}
