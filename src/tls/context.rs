//! What every handshake of a listener starts from: OpenSSL contexts built from the listener's settings, and what is
//! decided by the ClientHello.

use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{
    AlpnError, Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslRef, SslSessionCacheMode, SslVersion,
};

use super::client_auth::ClientAuth;
use super::client_hello::{ClientHello, alpn_names};
use super::compression::{self, CompressionMode, Offer, Sent, Stapling};
use super::failure::Failure;
use super::identity::{Identity, Table};
use super::protocol::{Group, Protocol, openssl_name};
use super::secrets;
use super::server_name::NameMap;
use super::settings::{Settings, UnknownServerName};
use super::stapling::{self, OcspMode};
use crate::record::ProtocolVersion;
use crate::sys::certificate;
#[cfg(feature = "vendored-openssl")]
use crate::sys::provider;
use crate::sys::ssl::{NO_AUTO_CHAIN, NO_RX_CERTIFICATE_COMPRESSION};
use crate::ticket::{self, Clock, ScopeKeys, TicketSettings, UnixSeconds};

/// What the handshakes of one listener start from. A clone is the same.
///
/// Each worker builds its own: handshakes on a shared one contend for its reference count.
#[derive(Clone)]
pub struct Context(Arc<Shared>);

struct Shared {
    /// One for each way in which clients are asked for a certificate: nothing else differs. The first is for all that no
    /// section has a say in. They are never switched between within a handshake: OpenSSL would take over a part of what
    /// the other one says.
    contexts: Vec<SslContext>,
    protocol: Protocol,
    identities: Arc<Table>,
    /// Whether certificates are sent compressed.
    compresses: bool,
    stapling: Stapling,
    unknown_server_name: UnknownServerName,
    sections: NameMap<Place>,
}

/// Where a name belongs.
#[derive(Clone, Copy)]
struct Place {
    /// The position of its section.
    section: usize,
    /// The position of its context.
    context: usize,
}

/// The keys of a listener's tickets: those of everything that admits a session.
#[derive(Clone, Debug)]
pub struct TicketKeys {
    /// For clients that ask for a name of no section, or for none.
    pub listener: Arc<ScopeKeys>,
    /// For each section. A section without keys has no tickets, where it asks clients for something else than the
    /// listener does.
    pub sections: Vec<Arc<ScopeKeys>>,
}

impl TicketKeys {
    /// Those of a listener without sections.
    pub fn of_listener(keys: Arc<ScopeKeys>) -> Self {
        Self { listener: keys, sections: Vec::new() }
    }
}

/// A handshake that may go on.
pub(super) struct Admitted {
    /// In the server's role, with everything that is settled by the server_name.
    pub(super) ssl: Ssl,
    /// The position of the section of the server_name, if one has it.
    pub(super) section: Option<usize>,
}

impl Context {
    /// Builds the contexts.
    ///
    /// # Errors
    /// When OpenSSL refuses a setting; the settings were checked before, so this is a bug or a crippled library.
    pub fn build(settings: &Settings, tickets: Option<(&TicketKeys, &TicketSettings)>) -> Result<Self, ErrorStack> {
        let build = |client_auth: Option<&ClientAuth>, keys: Option<&Arc<ScopeKeys>>| {
            let tickets = keys.zip(tickets).map(|(keys, (_, settings))| (Arc::clone(keys), settings));
            ssl_context(settings, client_auth, tickets)
        };
        let listeners_own = settings.client_auth.as_deref();
        let mut contexts = vec![build(listeners_own, tickets.map(|(keys, _)| &keys.listener))?];
        let mut known = vec![listeners_own.map(ClientAuth::digest)];
        let mut sections = NameMap::default();
        for (position, section) in settings.sections.iter().enumerate() {
            let client_auth = section.client_auth.as_deref();
            let digest = client_auth.map(ClientAuth::digest);
            let context = match known.iter().position(|known| *known == digest) {
                Some(context) => context,
                None => {
                    let keys = tickets.and_then(|(keys, _)| keys.sections.get(position));
                    contexts.push(build(client_auth, keys)?);
                    known.push(digest);
                    contexts.len() - 1
                }
            };
            for name in &section.names {
                sections.entry(name).or_insert(Place { section: position, context });
            }
        }
        Ok(Self(Arc::new(Shared {
            contexts,
            protocol: settings.protocol.clone(),
            identities: Arc::clone(&settings.identities),
            compresses: compresses(settings),
            stapling: if settings.ocsp == OcspMode::Off { Stapling::Off } else { Stapling::On },
            unknown_server_name: settings.unknown_server_name,
            sections,
        })))
    }

