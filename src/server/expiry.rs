//! Says in time that certificates, authorities and revocation lists are about to expire, and what ends next.

use std::collections::HashMap;
use std::time::SystemTime;

use crate::telemetry::{ExpiryKind, ExpiryView};
use crate::tls::{Ending, Nearness, days_left};
use crate::worker::ListenerSettings;

/// What has been said so far, so that each threshold is said once.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    said: HashMap<Said, Nearness>,
}

/// What it was about. A renewed certificate has another end, and so is another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Said {
    listener: String,
    kind: ExpiryKind,
    /// The file of a certificate, the name of an authority.
    name: String,
    not_after: SystemTime,
}

impl Expiry {
    /// Looks at everything that ends of these listeners and logs what is due.
    pub(super) fn look_at(&mut self, listeners: &[ListenerSettings], now: SystemTime) {
        let (mut in_service, mut due) = (HashMap::new(), Vec::new());
        for listener in listeners {
            for ending in listener.tls.endings() {
                let Some(nearness) = Nearness::of(&ending.valid, now) else { continue };
                let said = Said {
                    listener: listener.name.clone(),
                    kind: ending.kind,
                    name: ending.file().map_or_else(|| ending.subject(), |file| file.display().to_string()),
                    not_after: ending.valid.end,
                };
                let is_news = self.said.get(&said) != Some(&nearness);
                if in_service.insert(said.clone(), nearness).is_none() && is_news {
                    due.push((said, nearness));
                }
            }
        }
        // Those that are gone are forgotten.
        self.said = in_service;
        due.sort_by_key(|(said, _)| said.not_after);
        for (said, nearness) in due.iter().take(LINES_MAX) {
            say(said, *nearness, now);
        }
        if let Some(rest) = due.len().checked_sub(LINES_MAX).filter(|rest| *rest > 0) {
            tracing::warn!(more = rest, "more certificates expire soon: `sluice check` names them all");
        }
    }
}

/// What ends of these listeners, as the metrics and the status show it.
pub(super) fn view<'a>(listeners: impl Iterator<Item = &'a ListenerSettings>) -> ExpiryView {
    let endings = |listener: &'a ListenerSettings| {
        let with_name = |ending: Ending<'a>| (listener.name.as_str(), ending.kind, ending.valid.end, ending);
        listener.tls.endings().map(with_name)
    };
    ExpiryView::choose(listeners.flat_map(endings).collect(), |ending| (ending.subject(), ending.serial()))
}

fn say(said: &Said, nearness: Nearness, now: SystemTime) {
    let Said { listener, kind, name, not_after } = said;
    let days_left = days_left(*not_after, now);
    let not_after = humantime::format_rfc3339_seconds(*not_after);
    match (nearness, kind) {
        (Nearness::Expired, ExpiryKind::Certificate) => {
            tracing::error!(%listener, certificate = %name, %not_after, "a certificate has expired: clients refuse it");
        }
        (Nearness::Expired, ExpiryKind::ClientCa) => {
            tracing::error!(%listener, authority = %name, %not_after, "an authority has expired: its clients are refused");
        }
        (Nearness::Expired, ExpiryKind::Crl) => {
            tracing::error!(%listener, issuer = %name, %not_after, "a revocation list has expired: fetch the next one");
        }
        (Nearness::Days(_), ExpiryKind::Certificate) => {
            tracing::warn!(%listener, certificate = %name, days_left, %not_after, "a certificate expires soon: renew it");
        }
        (Nearness::Days(_), ExpiryKind::ClientCa) => {
            tracing::warn!(%listener, authority = %name, days_left, %not_after, "an authority expires soon: replace it");
        }
        (Nearness::Days(_), ExpiryKind::Crl) => {
            tracing::warn!(
                %listener, issuer = %name, days_left, %not_after, "a revocation list expires soon: fetch the next one"
            );
        }
    }
}

/// Lines about certificates in one go; the rest is told by number.
const LINES_MAX: usize = 20;
