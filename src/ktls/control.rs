//! Records other than application data on promoted directions, and what has to happen before a socket is closed.

use std::io;
use std::os::fd::BorrowedFd;

use crate::record::{Alert, AlertDescription};
use crate::sys::{cmsg, tls_ulp};

/// Content types of records (RFC 8446 section 5.1).
pub mod content_type {
    /// ChangeCipherSpec.
    pub const CHANGE_CIPHER_SPEC: u8 = 20;
    /// Alerts.
    pub const ALERT: u8 = 21;
    /// Handshake messages; after the handshake KeyUpdate and NewSessionTicket.
    pub const HANDSHAKE: u8 = 22;
    /// Application data.
    pub const APPLICATION_DATA: u8 = 23;
}

/// What a promoted receive direction had for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes of application data are in the buffer, from one record or several. 0: the peer sent an empty record,
    /// which is legal (RFC 8446 section 5.1) and not the end.
    Data(usize),
    /// A record of another content type, or a part of one when the buffer is smaller than it.
    Control {
        /// The content type, as the peer protected it.
        content_type: u8,
        /// Bytes of it in the buffer.
        len: usize,
        /// Whether these are its last bytes.
        end_of_record: bool,
    },
    /// The peer ended the stream. Without a close_notify before it this is a truncation, even in mid-record.
    Eof,
    /// No whole record is there yet.
    WouldBlock,
    /// A KeyUpdate was received and the new keys were not installed: nothing more can be read until they are.
    KeyExpired,
    /// A record that cannot be accepted. The stream cannot be read any further.
    Fault(RecordFault),
}

/// A fault of the peer that ends the connection with an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordFault {
    /// It did not authenticate, or is too short to.
    BadRecordMac,
    /// It is longer than a record may be.
    RecordOverflow,
    /// Its header does not carry the version.
    ProtocolVersion,
}

impl RecordFault {
    /// The description of the alert that the peer is due (RFC 8446 section 6.2).
    pub const fn alert(self) -> AlertDescription {
        match self {
            Self::BadRecordMac => AlertDescription::BadRecordMac,
            Self::RecordOverflow => AlertDescription::RecordOverflow,
            Self::ProtocolVersion => AlertDescription::ProtocolVersion,
        }
    }

    fn from_errno(code: i32) -> Option<Self> {
        match code {
            libc::EBADMSG => Some(Self::BadRecordMac),
            libc::EMSGSIZE => Some(Self::RecordOverflow),
            libc::EINVAL => Some(Self::ProtocolVersion),
            _ => None,
        }
    }
}

/// Whether a control record went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Sent {
    /// The kernel has sealed it, and TCP has it or will get it.
    Done,
    /// There is no room; nothing was sent.
    WouldBlock,
}

/// What a KeyUpdate asks of the peer (RFC 8446 section 4.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyUpdateRequest {
    /// Nothing; also the only right answer to a request.
    NotRequested,
    /// To update its keys too.
    Requested,
}

/// Reads application data or one other record into `buffer`, without waiting. With a buffer of 16 KiB a record of another
/// type always fits.
///
/// Errors are those of the connection (reset, time-out); a bad record is [`Received::Fault`]. A fault is the last thing to
/// be read: after one that was seen in the header the socket is silent for ever, and a record that did not authenticate
/// is decrypted again by every read and keeps the socket readable.
pub fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    match cmsg::receive_record(fd, buffer) {
        Ok(record) => Ok(received(record)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::WouldBlock),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Received::WouldBlock),
        Err(error) => match error.raw_os_error() {
            Some(libc::EKEYEXPIRED) => Ok(Received::KeyExpired),
            Some(code) => RecordFault::from_errno(code).map(Received::Fault).ok_or(error),
            None => Err(error),
        },
    }
}

fn received(record: cmsg::ReceivedRecord) -> Received {
    match record.content_type {
        Some(content_type::APPLICATION_DATA) => Received::Data(record.len),
        Some(content_type) => Received::Control { content_type, len: record.len, end_of_record: record.end_of_record },
        None if record.len == 0 => Received::Eof,
        // Without a type the socket has no kernel TLS in this direction: what came is what was sent.
        None => Received::Data(record.len),
    }
}

