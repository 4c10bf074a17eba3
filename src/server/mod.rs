//! The life of the process: listeners, snapshots, signals.
