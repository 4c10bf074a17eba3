//! Cipher contexts, lent to the directions that move records.
//!
//! A cipher with its key takes 0.5 to 1 KiB, and making one anew costs 0.2 to 0.4 µs (docs/performance.md).
//! So a direction owns keys, but borrows its context: [`reclaim_idle`], which the worker calls every second, takes
//! back what was not used since, and the next record gets a new one. An idle connection holds none.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cipher::{Cipher, Purpose};
use super::protect::CryptoError;
use super::suite::TrafficKeys;

/// A direction's claim to a context that is set to its key.
///
/// Contexts belong to a thread. A claim that moves to another one finds that it has none there and borrows anew; what it
/// had is reclaimed where it was.
pub(super) struct ContextLoan {
    /// Unique in the process, never 0: a place that was given to somebody else is never mistaken for one's own.
    borrower: u64,
    place: usize,
    purpose: Purpose,
}

/// The last borrower. Counting is all that threads share here.
static BORROWERS: AtomicU64 = AtomicU64::new(0);

/// Takes back every context of this thread that was not used since the last call, and says how many. Costs a walk over
/// the contexts that are lent.
pub fn reclaim_idle() -> usize {
    CONTEXTS.with_borrow_mut(Contexts::reclaim_idle)
}

/// Contexts of this thread that are lent at the moment.
pub fn lent_count() -> usize {
    CONTEXTS.with_borrow(|contexts| contexts.places.len() - contexts.vacant.len())
}

impl ContextLoan {
    /// Borrows a context and sets it to the key.
    ///
    /// # Errors
    /// When the key has the wrong length, or the library refuses it.
    pub(super) fn new(purpose: Purpose, keys: &TrafficKeys) -> Result<Self, CryptoError> {
        let borrower = BORROWERS.fetch_add(1, Ordering::Relaxed) + 1;
        let context = Cipher::new(purpose, keys)?;
        let place = CONTEXTS.with_borrow_mut(|contexts| contexts.lend(borrower, context));
        Ok(Self { borrower, place, purpose })
    }

    /// Runs `f` with the context, which is set to the key of `keys`.
    ///
    /// # Errors
    /// When the context was taken back and there is no other, for want of memory.
    pub(super) fn with<T>(&mut self, keys: &TrafficKeys, f: impl FnOnce(&mut Cipher) -> T) -> Result<T, CryptoError> {
        CONTEXTS.with_borrow_mut(|contexts| {
            if !contexts.is_lent_to(self.borrower, self.place) {
                self.place = contexts.lend(self.borrower, Cipher::new(self.purpose, keys)?);
            }
            let place = &mut contexts.places[self.place];
            place.is_used = true;
            match &mut place.context {
                Some(context) => Ok(f(context)),
                None => unreachable!("a place that is lent has its context"),
            }
        })
    }

    /// Goes on with another key.
    ///
    /// # Errors
    /// As [`new`](Self::new); the former key stays in use then.
    pub(super) fn rekey(&mut self, keys: &TrafficKeys) -> Result<(), CryptoError> {
        *self = Self::new(self.purpose, keys)?;
        Ok(())
    }
}

impl Drop for ContextLoan {
    fn drop(&mut self) {
        // A thread that ends may have dropped its contexts already.
        let _ = CONTEXTS.try_with(|contexts| contexts.borrow_mut().take_back(self.borrower, self.place));
    }
}

thread_local! {
    static CONTEXTS: RefCell<Contexts> = const {
        RefCell::new(Contexts { places: Vec::new(), vacant: Vec::new() })
    };
}

struct Contexts {
    places: Vec<Place>,
    vacant: Vec<usize>,
}

struct Place {
    /// 0 while it is vacant.
    borrower: u64,
    context: Option<Cipher>,
    is_used: bool,
}

impl Contexts {
    fn is_lent_to(&self, borrower: u64, place: usize) -> bool {
        self.places.get(place).is_some_and(|place| place.borrower == borrower)
    }

