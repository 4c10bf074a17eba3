//! The client's TLS context, made from the plan, and what a handshake negotiated.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::pkey::Id;
use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslRef, SslSession, SslSessionCacheMode,
    SslVerifyMode, SslVersion, cipher_name,
};

use crate::engine::kernel_tls::{self, SecretSlot};
use crate::plan::{Records, TlsPlan, TlsVersion, Trust};
use crate::result::{HandshakeKind, Negotiated};
use crate::sys;

/// Why the plan's TLS settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsPlanError {
    /// OpenSSL does not know the name, or not in this build.
    #[error("{what} {name:?} is not known to OpenSSL {}: {source}", openssl::version::version())]
    Unknown {
        /// Which setting.
        what: &'static str,
        /// Its value.
        name: String,
        /// OpenSSL's own words.
        source: ErrorStack,
    },
    /// A suite of one version with another version.
    #[error("suite {suite} belongs to TLS {belongs}, but --tls {asked} was given")]
    SuiteOfOtherVersion {
        /// The suite.
        suite: String,
        /// Its version.
        belongs: &'static str,
        /// The asked version.
        asked: &'static str,
    },
    /// A roots file that cannot be read.
    #[error("--ca {path}: {source}")]
    Roots {
        /// The file.
        path: String,
        /// OpenSSL's own words.
        source: ErrorStack,
    },
    /// An ALPN protocol of no or more than 255 bytes.
    #[error("ALPN protocol {0:?}: 1 to 255 bytes are allowed")]
    Alpn(String),
    /// OpenSSL failed otherwise.
    #[error("OpenSSL: {0}")]
    Library(#[from] ErrorStack),
}

/// The session that a connection slot offers next; filled by OpenSSL when a ticket arrives.
pub type SessionSlot = Arc<Mutex<Option<SslSession>>>;

/// Makes client connections under one context. One per thread: a shared context is a lock on every handshake.
pub struct Client {
    context: SslContext,
    server_name: Option<String>,
    checks_name: bool,
    slots: Index<Ssl, SessionSlot>,
    /// Where the key log goes, when the kernel is to have the keys.
    secrets: Option<Index<Ssl, SecretSlot>>,
}

impl Client {
    /// A client for `plan`; `host` is the name or address of the target. Only with [`Sessions::Keep`] do tickets come
    /// into the slots of [`Client::start`].
    pub fn new(plan: &TlsPlan, host: &str, sessions: Sessions) -> Result<Self, TlsPlanError> {
        let slots = Ssl::new_ex_index::<SessionSlot>()?;
        let mut builder = SslContextBuilder::new(SslMethod::tls_client())?;
        builder
            .set_mode(SslMode::ENABLE_PARTIAL_WRITE | SslMode::RELEASE_BUFFERS | SslMode::ACCEPT_MOVING_WRITE_BUFFER);
        builder.set_options(
            SslOptions::NO_COMPRESSION | SslOptions::NO_RENEGOTIATION | sys::NO_RX_CERTIFICATE_COMPRESSION,
        );
        match sessions {
            Sessions::Drop => {
                builder.set_session_cache_mode(SslSessionCacheMode::OFF);
            }
            Sessions::Keep => {
                builder.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
                builder.set_new_session_callback(move |ssl, session| {
                    if let Some(slot) = ssl.ex_data(slots)
                        && let Ok(mut slot) = slot.lock()
                    {
                        *slot = Some(session);
                    }
                });
            }
        }
        set_algorithms(&mut builder, plan)?;
        set_trust(&mut builder, &plan.trust)?;
        if !plan.alpn.is_empty() {
            builder.set_alpn_protos(&alpn_wire_form(&plan.alpn)?)?;
        }
        let secrets = match plan.records {
            Records::Userspace => None,
            Records::Kernel => {
                let index = Ssl::new_ex_index::<SecretSlot>()?;
                builder.set_keylog_callback(move |ssl, line| {
                    if let Some(slot) = ssl.ex_data(index) {
                        kernel_tls::note(slot, line);
                    }
                });
                Some(index)
            }
        };
        let server_name = plan.server_name.clone().unwrap_or_else(|| host.to_owned());
        Ok(Self {
            context: builder.build(),
            server_name: Some(server_name).filter(|name| !name.is_empty()),
            checks_name: plan.trust != Trust::Insecure,
            slots,
            secrets,
        })
    }

