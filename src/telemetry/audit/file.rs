//! The file of the chain.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::chain::{Head, Link};

/// Permissions of a file that is made.
const MODE: u32 = 0o600;
/// Where the last record is looked for: no record is as long.
const TAIL_BYTES_MAX: u64 = 64 * 1024;

/// A file that records are appended to; opened anew for each, so that it may be rotated at any time.
pub(super) struct ChainFile {
    path: PathBuf,
}

impl ChainFile {
    /// Sees whether the file can be appended to, and makes it where it is not there.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        open(path)?;
        Ok(Self { path: path.to_owned() })
    }

    /// Appends the record that `follow` makes from the end of the chain and, where the file does not end as we left it,
    /// what it ends with instead. What cannot be written as a whole is not written.
    pub(super) fn append(
        &mut self,
        ours: Option<&Head>,
        follow: impl Fn(&Head, Option<String>) -> io::Result<(Vec<u8>, Head)>,
    ) -> io::Result<(Vec<u8>, Head)> {
        let mut file = open(&self.path)?;
        // Another process may be appending: the one before us, or behind us, in an upgrade.
        file.lock()?;
        let end = End::of(&mut file)?;
        let (head, file_was) = end.judge(ours);
        if let Some(was) = &file_was {
            tracing::error!(file = %self.path.display(), %was, "the audit log is not as it was left");
        }
        let (line, next) = follow(&head, file_was)?;
        file.set_len(end.whole_len)?;
        let written = file.write_all(&[&line, &b"\n"[..]].concat()).and_then(|()| file.sync_data());
        if let Err(error) = written {
            let _ = file.set_len(end.whole_len);
            return Err(error);
        }
        Ok((line, next))
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // O_NONBLOCK: a pipe, which is refused then, must not hold the thread.
    options.read(true).append(true).create(true).mode(MODE).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no regular file, which a chain needs"));
    }
    Ok(file)
}

/// How a file ends.
struct End {
    /// Its last whole line; none where there is none.
    last: Option<Vec<u8>>,
    /// Its length up to there.
    whole_len: u64,
    /// Bytes behind it: a record whose writer died.
    torn_bytes: u64,
}

impl End {
    fn of(file: &mut File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let start = len.saturating_sub(TAIL_BYTES_MAX);
        file.seek(SeekFrom::Start(start))?;
        let mut tail = Vec::new();
        Read::take(&mut *file, TAIL_BYTES_MAX).read_to_end(&mut tail)?;
        let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let torn_bytes = (tail.len() - whole) as u64;
        let last = tail[..whole].strip_suffix(b"\n").map(|lines| {
            let begin = lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            lines[begin..].to_vec()
        });
        // A tail without a line break in a long file is no torn record: leave it, and let verification show it.
        let is_torn = whole > 0 || start == 0;
        Ok(Self { last, whole_len: if is_torn { len.saturating_sub(torn_bytes) } else { len }, torn_bytes })
    }

    /// The record to follow, and what is odd about the end of the file, given where we left the chain.
    fn judge(&self, ours: Option<&Head>) -> (Head, Option<String>) {
        let torn = (self.torn_bytes > 0).then(|| format!("torn: {} bytes were cut off", self.torn_bytes));
        let Some(last) = &self.last else {
            // New or rotated away: the chain goes on in the next file.
            return (ours.cloned().unwrap_or_else(Head::genesis), torn);
        };
        match (Link::read(last), ours) {
            (Ok(link), Some(ours)) if link.head.sequence < ours.sequence => {
                let was = format!("cut off behind record {}; this process had written {ours}", link.head.sequence);
                (link.head, Some(was))
            }
            (Ok(link), Some(ours)) if link.head.sequence == ours.sequence && link.head != *ours => {
                let was = format!("replaced at record {}; this process had written {ours}", link.head.sequence);
                (link.head, Some(was))
            }
            (Ok(link), _) => (link.head, torn),
            (Err(fault), _) => (ours.cloned().unwrap_or_else(Head::genesis), Some(fault.to_string())),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
mod tests {
    use std::fs;

    use super::*;

    fn append(file: &mut ChainFile, ours: Option<&Head>) -> (serde_json::Value, Head) {
        let follow = |head: &Head, file_was: Option<String>| {
            Ok(head.follow("now", &serde_json::json!({ "event": "reload", "file_was": file_was })).unwrap())
        };
        let (line, head) = file.append(ours, follow).unwrap();
        (serde_json::from_slice(&line).unwrap(), head)
    }

    fn faults(path: &Path) -> usize {
        let mut head = Head::genesis();
        let text = fs::read_to_string(path).unwrap();
        text.lines().filter(|line| head.check_next(line.as_bytes()).is_err()).count()
    }

    #[test]
    fn next_process_continues_the_chain_and_two_may_write_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let (mut first, mut second) = (ChainFile::open(&path).unwrap(), ChainFile::open(&path).unwrap());
        let (_, head) = append(&mut first, None);
        append(&mut second, None);
        let (record, head) = append(&mut first, Some(&head));
        assert_eq!((head.sequence, &record["file_was"]), (3, &serde_json::Value::Null));
        assert_eq!(faults(&path), 0);
    }

    #[test]
    fn rotated_file_is_followed_by_one_that_continues_the_chain() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut file = ChainFile::open(&path).unwrap();
        let (_, head) = append(&mut file, None);
        fs::rename(&path, folder.path().join("audit.log.1")).unwrap();
        let (record, next) = append(&mut file, Some(&head));
        assert_eq!((record["sequence"].as_u64(), record["previous"].as_str()), (Some(2), Some(head.hash.as_str())));
        assert_eq!(next.sequence, 2);
    }

    #[test]
    fn torn_record_of_a_dead_writer_is_cut_off_and_mentioned() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut file = ChainFile::open(&path).unwrap();
        append(&mut file, None);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"sequence\":2,\"ti").unwrap();
        let (record, _) = append(&mut ChainFile::open(&path).unwrap(), None);
        assert_eq!(record["file_was"], "torn: 17 bytes were cut off");
        assert_eq!(faults(&path), 0);
    }

    #[test]
    fn file_that_was_cut_off_behind_our_back_is_told_in_the_chain() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut file = ChainFile::open(&path).unwrap();
        let (_, head) = append(&mut file, None);
        let short = fs::read(&path).unwrap();
        let (_, head) = append(&mut file, Some(&head));
        fs::write(&path, short).unwrap();
        let (record, _) = append(&mut file, Some(&head));
        let was = record["file_was"].as_str().unwrap();
        assert!(was.starts_with("cut off behind record 1; this process had written 2:"), "{was}");
    }

    #[test]
    fn what_is_no_regular_file_is_refused() {
        assert!(ChainFile::open(Path::new("/dev/full")).is_err());
        assert!(ChainFile::open(Path::new("/proc")).is_err());
    }
}
