//! What of the configuration in service ends by itself: certificates, authorities, revocation lists.

use std::collections::HashSet;
use std::time::SystemTime;

use super::cell::label_enum;

label_enum! {
    /// What ends.
    pub enum ExpiryKind as "kind" {
        /// A certificate of a listener.
        Certificate = "certificate",
        /// An authority whose certificates clients of a listener may show.
        ClientCa = "client_ca",
        /// A revocation list: its next update is due.
        Crl = "crl",
    }
}

/// Ends that are shown, the soonest first. A scrape stays small with a hundred thousand certificates; the first end of
/// each kind of each listener is shown beyond it.
pub const EXPIRY_SHOWN_MAX: usize = 100;

/// What ends by itself, as far as it is shown.
#[derive(Clone, Debug, Default)]
pub struct ExpiryView {
    /// The soonest first; no two have the same listener, kind, subject and serial number.
    pub shown: Vec<EndingView>,
    /// How many more there are, all of which end later than the [`EXPIRY_SHOWN_MAX`] soonest.
    pub left_out: usize,
}

/// Something that ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndingView {
    /// The listener that it is used by.
    pub listener: String,
    /// What it is.
    pub kind: ExpiryKind,
    /// The subject of a certificate, the issuer of a list.
    pub subject: String,
    /// The serial number, hexadecimal; empty for a list.
    pub serial: String,
    /// The last second at which it is good.
    pub not_after: SystemTime,
}

impl ExpiryView {
    /// Chooses among `all`: each entry has its listener, its kind, its end, and what it is shown as, which is made for
    /// those alone that are chosen.
    pub fn choose<T>(mut all: Vec<(&str, ExpiryKind, SystemTime, T)>, show: impl Fn(T) -> (String, String)) -> Self {
        all.sort_by_key(|(_, _, not_after, _)| *not_after);
        let (mut view, mut firsts, mut known) = (Self::default(), HashSet::new(), HashSet::new());
        for (position, (listener, kind, not_after, what)) in all.into_iter().enumerate() {
            if !firsts.insert((listener, kind)) && position >= EXPIRY_SHOWN_MAX {
                view.left_out += 1;
                continue;
            }
            let (subject, serial) = show(what);
            // The same certificate may stand in two files, and two series of one name are none that a scrape takes.
            if known.insert((listener, kind, subject.clone(), serial.clone())) {
                view.shown.push(EndingView { listener: listener.to_owned(), kind, subject, serial, not_after });
            }
        }
        view
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn choose(all: Vec<(&'static str, ExpiryKind, SystemTime, u64)>) -> ExpiryView {
        ExpiryView::choose(all, |number| (format!("CN={number}"), format!("{number:x}")))
    }

    #[test]
    fn soonest_are_shown_and_the_rest_is_counted() {
        let count = EXPIRY_SHOWN_MAX as u64 + 20;
        let all = (0..count).rev().map(|number| ("edge", ExpiryKind::Certificate, at(number), number)).collect();
        let view = choose(all);
        assert_eq!((view.shown.len(), view.left_out), (EXPIRY_SHOWN_MAX, 20));
        assert_eq!((view.shown[0].not_after, view.shown[99].not_after), (at(0), at(99)));
        assert_eq!(view.shown[16].serial, "10");
    }

    #[test]
    fn first_end_of_each_kind_and_listener_is_shown_beyond_the_bound() {
        let many = (0..200).map(|number| ("busy", ExpiryKind::Certificate, at(number), number));
        let late = [
            ("quiet", ExpiryKind::Certificate, at(1000), 1000),
            ("quiet", ExpiryKind::Certificate, at(1001), 1001),
            ("busy", ExpiryKind::Crl, at(1002), 1002),
        ];
        let view = choose(many.chain(late).collect());
        let beyond: Vec<_> = view.shown[EXPIRY_SHOWN_MAX..].iter().map(|ending| ending.not_after).collect();
        assert_eq!((beyond, view.left_out), (vec![at(1000), at(1002)], 101));
    }

    #[test]
    fn certificate_in_two_files_is_shown_once() {
        let twice = vec![("edge", ExpiryKind::ClientCa, at(5), 7), ("edge", ExpiryKind::ClientCa, at(5), 7)];
        let view = choose(twice);
        assert_eq!((view.shown.len(), view.left_out), (1, 0));
    }
}
