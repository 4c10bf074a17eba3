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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
mod tests {
    use std::time::Duration;

    use super::*;
    use ProtocolVersion::{Tls12, Tls13};

    fn client_hello(body_len: usize) -> Vec<u8> {
        let [.., high, middle, low] = (body_len as u32).to_be_bytes();
        let mut message = vec![HANDSHAKE_CLIENT_HELLO, high, middle, low];
        message.resize(4 + body_len, 0x5a);
        message
    }

    fn alert_of(version: ProtocolVersion, payload: &[u8]) -> AlertDescription {
        PostHandshake::new(version).handshake_record(payload, Instant::now()).unwrap_err().alert()
    }

    #[test]
    fn key_update_is_reported_with_its_request() {
        let mut state = PostHandshake::new(Tls13);
        for (message, update_requested) in [(KEY_UPDATE_NOT_REQUESTED, false), (KEY_UPDATE_REQUESTED, true)] {
            let event = state.handshake_record(&message, Instant::now()).unwrap();
            assert_eq!(event, Some(Event::KeyUpdate { update_requested }));
            assert!(!state.is_mid_message());
        }
    }

    #[test]
    fn key_update_in_fragments_of_any_size_is_reported_at_its_last_byte() {
        for cut in 0_u32..16 {
            let mut state = PostHandshake::new(Tls13);
            let mut start = 0;
            for end in 1..=5 {
                // Each bit of `cut` says whether a record ends here.
                if end < 5 && cut >> (end - 1) & 1 == 0 {
                    continue;
                }
                let event = state.handshake_record(&KEY_UPDATE_REQUESTED[start..end], Instant::now()).unwrap();
                assert_eq!(event.is_some(), end == 5);
                assert_eq!(state.is_mid_message(), end < 5);
                start = end;
            }
        }
    }

    #[test]
    fn bytes_behind_a_key_update_are_an_unexpected_message() {
        let two = [KEY_UPDATE_NOT_REQUESTED, KEY_UPDATE_NOT_REQUESTED].concat();
        for payload in [&two[..], &two[..6]] {
            assert_eq!(alert_of(Tls13, payload), AlertDescription::UnexpectedMessage);
        }
    }

    #[test]
    fn key_update_that_is_malformed_is_refused() {
        assert_eq!(alert_of(Tls13, &[24, 0, 0, 1, 2]), AlertDescription::IllegalParameter);
        assert_eq!(alert_of(Tls13, &[24, 0, 0, 0]), AlertDescription::DecodeError);
        assert_eq!(alert_of(Tls13, &[24, 0, 0, 2, 0, 0]), AlertDescription::DecodeError);
        assert_eq!(alert_of(Tls13, &[24, 0xff, 0xff, 0xff]), AlertDescription::DecodeError);
    }

    #[test]
    fn every_other_handshake_message_is_refused_at_its_first_byte() {
        for (version, allowed) in [(Tls13, HANDSHAKE_KEY_UPDATE), (Tls12, HANDSHAKE_CLIENT_HELLO)] {
            for message in (0..=u8::MAX).filter(|&message| message != allowed) {
                assert_eq!(alert_of(version, &[message]), AlertDescription::UnexpectedMessage, "{version:?} {message}");
            }
        }
    }

    #[test]
    fn empty_handshake_and_alert_records_are_unexpected_messages() {
        for version in [Tls12, Tls13] {
            assert_eq!(alert_of(version, &[]), AlertDescription::UnexpectedMessage);
            let error = PostHandshake::new(version).alert_record(&[]).unwrap_err();
            assert_eq!(error.alert(), AlertDescription::UnexpectedMessage);
        }
    }

    #[test]
    fn other_records_inside_a_handshake_message_are_unexpected_messages() {
        for (version, message) in [(Tls13, KEY_UPDATE_REQUESTED.to_vec()), (Tls12, client_hello(100))] {
            for end in 1..message.len() {
                let mut state = PostHandshake::new(version);
                state.handshake_record(&message[..end], Instant::now()).unwrap();
                for error in [state.data_record(1), state.data_record(0), state.alert_record(&[1, 0]).map(drop)] {
                    assert_eq!(error, Err(PostHandshakeError::Interleaved));
                }
            }
        }
    }

