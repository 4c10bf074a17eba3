//! What every handshake of a listener starts from: an OpenSSL context built from the listener's settings.

use std::sync::Arc;

use openssl::error::ErrorStack;
use openssl::ssl::{
    AlpnError, Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslSessionCacheMode, SslVersion,
};

use super::client_hello::alpn_names;
use super::identity::Identity;
use super::secrets;
use super::settings::{Policy, Settings};
use crate::ticket::{self, Clock, ScopeKeys, TicketSettings, UnixSeconds};

/// The context of one listener.
///
/// Each worker builds its own: handshakes on a shared one contend for its reference count.
pub struct Context {
    ssl: SslContext,
}

impl Context {
    /// Builds the context.
    ///
    /// # Errors
    /// When OpenSSL refuses a setting; the settings were checked before, so this is a bug or a crippled library.
    pub fn build(
        settings: &Settings,
        identity: &Identity,
        tickets: Option<(Arc<ScopeKeys>, &TicketSettings)>,
    ) -> Result<Self, ErrorStack> {
        let mut builder = SslContextBuilder::new(SslMethod::tls_server())?;
        set_protocol(&mut builder, settings.policy)?;
        set_identity(&mut builder, identity)?;
        let until = settings.client_auth.as_ref().and_then(|client_auth| client_auth.lists_until());
        set_sessions(&mut builder, tickets, until.map(UnixSeconds::from))?;
        set_alpn(&mut builder, &settings.alpn);
        if let Some(client_auth) = &settings.client_auth {
            client_auth.install(&mut builder)?;
        }
        secrets::install(&mut builder);
        Ok(Self { ssl: builder.build() })
    }

    /// A fresh SSL object in the server's role; fails when memory is short.
    pub(super) fn ssl(&self) -> Result<Ssl, ErrorStack> {
        Ssl::new(&self.ssl)
    }
}

/// TLS 1.2: ECDHE with an AEAD, AES-128-GCM first; SHA-384 suites cost about 8 % more per handshake.
const TLS12_SUITES: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:\
    ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:\
    ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";
const TLS13_SUITES: &str = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";
/// The post-quantum hybrid first; OpenSSL before 3.5 does not know it, where `?` lets it be passed over.
const GROUPS: &str = "?X25519MLKEM768:X25519:P-256";
const GROUPS_BEFORE_OPENSSL_35: &str = "X25519:P-256";

fn set_protocol(builder: &mut SslContextBuilder, policy: Policy) -> Result<(), ErrorStack> {
    builder.set_min_proto_version(Some(match policy {
        Policy::Modern => SslVersion::TLS1_3,
        Policy::Intermediate => SslVersion::TLS1_2,
    }))?;
    builder.set_max_proto_version(Some(SslVersion::TLS1_3))?;
    builder.set_cipher_list(TLS12_SUITES)?;
    builder.set_ciphersuites(TLS13_SUITES)?;
    builder.set_groups_list(GROUPS).or_else(|_| builder.set_groups_list(GROUPS_BEFORE_OPENSSL_35))?;
    // A client that puts ChaCha20 first has no AES instructions: it is worth more to it than AES is to us.
    builder.set_options(
        SslOptions::CIPHER_SERVER_PREFERENCE
            | SslOptions::PRIORITIZE_CHACHA
            | SslOptions::NO_RENEGOTIATION
            | SslOptions::NO_COMPRESSION,
    );
    Ok(())
}

fn set_identity(builder: &mut SslContextBuilder, identity: &Identity) -> Result<(), ErrorStack> {
    let mut chain = identity.chain().iter();
    if let Some(leaf) = chain.next() {
        builder.set_certificate(leaf)?;
    }
    for intermediate in chain {
        builder.add_extra_chain_cert(intermediate.clone())?;
    }
    builder.set_private_key(identity.key())?;
    builder.check_private_key()
}

/// Resumption is by tickets only: the server keeps nothing.
fn set_sessions(
    builder: &mut SslContextBuilder,
    tickets: Option<(Arc<ScopeKeys>, &TicketSettings)>,
    until: Option<UnixSeconds>,
) -> Result<(), ErrorStack> {
    if let Some((keys, settings)) = tickets {
        let settings = TicketSettings { until, ..settings.clone() };
        return ticket::install(builder, keys, &settings, Clock::System);
    }
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_options(SslOptions::NO_TICKET);
    builder.set_num_tickets(0)
}

fn set_alpn(builder: &mut SslContextBuilder, protocols: &[String]) {
    if protocols.is_empty() {
        return;
    }
    let ours = protocols.to_vec();
    // RFC 7301 section 3.2: no protocol in common ends the handshake with no_application_protocol.
    builder.set_alpn_select_callback(move |_, offered| select_alpn(&ours, offered).ok_or(AlpnError::ALERT_FATAL));
}

/// The first of our protocols that the client offers. `offered` is the client's list: names behind a length byte each
/// (RFC 7301 section 3.1), well-formed or not.
fn select_alpn<'a>(ours: &[String], offered: &'a [u8]) -> Option<&'a [u8]> {
    ours.iter().find_map(|name| alpn_names(offered).find(|candidate| *candidate == name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpn_selection_follows_our_order() {
        let ours = ["h2".to_owned(), "http/1.1".to_owned()];
        assert_eq!(select_alpn(&ours, b"\x08http/1.1\x02h2"), Some(&b"h2"[..]));
        assert_eq!(select_alpn(&ours, b"\x08http/1.1"), Some(&b"http/1.1"[..]));
        assert_eq!(select_alpn(&ours, b"\x02h3"), None);
    }
}
