//! Ring files, one for each node.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sluice::ticket::{LockWait, Ring, RingFile};
use tempfile::TempDir;

use super::proxy::Options;

/// A ring file of its own folder.
pub(crate) struct RingFolder(TempDir);

impl RingFolder {
    /// With a ring that `sluice tickets new` has made.
    pub(crate) fn new() -> Self {
        let folder = Self::empty();
        folder.tickets("new");
        folder
    }

    /// With this ring.
    pub(crate) fn with(ring: &Ring) -> Self {
        let folder = Self::empty();
        let file = RingFile::at(&folder.path());
        file.create(&file.lock(LockWait::Block).unwrap(), ring).unwrap();
        folder
    }

    fn empty() -> Self {
        Self(TempDir::with_prefix("sluice-ring-").unwrap())
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("ticket.ring")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.0.path()
    }

    /// The ring that the file has now.
    pub(crate) fn ring(&self) -> Ring {
        RingFile::at(&self.path()).load().unwrap().0
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }

    /// Replaces the file as a whole, as whatever distributes rings does.
    pub(crate) fn put(&self, content: &[u8]) {
        self.put_with(content, |_| {});
    }

    /// The same, after `change` has done something to the new file.
    pub(crate) fn put_with(&self, content: &[u8], change: impl FnOnce(&Path)) {
        let aside = self.0.path().join("sent");
        fs::write(&aside, content).unwrap();
        fs::set_permissions(&aside, Permissions::from_mode(0o600)).unwrap();
        change(&aside);
        fs::rename(aside, self.path()).unwrap();
    }

    /// `sluice tickets COMMAND` on the ring.
    pub(crate) fn tickets(&self, command: &str) {
        let mut tickets = Command::new(env!("CARGO_BIN_EXE_sluice"));
        let output = tickets.args(["tickets", command, "--ring"]).arg(self.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The ring on another node.
    pub(crate) fn copy(&self) -> Self {
        let folder = Self::empty();
        fs::copy(self.path(), folder.path()).unwrap();
        folder
    }

    /// Settings of a node with this ring.
    pub(crate) fn options(&self, backend: SocketAddr) -> Options {
        Options { tickets: format!("ring = {:?}", self.path()), ..Options::to([backend]) }
    }
}
