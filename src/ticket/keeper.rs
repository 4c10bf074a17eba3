//! Keeps a ring: ratchets it with the clock, shares it with other processes through its file, and publishes the keys
//! of every scope.
//!
//! Belongs to the control thread. It reads and writes files and takes a lock; the data path sees none of that, only the
//! tables in [`ScopeKeys`].

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use zeroize::Zeroizing;

use super::clock::UnixSeconds;
use super::encoding::{FormatError, decode, encode};
use super::file::{FileError, FileStamp, LockWait, RingFile, load_key_file};
use super::install::ScopeKeys;
use super::key::{KeyName, KeyTable, Remembered, ScheduledKey, ScopeHash, TicketKey};
use super::ring::{RETENTION_MAX, Relation, Ring, RingError, RingId, RingShape, Standing};
use super::telemetry::{KeySource, RingEvent, RingFacts, RingStatus, RingTelemetry};

/// Scopes whose keys are no longer used that are remembered, so that their tickets are counted as `scope`.
pub const RETIRED_SCOPES_MAX: usize = 32;
/// Expired key names that each scope remembers, so that their tickets are counted as `expired`.
pub const EXPIRED_NAMES_MAX: usize = 64;
/// Key names that the status shows; with more keys in use, the others are only counted.
pub const KEY_NAMES_SHOWN_MAX: usize = 256;
/// Key files that are opened with: each is searched for every ticket. More are refused.
pub const KEY_FILES_MAX: usize = 16;
/// Rings that were revoked and then replaced by others, which are remembered so that none comes back from before its
/// revocation; beyond that the first is forgotten.
pub const REPLACED_RINGS_MAX: usize = 64;
/// How long after a run that failed, or could not write the file, the next one is due by itself.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A ring for this process only: sessions end with it.
    Memory(RingShape),
    /// A ring file.
    File(PathBuf),
    /// No ring: the first of the key files seals, for as long as the operator leaves it there. No forward secrecy.
    KeyFiles,
}

/// A ring and the scopes that use it.
#[derive(Debug)]
pub struct Keeper {
    source: Source,
    /// Key files in nginx's format: beside a ring they only open.
    key_file_paths: Vec<PathBuf>,
    ring: Option<Ring>,
    file: Option<(RingFile, FileStamp)>,
    static_keys: Vec<TicketKey>,
    scopes: Vec<Scope>,
    retired: Vec<(ScopeHash, UnixSeconds)>,
    changed_at: UnixSeconds,
    /// What the file looked like when it was last read, whatever came of it; none: it was not there.
    seen: Option<FileStamp>,
    /// Epoch and standing for which the tables in use were made; none: they have to be made anew.
    published: Option<(u64, Standing)>,
    /// When the last run failed or could not write the file.
    failed_at: Option<UnixSeconds>,
    /// The file has a ring that is behind the one in memory.
    file_is_behind: bool,
    /// The tables in use come from a ring that is no longer ours.
    tables_are_foreign: bool,
    replaced: Replaced,
    telemetry: Arc<RingTelemetry>,
}

#[derive(Debug)]
struct Scope {
    hash: ScopeHash,
    keys: Weak<ScopeKeys>,
    expired: Vec<KeyName>,
}

/// Rings of other identities that were in use before, as far as they had been revoked, with their generations.
#[derive(Clone, Debug, Default)]
struct Replaced(Vec<(RingId, u32)>);

impl Replaced {
    fn remember(&mut self, ring: &Ring) {
        self.0.retain(|(id, _)| *id != ring.id());
        if ring.generation() > 0 {
            self.0.push((ring.id(), ring.generation()));
        }
        let excess = self.0.len().saturating_sub(REPLACED_RINGS_MAX);
        self.0.drain(..excess);
    }

    /// Refuses a ring from before its revocation.
    fn check(&self, ring: &Ring, path: impl FnOnce() -> PathBuf) -> Result<(), KeeperError> {
        match self.0.iter().find(|(id, generation)| *id == ring.id() && *generation > ring.generation()) {
            Some((_, own)) => Err(KeeperError::Revoked { path: path(), file: ring.generation(), own: *own }),
            None => Ok(()),
        }
    }
}

