//! What a client may still say besides data once the handshake is over; shared by both engines.
//!
//! Works on plaintext: [`PostHandshake::handshake_record`], [`PostHandshake::alert_record`] and
//! [`PostHandshake::data_record`] take the payloads of one receiving direction, in order. No message is buffered: the
//! only one that is legal fits into five bytes.

use std::time::Instant;

use super::alert::{Alert, AlertDescription, AlertError, AlertLevel};
use super::limit::{
    EMPTY_RECORDS_MAX, KEY_UPDATE_BURST_MAX, KEY_UPDATE_INTERVAL, RENEGOTIATION_HELLO_BYTES_MAX,
    RENEGOTIATIONS_REFUSED_MAX, WARNING_ALERTS_MAX,
};
use super::suite::ProtocolVersion;

/// A KeyUpdate that does not ask the peer for one of its own (RFC 8446 section 4.6.3): the payload of a handshake
/// record, sealed under the old key.
pub const KEY_UPDATE_NOT_REQUESTED: [u8; 5] = [HANDSHAKE_KEY_UPDATE, 0, 0, 1, 0];

/// A KeyUpdate that asks the peer for one of its own.
pub const KEY_UPDATE_REQUESTED: [u8; 5] = [HANDSHAKE_KEY_UPDATE, 0, 0, 1, 1];

/// What the owner of a connection has to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The client's next record has keys of the next generation.
    KeyUpdate {
        /// The client wants us to do the same: a KeyUpdate of ours is due before more data (RFC 8446 section 4.6.3).
        update_requested: bool,
    },
    /// The client sends no more data; what follows is ignored (RFC 8446 section 6.1).
    CloseNotify,
    /// The client gives up and says so before its close_notify.
    UserCanceled,
    /// The client ended the connection; both directions are over.
    FatalAlert(AlertDescription),
    /// A warning without consequence (TLS 1.2).
    WarningIgnored,
    /// A ClientHello after a TLS 1.2 handshake, to be answered with the warning `no_renegotiation` (RFC 5246 section
    /// 7.2.2). Several ClientHellos in one record count one by one and give one event.
    RenegotiationRefused,
}

/// Follows the control records of one receiving direction.
#[derive(Debug)]
pub struct PostHandshake {
    version: ProtocolVersion,
    message: Message,
    renegotiations: u32,
    warnings: u32,
    empty_records: u32,
    /// The KeyUpdate budget as the time at which it is full again.
    key_updates_full_at: Option<Instant>,
}

impl PostHandshake {
    /// The state right behind a handshake.
    pub const fn new(version: ProtocolVersion) -> Self {
        Self {
            version,
            message: Message::Header { bytes: [0; MESSAGE_HEADER_LEN], len: 0 },
            renegotiations: 0,
            warnings: 0,
            empty_records: 0,
            key_updates_full_at: None,
        }
    }

    /// Takes the payload of a handshake record that arrived at `now`. At most one event comes out of a record.
    ///
    /// # Errors
    /// When the client broke a rule or a limit; the connection ends with [`PostHandshakeError::alert`].
    pub fn handshake_record(&mut self, payload: &[u8], now: Instant) -> Result<Option<Event>, PostHandshakeError> {
        if payload.is_empty() {
            return Err(PostHandshakeError::EmptyRecord { content: "handshake" });
        }
        self.empty_records = 0;
        let mut event = None;
        let mut rest = payload;
        while let Some((&byte, behind)) = rest.split_first() {
            match self.message {
                Message::Header { bytes, len } => {
                    self.header_byte(bytes, len, byte)?;
                    rest = behind;
                }
                Message::KeyUpdate => {
                    self.message = Message::START;
                    event = Some(self.key_update(byte, behind, now)?);
                    rest = behind;
                }
                Message::Skip { left } => {
                    let (_, behind) = rest.split_at(left.min(rest.len()));
                    self.skip(left - (rest.len() - behind.len()), &mut event)?;
                    rest = behind;
                }
            }
        }
        Ok(event)
    }

    /// Takes the payload of an alert record.
    ///
    /// # Errors
    /// When the client broke a rule or a limit; the connection ends with [`PostHandshakeError::alert`].
    pub fn alert_record(&mut self, payload: &[u8]) -> Result<Event, PostHandshakeError> {
        if payload.is_empty() {
            return Err(PostHandshakeError::EmptyRecord { content: "alert" });
        }
        self.refuse_interleaving()?;
        let alert = Alert::parse(payload)?;
        let event = match (alert.description, self.version, alert.level) {
            (AlertDescription::CloseNotify, ..) => return Ok(Event::CloseNotify),
            (AlertDescription::UserCanceled, ProtocolVersion::Tls13, _)
            | (AlertDescription::UserCanceled, ProtocolVersion::Tls12, AlertLevel::Warning) => Event::UserCanceled,
            // RFC 8446 section 6: whatever the level says, all other alerts of TLS 1.3 are errors, unknown ones too.
            (_, ProtocolVersion::Tls12, AlertLevel::Warning) => Event::WarningIgnored,
            (description, ..) => return Ok(Event::FatalAlert(description)),
        };
        self.warnings += 1;
        if self.warnings > WARNING_ALERTS_MAX {
            return Err(PostHandshakeError::WarningFlood { max: WARNING_ALERTS_MAX });
        }
        Ok(event)
    }

