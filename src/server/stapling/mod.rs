//! Keeps the OCSP responses of certificates fresh: asks responders ahead of time, a few at once, and puts what they say
//! where the workers find it. What cannot be had is asked for again, ever more rarely; what was had is served up to its
//! end. Nothing here holds a handshake up.

mod fetch;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use openssl::x509::X509;
use tokio::task::JoinSet;

use crate::telemetry::{Label, OcspFetch, StapleState, StaplingMetrics};
use crate::tls::identity::{Identity, Table};
use crate::tls::stapling::{self, OcspError, OcspMode, Staple};
use crate::worker::ListenerSettings;
use fetch::{FETCH_TIMEOUT, FetchError, Responder};

/// Questions that are under way at once.
const FETCHES_MAX: usize = 4;
/// The first wait behind a question that came to nothing; each further one is twice as long.
const RETRY_FIRST: Duration = Duration::from_secs(5);
/// The longest.
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// How often a revoked certificate is asked about: an authority may take it back where it was on hold only.
const REVOKED_INTERVAL: Duration = Duration::from_secs(3600);
/// The shortest time between an answer and the next question.
const REFRESH_MIN: Duration = Duration::from_secs(10);

/// The responses of all certificates in service.
pub(super) struct Stapling {
    certificates: HashMap<Fingerprint, Certificate>,
    running: JoinSet<(Fingerprint, Result<Vec<u8>, FetchError>)>,
    metrics: Arc<StaplingMetrics>,
    /// Of which certificates it was said that their response is missing.
    said: HashSet<(String, PathBuf)>,
    /// Until when responders have had no time to answer the first question.
    waiting_until: SystemTime,
}

/// SHA-256 of a certificate.
type Fingerprint = [u8; 32];

/// A certificate of a listener that staples.
struct Certificate {
    /// Where it is used, for messages: the first of the places.
    listener: String,
    path: PathBuf,
    /// Every place.
    places: Vec<(Arc<Table>, usize)>,
    /// The last good response, which outlives the tables.
    staple: Option<Arc<Staple>>,
    is_revoked: bool,
    /// None: nobody is asked.
    question: Option<Question>,
}

/// What is asked of whom.
struct Question {
    responder: Responder,
    request: Vec<u8>,
    leaf: X509,
    issuer: X509,
    /// When it is asked next.
    due: SystemTime,
    is_running: bool,
    /// Answers in a row that were of no use.
    failures: u32,
}

impl Stapling {
    pub(super) fn new(metrics: Arc<StaplingMetrics>) -> Self {
        Self {
            certificates: HashMap::new(),
            running: JoinSet::new(),
            metrics,
            said: HashSet::new(),
            waiting_until: SystemTime::UNIX_EPOCH,
        }
    }

    /// Gives the certificates of these listeners, which are about to go in service, what is known of them.
    pub(super) fn offer(&self, listeners: &[ListenerSettings]) {
        for (_, identity, fingerprint) in stapled(listeners) {
            let Some(known) = self.certificates.get(&fingerprint) else { continue };
            if known.is_revoked && known.question.is_some() {
                identity.staple().revoke();
            } else if let Some(staple) = &known.staple {
                identity.staple().offer(staple);
            }
        }
    }

    /// Looks after the certificates of these listeners from now on, and no others.
    pub(super) fn follow(&mut self, listeners: &[ListenerSettings], now: SystemTime) {
        self.offer(listeners);
        self.waiting_until = now + FETCH_TIMEOUT;
        let mut before = std::mem::take(&mut self.certificates);
        for ((listener, position), identity, fingerprint) in stapled(listeners) {
            let place = (Arc::clone(&listener.tls.identities), position);
            let wants_fetching = listener.tls.ocsp == OcspMode::Fetch;
            let certificate = self.certificates.entry(fingerprint).or_insert_with(|| {
                let former = before.remove(&fingerprint);
                Certificate {
                    listener: listener.name.clone(),
                    path: identity.path().to_owned(),
                    places: Vec::new(),
                    staple: former.as_ref().and_then(|former| former.staple.clone()),
                    is_revoked: former.as_ref().is_some_and(|former| former.is_revoked),
                    question: former.and_then(|former| former.question),
                }
            });
            certificate.places.push(place);
            if let Some(staple) = identity.staple().current_at(now) {
                certificate.staple = Some(staple);
            }
            match (&certificate.question, wants_fetching) {
                (None, true) => certificate.question = Question::about(identity, certificate.staple.as_deref(), now),
                (Some(_), false) if certificate.places.len() == 1 => certificate.question = None,
                _ => {}
            }
        }
    }