/// What a reload or a maintenance run changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingChange {
    /// Nothing.
    None,
    /// Another process had ratcheted the file further; followed.
    Followed {
        /// Epochs left behind.
        epochs: u64,
    },
    /// The file was behind, as one is that was copied back from elsewhere. Kept ours; the file is to be rewritten.
    KeptOurs {
        /// Epochs that the file was behind.
        epochs: u64,
    },
    /// A revocation reached this node: every ticket from before is refused.
    Revoked,
    /// Another ring is in the file, or took the place of one in memory that was ahead of the clock: every ticket of the
    /// former one is refused.
    Replaced,
    /// A wrong clock had ratcheted ours past the present; the file had it as it was before, and that is in use again.
    Restored {
        /// Epochs gone back.
        epochs: u64,
    },
}

/// What [`Keeper::maintain_at`] did.
#[derive(Debug)]
pub struct Maintenance {
    /// What the file brought.
    pub change: RingChange,
    /// Epochs that the ring has left behind; their keys are wiped.
    pub ratcheted_epochs: u64,
    /// Whether the file has the ring as it is now. An error here leaves the ring in memory correct and the file with keys
    /// of expired tickets: log it, count it, and try again with the next run.
    pub persisted: Result<Persisted, FileError>,
}

/// Whether a ring file was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persisted {
    /// There is no file, or it is up to date.
    NotNeeded,
    /// The file was replaced.
    Written,
}

impl Keeper {
    /// Loads or makes the keys. `key_files` are opened with, and sealed with only under [`Source::KeyFiles`].
    pub fn open_at(source: Source, key_files: &[PathBuf], now: UnixSeconds) -> Result<Self, KeeperError> {
        let static_keys = load_key_files(&source, key_files)?;
        let (ring, file) = match &source {
            Source::Memory(shape) => (Some(Ring::generate_at(*shape, now)?), None),
            Source::KeyFiles => (None, None),
            Source::File(path) => {
                let file = RingFile::at(path);
                let (ring, stamp) = file.load()?;
                (Some(usable_at(ring, path, now)?), Some((file, stamp)))
            }
        };
        let seen = file.as_ref().map(|(_, stamp)| *stamp);
        Ok(Self {
            source,
            key_file_paths: key_files.to_vec(),
            ring,
            file,
            static_keys,
            scopes: Vec::new(),
            retired: Vec::new(),
            changed_at: now,
            seen,
            published: None,
            failed_at: None,
            // The first maintenance brings a ring that waited long up to date.
            file_is_behind: true,
            tables_are_foreign: false,
            replaced: Replaced::default(),
            telemetry: Arc::default(),
        })
    }

    /// The keys of a scope, for [`install`](super::install()). The same scope gives the same keys for as long as anybody uses them.
    ///
    /// Its tickets are told apart from those of the other scopes from the next [`Keeper::maintain_at`] on; until then the
    /// others' count as `unknown_key`.
    pub fn scope_at(&mut self, hash: ScopeHash, now: UnixSeconds) -> Result<Arc<ScopeKeys>, KeeperError> {
        if let Some(keys) = self.scopes.iter().find(|scope| scope.hash == hash).and_then(|scope| scope.keys.upgrade()) {
            return Ok(keys);
        }
        let keys = Arc::new(ScopeKeys::new(hash, KeyTable::default()));
        self.scopes.retain(|scope| scope.hash != hash);
        self.retired.retain(|(retired, _)| *retired != hash);
        let mut scope = Scope { hash, keys: Arc::downgrade(&keys), expired: Vec::new() };
        self.publish_scope_at(&mut scope, &[], now)?;
        self.scopes.push(scope);
        // The tables of the other scopes have to learn its names.
        self.published = None;
        Ok(keys)
    }

    /// Whether [`Keeper::maintain_at`] has anything to do: an epoch has begun, the clock has stepped, the file has changed, a
    /// scope has come or gone, or a failed run is to be repeated. Cheap enough to be asked every second.
    pub fn is_due_at(&self, now: UnixSeconds) -> bool {
        let file_changed = || self.file.as_ref().is_some_and(|(file, _)| file.stamp() != self.seen);
        let retry_is_due = |failed: UnixSeconds| !(failed..failed.plus(RETRY_INTERVAL)).contains(&now);
        self.published != Some(self.moment_at(now))
            || self.failed_at.is_some_and(retry_is_due)
            || self.scopes.iter().any(|scope| scope.keys.strong_count() == 0)
            || file_changed()
    }

    /// Keeps everything up to date: looks at the file, ratchets, rewrites the file, publishes. Call it whenever
    /// [`Keeper::is_due_at`] says so.
    ///
    /// On an error the former ring stays in use.
    pub fn maintain_at(&mut self, now: UnixSeconds) -> Result<Maintenance, KeeperError> {
        let done = self.maintain_uncounted_at(now);
        self.note_at(now, &done);
        done
    }

