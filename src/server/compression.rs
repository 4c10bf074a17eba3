//! Compresses the certificates that workers would have liked to send compressed, on a thread beside the control thread.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::oneshot::{Receiver, error::TryRecvError};

use super::aside;
use crate::tls::identity::Table;
use crate::worker::ListenerSettings;

/// Messages that are compressed in one go, each in 5 to 8 ms with Brotli; what is beyond has its turn with the next call.
/// Ten times a second, this leaves most of a CPU to the workers when very many certificates are new at once.
const BATCH_MAX: usize = 4;

/// The batch under way, if there is one.
#[derive(Debug, Default)]
pub(super) struct Compression {
    running: Option<Receiver<()>>,
    has_failed: bool,
}

impl Compression {
    /// Begins with what workers have noted since the last time. To be called ten times a second.
    pub(super) fn look_after(&mut self, listeners: &[ListenerSettings]) {
        match self.running.as_mut().map(Receiver::try_recv) {
            Some(Err(TryRecvError::Empty)) => return,
            // What the libraries panic at is contained, and counts as compressed.
            Some(Err(TryRecvError::Closed)) => {
                tracing::error!("the thread that compresses certificates panicked: this is a bug, please report it");
            }
            Some(Ok(())) | None => {}
        }
        self.running = None;
        let tables = listeners.iter().map(|listener| &listener.tls.identities);
        let tables: Vec<_> = tables.filter(|table| table.take_compression_wanted()).map(Arc::clone).collect();
        if tables.is_empty() {
            return;
        }
        let work = tables.clone();
        match aside::run("compression", move || compress(&work)) {
            Ok(running) => (self.running, self.has_failed) = (Some(running), false),
            Err(error) => {
                tables.iter().for_each(|table| table.want_compression());
                if !std::mem::replace(&mut self.has_failed, true) {
                    tracing::warn!(%error, "no thread to compress certificates on: they are sent as they are until there is one");
                }
            }
        }
    }
}

/// Compresses a batch of what is noted in these tables.
fn compress(tables: &[Arc<Table>]) {
    let mut count = 0;
    for table in tables {
        for identity in table.identities().iter().filter(|identity| identity.compressed().is_wanted()) {
            if count >= BATCH_MAX {
                table.want_compression();
                break;
            }
            count += identity.compressed().fill(identity, SystemTime::now());
        }
    }
}