    /// Whether the kernel is to protect the records.
    pub fn wants_kernel(&self) -> bool {
        self.secrets.is_some()
    }

    /// The secrets of a connection of this client's, when the kernel is to have them.
    pub fn secrets<'a>(&self, ssl: &'a SslRef) -> Option<&'a SecretSlot> {
        self.secrets.and_then(|index| ssl.ex_data(index))
    }

    /// A fresh connection that offers the session in `slot` (if there is one) and keeps the next ticket there.
    /// Without a slot tickets are dropped.
    pub fn start(&self, slot: Option<&SessionSlot>) -> Result<(Ssl, Offer), ErrorStack> {
        let mut ssl = Ssl::new(&self.context)?;
        if let Some(name) = &self.server_name {
            let address = name.parse::<IpAddr>().ok();
            // RFC 6066 section 3: addresses are not sent as server names.
            if address.is_none() {
                ssl.set_hostname(name)?;
            }
            if self.checks_name {
                match address {
                    Some(address) => ssl.param_mut().set_ip(address)?,
                    None => ssl.param_mut().set_host(name)?,
                }
            }
        }
        if let Some(index) = self.secrets {
            ssl.set_ex_data(index, SecretSlot::default());
        }
        let mut offer = Offer::Nothing;
        if let Some(slot) = slot {
            if let Some(session) = slot.lock().ok().as_deref().and_then(Option::as_ref) {
                sys::offer_session(&mut ssl, session)?;
                offer = Offer::Ticket;
            }
            ssl.set_ex_data(self.slots, Arc::clone(slot));
        }
        Ok((ssl, offer))
    }
}

/// What a client does with the tickets it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sessions {
    /// Reads them and forgets them. The target still issues them: the handshake is the one that browsers do.
    Drop,
    /// Keeps the newest in the slot of its connection.
    Keep,
}

/// What a handshake offers for resumption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// No session: it will be a full handshake.
    Nothing,
    /// A ticket of an earlier connection.
    Ticket,
}

/// What the finished handshake of `ssl` negotiated.
pub fn negotiated(ssl: &SslRef) -> Negotiated {
    let key = ssl.peer_certificate().and_then(|certificate| certificate.public_key().ok());
    Negotiated {
        version: ssl.version_str().to_owned(),
        suite: suite(ssl).to_owned(),
        group: sys::group_name(ssl),
        certificate: key.map(|key| {
            match key.id() {
                Id::EC => "ecdsa",
                Id::RSA | Id::RSA_PSS => "rsa",
                _ => "other",
            }
            .to_owned()
        }),
        kind: if ssl.session_reused() { HandshakeKind::Resumed } else { HandshakeKind::Full },
    }
}

/// IANA name of the negotiated suite.
pub fn suite(ssl: &SslRef) -> &'static str {
    ssl.current_cipher().map_or("", |cipher| cipher.standard_name().unwrap_or_else(|| cipher.name()))
}