    fn maintain_uncounted_at(&mut self, now: UnixSeconds) -> Result<Maintenance, KeeperError> {
        let followed = self.look_at(now);
        let ratcheted = self.ring.as_mut().map_or(Ok(0), |ring| ring.ratchet_at(now));
        // Whatever failed: tables for this moment, so that no key is used longer than it may be.
        self.publish_at(now)?;
        let (change, ratcheted_epochs) = (followed?, ratcheted?);
        Ok(self.finish_at(now, change, ratcheted_epochs))
    }

    /// Reads all files again, changed or not. On an error everything stays as it was.
    pub fn reload_at(&mut self, now: UnixSeconds) -> Result<Maintenance, KeeperError> {
        let done = self.reload_uncounted_at(now);
        self.note_at(now, &done);
        done
    }

    /// A ring that is in memory only, as a file would have it: for a process that takes over.
    pub fn export(&self) -> Option<Zeroizing<Vec<u8>>> {
        let (Source::Memory(_), Some(ring)) = (&self.source, &self.ring) else { return None };
        let text = encode(ring).ok()?;
        Some(Zeroizing::new(text.as_bytes().to_vec()))
    }

    /// Goes on with an exported ring, where this one is in memory and has the same shape; says whether it does. To be
    /// called before the first scope.
    ///
    /// # Errors
    /// When this is no ring, or one that cannot be brought up to `now`; the own one stays.
    pub fn resume_at(&mut self, content: &[u8], now: UnixSeconds) -> Result<bool, FormatError> {
        let Source::Memory(shape) = self.source else { return Ok(false) };
        let mut ring = decode(content)?;
        if ring.shape() != shape {
            return Ok(false);
        }
        ring.ratchet_at(now)?;
        self.ring = Some(ring);
        self.published = None;
        Ok(true)
    }

    /// What happened to the ring so far, and what it is like; written by the thread that owns the keeper.
    pub fn telemetry(&self) -> Arc<RingTelemetry> {
        Arc::clone(&self.telemetry)
    }

    /// Takes the place of `former`, with other sources, and writes to its telemetry from now on.
    ///
    /// # Errors
    /// When this ring is one that `former` has left behind by a revocation, or claims to be its ring with other keys.
    pub fn succeed(mut self, former: &Self) -> Result<Self, KeeperError> {
        self.replaced = former.replaced.clone();
        let relation = match (&former.ring, &self.ring) {
            (Some(own), Some(ring)) => own.relation_of(ring)?,
            _ => Relation::Different,
        };
        // Replaced also by a ring of memory or by none.
        if let (Some(own), Relation::Different | Relation::Revoked) = (&former.ring, relation) {
            self.replaced.remember(own);
        }
        if let Some(ring) = &self.ring {
            let path = || self.file.as_ref().map(|(file, _)| file.path().to_path_buf()).unwrap_or_default();
            self.replaced.check(ring, path)?;
        }
        self.telemetry = former.telemetry();
        Ok(self)
    }

    /// Writes to this telemetry from now on.
    pub fn report_to(mut self, telemetry: Arc<RingTelemetry>) -> Self {
        self.telemetry = telemetry;
        self
    }

    fn reload_uncounted_at(&mut self, now: UnixSeconds) -> Result<Maintenance, KeeperError> {
        let static_keys = load_key_files(&self.source, &self.key_file_paths)?;
        let change = self.follow_file_at(now)?;
        self.static_keys = static_keys;
        let ratcheted = self.ring.as_mut().map_or(Ok(0), |ring| ring.ratchet_at(now));
        self.publish_at(now)?;
        Ok(self.finish_at(now, change, ratcheted?))
    }

    /// The longest life of a ticket under these keys.
    pub fn retention(&self) -> Duration {
        self.ring.as_ref().map_or(RETENTION_MAX, |ring| ring.shape().retention())
    }

    /// What may be shown about the keys.
    pub fn status_at(&self, now: UnixSeconds) -> Result<RingStatus, KeeperError> {
        let scopes = self.scopes.iter().filter_map(|scope| scope.keys.upgrade());
        let mut names: Vec<KeyName> = scopes.flat_map(|keys| keys.table().names().collect::<Vec<_>>()).collect();
        // A key file has one name in every scope.
        names.sort_unstable();
        names.dedup();
        Ok(RingStatus {
            source: match self.source {
                Source::Memory(_) => KeySource::Memory,
                Source::File(_) => KeySource::File,
                Source::KeyFiles => KeySource::KeyFiles,
            },
            ring: self.ring.as_ref().map(|ring| RingFacts::at(ring, now)).transpose()?,
            changed_unix_seconds: self.changed_at.0,
            key_count: names.len(),
            key_names: names.iter().take(KEY_NAMES_SHOWN_MAX).map(ToString::to_string).collect(),
        })
    }

