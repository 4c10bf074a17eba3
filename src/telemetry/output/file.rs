//! A log file: appended to, and followed through renames as `logrotate` makes them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Delivery, Line, joined};

/// How often the path is looked at: whether another file lies there now.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Permissions of a file that is made: the group may read, as it is the custom with logs.
const MODE: u32 = 0o640;

/// A file that is opened when there is something to write.
pub(super) struct LogFile {
    path: PathBuf,
    open: Option<Open>,
}

struct Open {
    file: File,
    inode: (u64, u64),
    looked_at: Instant,
    /// A write ended in the middle of a line; the next one begins with a line break.
    is_torn: bool,
}

impl LogFile {
    pub(super) fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), open: None }
    }

    pub(super) fn close(&mut self) {
        self.open = None;
    }

    pub(super) fn write(&mut self, lines: &[Line]) -> Delivery {
        match self.opened().and_then(|open| open.append(lines)) {
            Ok(()) => Delivery::complete(lines.len()),
            Err(error) => Delivery { done: lines.len(), lost: lines.len(), error: Some(error) },
        }
    }

    fn opened(&mut self) -> io::Result<&mut Open> {
        let now = Instant::now();
        if let Some(open) = &mut self.open
            && now.duration_since(open.looked_at) >= LOOK_INTERVAL
        {
            open.looked_at = now;
            let there = std::fs::metadata(&self.path).ok().map(|file| (file.dev(), file.ino()));
            if there != Some(open.inode) {
                self.open = None;
            }
        }
        match self.open.take() {
            Some(open) => Ok(self.open.insert(open)),
            None => Ok(self.open.insert(Open::at(&self.path, now)?)),
        }
    }
}

impl Open {
    fn at(path: &Path, now: Instant) -> io::Result<Self> {
        // A pipe without a reader must not hold the thread: O_NONBLOCK, which means nothing to a regular file.
        let file = OpenOptions::new().append(true).create(true).mode(MODE).custom_flags(libc::O_NONBLOCK).open(path)?;
        let metadata = file.metadata()?;
        Ok(Self { file, inode: (metadata.dev(), metadata.ino()), looked_at: now, is_torn: false })
    }

    fn append(&mut self, lines: &[Line]) -> io::Result<()> {
        let mut text = joined(lines);
        if self.is_torn {
            text.insert(0, b'\n');
        }
        let mut rest = text.as_slice();
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => {
                    self.is_torn = rest[len - 1] != b'\n';
                    rest = &rest[len..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
mod tests {
    use std::fs;

    use super::*;

    fn lines(texts: &[&str]) -> Vec<Line> {
        texts.iter().map(|text| text.as_bytes().to_vec().into()).collect()
    }

    #[test]
    fn file_that_was_renamed_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, rotated) = (folder.path().join("a.log"), folder.path().join("a.log.1"));
        let mut file = LogFile::at(&path);
        file.write(&lines(&["one"]));
        fs::rename(&path, &rotated).unwrap();
        file.open.as_mut().unwrap().looked_at -= LOOK_INTERVAL;
        file.write(&lines(&["two"]));
        assert_eq!(fs::read_to_string(&rotated).unwrap(), "one\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
    }

    #[test]
    fn full_disk_loses_lines_and_says_why() {
        let mut file = LogFile::at(Path::new("/dev/full"));
        let delivery = file.write(&lines(&["one", "two"]));
        assert_eq!((delivery.done, delivery.lost), (2, 2));
        assert_eq!(delivery.error.unwrap().raw_os_error(), Some(libc::ENOSPC));
    }

    #[test]
    fn missing_folder_loses_lines_until_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs").join("a.log");
        let mut file = LogFile::at(&path);
        assert_eq!(file.write(&lines(&["one"])).lost, 1);
        fs::create_dir(path.parent().unwrap()).unwrap();
        assert_eq!(file.write(&lines(&["two"])).lost, 0);
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
    }
}
