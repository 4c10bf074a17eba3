//! The certificates of a listener: which one a client gets.

use std::collections::HashMap;
use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::SystemTime;

use openssl::sha::Sha256;
use openssl::stack::Stack;
use openssl::x509::X509;

use super::super::client_hello::ClientHello;
use super::super::{CertificateFiles, CertificateSources, NameMap};
use super::directory;
use super::error::IdentityError;
use super::file::file_time;
use super::{Identity, ServerName};
use crate::record::ProtocolVersion;

/// The certificates of one listener, and what finds the right one. Never changed: a listener gets another table.
///
/// Shared by all workers: a certificate with its key takes several KiB.
pub struct Table {
    identities: Vec<Identity>,
    by_name: NameMap<Candidates>,
    /// For clients without a name, or with one that no certificate has.
    default: Candidates,
    /// When the first file was read, or before.
    reading_began: SystemTime,
    /// Whether a worker has noted something to be compressed since it was last asked.
    is_compression_wanted: AtomicBool,
}

/// Positions of identities for the same name, one for each kind of key, the preferred one first.
type Candidates = Vec<u32>;

/// The identity for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tls) struct Choice {
    /// Its position.
    pub(in crate::tls) position: usize,
    /// Whether it is there for the name that the client asked for.
    pub(in crate::tls) is_for_name: bool,
}

impl Table {
    /// Reads everything that a listener is configured with.
    ///
    /// # Errors
    /// Everything that is wrong with the files.
    pub fn load(sources: &CertificateSources) -> Result<Self, Vec<IdentityError>> {
        let reading_began = file_time();
        let mut files = sources.entries.clone();
        if let Some(folder) = &sources.directory {
            files.extend(directory::list(folder)?);
        }
        let (mut identities, mut errors) = (Vec::with_capacity(files.len()), Vec::new());
        for loaded in load_all(&files) {
            match loaded {
                Ok(identity) => identities.push(identity),
                Err(found) => errors.extend(found),
            }
        }
        if errors.is_empty() { Self::new(identities, reading_began).map_err(|error| vec![error]) } else { Err(errors) }
    }

    /// A table of these, of which the first is for clients that ask for no name or for an unknown one, together with
    /// those for the same names on keys of other kinds. Of two for the same name on the same kind of key the first counts.
    ///
    /// # Errors
    /// [`IdentityError::TooMany`], and [`IdentityError::EmptyDirectory`] of nowhere where there is none at all.
    pub fn new(mut identities: Vec<Identity>, reading_began: SystemTime) -> Result<Self, IdentityError> {
        if identities.is_empty() {
            return Err(IdentityError::EmptyDirectory { path: std::path::PathBuf::new() });
        }
        if identities.len() > IDENTITY_COUNT_MAX {
            return Err(IdentityError::TooMany { count: identities.len() });
        }
        share_issuers(&mut identities);
        let (mut by_name, mut default) = (NameMap::default(), Candidates::new());
        let first_names = identities.first().map(Identity::names);
        for (position, identity) in (0..).zip(&identities) {
            let names = identity.names();
            for name in &names {
                insert(&identities, by_name.entry(name).or_insert_with(Vec::new), position);
            }
            if first_names.as_ref() == Some(&names) {
                insert(&identities, &mut default, position);
            }
        }
        let is_compression_wanted = AtomicBool::new(false);
        Ok(Self { identities, by_name, default, reading_began, is_compression_wanted })
    }

    /// A moment before the first file was read: what has changed since then may be another file than the one in here.
    pub fn reading_began(&self) -> SystemTime {
        self.reading_began
    }

    /// Says that one of the identities has something to be compressed
    /// ([`CompressedCell::is_wanted`](super::super::compression::CompressedCell::is_wanted)).
    pub fn want_compression(&self) {
        self.is_compression_wanted.store(true, Ordering::Release);
    }

    /// Whether that was said since the last call.
    pub fn take_compression_wanted(&self) -> bool {
        // Asked ten times a second and nearly always in vain.
        self.is_compression_wanted.load(Ordering::Relaxed) && self.is_compression_wanted.swap(false, Ordering::AcqRel)
    }

    /// The identities, in the order of the configuration; those of a folder by file name.
    pub fn identities(&self) -> &[Identity] {
        &self.identities
    }