    /// The moment as far as tables depend on it.
    fn moment_at(&self, now: UnixSeconds) -> (u64, Standing) {
        self.ring.as_ref().map_or((0, Standing::Current), |ring| (ring.shape().epoch_at(now), ring.standing_at(now)))
    }

    /// Counts what came of a run, and shows how things stand.
    fn note_at(&mut self, now: UnixSeconds, done: &Result<Maintenance, KeeperError>) {
        let failed = done.as_ref().map_or(true, |done| done.persisted.is_err());
        self.failed_at = failed.then_some(now);
        self.count(done);
        // Fails only with OpenSSL; what was shown before is then better than nothing.
        if let Ok(status) = self.status_at(now) {
            self.telemetry.publish(status);
        }
    }

    fn count(&self, done: &Result<Maintenance, KeeperError>) {
        let events = &self.telemetry.events;
        let done = match done {
            Ok(done) => done,
            Err(error) => return events.of(error.event()).increment(),
        };
        if done.ratcheted_epochs > 0 {
            events.of(RingEvent::Ratcheted).increment();
        }
        if done.persisted.is_err() {
            events.of(RingEvent::NotPersisted).increment();
        }
        match done.change {
            RingChange::None => {}
            RingChange::Followed { .. } => events.of(RingEvent::Followed).increment(),
            RingChange::KeptOurs { .. } => events.of(RingEvent::KeptOurs).increment(),
            RingChange::Revoked => events.of(RingEvent::Revoked).increment(),
            RingChange::Replaced => events.of(RingEvent::Replaced).increment(),
            RingChange::Restored { .. } => events.of(RingEvent::Restored).increment(),
        }
    }

    fn finish_at(&mut self, now: UnixSeconds, change: RingChange, ratcheted_epochs: u64) -> Maintenance {
        if ratcheted_epochs > 0 || change != RingChange::None {
            self.changed_at = now;
            self.file_is_behind = true;
        }
        // A ring that a wrong clock has ratcheted must not replace a better one.
        let is_due = self.file_is_behind && !self.is_ahead_at(now);
        let persisted = if is_due { self.persist() } else { Ok(Persisted::NotNeeded) };
        self.file_is_behind &= !is_due || persisted.is_err();
        Maintenance { change, ratcheted_epochs, persisted }
    }

    /// Whether the ring has been ratcheted past the present.
    fn is_ahead_at(&self, now: UnixSeconds) -> bool {
        self.ring.as_ref().is_some_and(|ring| is_ahead_at(ring, now))
    }

    /// Follows the file where it has changed, and looks for a ring in the place of one that is ahead of the clock.
    fn look_at(&mut self, now: UnixSeconds) -> Result<RingChange, KeeperError> {
        let is_ahead = self.is_ahead_at(now);
        match (&self.source, &self.file) {
            // Nobody else has it, and nothing has what the clock has burned of it.
            (Source::Memory(shape), _) if is_ahead => {
                self.ring = Some(Ring::generate_at(*shape, now)?);
                self.tables_are_foreign = true;
                Ok(RingChange::Replaced)
            }
            (_, Some((file, stamp))) if is_ahead || file.stamp() != Some(*stamp) => self.follow_file_at(now),
            _ => Ok(RingChange::None),
        }
    }

