//! Single-writer cells: each worker owns its counters and adds to them without a locked instruction; a scrape reads
//! and sums them over the workers.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// A counter with one writer.
///
/// Relaxed load and store suffice: only the owning worker writes, and a scrape may see a value that is a moment old.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// The value, as any thread sees it.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value that goes up and down, with one writer.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds `amount`, which may be negative.
    pub fn add(&self, amount: i64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Replaces the value.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value, as any thread sees it.
    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A label with a closed set of values.
pub trait Label: Copy + 'static {
    /// The label's name in the exposition.
    const NAME: &'static str;
    /// Every value, in the order of [`Label::index`].
    const ALL: &'static [Self];
    /// Position in [`Label::ALL`].
    fn index(self) -> usize;
    /// The value's name in the exposition.
    fn label(self) -> &'static str;
}

/// One cell for each value of a label: `ByLabel<CloseReason>`, or for two labels `ByLabel<A, ByLabel<B>>`.
#[derive(Debug)]
pub struct ByLabel<L, T = Counter> {
    cells: Box<[T]>,
    label: std::marker::PhantomData<L>,
}

impl<L: Label, T: Default> Default for ByLabel<L, T> {
    fn default() -> Self {
        Self { cells: L::ALL.iter().map(|_| T::default()).collect(), label: std::marker::PhantomData }
    }
}

impl<L: Label, T> ByLabel<L, T> {
    /// The cell of one value.
    pub fn of(&self, label: L) -> &T {
        &self.cells[label.index()]
    }
}

/// Defines a label: an enum with a fixed set of values and their names in the exposition.
#[macro_export]
macro_rules! label_enum {
    ($(#[$meta:meta])* $vis:vis enum $name:ident as $label:literal { $($(#[$vmeta:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $vis enum $name { $($(#[$vmeta])* $variant,)+ }
        impl $crate::telemetry::Label for $name {
            const NAME: &'static str = $label;
            const ALL: &'static [Self] = &[$(Self::$variant,)+];
            fn index(self) -> usize { self as usize }
            fn label(self) -> &'static str { match self { $(Self::$variant => $text,)+ } }
        }
    };
}
pub use label_enum;
