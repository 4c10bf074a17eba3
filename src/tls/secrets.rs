//! The secrets of a handshake, taken from OpenSSL's key-log callback.
//!
//! OpenSSL hands out traffic secrets only as lines of the key-log format (RFC 9850): a label, the client random and the
//! secret. The callback of a context runs inside the call that drives the handshake, on the worker's own thread, so a
//! thread-local slot carries the secrets to the caller of that call: no lock, no allocation, no trace in the SSL object.

use std::cell::RefCell;

use openssl::ssl::SslContextBuilder;
use zeroize::Zeroize;

/// The longest secret: the output of SHA-384, and the master secret of TLS 1.2.
const SECRET_LEN_MAX: usize = 48;

/// A secret as it came from the key log; wiped on drop, never printed.
pub(super) struct LoggedSecret {
    bytes: [u8; SECRET_LEN_MAX],
    len: usize,
}

impl LoggedSecret {
    /// The secret; empty when the callback never ran.
    pub(super) fn expose(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Default for LoggedSecret {
    fn default() -> Self {
        Self { bytes: [0; SECRET_LEN_MAX], len: 0 }
    }
}

impl Drop for LoggedSecret {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// What the key log of one handshake delivered so far.
#[derive(Default)]
pub(super) struct HandshakeSecrets {
    /// TLS 1.3: the client's first application traffic secret (RFC 8446 section 7.1).
    pub(super) client_traffic: LoggedSecret,
    /// TLS 1.3: the server's first application traffic secret.
    pub(super) server_traffic: LoggedSecret,
    /// TLS 1.2: the master secret.
    pub(super) master: LoggedSecret,
}

/// Makes every handshake of the context deliver its secrets to [`capture`].
///
/// OpenSSL takes the callback from the context that is current when a secret is made: each context that a handshake
/// may switch to needs it.
pub(super) fn install(context: &mut SslContextBuilder) {
    context.set_keylog_callback(|_, line| {
        CURRENT.with_borrow_mut(|current| {
            if let Some(secrets) = current {
                record_line(secrets, line);
            }
        });
    });
}

/// Runs `drive`, a call into OpenSSL, with `secrets` as the place that the key log writes to.
pub(super) fn capture<T>(secrets: &mut Option<Box<HandshakeSecrets>>, drive: impl FnOnce() -> T) -> T {
    CURRENT.set(secrets.take());
    let result = drive();
    *secrets = CURRENT.take();
    result
}

thread_local! {
    static CURRENT: RefCell<Option<Box<HandshakeSecrets>>> = const { RefCell::new(None) };
}

fn record_line(secrets: &mut HandshakeSecrets, line: &str) {
    let mut fields = line.split_ascii_whitespace();
    let slot = match fields.next() {
        Some("CLIENT_TRAFFIC_SECRET_0") => &mut secrets.client_traffic,
        Some("SERVER_TRAFFIC_SECRET_0") => &mut secrets.server_traffic,
        Some("CLIENT_RANDOM") => &mut secrets.master,
        _ => return,
    };
    if let Some(hex) = fields.nth(1) {
        decode(slot, hex.as_bytes());
    }
}

/// Decodes lower- or upper-case hex; leaves the slot empty when it is not hex or too long.
fn decode(slot: &mut LoggedSecret, hex: &[u8]) {
    slot.len = 0;
    if !hex.len().is_multiple_of(2) || hex.len() / 2 > SECRET_LEN_MAX {
        return;
    }
    for (byte, pair) in slot.bytes.iter_mut().zip(hex.chunks_exact(2)) {
        let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else { return };
        *byte = high << 4 | low;
    }
    slot.len = hex.len() / 2;
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_log_line_fills_the_slot_of_its_label() {
        let mut secrets = HandshakeSecrets::default();
        record_line(&mut secrets, "SERVER_TRAFFIC_SECRET_0 00ff 0aB1");
        assert_eq!(secrets.server_traffic.expose(), [0x0a, 0xb1]);
        assert!(secrets.client_traffic.expose().is_empty());
        record_line(&mut secrets, "CLIENT_RANDOM 00ff 01020304");
        assert_eq!(secrets.master.expose(), [1, 2, 3, 4]);
    }

    #[test]
    fn key_log_line_that_is_malformed_leaves_the_slot_empty() {
        let mut secrets = HandshakeSecrets::default();
        for line in
            ["CLIENT_TRAFFIC_SECRET_0", "CLIENT_TRAFFIC_SECRET_0 00", "CLIENT_TRAFFIC_SECRET_0 00 0g", "", "X 1 2"]
        {
            record_line(&mut secrets, line);
        }
        record_line(&mut secrets, &format!("CLIENT_TRAFFIC_SECRET_0 00 {}", "00".repeat(SECRET_LEN_MAX + 1)));
        assert!(secrets.client_traffic.expose().is_empty());
    }

    #[test]
    fn capture_delivers_only_to_the_call_that_it_wraps() {
        let mut secrets = Some(Box::<HandshakeSecrets>::default());
        capture(&mut secrets, || {
            CURRENT.with_borrow_mut(|current| {
                if let Some(current) = current {
                    record_line(current, "CLIENT_RANDOM 00 07");
                }
            });
        });
        assert_eq!(secrets.map(|secrets| secrets.master.expose().to_vec()), Some(vec![7]));
        assert!(CURRENT.with_borrow(Option::is_none));
    }
}
