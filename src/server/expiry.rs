//! Says in time that certificates are about to expire.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::worker::ListenerSettings;

/// What has been said so far, so that each threshold is said once.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    said: HashMap<Certificate, Stage>,
}

/// One certificate of one listener. A renewed one has another end, and so is another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Certificate {
    listener: String,
    path: PathBuf,
    not_after: SystemTime,
}

/// How near the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// At most this many days are left.
    Days(u64),
    /// None is.
    Expired,
}

impl Expiry {
    /// Looks at the certificates of these listeners and logs what is due.
    pub(super) fn look_at(&mut self, listeners: &[ListenerSettings], now: SystemTime) {
        let (mut in_service, mut due) = (HashMap::new(), Vec::new());
        for listener in listeners {
            for identity in listener.tls.identities.identities() {
                let Some(stage) = Stage::of(identity.not_after(), now) else { continue };
                let (path, not_after) = (identity.path().to_owned(), identity.not_after());
                let certificate = Certificate { listener: listener.name.clone(), path, not_after };
                if self.said.get(&certificate) != Some(&stage) {
                    due.push((certificate.clone(), stage));
                }
                in_service.insert(certificate, stage);
            }
        }
        // Those that are gone are forgotten.
        self.said = in_service;
        due.sort_by_key(|(certificate, _)| certificate.not_after);
        for (certificate, stage) in due.iter().take(LINES_MAX) {
            say(certificate, *stage, now);
        }
        if let Some(rest) = due.len().checked_sub(LINES_MAX).filter(|rest| *rest > 0) {
            tracing::warn!(more = rest, "more certificates expire soon: `sluice check` names them all");
        }
    }
}

impl Stage {
    /// The stage of a certificate that ends then; none where there is time.
    fn of(not_after: SystemTime, now: SystemTime) -> Option<Self> {
        let Ok(left) = not_after.duration_since(now) else { return Some(Self::Expired) };
        THRESHOLD_DAYS.into_iter().find(|days| left <= DAY * *days).map(|days| Self::Days(u64::from(days)))
    }
}

fn say(certificate: &Certificate, stage: Stage, now: SystemTime) {
    let (listener, path) = (certificate.listener.as_str(), Path::new(&certificate.path).display());
    let not_after = humantime::format_rfc3339_seconds(certificate.not_after);
    match stage {
        Stage::Expired => {
            tracing::error!(%listener, certificate = %path, %not_after, "a certificate has expired: clients refuse it");
        }
        Stage::Days(_) => {
            let days_left = certificate.not_after.duration_since(now).unwrap_or_default().as_secs() / DAY.as_secs();
            tracing::warn!(%listener, certificate = %path, days_left, %not_after, "a certificate expires soon: renew it");
        }
    }
}

/// Days before the end at which it is said, the nearest first.
const THRESHOLD_DAYS: [u32; 4] = [1, 7, 14, 30];

/// Lines about certificates in one go; the rest is told by number.
const LINES_MAX: usize = 20;

const DAY: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(days: u64, seconds: u64) -> Option<Stage> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        Stage::of(now + Duration::from_secs(days * DAY.as_secs() + seconds), now)
    }

    #[test]
    fn stages_begin_at_30_14_7_and_1_days() {
        assert_eq!((stage(30, 1), stage(30, 0)), (None, Some(Stage::Days(30))));
        assert_eq!((stage(14, 1), stage(14, 0)), (Some(Stage::Days(30)), Some(Stage::Days(14))));
        assert_eq!((stage(7, 1), stage(7, 0)), (Some(Stage::Days(14)), Some(Stage::Days(7))));
        assert_eq!((stage(1, 1), stage(1, 0)), (Some(Stage::Days(7)), Some(Stage::Days(1))));
        let now = SystemTime::now();
        assert_eq!(Stage::of(now - Duration::from_secs(1), now), Some(Stage::Expired));
    }
}