    /// Takes note of an application-data record with `payload_len` bytes.
    ///
    /// # Errors
    /// When the client broke a rule or a limit; the connection ends with [`PostHandshakeError::alert`].
    pub fn data_record(&mut self, payload_len: usize) -> Result<(), PostHandshakeError> {
        self.refuse_interleaving()?;
        if payload_len > 0 {
            self.empty_records = 0;
            self.warnings = 0;
            return Ok(());
        }
        self.empty_records += 1;
        if self.empty_records > EMPTY_RECORDS_MAX {
            return Err(PostHandshakeError::EmptyRecordFlood { max: EMPTY_RECORDS_MAX });
        }
        Ok(())
    }

    /// Whether a handshake message has begun and not ended: only handshake records may follow, and a key must not
    /// change here.
    pub const fn is_mid_message(&self) -> bool {
        !matches!(self.message, Message::Header { len: 0, .. })
    }

    fn refuse_interleaving(&self) -> Result<(), PostHandshakeError> {
        // RFC 8446 section 5.1: between the records of one handshake message there is no other record.
        if self.is_mid_message() { Err(PostHandshakeError::Interleaved) } else { Ok(()) }
    }

    fn header_byte(
        &mut self,
        mut bytes: [u8; MESSAGE_HEADER_LEN],
        len: usize,
        byte: u8,
    ) -> Result<(), PostHandshakeError> {
        if len == 0 {
            self.check_message_type(byte)?;
        }
        bytes[len] = byte;
        self.message =
            if len + 1 < MESSAGE_HEADER_LEN { Message::Header { bytes, len: len + 1 } } else { self.body(bytes)? };
        Ok(())
    }

    /// RFC 8446 section 4.6: of the post-handshake messages only KeyUpdate goes from client to server, as no client
    /// certificate was asked for. RFC 5246 section 7.4.1: a client may ask for a renegotiation.
    fn check_message_type(&self, got: u8) -> Result<(), PostHandshakeError> {
        match (self.version, got) {
            (ProtocolVersion::Tls13, HANDSHAKE_KEY_UPDATE) | (ProtocolVersion::Tls12, HANDSHAKE_CLIENT_HELLO) => Ok(()),
            _ => Err(PostHandshakeError::UnexpectedMessage { got }),
        }
    }

    /// What follows a complete message header.
    fn body(&self, [_, high, middle, low]: [u8; MESSAGE_HEADER_LEN]) -> Result<Message, PostHandshakeError> {
        let got = u32::from_be_bytes([0, high, middle, low]) as usize;
        match self.version {
            ProtocolVersion::Tls13 if got == 1 => Ok(Message::KeyUpdate),
            ProtocolVersion::Tls13 => Err(PostHandshakeError::MessageLength { got }),
            ProtocolVersion::Tls12 if got < CLIENT_HELLO_BYTES_MIN => Err(PostHandshakeError::MessageLength { got }),
            ProtocolVersion::Tls12 if got > RENEGOTIATION_HELLO_BYTES_MAX => {
                Err(PostHandshakeError::MessageTooLong { got, max: RENEGOTIATION_HELLO_BYTES_MAX })
            }
            ProtocolVersion::Tls12 => Ok(Message::Skip { left: got }),
        }
    }

    fn key_update(&mut self, request: u8, behind: &[u8], now: Instant) -> Result<Event, PostHandshakeError> {
        let update_requested = match request {
            0 => false,
            1 => true,
            // RFC 8446 section 4.6.3.
            got => return Err(PostHandshakeError::KeyUpdateRequest { got }),
        };
        // RFC 8446 section 5.1: a message right before a key change ends its record; whoever could put bytes behind it
        // would have them taken under the wrong key.
        if !behind.is_empty() {
            return Err(PostHandshakeError::BehindKeyUpdate { got: behind.len() });
        }
        let full_at = self.key_updates_full_at.unwrap_or(now).max(now) + KEY_UPDATE_INTERVAL;
        if full_at > now + KEY_UPDATE_INTERVAL * KEY_UPDATE_BURST_MAX {
            return Err(PostHandshakeError::KeyUpdateFlood { max: KEY_UPDATE_BURST_MAX });
        }
        self.key_updates_full_at = Some(full_at);
        Ok(Event::KeyUpdate { update_requested })
    }

