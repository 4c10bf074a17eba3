//! Watches the files that certificates come from, so that a renewed one is served without anybody's asking.
//!
//! Folders are watched, not files: what renews certificates renames files (certbot), swaps links of files or folders
//! (Kubernetes), or writes in place. Which event it was does not matter: when the folders have come to rest, the files are
//! looked at, and only where one is another than before is there something to do.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// How long nothing may happen in the folders until the files are looked at: who writes two files writes both.
const QUIET: Duration = Duration::from_millis(250);
/// How long after the first event the files are looked at whether it is quiet or not.
const LONGEST: Duration = Duration::from_secs(2);
/// How often the files are looked at where the kernel grants no watch.
const POLL_INTERVAL: Duration = Duration::from_secs(10);
/// Links that are followed in one path, as the kernel has it (ELOOP).
const LINKS_MAX: usize = 40;

/// The watch over a set of files.
pub(super) struct Watch {
    inotify: Option<Inotify>,
    folders: BTreeMap<PathBuf, WatchDescriptor>,
    stamps: Stamps,
    noticed: Option<Noticed>,
    polled_at: Instant,
}

/// What a set of files looked like at some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamps(BTreeMap<PathBuf, Option<Stamp>>);

/// What tells a file from the one that was there before; none where there is no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// When the first and the last event came since the files were looked at.
#[derive(Clone, Copy)]
struct Noticed {
    first: Instant,
    last: Instant,
}

impl Watch {
    /// A watch that sees nothing.
    pub(super) fn idle() -> Self {
        Self {
            inotify: None,
            folders: BTreeMap::new(),
            stamps: Stamps::default(),
            noticed: None,
            polled_at: Instant::now(),
        }
    }

    /// A watch over nothing yet.
    pub(super) fn new() -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .inspect_err(|error| {
                tracing::warn!(
                    %error,
                    "certificate files cannot be watched and are looked at every {POLL_INTERVAL:?} instead; raise \
                     fs.inotify.max_user_instances"
                );
            })
            .ok();
        Self { inotify, ..Self::idle() }
    }

    /// Watches the files of `stamps` from now on, which says what they looked like when they were read.
    pub(super) fn follow(&mut self, stamps: Stamps) {
        self.stamps = stamps;
        self.watch_folders();
        // What changed before the watch began.
        if self.stamps.has_changed() {
            self.notice(Instant::now());
        }
    }

    /// What the files looked like when they were read.
    pub(super) fn stamps(&self) -> &Stamps {
        &self.stamps
    }

    /// Whether files have changed since they were read, and have come to rest. Said once; whoever asks reads them.
    ///
    /// To be asked several times a second. Does not wait.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        self.read_events(now);
        if self.inotify.is_none() && now.saturating_duration_since(self.polled_at) >= POLL_INTERVAL {
            self.polled_at = now;
            return self.stamps.has_changed();
        }
        let is_at_rest = self.noticed.is_some_and(|Noticed { first, last }| {
            now.saturating_duration_since(last) >= QUIET || now.saturating_duration_since(first) >= LONGEST
        });
        if !is_at_rest {
            return false;
        }
        self.noticed = None;
        // Links may lead elsewhere now.
        self.watch_folders();
        self.stamps.has_changed()
    }

    /// Has the files looked at once more then, as if they had changed a moment before.
    pub(super) fn look_again_at(&mut self, when: Instant) {
        self.notice(when);
    }

    fn read_events(&mut self, now: Instant) {
        let Some(inotify) = &self.inotify else { return };
        // Which ones does not matter, nor that some may have been lost.
        let mut has_some = false;
        while inotify.read_events().is_ok_and(|events| !events.is_empty()) {
            has_some = true;
        }
        if has_some {
            self.notice(now);
        }
    }

    fn notice(&mut self, now: Instant) {
        let first = self.noticed.map_or(now, |noticed| noticed.first);
        self.noticed = Some(Noticed { first, last: now });
    }

    fn watch_folders(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let mut before = std::mem::take(&mut self.folders);
        for folder in self.stamps.0.keys().flat_map(|file| folders(file)) {
            if self.folders.contains_key(&folder) {
                continue;
            }
            // Again also where it is watched: another folder may have the name by now.
            match inotify.add_watch(&folder, events()) {
                Ok(descriptor) => {
                    before.remove(&folder);
                    self.folders.insert(folder, descriptor);
                }
                Err(Errno::ENOENT) => {}
                Err(error) => tracing::warn!(
                    folder = %folder.display(), %error,
                    "changes in this folder will not be noticed: reload by hand, or raise fs.inotify.max_user_watches"
                ),
            }
        }
        let used: Vec<_> = self.folders.values().copied().collect();
        for unused in before.into_values().filter(|descriptor| !used.contains(descriptor)) {
            // Gone already where the folder is.
            let _ = inotify.rm_watch(unused);
        }
    }
}

impl Stamps {
    /// What `files` look like now.
    pub(super) fn of(files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(files.into_iter().map(|file| (file.clone(), Stamp::of(&file))).collect())
    }

