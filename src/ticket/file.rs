//! Files with ticket keys: the ring file, which ratchets in place, and nginx's key files, which are only read.
//!
//! A ring file is replaced as a whole (write aside, sync, rename, sync the directory), so that a reader always sees a
//! whole ring and the former secret is gone from the directory. Writers take an advisory lock on `<file>.lock`; the file
//! itself cannot carry the lock, because each ratchet puts another one in its place.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use zeroize::Zeroizing;

use super::encoding::{self, FormatError, RING_FILE_BYTES_MAX};
use super::key::TicketKey;
use super::ring::{Ring, RingError};

/// The path of a ring file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingFile {
    path: PathBuf,
}

/// Whether to wait for another process that holds the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockWait {
    /// Fail with [`FileError::Busy`].
    Try,
    /// Wait for as long as it takes; for commands that an operator can interrupt.
    Block,
}

/// The right to replace a ring file. Released on drop, and by the kernel when the process dies.
#[derive(Debug)]
pub struct RingLock {
    _lock: Flock<File>,
}

/// Tells two states of a file apart without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Owner and mode count, too: a file that was refused for them is good once they are put right.
    changed: (i64, i64),
}

impl RingFile {
    /// The ring file at `path`, whether or not it exists. A symbolic link stands for the file it points to at the time of
    /// each use: a ratchet replaces the file and not the link, and a link that was moved is followed.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_path_buf() }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the ring. Refuses a file that anybody but its owner can read, and one of another owner.
    pub fn load(&self) -> Result<(Ring, FileStamp), FileError> {
        let (content, stamp) = read_secret(&self.path, RING_FILE_BYTES_MAX)?;
        let ring =
            encoding::decode(&content).map_err(|source| FileError::Format { path: self.path.clone(), source })?;
        Ok((ring, stamp))
    }

    /// The state of the file now, or none when there is none.
    pub fn stamp(&self) -> Option<FileStamp> {
        fs::metadata(&self.path).ok().map(|metadata| FileStamp::of(&metadata))
    }

    /// Takes the lock that [`RingFile::create`] and [`RingFile::replace`] ask for.
    pub fn lock(&self, wait: LockWait) -> Result<RingLock, FileError> {
        let path = beside(&self.target(), ".lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| FileError::io("open the lock of", &path, source))?;
        let arg = match wait {
            LockWait::Try => FlockArg::LockExclusiveNonblock,
            LockWait::Block => FlockArg::LockExclusive,
        };
        match Flock::lock(file, arg) {
            Ok(lock) => Ok(RingLock { _lock: lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(FileError::Busy { path: self.path.clone() }),
            Err((_, errno)) => Err(FileError::io("lock", &path, errno.into())),
        }
    }

    /// Writes a ring where there is no file yet, readable by its owner only.
    pub fn create(&self, lock: &RingLock, ring: &Ring) -> Result<FileStamp, FileError> {
        if self.stamp().is_some() {
            return Err(FileError::Exists { path: self.path.clone() });
        }
        self.replace(lock, ring)
    }

    /// Replaces the ring as a whole; on an error the file is as it was.
    pub fn replace(&self, _lock: &RingLock, ring: &Ring) -> Result<FileStamp, FileError> {
        let target = self.target();
        let aside = beside(&target, ".tmp");
        let written = write_aside(&aside, &target, ring);
        if written.is_err() {
            // The half-written file may hold the secret.
            let _ = fs::remove_file(&aside);
        }
        written
    }

    /// The file itself, behind any links.
    fn target(&self) -> PathBuf {
        fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone())
    }
}

/// Writes the ring to `aside` and puts it in the place of `target`.
fn write_aside(aside: &Path, target: &Path, ring: &Ring) -> Result<FileStamp, FileError> {
    let text = encoding::encode(ring).map_err(FileError::Ring)?;
    // Under the lock, so a file that is there was left by a process that died.
    match fs::remove_file(aside) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(FileError::io("remove", aside, source));
        }
        _ => {}
    }
    let write = || {
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(aside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Ok(file)
    };
    let file = write().map_err(|source| FileError::io("write", aside, source))?;
    fs::rename(aside, target).map_err(|source| FileError::io("replace", target, source))?;
    let directory = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // The rename must survive a power cut: otherwise the ring from before a revocation could come back.
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| FileError::io("sync the directory of", target, source))?;
    // Only now: the renaming has changed it.
    let metadata = file.metadata().map_err(|source| FileError::io("examine", target, source))?;
    Ok(FileStamp::of(&metadata))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
    name.push(suffix);
    path.with_file_name(name)
}