/// The fault of the peer that an error of a read or a splice stands for, if it is one.
pub fn fault_of(error: &io::Error) -> Option<RecordFault> {
    error.raw_os_error().and_then(RecordFault::from_errno)
}

/// Sends `payload` as one record of `content_type`. Never waits, and never sends a part.
pub fn send(fd: BorrowedFd<'_>, content_type: u8, payload: &[u8]) -> io::Result<Sent> {
    match cmsg::send_record(fd, content_type, payload) {
        Ok(_) => Ok(Sent::Done),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Sent::WouldBlock),
        Err(error) => Err(error),
    }
}

/// Sends an alert. Before close_notify ask [`has_room_for_close`].
pub fn send_alert(fd: BorrowedFd<'_>, alert: Alert) -> io::Result<Sent> {
    send(fd, content_type::ALERT, &alert.encode())
}

/// Sends a KeyUpdate, sealed with the present keys. Nothing else may be sent before the next keys are installed.
pub fn send_key_update(fd: BorrowedFd<'_>, request: KeyUpdateRequest) -> io::Result<Sent> {
    let request = match request {
        KeyUpdateRequest::NotRequested => 0,
        KeyUpdateRequest::Requested => 1,
    };
    send(fd, content_type::HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, request])
}

/// Sends the alert that is due after a [`RecordFault`].
///
/// The fault is left pending on the socket and makes sending fail too, so it is taken off first. What the peer sent
/// after the bad record stays unread.
pub fn send_fault_alert(fd: BorrowedFd<'_>, fault: RecordFault) -> io::Result<Sent> {
    let _ = tls_ulp::take_socket_error(fd)?;
    send_alert(fd, Alert::fatal(fault.alert()))
}

/// Whether the last records and a close_notify will go to TCP at once.
///
/// A send that succeeded does not mean that TCP took the record: when its buffer filled in mid-record, the rest is pushed
/// later, and ending the stream before that loses it. This asks for room for two full records, or an empty buffer. When
/// there is none, wait until the socket is writable and ask again.
pub fn has_room_for_close(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let buffer = tls_ulp::send_buffer(fd)?;
    Ok(buffer.queued_bytes == 0 || buffer.size_bytes.saturating_sub(buffer.queued_bytes) >= CLOSE_ROOM_BYTES)
}

/// Whether everything that was sent has been acknowledged by the peer. Only meaningful when nothing can be left above
/// TCP: after a send that found [`has_room_for_close`].
pub fn is_flushed(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(tls_ulp::unacknowledged_bytes(fd)? == 0)
}

const KEY_UPDATE: u8 = 24;
/// Two records of 16 KiB as TCP accounts for them: header, tag and the buffers' own management included.
const CLOSE_ROOM_BYTES: u32 = 40 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::*;
    use crate::sys::cmsg::ReceivedRecord;

    fn record(len: usize, content_type: Option<u8>) -> ReceivedRecord {
        ReceivedRecord { len, content_type, end_of_record: content_type != Some(23) }
    }

    #[test]
    fn received_without_a_type_and_without_bytes_is_the_end() {
        assert_eq!(received(record(0, None)), Received::Eof);
    }

    #[test]
    fn received_empty_application_data_is_not_the_end() {
        assert_eq!(received(record(0, Some(23))), Received::Data(0));
    }

    #[test]
    fn received_alert_is_control() {
        let alert = Received::Control { content_type: 21, len: 2, end_of_record: true };
        assert_eq!(received(record(2, Some(21))), alert);
    }

    #[test]
    fn fault_carries_the_alert_that_the_peer_is_due() {
        let alert = |code| RecordFault::from_errno(code).map(|fault| fault.alert().code());
        assert_eq!(alert(libc::EBADMSG), Some(20));
        assert_eq!(alert(libc::EMSGSIZE), Some(22));
        assert_eq!(alert(libc::EINVAL), Some(70));
        assert_eq!(alert(libc::ECONNRESET), None);
    }
}