    /// Compares the ring in use with the one in the file, and takes the newer. The caller ratchets it.
    fn follow_file_at(&mut self, now: UnixSeconds) -> Result<RingChange, KeeperError> {
        let (Some((file, stamp)), Some(ring)) = (&mut self.file, &mut self.ring) else { return Ok(RingChange::None) };
        // Before it is read: what changes meanwhile is looked at next time.
        self.seen = file.stamp();
        let (candidate, loaded) = file.load()?;
        let path = file.path().to_path_buf();
        self.replaced.check(&candidate, || path.clone())?;
        let change = match ring.relation_of(&candidate)? {
            Relation::Same => RingChange::None,
            Relation::Behind { epochs } if is_ahead_at(ring, now) => {
                *ring = candidate;
                RingChange::Restored { epochs }
            }
            Relation::Behind { epochs } => RingChange::KeptOurs { epochs },
            Relation::Revoked => {
                return Err(KeeperError::Revoked { path, file: candidate.generation(), own: ring.generation() });
            }
            // Obeyed whatever the clocks say: where it has no key for the present there are no tickets.
            Relation::Revocation => {
                *ring = candidate;
                RingChange::Revoked
            }
            Relation::Ahead { epochs } => {
                *ring = usable_at(candidate, &path, now)?;
                RingChange::Followed { epochs }
            }
            Relation::Different => {
                let former = std::mem::replace(ring, usable_at(candidate, &path, now)?);
                self.replaced.remember(&former);
                RingChange::Replaced
            }
        };
        *stamp = loaded;
        self.tables_are_foreign |= matches!(change, RingChange::Revoked | RingChange::Replaced);
        Ok(change)
    }

    /// Brings the file up to the ring in memory, unless another process has written something that says otherwise.
    fn persist(&mut self) -> Result<Persisted, FileError> {
        let (Some((file, stamp)), Some(ring)) = (&mut self.file, &self.ring) else { return Ok(Persisted::NotNeeded) };
        let lock = file.lock(LockWait::Try)?;
        let (on_disk, found) = file.load()?;
        match ring.relation_of(&on_disk) {
            Ok(Relation::Behind { .. }) => {}
            Ok(Relation::Same) => {
                *stamp = found;
                self.seen = Some(found);
                return Ok(Persisted::NotNeeded);
            }
            // The stamp differs from ours, so that the next run follows the file, or reports what is wrong with it.
            Ok(_) | Err(_) => return Ok(Persisted::NotNeeded),
        }
        *stamp = file.replace(&lock, ring)?;
        self.seen = Some(*stamp);
        Ok(Persisted::Written)
    }

    /// Gives every scope the table for `now`.
    fn publish_at(&mut self, now: UnixSeconds) -> Result<(), KeeperError> {
        self.retire_at(now);
        let mut names = Vec::new();
        if let Some(ring) = &self.ring {
            let retired = self.retired.iter().map(|(hash, _)| *hash);
            for hash in self.scopes.iter().map(|scope| scope.hash).chain(retired) {
                names.extend(ring.names_at(&hash, now)?.into_iter().map(|name| (name, hash)));
            }
        }
        let mut scopes = std::mem::take(&mut self.scopes);
        let published = scopes.iter_mut().try_for_each(|scope| self.publish_scope_at(scope, &names, now));
        self.scopes = scopes;
        self.tables_are_foreign &= published.is_err();
        self.published = published.is_ok().then(|| self.moment_at(now));
        published
    }

    /// Gives one scope its table; `names` are those of every scope.
    fn publish_scope_at(
        &self,
        scope: &mut Scope,
        names: &[(KeyName, ScopeHash)],
        now: UnixSeconds,
    ) -> Result<(), KeeperError> {
        let Some(published) = scope.keys.upgrade() else { return Ok(()) };
        let mut keys = self.ring.as_ref().map_or(Ok(Vec::new()), |ring| ring.keys_at(&scope.hash, now))?;
        keys.extend(static_schedule(&self.static_keys, &self.source));
        if self.tables_are_foreign {
            // Tickets of the former ring are not expired but unknown.
            scope.expired.clear();
        } else {
            remember_expired(&mut scope.expired, &published, &keys);
        }
        let foreign = names.iter().filter(|(_, hash)| *hash != scope.hash);
        let remembered = scope.expired.iter().map(|name| (*name, Remembered::Expired));
        let remembered = remembered.chain(foreign.map(|(name, _)| (*name, Remembered::OtherScope))).collect();
        published.publish(KeyTable::new(keys, remembered, self.retention()));
        Ok(())
    }

    /// Moves scopes that no context uses any more to the remembered ones, and forgets those whose tickets are over.
    fn retire_at(&mut self, now: UnixSeconds) {
        let retention = self.retention();
        let unused = self.scopes.iter().filter(|scope| scope.keys.strong_count() == 0).map(|scope| scope.hash);
        self.retired.extend(unused.map(|hash| (hash, now.plus(retention))));
        self.scopes.retain(|scope| scope.keys.strong_count() > 0);
        self.retired.retain(|(_, until)| *until > now);
        let excess = self.retired.len().saturating_sub(RETIRED_SCOPES_MAX);
        self.retired.drain(..excess);
    }
}

