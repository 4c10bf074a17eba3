//! Certificates of clients: whom to ask, whose certificates count, and what becomes of the others.
//!
//! OpenSSL builds and checks the chain: signatures, dates, purpose, name constraints, revocation lists. The callback
//! here adds what it does not know (which identities may enter, what an expired list means) and keeps the reason of a
//! refusal, so that it can be counted and logged.

mod allowed;
mod load;
mod name;
mod verify;

use std::ops::Range;
use std::path::PathBuf;
use std::time::SystemTime;

use openssl::asn1::Asn1TimeRef;
use openssl::error::ErrorStack;
use openssl::sha::Sha256;
use openssl::ssl::{SslContextBuilder, SslVerifyMode};
use openssl::stack::Stack;
use openssl::x509::store::{X509StoreBuilder, X509StoreBuilderRef};
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509, X509Crl, X509CrlRef, X509Ref};

pub use allowed::{AllowedError, AllowedIdentity};
pub use load::{ClientAuthError, ClientAuthFile};
pub use name::common_name;
pub(super) use name::{serial, text};
use verify::Verifier;
pub(super) use verify::observe;
pub use verify::{CLIENT_CERTIFICATE_BYTES_MAX, CertificateRefusal};

use crate::sys;

/// What is asked of the clients of a listener, or of some of its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuthSettings {
    /// Whether a client may come without a certificate.
    pub mode: ClientAuthMode,
    /// PEM: the authorities whose certificates count.
    pub ca: PathBuf,
    /// Intermediate certificates between that of a client and an authority at most.
    pub depth: u32,
    /// PEM or DER: revocation lists; none: revocation is not looked at. With any, each authority of a chain needs one.
    pub crl: Vec<PathBuf>,
    /// What a list means after its next update was due.
    pub expired_crl: ExpiredCrl,
    /// Who may enter; empty: whoever has a certificate that counts.
    pub allowed: Vec<AllowedIdentity>,
}

impl ClientAuthSettings {
    /// Every file that it names.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.ca).chain(&self.crl)
    }
}

/// Whether a client may come without a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuthMode {
    /// It may; one with a certificate that does not count is refused all the same.
    Optional,
    /// It may not.
    Required,
}

/// What a revocation list means after its next update was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpiredCrl {
    /// Nothing: every certificate that it is about is refused.
    Refuse,
    /// What it says, and each certificate that was let in on the strength of it is counted.
    Warn,
}

/// The files of [`ClientAuthSettings`], read and put together: the same for all workers.
pub struct ClientAuth {
    settings: ClientAuthSettings,
    authorities: Vec<X509>,
    lists: Vec<X509Crl>,
    digest: [u8; 32],
}

impl ClientAuth {
    /// Reads the files. Dates are not looked at: see [`ClientAuth::authorities`] and
    /// [`ClientAuth::lists`].
    ///
    /// # Errors
    /// The first file that cannot be used, with the reason.
    pub fn load(settings: &ClientAuthSettings) -> Result<Self, ClientAuthError> {
        let authorities = load::authorities(&settings.ca)?;
        let mut lists = Vec::new();
        for path in &settings.crl {
            lists.extend(load::lists(path)?);
        }
        let malformed = |source| ClientAuthError::Malformed { path: settings.ca.clone(), source };
        let digest = digest(settings, &authorities, &lists).map_err(malformed)?;
        Ok(Self { settings: settings.clone(), authorities, lists, digest })
    }

    /// What it was made of.
    pub fn settings(&self) -> &ClientAuthSettings {
        &self.settings
    }

