//! Values whose bytes are overwritten when they go.

use std::fmt;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ops::Deref;
use std::slice;

use zeroize::Zeroize;

/// A value on the heap whose bytes are overwritten when it is dropped: for keys of libraries that leave theirs behind.
///
/// What moving the value here has left on the stack stays until something else takes that place.
pub struct Wiped<T>(ManuallyDrop<Box<T>>);

impl<T> Wiped<T> {
    /// Moves `value` to the heap.
    pub fn new(value: T) -> Self {
        Self(ManuallyDrop::new(Box::new(value)))
    }
}

impl<T> Deref for Wiped<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Drop for Wiped<T> {
    fn drop(&mut self) {
        // SAFETY: `self` is being dropped, so that nobody takes the box again.
        let block = Box::into_raw(unsafe { ManuallyDrop::take(&mut self.0) });
        // SAFETY: the box has given up this live value, which is dropped here and nowhere else.
        unsafe { block.drop_in_place() };
        // SAFETY: `MaybeUninit<T>` has the layout of `T` and no content that has to be valid: the box owns the block again.
        let mut block = unsafe { Box::from_raw(block.cast::<MaybeUninit<T>>()) };
        wipe(&mut block);
    }
}

fn wipe<T>(block: &mut MaybeUninit<T>) {
    // SAFETY: the bytes of the block, for as long as it is borrowed; as `MaybeUninit` they need not be initialised.
    let bytes = unsafe { slice::from_raw_parts_mut(block.as_mut_ptr().cast::<MaybeUninit<u8>>(), size_of::<T>()) };
    bytes.zeroize();
}

impl<T> fmt::Debug for Wiped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wiped")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn value_is_dropped_once() {
        struct Counts(Rc<Cell<u32>>);
        impl Drop for Counts {
            fn drop(&mut self) {
                self.0.set(self.0.get() + 1);
            }
        }
        let count = Rc::new(Cell::new(0));
        let wiped = Wiped::new(Counts(Rc::clone(&count)));
        assert_eq!(wiped.0.0.get(), 0);
        drop(wiped);
        assert_eq!(count.get(), 1);
    }

    #[test]
    fn every_byte_is_overwritten() {
        let mut block = MaybeUninit::new([0x5a_u8; 100]);
        wipe(&mut block);
        // SAFETY: every bit pattern is a valid array of bytes, and all of them were written.
        assert_eq!(unsafe { block.assume_init() }, [0; 100]);
    }
}
