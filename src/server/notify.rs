//! What systemd is told, where it asked to be told ($NOTIFY_SOCKET): sd_notify(3).

use std::os::fd::{AsFd, OwnedFd};

use sd_notify::NotifyState;

use crate::sys::handover::DESCRIPTORS_PER_MESSAGE_MAX;

/// The start, or a reload, is over.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A reload begins.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "systemd is not told of the reload"),
    }
}

/// The process is about to end.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Another process is the main one of the service from now on.
pub(super) fn main_pid(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
}

/// The control thread is alive.
pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// Leaves sockets in systemd's store, from which the next process gets them, also behind a crash; it ignores them where
/// the unit grants no room (FileDescriptorStoreMax=).
pub(super) fn store(name: &str, sockets: &[OwnedFd]) {
    for batch in sockets.chunks(DESCRIPTORS_PER_MESSAGE_MAX) {
        let batch: Vec<_> = batch.iter().map(AsFd::as_fd).collect();
        if let Err(error) = sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(name)], &batch) {
            tracing::warn!(%error, "systemd takes no sockets ($NOTIFY_SOCKET)");
        }
    }
}

/// Takes the sockets of this name out of the store.
pub(super) fn forget(name: &str) {
    tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd cannot be told ($NOTIFY_SOCKET)");
    }
}