    /// The file and names of each identity that no client ever gets, because others stand before it under all of its
    /// names.
    pub fn idle(&self) -> Vec<(&Path, Vec<ServerName>)> {
        let mut is_used = vec![false; self.identities.len()];
        for position in self.by_name.values().chain([&self.default]).flatten() {
            if let Some(used) = is_used.get_mut(*position as usize) {
                *used = true;
            }
        }
        let idle = self.identities.iter().zip(is_used).filter(|(_, used)| !used);
        idle.map(|(identity, _)| (identity.path(), identity.names())).collect()
    }

    /// Whether a certificate is there for this name.
    pub fn has_name(&self, name: &ServerName) -> bool {
        self.by_name.find(name.as_str().trim_start_matches("*.")).exact.is_some()
            || self.by_name.find(name.as_str()).wildcard.is_some()
    }

    /// Chooses by name (exact, then wildcard), then by what the client can verify at `version`. Where it can verify none
    /// of them it gets the first: the handshake fails by OpenSSL's judgement then, with its alert.
    pub(in crate::tls) fn choose(&self, hello: &ClientHello, version: ProtocolVersion) -> Choice {
        let found = hello.server_name().map(|name| self.by_name.find(name));
        let named = || found.iter().flat_map(|found| [found.exact, found.wildcard]).flatten().flatten();
        let is_for_name = named().next().is_some();
        let position = if is_for_name {
            self.pick(named, hello, version)
        } else {
            self.pick(|| self.default.iter(), hello, version)
        };
        Choice { position, is_for_name }
    }

    fn pick<'a, I: Iterator<Item = &'a u32>>(
        &self,
        candidates: impl Fn() -> I,
        hello: &ClientHello,
        version: ProtocolVersion,
    ) -> usize {
        let first = candidates().next().copied().unwrap_or(0);
        // Nearly always there is no choice, and then nothing need be read.
        if candidates().nth(1).is_none() {
            return first as usize;
        }
        let is_usable = |position: &&u32| {
            self.identities.get(**position as usize).is_some_and(|identity| identity.kind().is_usable(hello, version))
        };
        candidates().find(is_usable).copied().unwrap_or(first) as usize
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("identities", &self.identities.len()).field("names", &self.by_name.len()).finish()
    }
}

/// Reads many identities, on as many threads as pay; the results are in the order of the files.
pub fn load_all(files: &[CertificateFiles]) -> Vec<Result<Identity, Vec<IdentityError>>> {
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = (files.len() / FILES_PER_THREAD_MIN).clamp(1, cpus);
    if threads == 1 {
        return files.iter().map(Identity::load).collect();
    }
    let load = |files: &[CertificateFiles]| files.iter().map(Identity::load).collect::<Vec<_>>();
    thread::scope(|scope| {
        let chunks = files.chunks(files.len().div_ceil(threads));
        let running: Vec<_> = chunks.map(|chunk| (chunk, scope.spawn(move || load(chunk)))).collect();
        // Where a thread panicked its share is done again here, which brings the panic to where it is seen.
        running.into_iter().flat_map(|(chunk, thread)| thread.join().unwrap_or_else(|_| load(chunk))).collect()
    })
}

/// Puts a position where its kind of key belongs, unless an identity of this kind is there.
fn insert(identities: &[Identity], candidates: &mut Candidates, position: u32) {
    let kind = |position: u32| identities.get(position as usize).map(Identity::kind);
    if let Err(at) = candidates.binary_search_by_key(&kind(position), |candidate| kind(*candidate)) {
        candidates.insert(at, position);
    }
}

/// Lets identities with the same intermediates share them.
fn share_issuers(identities: &mut [Identity]) {
    let mut known: HashMap<[u8; 32], Arc<Stack<X509>>> = HashMap::new();
    for identity in identities {
        let mut hash = Sha256::new();
        for issuer in identity.issuers().iter() {
            // What cannot be encoded is shared with nobody.
            let Ok(der) = issuer.to_der() else { return };
            hash.update(&(der.len() as u64).to_be_bytes());
            hash.update(&der);
        }
        let shared = known.entry(hash.finish()).or_insert_with(|| Arc::clone(&identity.issuers));
        identity.issuers = Arc::clone(shared);
    }
}

/// Certificates of one listener. Each takes about 10 KiB; more than this many are a mistake, or a job for several nodes.
pub const IDENTITY_COUNT_MAX: usize = 100_000;

/// Fewer files than this are read sooner than a thread starts.
const FILES_PER_THREAD_MIN: usize = 32;
