//! Handing a direction of a connection over to the kernel.
//!
//! First [`attach_ulp`], once for each connection and before the client may have ended its side; then [`install`] for
//! each direction that is promoted, in any order and at any time. A direction without keys passes bytes through as they
//! are, so a failed [`install`] leaves that direction to the userspace engine. There is no way back.

use std::io;
use std::os::fd::BorrowedFd;

use crate::record::{Aead, ProtocolVersion, TrafficKeys};
use crate::sys::tls_ulp::{self, CryptoInfo};

pub use crate::sys::tls_ulp::{Direction, LiveState};

/// Why a connection or direction could not be handed over.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The connection is not established: the peer has already ended its side, or reset it.
    #[error("the connection is no longer established, so kernel TLS cannot be attached")]
    NotEstablished,
    /// The kernel offers no TLS.
    #[error("the kernel offers no TLS: the tls module is not loaded, or not built")]
    NoKernelTls,
    /// Kernel TLS was attached to this connection before.
    #[error("kernel TLS is already attached to this connection")]
    AlreadyAttached,
    /// [`attach_ulp`] did not come first.
    #[error("kernel TLS is not attached to this connection")]
    NotAttached,
    /// The kernel refuses this version and algorithm, or they differ from the other direction's.
    #[error("the kernel does not protect {version:?} with {aead:?} on this connection")]
    Suite {
        /// The version asked for.
        version: ProtocolVersion,
        /// The algorithm asked for.
        aead: Aead,
    },
    /// The direction has keys, and this kernel cannot replace them (before Linux 6.14, and always in TLS 1.2).
    #[error("the kernel cannot replace the keys of this direction")]
    RekeyUnsupported,
    /// The kernel had no memory for it.
    #[error("the kernel is out of memory for kernel TLS")]
    OutOfMemory,
    /// Anything else.
    #[error("kernel TLS: {0}")]
    Other(#[source] io::Error),
}

impl InstallError {
    /// The error's name in metrics and logs.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::NotEstablished => "not_established",
            Self::NoKernelTls => "no_kernel_tls",
            Self::AlreadyAttached => "already_attached",
            Self::NotAttached => "not_attached",
            Self::Suite { .. } => "suite",
            Self::RekeyUnsupported => "rekey_unsupported",
            Self::OutOfMemory => "out_of_memory",
            Self::Other(_) => "other",
        }
    }

    fn from_attach(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOTCONN) => Self::NotEstablished,
            // ENOPROTOOPT: a kernel from before upper-layer protocols.
            Some(libc::ENOENT | libc::ENOPROTOOPT) => Self::NoKernelTls,
            Some(libc::EEXIST) => Self::AlreadyAttached,
            Some(libc::ENOMEM | libc::ENOBUFS) => Self::OutOfMemory,
            _ => Self::Other(error),
        }
    }

    fn from_keys(error: io::Error, keys: &TrafficKeys) -> Self {
        match error.raw_os_error() {
            // ENOENT: the algorithm's own module is missing.
            Some(libc::EINVAL | libc::ENOENT | libc::EOPNOTSUPP) => {
                Self::Suite { version: keys.version, aead: keys.aead }
            }
            Some(libc::ENOPROTOOPT) => Self::NotAttached,
            Some(libc::EBUSY) => Self::RekeyUnsupported,
            Some(libc::ENOMEM | libc::ENOBUFS) => Self::OutOfMemory,
            _ => Self::Other(error),
        }
    }
}

/// Attaches kernel TLS to an established connection; bytes pass through unchanged until [`install`].
pub fn attach_ulp(fd: BorrowedFd<'_>) -> Result<(), InstallError> {
    tls_ulp::attach(fd).map_err(InstallError::from_attach)
}

/// Gives the kernel the keys of one direction, from `keys.sequence` on.
///
/// Receive: the next byte that nobody has read must be the first of a record, and that record the one numbered
/// `keys.sequence`. Transmit: everything sealed in userspace must have been handed to the socket. Called again with new
/// keys it re-keys a TLS 1.3 direction where the kernel can. The kernel's copy apart, no copy of the key is left behind.
pub fn install(fd: BorrowedFd<'_>, direction: Direction, keys: &TrafficKeys) -> Result<(), InstallError> {
    let info = CryptoInfo::new(keys);
    tls_ulp::set_keys(fd, direction, &info).map_err(|error| InstallError::from_keys(error, keys))
}

/// Where a promoted direction stands: how many records its keys have protected.
pub fn live_state(
    fd: BorrowedFd<'_>,
    direction: Direction,
    version: ProtocolVersion,
    aead: Aead,
) -> Result<LiveState, InstallError> {
    tls_ulp::live_state(fd, direction, version, aead).map_err(InstallError::Other)
}

/// Makes the kernel honour a negotiated `max_fragment_length` of `plaintext_bytes_max` (RFC 6066 section 4) on what it
/// seals; the octet for the content type in TLS 1.3 is not counted by either. Fails before Linux 6.19 (`ENOPROTOOPT`).
pub fn limit_transmit_payload(fd: BorrowedFd<'_>, plaintext_bytes_max: u16) -> Result<(), InstallError> {
    tls_ulp::set_transmit_payload_max(fd, plaintext_bytes_max).map_err(InstallError::Other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::KeyMaterial;

    fn keys() -> TrafficKeys {
        let (version, aead) = (ProtocolVersion::Tls13, Aead::Aes128Gcm);
        TrafficKeys { version, aead, key: KeyMaterial::new(&[1; 16]), iv: [2; 12], sequence: 0 }
    }

    #[test]
    fn install_error_tells_the_kernels_answers_to_attaching_apart() {
        let label = |code| InstallError::from_attach(io::Error::from_raw_os_error(code)).label();
        assert_eq!(label(libc::ENOTCONN), "not_established");
        assert_eq!(label(libc::ENOENT), "no_kernel_tls");
        assert_eq!(label(libc::ENOPROTOOPT), "no_kernel_tls");
        assert_eq!(label(libc::EEXIST), "already_attached");
        assert_eq!(label(libc::ENOMEM), "out_of_memory");
        assert_eq!(label(libc::EPERM), "other");
    }

    #[test]
    fn install_error_tells_the_kernels_answers_to_keys_apart() {
        let label = |code| InstallError::from_keys(io::Error::from_raw_os_error(code), &keys()).label();
        assert_eq!(label(libc::EINVAL), "suite");
        assert_eq!(label(libc::ENOENT), "suite");
        assert_eq!(label(libc::ENOPROTOOPT), "not_attached");
        assert_eq!(label(libc::EBUSY), "rekey_unsupported");
        assert_eq!(label(libc::ENOMEM), "out_of_memory");
        assert_eq!(label(libc::EIO), "other");
    }
}
