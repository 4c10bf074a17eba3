//! What kernel TLS is configured with.

/// Kernel TLS on one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The policy.
    pub mode: Mode,
    /// With [`Mode::Auto`]: a direction is handed over after it carried this many bytes.
    pub promote_after_bytes: u64,
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