/// Why keys cannot be had or changed. The keys in use stay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeeperError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The ring in itself, or compared with the one in use.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A file from before a revocation was put back.
    #[error(
        "{} has revocation {file} of the ring, {own} has been in use: a revoked ring is never taken back; distribute the \
         present one again",
        path.display()
    )]
    Revoked {
        /// The file.
        path: PathBuf,
        /// The generation in the file.
        file: u32,
        /// The generation in use.
        own: u32,
    },
    /// This node's clock is late, or the one that ratcheted the file was early.
    #[error(
        "{} begins {epochs} epochs in the future; set this node's clock, or revoke the ring if it was ratcheted by a \
         wrong one",
        path.display()
    )]
    Ahead {
        /// The file.
        path: PathBuf,
        /// Epochs until its first key.
        epochs: u64,
    },
    /// Configuration.
    #[error("no ticket key file is named, and no ring either")]
    NoKeys,
    /// Configuration.
    #[error(
        "{count} ticket key files are named, at most {KEY_FILES_MAX} can be; leave out those whose tickets are over"
    )]
    TooManyKeyFiles {
        /// How many.
        count: usize,
    },
    /// The second key would never be found.
    #[error(
        "{} has the key name of {}; each key file needs a name of its own: write a new one with `openssl rand 80`",
        path.display(),
        first.display()
    )]
    SameKeyName {
        /// The file.
        path: PathBuf,
        /// The one before it.
        first: PathBuf,
    },
}

impl KeeperError {
    /// The event that it is counted as.
    pub fn event(&self) -> RingEvent {
        match self {
            Self::Revoked { .. } => RingEvent::RefusedRevoked,
            Self::Ahead { .. } => RingEvent::RefusedAhead,
            Self::Ring(RingError::StepTooLong { .. }) => RingEvent::RefusedFarBehind,
            Self::Ring(RingError::Diverged { .. }) => RingEvent::RefusedDiverged,
            Self::File(_) => RingEvent::RefusedFile,
            Self::Ring(_) | Self::NoKeys | Self::TooManyKeyFiles { .. } | Self::SameKeyName { .. } => RingEvent::Failed,
        }
    }
}

fn is_ahead_at(ring: &Ring, now: UnixSeconds) -> bool {
    matches!(ring.standing_at(now), Standing::Ahead { .. })
}

/// The ring, ratcheted to `now`, if it has keys for it.
fn usable_at(mut ring: Ring, path: &Path, now: UnixSeconds) -> Result<Ring, KeeperError> {
    if let Standing::Ahead { epochs } = ring.standing_at(now) {
        return Err(KeeperError::Ahead { path: path.to_path_buf(), epochs });
    }
    ring.ratchet_at(now)?;
    Ok(ring)
}

fn load_key_files(source: &Source, paths: &[PathBuf]) -> Result<Vec<TicketKey>, KeeperError> {
    if *source == Source::KeyFiles && paths.is_empty() {
        return Err(KeeperError::NoKeys);
    }
    if paths.len() > KEY_FILES_MAX {
        return Err(KeeperError::TooManyKeyFiles { count: paths.len() });
    }
    let mut keys: Vec<TicketKey> = Vec::new();
    for path in paths {
        let key = load_key_file(path)?;
        if let Some(first) =
            keys.iter().zip(paths).find(|(other, _)| other.name() == key.name()).map(|(_, first)| first)
        {
            return Err(KeeperError::SameKeyName { path: path.clone(), first: first.clone() });
        }
        keys.push(key);
    }
    Ok(keys)
}

/// Key files have no times of their own: they open for as long as they are there.
fn static_schedule(keys: &[TicketKey], source: &Source) -> Vec<ScheduledKey> {
    let schedule = |(index, key): (usize, &TicketKey)| {
        let seals = if *source == Source::KeyFiles && index == 0 { 0..u64::MAX } else { 0..0 };
        ScheduledKey { key: key.duplicate(), seals, opens: 0..u64::MAX }
    };
    keys.iter().enumerate().map(schedule).collect()
}

fn remember_expired(expired: &mut Vec<KeyName>, published: &ScopeKeys, keys: &[ScheduledKey]) {
    let gone = |name: &KeyName| keys.iter().all(|scheduled| scheduled.key.name() != *name);
    let former: Vec<KeyName> = published.table().names().filter(gone).collect();
    expired.retain(gone);
    expired.extend(former);
    let excess = expired.len().saturating_sub(EXPIRED_NAMES_MAX);
    expired.drain(..excess);
}