impl FileStamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Reads one of nginx's `ssl_session_ticket_key` files: 80 bytes (AES-256) or 48 (AES-128), nothing else.
pub fn load_key_file(path: &Path) -> Result<TicketKey, FileError> {
    let (content, _) = read_secret(path, 80)?;
    if let Ok(block) = <&[u8; 80]>::try_from(content.as_slice()) {
        return Ok(TicketKey::from_block(block));
    }
    if let Ok(block) = <&[u8; 48]>::try_from(content.as_slice()) {
        return Ok(TicketKey::from_short_block(block));
    }
    Err(FileError::KeyFileSize { path: path.to_path_buf(), bytes: content.len() })
}

/// The content of a file that only this process's user may read.
fn read_secret(path: &Path, bytes_max: usize) -> Result<(Zeroizing<Vec<u8>>, FileStamp), FileError> {
    // Non-blocking, so that a FIFO in the file's place cannot hold up the caller.
    let file =
        OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC).open(path).map_err(
            |source| match source.kind() {
                io::ErrorKind::NotFound => FileError::Missing { path: path.to_path_buf() },
                _ => FileError::io("open", path, source),
            },
        )?;
    // Asked of the open file: what the path means could change in between.
    let metadata = file.metadata().map_err(|source| FileError::io("examine", path, source))?;
    check_access(path, &metadata)?;
    if metadata.len() > bytes_max as u64 {
        return Err(FileError::TooLarge { path: path.to_path_buf(), bytes: metadata.len(), max: bytes_max });
    }
    // One byte more than allowed, in one allocation: a file that grew meanwhile is seen, and no copy stays behind.
    let mut content = Zeroizing::new(Vec::with_capacity(bytes_max + 1));
    let limit = bytes_max as u64 + 1;
    file.take(limit).read_to_end(&mut content).map_err(|source| FileError::io("read", path, source))?;
    if content.len() > bytes_max {
        return Err(FileError::TooLarge { path: path.to_path_buf(), bytes: limit, max: bytes_max });
    }
    Ok((content, FileStamp::of(&metadata)))
}

fn check_access(path: &Path, metadata: &fs::Metadata) -> Result<(), FileError> {
    const OTHERS: u32 = 0o077;
    let path = path.to_path_buf();
    if !metadata.is_file() {
        return Err(FileError::NotAFile { path });
    }
    let mode = metadata.mode() & 0o777;
    if mode & OTHERS != 0 {
        return Err(FileError::ReadableByOthers { path, mode });
    }
    let (owner, user) = (metadata.uid(), nix::unistd::geteuid().as_raw());
    if owner != user {
        return Err(FileError::Owner { path, owner, user });
    }
    Ok(())
}

/// Why a file with ticket keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// A system call failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is none.
    #[error("{} does not exist; make a ring with `sluice tickets new --ring FILE`, or copy one from another node", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// `new` does not overwrite.
    #[error("{} exists already; use `sluice tickets revoke` to replace its keys", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A directory, a FIFO, a device.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// The secret may be known already.
    #[error(
        "{} has mode {mode:04o} and could be read by others; set it to 0600, and revoke the ring if anybody may have",
        path.display()
    )]
    ReadableByOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another user could change it, and a ratchet would take it away from them.
    #[error("{} belongs to user {owner} and this process runs as user {user}; they must be the same", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// Not read at all.
    #[error("{} has {bytes} bytes or more, a file of this kind at most {max}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The bound.
        max: usize,
    },
    /// An nginx key file of another size.
    #[error("{} has {bytes} bytes; a ticket key file has 80 or 48", path.display())]
    KeyFileSize {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: usize,
    },
    /// The content is not a ring.
    #[error("ring file {} {source}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FormatError,
    },
    /// Another process is writing.
    #[error("{} is locked by another process; try again", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// The ring could not be encoded.
    #[error(transparent)]
    Ring(RingError),
}

impl FileError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_path_buf(), source }
    }
}