    /// Goes on with a ClientHello of which `left` bytes are still to come.
    fn skip(&mut self, left: usize, event: &mut Option<Event>) -> Result<(), PostHandshakeError> {
        if left > 0 {
            self.message = Message::Skip { left };
            return Ok(());
        }
        self.message = Message::START;
        self.renegotiations += 1;
        if self.renegotiations > RENEGOTIATIONS_REFUSED_MAX {
            return Err(PostHandshakeError::RenegotiationFlood { max: RENEGOTIATIONS_REFUSED_MAX });
        }
        *event = Some(Event::RenegotiationRefused);
        Ok(())
    }
}

/// How far the current handshake message has come.
#[derive(Clone, Copy, Debug)]
enum Message {
    /// Type and length; `len` bytes are there.
    Header { bytes: [u8; MESSAGE_HEADER_LEN], len: usize },
    /// The one byte of a KeyUpdate.
    KeyUpdate,
    /// The body of a message that nobody reads.
    Skip { left: usize },
}

impl Message {
    const START: Self = Self::Header { bytes: [0; MESSAGE_HEADER_LEN], len: 0 };
}

/// Which rule or limit the client broke. Always the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostHandshakeError {
    /// A handshake message that has no place here.
    #[error("client sent handshake message {got} after the handshake")]
    UnexpectedMessage {
        /// The handshake type.
        got: u8,
    },
    /// A record without content, of a type that must have some.
    #[error("client sent an empty {content} record")]
    EmptyRecord {
        /// The content type.
        content: &'static str,
    },
    /// Another record between the parts of a handshake message.
    #[error("client interrupted a handshake message with another record")]
    Interleaved,
    /// Bytes behind a KeyUpdate in the same record.
    #[error("client sent {got} bytes behind a KeyUpdate in one record")]
    BehindKeyUpdate {
        /// Bytes behind the message.
        got: usize,
    },
    /// A length that the message cannot have.
    #[error("client sent a handshake message of {got} bytes, which its type does not allow")]
    MessageLength {
        /// Bytes announced.
        got: usize,
    },
    /// A message above the limit.
    #[error("client announced a handshake message of {got} bytes; the limit is {max}")]
    MessageTooLong {
        /// Bytes announced.
        got: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A KeyUpdate with a request byte that does not exist.
    #[error("client sent a KeyUpdate with request {got}; 0 and 1 exist")]
    KeyUpdateRequest {
        /// The request byte.
        got: u8,
    },
    /// Not an alert.
    #[error(transparent)]
    Alert(#[from] AlertError),
    /// Too many KeyUpdates for the time.
    #[error("client sent more than {max} KeyUpdates in a burst")]
    KeyUpdateFlood {
        /// KeyUpdates allowed in a burst.
        max: u32,
    },
    /// Too many warnings in a row.
    #[error("client sent more than {max} warning alerts in a row")]
    WarningFlood {
        /// Alerts allowed.
        max: u32,
    },
    /// Too many empty records in a row.
    #[error("client sent more than {max} empty records in a row")]
    EmptyRecordFlood {
        /// Records allowed.
        max: u32,
    },
    /// Too many ClientHellos.
    #[error("client asked for more than {max} renegotiations")]
    RenegotiationFlood {
        /// Requests that are refused politely.
        max: u32,
    },
}

impl PostHandshakeError {
    /// The alert that answers this error.
    pub const fn alert(self) -> AlertDescription {
        match self {
            Self::UnexpectedMessage { .. }
            | Self::EmptyRecord { .. }
            | Self::Interleaved
            | Self::BehindKeyUpdate { .. }
            | Self::KeyUpdateFlood { .. }
            | Self::WarningFlood { .. }
            | Self::EmptyRecordFlood { .. } => AlertDescription::UnexpectedMessage,
            Self::MessageLength { .. } => AlertDescription::DecodeError,
            Self::MessageTooLong { .. } | Self::KeyUpdateRequest { .. } => AlertDescription::IllegalParameter,
            Self::Alert(error) => error.alert(),
            Self::RenegotiationFlood { .. } => AlertDescription::HandshakeFailure,
        }
    }
}

const HANDSHAKE_CLIENT_HELLO: u8 = 1;
const HANDSHAKE_KEY_UPDATE: u8 = 24;
/// Type and length of a handshake message.
const MESSAGE_HEADER_LEN: usize = 4;
/// Version, random, and three empty vectors with one cipher suite and one compression method (RFC 5246 section 7.4.1.2).
const CLIENT_HELLO_BYTES_MIN: usize = 2 + 32 + 1 + 4 + 2;