    /// Decides by what the client offers, before OpenSSL gets to see it and before anything costly is done: the section
    /// of its server_name and what that asks of clients, and the certificate. Without a hello, as without a name.
    ///
    /// # Errors
    /// [`Failure::UnknownServerName`] and [`Failure::NoServerName`], where the listener refuses such clients; when memory
    /// is short.
    pub(super) fn admit(&self, hello: Option<&ClientHello>) -> Result<Admitted, Failure> {
        let context = &*self.0;
        let refuses = context.unknown_server_name == UnknownServerName::Refuse;
        let has_choice = context.identities.identities().len() > 1;
        let mut position = 0;
        if let Some(hello) = hello.filter(|_| refuses || has_choice) {
            let choice = context.identities.choose(hello, context.protocol.version(hello.versions()));
            if refuses && !choice.is_for_name {
                let unknown = |name: &str| Failure::UnknownServerName(name.to_owned());
                return Err(hello.server_name().map_or(Failure::NoServerName, unknown));
            }
            position = choice.position;
        }
        let name = hello.filter(|_| !context.sections.is_empty()).and_then(ClientHello::server_name);
        let place = name.and_then(|name| context.sections.find(name).best().copied());
        // A position that is not there would be a bug, and must not let anybody in.
        let ssl = context.contexts.get(place.map_or(0, |place| place.context));
        let ssl = ssl.ok_or(Failure::Internal("section without a context"))?;
        let mut ssl = Ssl::new(ssl).map_err(Failure::library)?;
        let offer = hello.and_then(|hello| context.offer(hello));
        if has_choice || offer.is_some() {
            let chosen = Chosen { context: self.clone(), position, offer, sent: None };
            ssl.set_ex_data(chosen_index().map_err(Failure::library)?, chosen);
        }
        Ok(Admitted { ssl, section: place.map(|place| place.section) })
    }
}

impl Shared {
    /// How the client takes its certificate compressed; none where it does not, or that is nothing to us.
    fn offer(&self, hello: &ClientHello) -> Option<Offer> {
        let offer = if self.compresses { Offer::of(hello) } else { None };
        // RFC 8879 section 3: the extension means nothing to earlier versions.
        offer.filter(|_| self.protocol.version(hello.versions()) == ProtocolVersion::Tls13)
    }
}

/// The context for clients that are asked for this.
fn ssl_context(
    settings: &Settings,
    client_auth: Option<&ClientAuth>,
    tickets: Option<(Arc<ScopeKeys>, &TicketSettings)>,
) -> Result<SslContext, ErrorStack> {
    #[cfg(feature = "vendored-openssl")]
    provider::install()?;
    let mut builder = SslContextBuilder::new(SslMethod::tls_server())?;
    set_protocol(&mut builder, &settings.protocol)?;
    set_identities(&mut builder, settings)?;
    builder.set_options(NO_RX_CERTIFICATE_COMPRESSION);
    builder.set_mode(NO_AUTO_CHAIN);
    let until = client_auth.and_then(ClientAuth::lists_until);
    set_sessions(&mut builder, tickets, until.map(UnixSeconds::from))?;
    set_alpn(&mut builder, &settings.alpn);
    set_stapling(&mut builder, settings)?;
    if let Some(client_auth) = client_auth {
        client_auth.install(&mut builder)?;
    }
    secrets::install(&mut builder);
    Ok(builder.build())
}

/// The certificate that a handshake will present, if it comes to that: a resumption needs none.
struct Chosen {
    /// The worker's own: nobody else counts its references.
    context: Context,
    position: usize,
    /// How the client takes it compressed.
    offer: Option<Offer>,
    /// How it went out to a client that does.
    sent: Option<Sent>,
}

/// How the certificate of a handshake went out; none where the client takes none that is compressed, or got none.
pub(super) fn sent_certificate(ssl: &SslRef) -> Option<Sent> {
    ssl.ex_data(chosen_index().ok()?)?.sent
}

fn chosen_index() -> Result<Index<Ssl, Chosen>, ErrorStack> {
    static INDEX: LazyLock<Result<Index<Ssl, Chosen>, ErrorStack>> = LazyLock::new(Ssl::new_ex_index);
    INDEX.clone()
}

/// Runs within OpenSSL, in full handshakes of listeners with several certificates.
fn present(ssl: &mut SslRef) -> Result<(), ErrorStack> {
    let Some(chosen) = ssl.ex_data(chosen_index()?) else { return Err(ErrorStack::get()) };
    let (context, position) = (chosen.context.clone(), chosen.position);
    match context.0.identities.identities().get(position) {
        Some(identity) => certificate::use_certificate(ssl, identity.leaf(), identity.issuers(), identity.key())?,
        None => return Err(ErrorStack::get()),
    }
    compress(ssl)
}

