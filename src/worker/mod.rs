//! Workers: one pinned thread per CPU, each with its own runtime and listeners.