    /// Whether one of `files` looks different here and there.
    pub(super) fn differ_in(&self, other: &Self, files: &[PathBuf]) -> bool {
        files.iter().any(|file| self.0.get(file) != other.0.get(file))
    }

    /// Takes the files that have changed since `begun` for others than those that were read: for where they were read
    /// first, and looked at afterwards. `begun` is by the clock of the files ([`crate::tls::identity::file_time`]).
    pub(super) fn distrust_since(&mut self, begun: SystemTime) {
        let Ok(begun) = begun.duration_since(SystemTime::UNIX_EPOCH) else { return };
        let begun = (i64::try_from(begun.as_secs()).unwrap_or(i64::MAX), i64::from(begun.subsec_nanos()));
        for stamp in self.0.values_mut() {
            *stamp = stamp.filter(|stamp| stamp.changed < begun);
        }
    }

    fn has_changed(&self) -> bool {
        self.0.iter().any(|(file, stamp)| Stamp::of(file) != *stamp)
    }
}

impl Stamp {
    fn of(file: &Path) -> Option<Self> {
        let metadata = file.metadata().ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// What may mean that a file in a folder is another one now, or readable now. Reading is not among it.
fn events() -> AddWatchFlags {
    AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR
}

/// The folders in which a change can lead `file` elsewhere: its own, and that of every link on the way to it.
pub(super) fn folders(file: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut here = PathBuf::from("/");
    let mut ahead: Vec<PathBuf> = components(file);
    let mut links = 0;
    while let Some(step) = ahead.pop() {
        match step.components().next() {
            Some(Component::ParentDir) => {
                here.pop();
            }
            Some(Component::Normal(name)) => match here.join(name).read_link() {
                Ok(target) if links < LINKS_MAX => {
                    links += 1;
                    found.push(here.clone());
                    if target.is_absolute() {
                        here = PathBuf::from("/");
                    }
                    ahead.extend(components(&target));
                }
                _ => here.push(name),
            },
            _ => {}
        }
    }
    here.pop();
    found.push(here);
    found
}

/// The steps of a path, the last one first.
fn components(path: &Path) -> Vec<PathBuf> {
    path.components().rev().map(|component| PathBuf::from(component.as_os_str())).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::tls::identity::file_time;

    #[test]
    fn folders_of_every_link_on_the_way_are_watched() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for folder in ["live", "archive/1", "mount/..1"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("archive/1/a.pem"), "a").unwrap();
        fs::write(root.join("mount/..1/b.pem"), "b").unwrap();
        // As certbot has it.
        symlink("../archive/1/a.pem", root.join("live/a.pem")).unwrap();
        assert_eq!(folders(&root.join("live/a.pem")), [root.join("live"), root.join("archive/1")]);
        // As Kubernetes has it.
        symlink("..1", root.join("mount/..data")).unwrap();
        symlink("..data/b.pem", root.join("mount/b.pem")).unwrap();
        let mount = root.join("mount");
        assert_eq!(folders(&mount.join("b.pem")), [mount.clone(), mount.clone(), mount.join("..1")]);
        assert_eq!(folders(&root.join("missing.pem")), std::slice::from_ref(&root));
        symlink("loop", root.join("loop")).unwrap();
        assert!(folders(&root.join("loop")).len() <= LINKS_MAX + 1);
    }

    #[test]
    fn change_is_due_when_the_folder_is_at_rest_and_only_if_the_file_is_another() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("edge.pem");
        fs::write(&file, "one").unwrap();
        let mut watch = Watch::new();
        watch.follow(Stamps::of([file.clone()]));
        assert!(!watch.is_due(Instant::now() + LONGEST));

        fs::write(root.path().join("other"), "not ours").unwrap();
        let now = Instant::now();
        assert!(!watch.is_due(now), "not at rest yet");
        assert!(!watch.is_due(now + QUIET), "not our file");

        fs::write(root.path().join("new"), "two!").unwrap();
        fs::rename(root.path().join("new"), &file).unwrap();
        let now = Instant::now();
        assert!(!watch.is_due(now), "not at rest yet");
        assert!(watch.is_due(now + QUIET));
        assert!(!watch.is_due(now + QUIET), "said once");
    }

    #[test]
    fn change_between_reading_and_looking_is_not_lost() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("edge.pem");
        let begun = file_time();
        fs::write(&file, "one").unwrap();
        let mut stamps = Stamps::of([file.clone()]);
        let mut watch = Watch::new();
        stamps.distrust_since(begun + Duration::from_secs(60));
        watch.follow(stamps.clone());
        assert!(!watch.is_due(Instant::now() + LONGEST), "it was there before");
        stamps.distrust_since(begun);
        watch.follow(stamps);
        assert!(watch.is_due(Instant::now() + QUIET));
    }

    #[test]
    fn change_between_reading_and_watching_is_not_lost() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("edge.pem");
        let before = Stamps::of([file.clone()]);
        fs::write(&file, "one").unwrap();
        let mut watch = Watch::new();
        watch.follow(before);
        assert!(watch.is_due(Instant::now() + QUIET));
    }
}