    #[test]
    fn key_updates_above_the_burst_are_refused_until_time_has_passed() {
        let start = Instant::now();
        let mut state = PostHandshake::new(Tls13);
        for _burst in 0..KEY_UPDATE_BURST_MAX {
            state.handshake_record(&KEY_UPDATE_REQUESTED, start).unwrap();
        }
        let error = state.handshake_record(&KEY_UPDATE_REQUESTED, start).unwrap_err();
        assert_eq!(error, PostHandshakeError::KeyUpdateFlood { max: KEY_UPDATE_BURST_MAX });
        assert_eq!(error.alert(), AlertDescription::UnexpectedMessage);
        let later = start + KEY_UPDATE_INTERVAL;
        state.handshake_record(&KEY_UPDATE_REQUESTED, later).unwrap();
        assert!(state.handshake_record(&KEY_UPDATE_REQUESTED, later).is_err());
        let much_later = later + KEY_UPDATE_INTERVAL * 1000;
        for _burst in 0..KEY_UPDATE_BURST_MAX {
            state.handshake_record(&KEY_UPDATE_REQUESTED, much_later).unwrap();
        }
        assert!(state.handshake_record(&KEY_UPDATE_REQUESTED, much_later).is_err(), "the budget does not grow");
    }

    #[test]
    fn key_update_every_interval_goes_on_for_ever() {
        let start = Instant::now();
        let mut state = PostHandshake::new(Tls13);
        for at in 0..10 * KEY_UPDATE_BURST_MAX {
            let now = start + KEY_UPDATE_INTERVAL * at + Duration::from_millis(u64::from(at % 7));
            state.handshake_record(&KEY_UPDATE_NOT_REQUESTED, now).unwrap();
        }
    }

    #[test]
    fn alerts_of_tls13_are_errors_whatever_their_level_says() {
        for level in [1, 2] {
            for code in 0..=u8::MAX {
                let event = PostHandshake::new(Tls13).alert_record(&[level, code]).unwrap();
                let expected = match code {
                    0 => Event::CloseNotify,
                    90 => Event::UserCanceled,
                    _ => Event::FatalAlert(AlertDescription::from_code(code)),
                };
                assert_eq!(event, expected);
            }
        }
    }

    #[test]
    fn alerts_of_tls12_are_errors_when_their_level_says_so() {
        for code in 1..=u8::MAX {
            let description = AlertDescription::from_code(code);
            let fatal = PostHandshake::new(Tls12).alert_record(&[2, code]).unwrap();
            assert_eq!(fatal, Event::FatalAlert(description));
            let warning = PostHandshake::new(Tls12).alert_record(&[1, code]).unwrap();
            let expected = if code == 90 { Event::UserCanceled } else { Event::WarningIgnored };
            assert_eq!(warning, expected);
        }
        for level in [1, 2] {
            assert_eq!(PostHandshake::new(Tls12).alert_record(&[level, 0]).unwrap(), Event::CloseNotify);
        }
    }

    #[test]
    fn alert_that_is_malformed_is_refused() {
        for version in [Tls12, Tls13] {
            let alert = |payload: &[u8]| PostHandshake::new(version).alert_record(payload).unwrap_err().alert();
            assert_eq!(alert(&[1]), AlertDescription::DecodeError);
            assert_eq!(alert(&[1, 0, 1, 0]), AlertDescription::DecodeError);
            assert_eq!(alert(&[3, 0]), AlertDescription::IllegalParameter);
        }
    }

    #[test]
    fn warnings_in_a_row_end_the_connection_and_data_between_them_does_not() {
        for (version, warning) in [(Tls12, [1, 112]), (Tls12, [1, 90]), (Tls13, [1, 90])] {
            let mut state = PostHandshake::new(version);
            for _round in 0..3 {
                for _warning in 0..WARNING_ALERTS_MAX {
                    state.alert_record(&warning).unwrap();
                }
                state.data_record(1).unwrap();
            }
            for _warning in 0..WARNING_ALERTS_MAX {
                state.alert_record(&warning).unwrap();
                state.data_record(0).unwrap();
            }
            let error = state.alert_record(&warning).unwrap_err();
            assert_eq!(error, PostHandshakeError::WarningFlood { max: WARNING_ALERTS_MAX });
            assert_eq!(error.alert(), AlertDescription::UnexpectedMessage);
        }
    }