    /// A hash over everything that decides who is let in, file contents included. A session that was admitted under
    /// another one must not be resumed.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The authorities, by subject, with the last second of their validity.
    pub fn authorities(&self) -> impl Iterator<Item = (String, SystemTime)> + '_ {
        self.authorities.iter().map(|authority| (name::text(authority.subject_name()), time(authority.not_after())))
    }

    /// The revocation lists, by issuer, with the time at which the next one is due; none: that is not said.
    pub fn lists(&self) -> impl Iterator<Item = (String, Option<SystemTime>)> + '_ {
        self.lists.iter().map(|list| (name::text(list.issuer_name()), list.next_update().map(time)))
    }

    pub(super) fn authorities_with_period(&self) -> impl Iterator<Item = (&X509Ref, Range<SystemTime>)> {
        let period = |one: &X509Ref| time(one.not_before())..time(one.not_after());
        self.authorities.iter().map(move |authority| (&**authority, period(authority)))
    }

    pub(super) fn lists_with_period(&self) -> impl Iterator<Item = (&X509CrlRef, Range<SystemTime>)> {
        let period = |list: &X509CrlRef| Some(time(list.last_update())..time(list.next_update()?));
        self.lists.iter().filter_map(move |list| Some((&**list, period(list)?)))
    }

    /// When the first of the lists expires, where that means that certificates are refused.
    pub fn lists_until(&self) -> Option<SystemTime> {
        match self.settings.expired_crl {
            ExpiredCrl::Refuse => self.lists().filter_map(|(_, next_update)| next_update).min(),
            ExpiredCrl::Warn => None,
        }
    }

    /// Authorities about whose certificates no list says anything, by subject, where lists are looked at: all of their
    /// clients are refused.
    pub fn authorities_without_list(&self) -> Vec<String> {
        let has_list = |authority: &&X509| {
            let subject = authority.subject_name();
            self.lists.iter().any(|list| list.issuer_name().try_cmp(subject).is_ok_and(std::cmp::Ordering::is_eq))
        };
        if self.lists.is_empty() {
            return Vec::new();
        }
        let without = self.authorities.iter().filter(|authority| !has_list(authority));
        without.map(|authority| name::text(authority.subject_name())).collect()
    }

    /// Makes every handshake of the context ask the client.
    pub(super) fn install(&self, builder: &mut SslContextBuilder) -> Result<(), ErrorStack> {
        let mode = match self.settings.mode {
            ClientAuthMode::Optional => SslVerifyMode::PEER,
            ClientAuthMode::Required => SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
        };
        let mut store = X509StoreBuilder::new()?;
        self.fill(&mut store)?;
        // A store of its own: OpenSSL completes our own chain from the other one.
        builder.set_verify_cert_store(store.build())?;
        builder.set_verify_depth(self.settings.depth);
        let mut names = Stack::new()?;
        for authority in &self.authorities {
            names.push(authority.subject_name().to_owned()?)?;
        }
        builder.set_client_ca_list(names);
        let verifier = Verifier::new(self.settings.expired_crl, self.settings.allowed.clone());
        builder.set_verify_callback(mode, move |is_good, context| verifier.judge(is_good, context));
        Ok(())
    }

    fn fill(&self, store: &mut X509StoreBuilderRef) -> Result<(), ErrorStack> {
        for authority in &self.authorities {
            store.add_cert(authority.clone())?;
        }
        for list in &self.lists {
            sys::ssl::add_crl(store, list)?;
        }
        if !self.lists.is_empty() {
            store.set_flags(X509VerifyFlags::CRL_CHECK | X509VerifyFlags::CRL_CHECK_ALL)?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientAuth").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Each part with its length in front, so that nothing can stand for something else. `docs/ticket-ring.md` describes it for
/// other implementations.
fn digest(settings: &ClientAuthSettings, authorities: &[X509], lists: &[X509Crl]) -> Result<[u8; 32], ErrorStack> {
    let ClientAuthSettings { mode, ca: _, depth, crl: _, expired_crl, allowed } = settings;
    let mut hash = Sha256::new();
    let mut add = |label: &str, part: &[u8]| {
        for bytes in [label.as_bytes(), part] {
            hash.update(&(bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        }
    };
    add("sluice client auth", b"1");
    let (optional, required) = (b"optional".as_slice(), b"required".as_slice());
    add("mode", if *mode == ClientAuthMode::Optional { optional } else { required });
    add("depth", &depth.to_be_bytes());
    add("expired_crl", if *expired_crl == ExpiredCrl::Refuse { b"refuse" } else { b"warn" });
    for identity in allowed {
        add("allowed", identity.to_string().as_bytes());
    }
    for authority in authorities {
        add("ca", &authority.to_der()?);
    }
    for list in lists {
        add("crl", &list.to_der()?);
    }
    Ok(hash.finish())
}

/// Dates before 1970 are given as 1970.
fn time(time: &Asn1TimeRef) -> SystemTime {
    super::identity::system_time(time).unwrap_or(SystemTime::UNIX_EPOCH)
}