/// Runs within OpenSSL, in full handshakes of listeners that compress, once the certificate has been set.
fn compress(ssl: &mut SslRef) -> Result<(), ErrorStack> {
    let index = chosen_index()?;
    let Some(Chosen { context, position, offer: Some(offer), .. }) = ssl.ex_data(index) else { return Ok(()) };
    let (Context(shared), offer) = (context.clone(), *offer);
    let Some(identity) = shared.identities.identities().get(*position) else { return Ok(()) };
    let sent = compression::send(ssl, &shared.identities, identity, offer, shared.stapling)?;
    if let Some(chosen) = ssl.ex_data_mut(index) {
        chosen.sent = Some(sent);
    }
    Ok(())
}

/// Whether the listener sends certificates compressed.
fn compresses(settings: &Settings) -> bool {
    settings.compression != CompressionMode::Off && compression::is_possible()
}

/// With stapling off the callback is not there, and clients that ask go unanswered.
fn set_stapling(builder: &mut SslContextBuilder, settings: &Settings) -> Result<(), ErrorStack> {
    if settings.ocsp == OcspMode::Off {
        return Ok(());
    }
    let identities = Arc::clone(&settings.identities);
    builder.set_status_callback(move |ssl| {
        let position = chosen_index().ok().and_then(|index| ssl.ex_data(index)).map_or(0, |chosen| chosen.position);
        let staple = stapling::respond(identities.identities().get(position), SystemTime::now());
        staple.map_or(Ok(false), |staple| ssl.set_ocsp_status(staple.der()).map(|()| true))
    })
}

fn set_protocol(builder: &mut SslContextBuilder, protocol: &Protocol) -> Result<(), ErrorStack> {
    let version = |version: &ProtocolVersion| match version {
        ProtocolVersion::Tls12 => SslVersion::TLS1_2,
        ProtocolVersion::Tls13 => SslVersion::TLS1_3,
    };
    builder.set_min_proto_version(Some(version(protocol.versions.start())))?;
    builder.set_max_proto_version(Some(version(protocol.versions.end())))?;
    let suites = |version: ProtocolVersion| {
        let of_version = protocol.suites.iter().filter(|suite| suite.version == version);
        of_version.map(|suite| openssl_name(suite)).collect::<Vec<_>>().join(":")
    };
    let tls12 = suites(ProtocolVersion::Tls12);
    if !tls12.is_empty() {
        builder.set_cipher_list(&tls12)?;
    }
    builder.set_ciphersuites(&suites(ProtocolVersion::Tls13))?;
    set_groups(builder, &protocol.groups)?;
    let signatures: Vec<_> = protocol.signature_algorithms.iter().map(|algorithm| algorithm.name).collect();
    builder.set_sigalgs_list(&signatures.join(":"))?;
    // A client that puts ChaCha20 first has no AES instructions: it is worth more to it than AES is to us.
    builder.set_options(
        SslOptions::CIPHER_SERVER_PREFERENCE
            | SslOptions::PRIORITIZE_CHACHA
            | SslOptions::NO_RENEGOTIATION
            | SslOptions::NO_COMPRESSION,
    );
    Ok(())
}

/// OpenSSL before 3.5 does not know the post-quantum hybrids: it gets the list without them.
fn set_groups(builder: &mut SslContextBuilder, groups: &[Group]) -> Result<(), ErrorStack> {
    let list = |groups: &[Group]| groups.iter().map(|group| group.name()).collect::<Vec<_>>().join(":");
    builder.set_groups_list(&list(groups)).or_else(|error| {
        let classical: Vec<_> = groups.iter().copied().filter(|group| !group.is_post_quantum()).collect();
        if classical.is_empty() { Err(error) } else { builder.set_groups_list(&list(&classical)) }
    })
}

/// One certificate belongs to the context; of several each handshake gets its own.
fn set_identities(builder: &mut SslContextBuilder, settings: &Settings) -> Result<(), ErrorStack> {
    match settings.identities.identities() {
        [only] => {
            if compresses(settings) {
                certificate::set_certificate_callback(builder, compress);
            }
            set_identity(builder, only)
        }
        _ => {
            chosen_index()?;
            certificate::set_certificate_callback(builder, present);
            Ok(())
        }
    }
}

fn set_identity(builder: &mut SslContextBuilder, identity: &Identity) -> Result<(), ErrorStack> {
    builder.set_certificate(identity.leaf())?;
    for issuer in identity.issuers() {
        builder.add_extra_chain_cert(issuer.to_owned())?;
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