    #[test]
    fn empty_data_records_in_a_row_end_the_connection_and_data_between_them_does_not() {
        let mut state = PostHandshake::new(Tls13);
        for _round in 0..3 {
            for _empty in 0..EMPTY_RECORDS_MAX {
                state.data_record(0).unwrap();
            }
            state.data_record(1).unwrap();
        }
        for _empty in 0..EMPTY_RECORDS_MAX {
            state.data_record(0).unwrap();
        }
        let error = state.data_record(0).unwrap_err();
        assert_eq!(error, PostHandshakeError::EmptyRecordFlood { max: EMPTY_RECORDS_MAX });
        assert_eq!(error.alert(), AlertDescription::UnexpectedMessage);
    }

    #[test]
    fn empty_records_between_key_updates_still_meet_a_limit() {
        let now = Instant::now();
        let mut state = PostHandshake::new(Tls13);
        let refused = (0..1000).find_map(|_| {
            state.data_record(0).unwrap();
            state.handshake_record(&KEY_UPDATE_NOT_REQUESTED, now).err()
        });
        assert_eq!(refused, Some(PostHandshakeError::KeyUpdateFlood { max: KEY_UPDATE_BURST_MAX }));
    }

    #[test]
    fn renegotiation_is_refused_politely_a_few_times() {
        let mut state = PostHandshake::new(Tls12);
        for _refused in 0..RENEGOTIATIONS_REFUSED_MAX {
            let event = state.handshake_record(&client_hello(200), Instant::now()).unwrap();
            assert_eq!(event, Some(Event::RenegotiationRefused));
        }
        let error = state.handshake_record(&client_hello(200), Instant::now()).unwrap_err();
        assert_eq!(error, PostHandshakeError::RenegotiationFlood { max: RENEGOTIATIONS_REFUSED_MAX });
        assert_eq!(error.alert(), AlertDescription::HandshakeFailure);
    }

    #[test]
    fn client_hello_split_anywhere_is_reported_once_and_at_its_end() {
        let hello = client_hello(60);
        for split in 1..hello.len() {
            let mut state = PostHandshake::new(Tls12);
            assert_eq!(state.handshake_record(&hello[..split], Instant::now()), Ok(None));
            assert!(state.is_mid_message());
            let event = state.handshake_record(&hello[split..], Instant::now()).unwrap();
            assert_eq!(event, Some(Event::RenegotiationRefused));
            assert!(!state.is_mid_message());
        }
    }

    #[test]
    fn client_hellos_in_one_record_count_one_by_one() {
        let hellos = |count: u32| client_hello(60).repeat(count as usize);
        let mut state = PostHandshake::new(Tls12);
        let event = state.handshake_record(&hellos(RENEGOTIATIONS_REFUSED_MAX), Instant::now()).unwrap();
        assert_eq!(event, Some(Event::RenegotiationRefused));
        assert!(state.handshake_record(&hellos(1), Instant::now()).is_err());
        let mut state = PostHandshake::new(Tls12);
        assert!(state.handshake_record(&hellos(RENEGOTIATIONS_REFUSED_MAX + 1), Instant::now()).is_err());
    }

    #[test]
    fn client_hello_of_impossible_length_is_refused() {
        assert_eq!(alert_of(Tls12, &client_hello(0)), AlertDescription::DecodeError);
        assert_eq!(alert_of(Tls12, &client_hello(CLIENT_HELLO_BYTES_MIN - 1)), AlertDescription::DecodeError);
        let longest = RENEGOTIATION_HELLO_BYTES_MAX;
        assert_eq!(alert_of(Tls12, &client_hello(longest + 1)[..4]), AlertDescription::IllegalParameter);
        let mut state = PostHandshake::new(Tls12);
        assert_eq!(state.handshake_record(&client_hello(longest)[..9], Instant::now()), Ok(None));
    }
}
