//! Relay buffers: pooled per worker, borrowed only while bytes move, so that an idle connection holds none.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

/// Bytes of a small buffer: one record of the largest size, protected (RFC 8446 section 5.2).
pub(super) const SMALL_LEN: usize = 16 * 1024 + 320;
/// Bytes of a large buffer: 32 records of the largest size. 16 cost 7 % more CPU per byte, 8 cost 18 %
/// (docs/performance.md).
pub const LARGE_LEN: usize = 32 * SMALL_LEN;

/// Small buffers that an idle worker keeps; more go back to the allocator.
const SMALL_KEPT_MAX: usize = 64;
/// Large buffers that an idle worker keeps.
const LARGE_KEPT_MAX: usize = 8;

/// The buffers of one worker.
///
/// Small buffers are always granted: two per connection at most, and connections are limited. Large ones come out of a
/// budget; when it is spent, the caller gets a small one and carries on more slowly. So slow readers can pin the budget
/// but never stop anybody.
pub struct BufferPool {
    small: RefCell<Vec<Storage>>,
    large: RefCell<Vec<Storage>>,
    large_lent: Cell<usize>,
    large_lent_max: Cell<usize>,
    is_lending_large: Cell<bool>,
}

/// A borrowed buffer; dropped, it goes back to its pool.
pub struct Buffer {
    storage: Option<Storage>,
    pool: Rc<BufferPool>,
}

/// Which buffer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// [`SMALL_LEN`] bytes.
    Small,
    /// [`LARGE_LEN`] bytes, or a small one when the budget is spent.
    Large,
}

impl Size {
    /// What to take next time, after a buffer of this size brought `received` bytes: a full one calls for a large one,
    /// and a large one is given up when it brought no more than a small one would.
    pub fn next(self, received: usize, is_full: bool) -> Self {
        if is_full || (self == Self::Large && received >= SMALL_LEN) { Self::Large } else { Self::Small }
    }
}

struct Storage {
    bytes: Box<[u8]>,
    parts: Vec<Part>,
}

/// A stretch of a buffer, to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Index of the first byte.
    pub start: u32,
    /// Index behind the last byte.
    pub end: u32,
}

impl BufferPool {
    /// A pool that lends large buffers up to `large_bytes_max` in all.
    pub fn new(large_bytes_max: usize) -> Rc<Self> {
        Rc::new(Self {
            small: RefCell::default(),
            large: RefCell::default(),
            large_lent: Cell::new(0),
            large_lent_max: Cell::new(large_bytes_max / LARGE_LEN),
            is_lending_large: Cell::new(true),
        })
    }

    /// Sets the bound of what is lent in large buffers; what is lent already beyond it comes back in its time.
    pub fn set_large_bytes_max(&self, large_bytes_max: usize) {
        self.large_lent_max.set(large_bytes_max / LARGE_LEN);
    }

    /// Lends a buffer. Its content is whatever its last borrower left there.
    pub fn take(self: &Rc<Self>, size: Size) -> Buffer {
        let has_budget = self.is_lending_large.get() && self.large_lent.get() < self.large_lent_max.get();
        let is_large = size == Size::Large && has_budget;
        let (kept, len) = if is_large { (&self.large, LARGE_LEN) } else { (&self.small, SMALL_LEN) };
        if is_large {
            self.large_lent.set(self.large_lent.get() + 1);
        }
        let storage = kept
            .borrow_mut()
            .pop()
            .unwrap_or_else(|| Storage { bytes: vec![0; len].into_boxed_slice(), parts: Vec::new() });
        Buffer { storage: Some(storage), pool: Rc::clone(self) }
    }

    /// Whether large buffers are lent from now on, as far as the budget goes; if not, none are kept either.
    pub fn lend_large(&self, is_lending: bool) {
        self.is_lending_large.set(is_lending);
        if !is_lending {
            self.large.borrow_mut().clear();
            self.small.borrow_mut().clear();
        }
    }

    /// Large buffers lent at the moment.
    pub fn large_lent(&self) -> usize {
        self.large_lent.get()
    }
}

impl Buffer {
    /// The bytes and the list of parts, to be used at the same time.
    pub fn split(&mut self) -> (&mut [u8], &mut Vec<Part>) {
        match &mut self.storage {
            Some(storage) => (&mut storage.bytes, &mut storage.parts),
            None => unreachable!("a buffer has its storage until it is dropped"),
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.storage.as_ref().map_or(&[], |storage| &storage.bytes)
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.split().0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(mut storage) = self.storage.take() else { return };
        storage.parts.clear();
        let (kept, kept_max) = if storage.bytes.len() == LARGE_LEN {
            self.pool.large_lent.set(self.pool.large_lent.get() - 1);
            (&self.pool.large, if self.pool.is_lending_large.get() { LARGE_KEPT_MAX } else { 0 })
        } else {
            (&self.pool.small, SMALL_KEPT_MAX)
        };
        let mut kept = kept.borrow_mut();
        if kept.len() < kept_max {
            kept.push(storage);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_stop_at_the_budget_and_small_ones_take_over() {
        let pool = BufferPool::new(2 * LARGE_LEN);
        let lent: Vec<_> = (0..3).map(|_| pool.take(Size::Large)).collect();
        let lengths: Vec<_> = lent.iter().map(|buffer| buffer.len()).collect();
        assert_eq!(lengths, [LARGE_LEN, LARGE_LEN, SMALL_LEN]);
        drop(lent);
        assert_eq!(pool.large_lent(), 0);
        assert_eq!(pool.take(Size::Large).len(), LARGE_LEN);
    }

    #[test]
    fn returned_buffers_are_kept_up_to_the_limit() {
        let pool = BufferPool::new(usize::MAX);
        drop((0..SMALL_KEPT_MAX + 10).map(|_| pool.take(Size::Small)).collect::<Vec<_>>());
        assert_eq!(pool.small.borrow().len(), SMALL_KEPT_MAX);
        drop((0..LARGE_KEPT_MAX + 2).map(|_| pool.take(Size::Large)).collect::<Vec<_>>());
        assert_eq!(pool.large.borrow().len(), LARGE_KEPT_MAX);
    }

    #[test]
    fn pool_that_lends_no_large_buffers_keeps_none_either() {
        let pool = BufferPool::new(2 * LARGE_LEN);
        let lent = pool.take(Size::Large);
        drop(pool.take(Size::Large));
        pool.lend_large(false);
        assert_eq!(pool.take(Size::Large).len(), SMALL_LEN);
        drop(lent);
        assert!(pool.large.borrow().is_empty());
        pool.lend_large(true);
        assert_eq!(pool.take(Size::Large).len(), LARGE_LEN);
    }

    #[test]
    fn parts_do_not_pass_from_one_borrower_to_the_next() {
        let pool = BufferPool::new(0);
        pool.take(Size::Small).split().1.push(Part { start: 1, end: 2 });
        assert!(pool.take(Size::Small).split().1.is_empty());
    }
}