    /// Waits for an answer; forever where nobody was asked.
    ///
    /// Cancel safety: safe.
    pub(super) async fn answered(&mut self) -> Answered {
        match self.running.join_next().await {
            Some(Ok((fingerprint, answer))) => Answered(Some((fingerprint, answer))),
            Some(Err(error)) => {
                tracing::error!(%error, "asking an OCSP responder panicked: this is a bug, please report it");
                Answered(None)
            }
            None => std::future::pending().await,
        }
    }

    /// Takes an answer: counts it, and puts a good one where the workers find it.
    pub(super) fn take(&mut self, Answered(answer): Answered, now: SystemTime) {
        let Some((fingerprint, answer)) = answer else { return };
        // It may be out of service by now.
        let Some(certificate) = self.certificates.get_mut(&fingerprint) else { return };
        let result = certificate.take(answer, now);
        self.metrics.fetches.of(result).increment();
    }

    /// Asks what is due, and says how it stands. To be called each second.
    pub(super) fn look_after(&mut self, listeners: &[ListenerSettings], now: SystemTime) {
        for (fingerprint, certificate) in &mut self.certificates {
            if self.running.len() >= FETCHES_MAX {
                break;
            }
            let Some(question) = &mut certificate.question else { continue };
            if question.is_running || question.due > now {
                continue;
            }
            question.is_running = true;
            let (fingerprint, responder, request) =
                (*fingerprint, question.responder.clone(), question.request.clone());
            self.running.spawn(async move { (fingerprint, responder.ask(request).await) });
        }
        self.report(listeners, now);
    }

    /// Sets the gauges, and logs once what has no response and should have.
    fn report(&mut self, listeners: &[ListenerSettings], now: SystemTime) {
        let mut counts = [0_i64; StapleState::ALL.len()];
        let (mut demanded, mut missing) = (0, HashSet::new());
        for listener in listeners {
            let staples = listener.tls.ocsp != OcspMode::Off;
            for identity in listener.tls.identities.identities() {
                if !staples && !identity.must_staple() {
                    continue;
                }
                let state = state(identity, listener.tls.ocsp, now);
                if staples && let Some(count) = counts.get_mut(state.index()) {
                    *count += 1;
                }
                let is_demanded = identity.must_staple() && state != StapleState::Stapled;
                demanded += i64::from(is_demanded);
                let is_waiting = listener.tls.ocsp == OcspMode::Fetch && now < self.waiting_until;
                if !is_waiting && (is_demanded || (staples && state == StapleState::Missing)) {
                    let key = (listener.name.clone(), identity.path().to_owned());
                    if !self.said.contains(&key) {
                        say_missing(listener, identity, is_demanded);
                    }
                    missing.insert(key);
                }
            }
        }
        for state in StapleState::ALL {
            self.metrics.certificates.of(*state).set(counts.get(state.index()).copied().unwrap_or_default());
        }
        self.metrics.must_staple_missing.set(demanded);
        self.said = missing;
    }
}

/// An answer, or that there is none because of a bug.
pub(super) struct Answered(Option<(Fingerprint, Result<Vec<u8>, FetchError>)>);

