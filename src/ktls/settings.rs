//! What kernel TLS is configured with.

/// Kernel TLS on one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The policy.
    pub mode: Mode,
    /// With [`Mode::Auto`]: a direction is handed over after it carried this many bytes.
    pub promote_after_bytes: u64,
    /// What to make of kernels with published bugs that a TLS peer can set off.
    pub known_bugs: KnownBugs,
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