    fn lend(&mut self, borrower: u64, context: Cipher) -> usize {
        let lent = Place { borrower, context: Some(context), is_used: true };
        match self.vacant.pop() {
            Some(place) => {
                self.places[place] = lent;
                place
            }
            None => {
                self.places.push(lent);
                self.places.len() - 1
            }
        }
    }

    fn take_back(&mut self, borrower: u64, place: usize) {
        if self.is_lent_to(borrower, place) {
            self.places[place] = Place { borrower: 0, context: None, is_used: false };
            self.vacant.push(place);
        }
    }

    fn reclaim_idle(&mut self) -> usize {
        let mut reclaimed = 0;
        for place in 0..self.places.len() {
            let Place { borrower, is_used, .. } = self.places[place];
            self.places[place].is_used = false;
            if borrower != 0 && !is_used {
                self.take_back(borrower, place);
                reclaimed += 1;
            }
        }
        if self.vacant.len() == self.places.len() {
            (self.places, self.vacant) = (Vec::new(), Vec::new());
        }
        reclaimed
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::super::testing::{keys, pair};
    use super::super::{CipherSuite, ContentType};
    use super::*;

    fn exchange(sealer: &mut super::super::Sealer, opener: &mut super::super::Opener, payload: &[u8]) {
        let mut record = Vec::new();
        sealer.seal_control(ContentType::ApplicationData, payload, &mut record).unwrap();
        let opened = opener.open(&mut record).unwrap();
        assert_eq!(&record[opened.payload], payload);
    }

    #[test]
    fn context_that_was_not_used_between_two_calls_is_taken_back_and_lent_anew() {
        for suite in CipherSuite::all() {
            let before = lent_count();
            let (mut sealer, mut opener) = pair(suite);
            exchange(&mut sealer, &mut opener, b"first");
            reclaim_idle();
            assert_eq!(lent_count(), before + 2, "used since the last call");
            assert_eq!(reclaim_idle(), before + 2);
            assert_eq!(lent_count(), 0);
            exchange(&mut sealer, &mut opener, b"second");
            assert_eq!(lent_count(), 2);
            drop((sealer, opener));
            assert_eq!(lent_count(), 0);
        }
    }

    #[test]
    fn place_that_another_has_taken_is_not_mistaken_for_ones_own() {
        let suite = CipherSuite::all()[0];
        let (mut sealer, mut opener) = pair(&suite);
        for round in 0..3 {
            reclaim_idle();
            reclaim_idle();
            let mut other = keys(&suite);
            other.key = crate::record::KeyMaterial::new(&[round; 16]);
            let (mut theirs, mut theirs_too) = (
                super::super::Sealer::new(keys_like(&other)).unwrap(),
                super::super::Opener::new(keys_like(&other)).unwrap(),
            );
            exchange(&mut sealer, &mut opener, b"ours");
            exchange(&mut theirs, &mut theirs_too, b"theirs");
            exchange(&mut sealer, &mut opener, b"ours again");
        }
    }

    fn keys_like(other: &TrafficKeys) -> TrafficKeys {
        let key = crate::record::KeyMaterial::new(other.key.expose());
        TrafficKeys { version: other.version, aead: other.aead, key, iv: other.iv, sequence: other.sequence }
    }

    #[test]
    fn direction_that_moves_to_another_thread_goes_on_there() {
        let (mut sealer, mut opener) = pair(&CipherSuite::all()[0]);
        exchange(&mut sealer, &mut opener, b"here");
        let moved = std::thread::spawn(move || {
            exchange(&mut sealer, &mut opener, b"there");
            assert_eq!(lent_count(), 2);
            (sealer, opener)
        });
        let (mut sealer, mut opener) = moved.join().unwrap();
        exchange(&mut sealer, &mut opener, b"here again");
    }

    #[test]
    fn threads_do_not_take_back_each_others_contexts() {
        let (mut sealer, mut opener) = pair(&CipherSuite::all()[0]);
        exchange(&mut sealer, &mut opener, b"here");
        std::thread::spawn(|| {
            reclaim_idle();
            reclaim_idle();
            assert_eq!(lent_count(), 0);
        })
        .join()
        .unwrap();
        assert_eq!(lent_count(), 2);
    }
}
