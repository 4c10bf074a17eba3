//! What kernel TLS is configured with.

/// Kernel TLS on one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The policy.
    pub mode: Mode,
    /// With [`Mode::Auto`]: a direction is handed over after it carried this many bytes.
    pub promote_after_bytes: u64,
    /// How bulk moves once the kernel protects it.
    pub bulk: Bulk,
    /// What to make of kernels with published bugs that a TLS peer can set off.
    pub known_bugs: KnownBugs,
}

impl Settings {
    /// The usual [`Settings::promote_after_bytes`]: beyond it, what a hand-over cost has come back
    /// (docs/kernel-tls.md).
    pub const PROMOTE_AFTER_BYTES: u64 = 128 * 1024;

    /// Whether bulk is spliced rather than copied.
    pub const fn splices(&self) -> bool {
        match self.bulk {
            Bulk::Auto | Bulk::Splice => true,
            Bulk::Copy => false,
        }
    }
}

/// How bulk moves on a direction that the kernel protects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bulk {
    /// By what measures cheaper: splice, in both directions (docs/decisions/0009).
    #[default]
    Auto,
    /// Through a pipe, without being copied to userspace.
    Splice,
    /// Through a buffer: one call moves many records.
    Copy,
}

/// What to make of kernels with published bugs that a TLS peer can set off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KnownBugs {
    /// Do without kernel TLS, and refuse to start where it is required.
    #[default]
    Refuse,
    /// Warn, and use kernel TLS all the same: for kernels that carry the fixes under an older number.
    Accept,
}

/// When a direction is handed over to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// When it proves bulky and the kernel can.
    Auto,
    /// Never.
    Off,
    /// At once, where the kernel can.
    Always,
    /// Like [`Mode::Auto`], and refuse to start where the kernel cannot.
    Required,
}
