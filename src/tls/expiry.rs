//! What of a listener's TLS ends by itself, and how near the end is.

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, SystemTime};

use openssl::x509::{X509CrlRef, X509Ref};

use super::Settings;
use super::client_auth::{self, ClientAuth};
use super::identity::Identity;
use crate::telemetry::ExpiryKind;

/// Something that is good until a certain time.
#[derive(Clone)]
pub struct Ending<'a> {
    /// What it is.
    pub kind: ExpiryKind,
    /// From when to when it is good, the last second included.
    pub valid: Range<SystemTime>,
    of: Of<'a>,
}

#[derive(Clone)]
enum Of<'a> {
    Identity(&'a Identity),
    Certificate(&'a X509Ref),
    List(&'a X509CrlRef),
}

/// How near the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nearness {
    /// It has come.
    Expired,
    /// At most this many days are left.
    Days(u32),
}

impl Settings {
    /// Everything that ends by itself: certificates, authorities and revocation lists. A list that does not say when the
    /// next one is due has no end.
    pub fn endings(&self) -> impl Iterator<Item = Ending<'_>> {
        let of_identity = |identity| Ending::of_identity(identity);
        let client_auth = self.client_auths().into_iter().flat_map(|client_auth| client_auth.endings());
        self.identities.identities().iter().map(of_identity).chain(client_auth)
    }
}

impl ClientAuth {
    /// The authorities and the revocation lists.
    pub fn endings(&self) -> impl Iterator<Item = Ending<'_>> {
        let authority =
            |(certificate, valid)| Ending { kind: ExpiryKind::ClientCa, valid, of: Of::Certificate(certificate) };
        let list = |(list, valid)| Ending { kind: ExpiryKind::Crl, valid, of: Of::List(list) };
        self.authorities_with_period().map(authority).chain(self.lists_with_period().map(list))
    }
}

impl<'a> Ending<'a> {
    /// The end of a listener's certificate.
    pub fn of_identity(identity: &'a Identity) -> Self {
        let valid = identity.not_before()..identity.not_after();
        Self { kind: ExpiryKind::Certificate, valid, of: Of::Identity(identity) }
    }

    /// The subject of a certificate, the issuer of a list; one line of printable text.
    pub fn subject(&self) -> String {
        client_auth::text(match self.of {
            Of::Identity(identity) => identity.leaf().subject_name(),
            Of::Certificate(certificate) => certificate.subject_name(),
            Of::List(list) => list.issuer_name(),
        })
    }

    /// The serial number of a certificate in hexadecimal digits; empty for a list.
    pub fn serial(&self) -> String {
        match self.of {
            Of::Identity(identity) => client_auth::serial(identity.leaf().serial_number()),
            Of::Certificate(certificate) => client_auth::serial(certificate.serial_number()),
            Of::List(_) => String::new(),
        }
    }

    /// The file of a listener's certificate.
    pub fn file(&self) -> Option<&'a Path> {
        match self.of {
            Of::Identity(identity) => Some(identity.path()),
            Of::Certificate(_) | Of::List(_) => None,
        }
    }
}

impl Nearness {
    /// How near the end of the period is; none where there is time.
    ///
    /// What is good for a short time by itself is near its end for most of it: thresholds of more than a third of the
    /// period do not count. A certificate of 90 days has all of them, one of six days the last one, and a revocation
    /// list of a day none.
    pub fn of(valid: &Range<SystemTime>, now: SystemTime) -> Option<Self> {
        let Ok(left) = valid.end.duration_since(now) else { return Some(Self::Expired) };
        let third = valid.end.duration_since(valid.start).unwrap_or_default() / 3;
        let counts = |days: &u32| DAY * *days <= third && left <= DAY * *days;
        THRESHOLD_DAYS.into_iter().find(counts).map(Self::Days)
    }
}

/// Whole days from now to then; 0 where that is over.
pub fn days_left(end: SystemTime, now: SystemTime) -> u64 {
    end.duration_since(now).unwrap_or_default().as_secs() / DAY.as_secs()
}

/// Days before the end at which it is said, the nearest first.
pub const THRESHOLD_DAYS: [u32; 4] = [1, 7, 14, 30];

const DAY: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    /// The nearness with this time left of a period of so many days.
    fn nearness(period: u32, days: u32, seconds: u64) -> Option<Nearness> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let end = now + DAY * days + Duration::from_secs(seconds);
        Nearness::of(&(end - DAY * period..end), now)
    }

    #[test]
    fn thresholds_are_30_14_7_and_1_days() {
        let of_90 = |days, seconds| nearness(90, days, seconds);
        assert_eq!((of_90(30, 1), of_90(30, 0)), (None, Some(Nearness::Days(30))));
        assert_eq!((of_90(14, 1), of_90(14, 0)), (Some(Nearness::Days(30)), Some(Nearness::Days(14))));
        assert_eq!((of_90(7, 1), of_90(7, 0)), (Some(Nearness::Days(14)), Some(Nearness::Days(7))));
        assert_eq!((of_90(1, 1), of_90(1, 0)), (Some(Nearness::Days(7)), Some(Nearness::Days(1))));
    }

    #[test]
    fn what_has_ended_is_said_however_short_it_was() {
        let now = SystemTime::now();
        assert_eq!(Nearness::of(&(now - DAY / 2..now - Duration::from_secs(1)), now), Some(Nearness::Expired));
        assert_eq!(Nearness::of(&(now..now), now), None);
    }

    #[test]
    fn short_periods_have_no_thresholds_that_they_never_leave() {
        assert_eq!((nearness(6, 2, 0), nearness(6, 1, 0)), (None, Some(Nearness::Days(1))));
        assert_eq!((nearness(47, 15, 0), nearness(47, 14, 0)), (None, Some(Nearness::Days(14))));
        assert_eq!(nearness(1, 0, 60), None);
    }
}