fn set_algorithms(builder: &mut SslContextBuilder, plan: &TlsPlan) -> Result<(), TlsPlanError> {
    let mut version = plan.version;
    if let Some(suite) = &plan.suite {
        let belongs = suite_version(suite);
        if let Some(asked) = version.filter(|asked| *asked != belongs) {
            return Err(TlsPlanError::SuiteOfOtherVersion {
                suite: suite.clone(),
                belongs: belongs.label(),
                asked: asked.label(),
            });
        }
        version = Some(belongs);
        let unknown = |source| TlsPlanError::Unknown { what: "suite", name: suite.clone(), source };
        match belongs {
            TlsVersion::Tls13 => builder.set_ciphersuites(suite).map_err(unknown)?,
            TlsVersion::Tls12 => {
                let name = cipher_name(suite);
                let name = if name == "(NONE)" { suite.as_str() } else { name };
                builder.set_cipher_list(name).map_err(unknown)?;
            }
        }
    }
    let protocol = version.map(|version| match version {
        TlsVersion::Tls12 => SslVersion::TLS1_2,
        TlsVersion::Tls13 => SslVersion::TLS1_3,
    });
    builder.set_min_proto_version(Some(protocol.unwrap_or(SslVersion::TLS1_2)))?;
    builder.set_max_proto_version(Some(protocol.unwrap_or(SslVersion::TLS1_3)))?;
    if let Some(groups) = &plan.group {
        let unknown = |source| TlsPlanError::Unknown { what: "group", name: groups.clone(), source };
        builder.set_groups_list(groups).map_err(unknown)?;
    }
    if let Some(sigalgs) = &plan.sigalgs {
        let unknown = |source| TlsPlanError::Unknown { what: "signature algorithm", name: sigalgs.clone(), source };
        builder.set_sigalgs_list(sigalgs).map_err(unknown)?;
    }
    Ok(())
}

fn set_trust(builder: &mut SslContextBuilder, trust: &Trust) -> Result<(), TlsPlanError> {
    builder.set_verify(if *trust == Trust::Insecure { SslVerifyMode::NONE } else { SslVerifyMode::PEER });
    match trust {
        Trust::Ca(path) => {
            builder.set_ca_file(path).map_err(|source| TlsPlanError::Roots { path: path.display().to_string(), source })
        }
        Trust::System => Ok(builder.set_default_verify_paths()?),
        Trust::Insecure => Ok(()),
    }
}

/// TLS 1.3 suites name no key exchange, so they are the ones without `WITH` or dashes.
fn suite_version(suite: &str) -> TlsVersion {
    if suite.starts_with("TLS_") && !suite.contains("_WITH_") { TlsVersion::Tls13 } else { TlsVersion::Tls12 }
}

/// RFC 7301 section 3.1: each protocol behind its length.
fn alpn_wire_form(protocols: &[String]) -> Result<Vec<u8>, TlsPlanError> {
    let mut wire = Vec::new();
    for protocol in protocols {
        match u8::try_from(protocol.len()) {
            Ok(length @ 1..) => {
                wire.push(length);
                wire.extend_from_slice(protocol.as_bytes());
            }
            _ => return Err(TlsPlanError::Alpn(protocol.clone())),
        }
    }
    Ok(wire)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

    use super::*;

    fn insecure() -> TlsPlan {
        TlsPlan { trust: Trust::Insecure, ..TlsPlan::default() }
    }

    #[test]
    fn unknown_group_is_named_in_the_error() {
        let plan = TlsPlan { group: Some("X25518".to_owned()), ..insecure() };
        let message = Client::new(&plan, "localhost", Sessions::Drop).err().unwrap().to_string();
        assert!(message.contains("group \"X25518\""), "{message}");
    }

    #[test]
    fn suite_of_the_other_version_is_refused() {
        let plan = TlsPlan {
            version: Some(TlsVersion::Tls12),
            suite: Some("TLS_AES_128_GCM_SHA256".to_owned()),
            ..insecure()
        };
        let message = Client::new(&plan, "localhost", Sessions::Drop).err().unwrap().to_string();
        assert!(message.contains("belongs to TLS 1.3"), "{message}");
    }

    #[test]
    fn tls12_suite_is_taken_in_iana_and_in_openssl_form() {
        for suite in ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"] {
            let plan = TlsPlan { suite: Some(suite.to_owned()), ..insecure() };
            Client::new(&plan, "localhost", Sessions::Drop).expect(suite);
        }
    }

    #[test]
    fn alpn_protocol_of_no_bytes_is_refused() {
        let plan = TlsPlan { alpn: vec![String::new()], ..insecure() };
        assert!(matches!(Client::new(&plan, "localhost", Sessions::Drop), Err(TlsPlanError::Alpn(_))));
    }
}
