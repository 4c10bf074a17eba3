//! Kernel TLS: what the kernel can do, and handing a direction over to it.

mod settings;

pub use settings::{Mode, Settings};