impl Certificate {
    fn take(&mut self, answer: Result<Vec<u8>, FetchError>, now: SystemTime) -> OcspFetch {
        let (listener, certificate) = (self.listener.as_str(), self.path.display());
        // Who is asked no more has nothing to say.
        let Some(question) = &mut self.question else { return OcspFetch::Unreachable };
        question.is_running = false;
        let responder = question.responder.to_string();
        let (result, error) = match answer {
            Ok(der) => match Staple::verify_for(&der, &question.leaf, &question.issuer, now) {
                Ok(staple) => {
                    let next_update = humantime::format_rfc3339_seconds(staple.next_update());
                    tracing::info!(%listener, %certificate, %responder, %next_update, "OCSP response fetched");
                    question.failures = 0;
                    question.due = staple.refresh_at(now).max(now + REFRESH_MIN);
                    self.is_revoked = false;
                    let staple = Arc::new(staple);
                    for (table, position) in &self.places {
                        if let Some(identity) = table.identities().get(*position) {
                            identity.staple().renew(&staple);
                        }
                    }
                    self.staple = Some(staple);
                    return OcspFetch::Good;
                }
                Err(error @ OcspError::Revoked { .. }) => {
                    tracing::error!(
                        %listener, %certificate, %responder,
                        "the OCSP response {error}: replace the certificate; no response is stapled any more"
                    );
                    question.due = now + REVOKED_INTERVAL;
                    (self.is_revoked, self.staple) = (true, None);
                    for (table, position) in &self.places {
                        if let Some(identity) = table.identities().get(*position) {
                            identity.staple().revoke();
                        }
                    }
                    return OcspFetch::Revoked;
                }
                Err(error) => (error.label(), format!("the OCSP response {error}")),
            },
            Err(error) => (error.label(), format!("the OCSP responder {error}")),
        };
        let wait = retry_after(question.failures);
        question.due = now + wait;
        question.failures = question.failures.saturating_add(1);
        let until = self.staple.as_ref().map_or_else(
            || "there is none".to_owned(),
            |staple| {
                format!("the former one is good until {}", humantime::format_rfc3339_seconds(staple.next_update()))
            },
        );
        if question.failures == 1 {
            tracing::warn!(%listener, %certificate, %responder, retry_in = ?wait, "{error}; {until}");
        } else {
            tracing::debug!(%listener, %certificate, %responder, retry_in = ?wait, "{error}; {until}");
        }
        result
    }
}

impl Question {
    /// None where there is nobody to ask, or nothing that the answer could be checked with.
    fn about(identity: &Identity, staple: Option<&Staple>, now: SystemTime) -> Option<Self> {
        let issuer = identity.issuers().iter().next()?;
        let responder = stapling::responders(identity.leaf()).iter().find_map(|url| Responder::parse(url))?;
        Some(Self {
            responder,
            request: stapling::request(identity.leaf(), issuer).ok()?,
            leaf: identity.leaf().to_owned(),
            issuer: issuer.to_owned(),
            due: staple.map_or(now, |staple| staple.refresh_at(now)),
            is_running: false,
            failures: 0,
        })
    }
}

/// The identities of listeners that staple, with their place and fingerprint.
fn stapled(
    listeners: &[ListenerSettings],
) -> impl Iterator<Item = ((&ListenerSettings, usize), &Identity, Fingerprint)> {
    listeners.iter().filter(|listener| listener.tls.ocsp != OcspMode::Off).flat_map(|listener| {
        listener.tls.identities.identities().iter().enumerate().filter_map(move |(position, identity)| {
            let fingerprint = openssl::sha::sha256(&identity.leaf().to_der().ok()?);
            Some(((listener, position), identity, fingerprint))
        })
    })
}

fn state(identity: &Identity, mode: OcspMode, now: SystemTime) -> StapleState {
    if identity.staple().is_revoked() {
        StapleState::Revoked
    } else if mode != OcspMode::Off && identity.staple().current_at(now).is_some() {
        StapleState::Stapled
    } else if mode == OcspMode::Fetch && !is_answerable(identity) || stapling::is_self_signed(identity.leaf()) {
        StapleState::Unavailable
    } else {
        StapleState::Missing
    }
}

/// Whether there is somebody to ask, and something to check the answer with.
fn is_answerable(identity: &Identity) -> bool {
    identity.has_responder() && !identity.issuers().is_empty()
}

fn say_missing(listener: &ListenerSettings, identity: &Identity, is_demanded: bool) {
    let (listener, certificate) = (listener.name.as_str(), identity.path().display());
    if is_demanded {
        tracing::error!(
            %listener, %certificate,
            "a certificate demands an OCSP response (must-staple) and has none: clients will refuse it (listener.tls.ocsp)"
        );
    } else {
        tracing::warn!(%listener, %certificate, "a certificate has no valid OCSP response and is sent without one");
    }
}

/// How long to wait behind so many failures before the one at hand.
fn retry_after(failures: u32) -> Duration {
    RETRY_FIRST.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(RETRY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_an_hour() {
        let waits: Vec<_> = [0, 1, 2, 9, 10, 31, 32, u32::MAX].map(|failures| retry_after(failures).as_secs()).into();
        assert_eq!(waits, [5, 10, 20, 2560, 3600, 3600, 3600, 3600]);
    }
}
