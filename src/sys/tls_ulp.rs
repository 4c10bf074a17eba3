//! Socket options of the kernel's TLS (`linux/tls.h`), and what a socket tells about its buffers and errors.
//!
//! Nothing here judges: errors are the kernel's own. `ktls::install` gives them a meaning.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::record::{Aead, ProtocolVersion, TrafficKeys};

/// The direction of a socket that an option is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// What the socket sends: the kernel seals.
    Transmit,
    /// What the socket receives: the kernel opens.
    Receive,
}

impl Direction {
    const fn option(self) -> libc::c_int {
        match self {
            Self::Transmit => libc::TLS_TX,
            Self::Receive => libc::TLS_RX,
        }
    }
}

/// A `struct tls12_crypto_info_*`: version, cipher, then iv, key, salt and sequence number without padding. Wiped on drop.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct CryptoInfo {
    bytes: [u8; CRYPTO_INFO_BYTES_MAX],
    len: usize,
}

impl CryptoInfo {
    /// The kernel's form of `keys`.
    pub fn new(keys: &TrafficKeys) -> Self {
        let mut info = Self { bytes: [0; CRYPTO_INFO_BYTES_MAX], len: 0 };
        info.push(&version_number(keys.version).to_ne_bytes());
        info.push(&cipher_number(keys.aead).to_ne_bytes());
        let (salt, iv) = keys.iv.split_at(salt_len(keys.aead));
        info.push(iv);
        info.push(keys.key.expose());
        info.push(salt);
        info.push(&keys.sequence.to_be_bytes());
        debug_assert_eq!(info.len, info_len(keys.aead), "a key has the length of its algorithm");
        info
    }

    fn empty(version: ProtocolVersion, aead: Aead) -> Self {
        let mut info = Self { bytes: [0; CRYPTO_INFO_BYTES_MAX], len: 0 };
        info.push(&version_number(version).to_ne_bytes());
        info.push(&cipher_number(aead).to_ne_bytes());
        info.len = info_len(aead);
        info
    }

    fn push(&mut self, part: &[u8]) {
        let end = self.len + part.len();
        self.bytes[self.len..end].copy_from_slice(part);
        self.len = end;
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Where a direction stands in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveState {
    /// Sequence number of the next record.
    pub sequence: u64,
    /// As [`TrafficKeys::iv`]: for AES-GCM in TLS 1.2 the explicit nonce in it moves with every record sent.
    pub iv: [u8; 12],
}

/// Attaches kernel TLS to a connection. Until keys follow, bytes pass through as before, in both directions.
pub fn attach(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_ULP, b"tls")
}

/// Hands one direction's keys to the kernel, or replaces them where the kernel can.
pub fn set_keys(fd: BorrowedFd<'_>, direction: Direction, info: &CryptoInfo) -> io::Result<()> {
    set_option(fd, libc::SOL_TLS, direction.option(), info.as_bytes())
}

/// Reads where a direction stands. Version and algorithm have to be those that were installed.
pub fn live_state(
    fd: BorrowedFd<'_>,
    direction: Direction,
    version: ProtocolVersion,
    aead: Aead,
) -> io::Result<LiveState> {
    let mut info = CryptoInfo::empty(version, aead);
    let len = info.len;
    get_option(fd, libc::SOL_TLS, direction.option(), &mut info.bytes[..len])?;
    let salt_len = salt_len(aead);
    let (iv_at, salt_at) = (HEAD_BYTES, HEAD_BYTES + (12 - salt_len) + aead.key_len());
    let mut state = LiveState { sequence: 0, iv: [0; 12] };
    state.iv[..salt_len].copy_from_slice(&info.bytes[salt_at..salt_at + salt_len]);
    state.iv[salt_len..].copy_from_slice(&info.bytes[iv_at..iv_at + 12 - salt_len]);
    let mut sequence = [0; SEQUENCE_BYTES];
    sequence.copy_from_slice(&info.bytes[len - SEQUENCE_BYTES..len]);
    state.sequence = u64::from_be_bytes(sequence);
    Ok(state)
}

/// Limits the plaintext of each record that the kernel seals (Linux 6.19; earlier ones answer `ENOPROTOOPT`). In
/// TLS 1.3 the octet of the content type is not part of `payload_bytes_max`.
pub fn set_transmit_payload_max(fd: BorrowedFd<'_>, payload_bytes_max: u16) -> io::Result<()> {
    set_option(fd, libc::SOL_TLS, TLS_TX_MAX_PAYLOAD_LEN, &payload_bytes_max.to_ne_bytes())
}

/// Takes the error that is pending on a socket, which also makes the socket usable for sending again.
pub fn take_socket_error(fd: BorrowedFd<'_>) -> io::Result<Option<io::Error>> {
    let mut code = [0; mem::size_of::<libc::c_int>()];
    get_option(fd, libc::SOL_SOCKET, libc::SO_ERROR, &mut code)?;
    let code = libc::c_int::from_ne_bytes(code);
    Ok((code != 0).then(|| io::Error::from_raw_os_error(code)))
}

/// What the send buffer of a socket holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendBuffer {
    /// Its size in bytes, as the kernel accounts (twice what `SO_SNDBUF` was set to).
    pub size_bytes: u32,
    /// Memory of what waits in it, sent or not, until the peer has acknowledged it.
    pub queued_bytes: u32,
}

/// Reads the state of a socket's send buffer (`SO_MEMINFO`).
pub fn send_buffer(fd: BorrowedFd<'_>) -> io::Result<SendBuffer> {
    let mut info = [0; MEMINFO_WORDS * 4];
    get_option(fd, libc::SOL_SOCKET, SO_MEMINFO, &mut info)?;
    let word = |index: libc::c_int| {
        let mut bytes = [0; 4];
        let at = index as usize * 4;
        bytes.copy_from_slice(&info[at..at + 4]);
        u32::from_ne_bytes(bytes)
    };
    Ok(SendBuffer { size_bytes: word(libc::SK_MEMINFO_SNDBUF), queued_bytes: word(libc::SK_MEMINFO_WMEM_QUEUED) })
}

/// Bytes that TCP holds and the peer has not acknowledged (`SIOCOUTQ`).
pub fn unacknowledged_bytes(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (SIOCOUTQ of sockets) writes one int to the pointer, which is a live local variable; `fd` is
    // borrowed from an open descriptor.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(usize::try_from(bytes).unwrap_or(0)) }
}

const HEAD_BYTES: usize = 4;
const SEQUENCE_BYTES: usize = 8;
/// The largest structure: a key of 32 bytes, 12 of nonce between iv and salt.
const CRYPTO_INFO_BYTES_MAX: usize = HEAD_BYTES + 12 + 32 + SEQUENCE_BYTES;
/// Of `linux/tls.h`; not yet in the libc crate.
const TLS_TX_MAX_PAYLOAD_LEN: libc::c_int = 5;
/// Of `asm-generic/socket.h`; not in the libc crate for this target.
const SO_MEMINFO: libc::c_int = 55;
/// Words that kernels since 4.12 fill in.
const MEMINFO_WORDS: usize = 9;

const fn version_number(version: ProtocolVersion) -> u16 {
    match version {
        ProtocolVersion::Tls12 => 0x0303,
        ProtocolVersion::Tls13 => 0x0304,
    }
}

const fn cipher_number(aead: Aead) -> u16 {
    match aead {
        Aead::Aes128Gcm => libc::TLS_CIPHER_AES_GCM_128,
        Aead::Aes256Gcm => libc::TLS_CIPHER_AES_GCM_256,
        Aead::ChaCha20Poly1305 => libc::TLS_CIPHER_CHACHA20_POLY1305,
    }
}

/// How many of the twelve bytes of an iv the kernel calls salt.
const fn salt_len(aead: Aead) -> usize {
    match aead {
        Aead::Aes128Gcm | Aead::Aes256Gcm => 4,
        Aead::ChaCha20Poly1305 => 0,
    }
}

const fn info_len(aead: Aead) -> usize {
    HEAD_BYTES + 12 + aead.key_len() + SEQUENCE_BYTES
}

fn set_option(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &[u8]) -> io::Result<()> {
    // SAFETY: `value` is live and `value.len()` bytes long, and setsockopt only reads it during the call; `fd` is
    // borrowed from an open descriptor.
    let done =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), value.len() as libc::socklen_t) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn get_option(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &mut [u8]) -> io::Result<()> {
    let mut len = value.len() as libc::socklen_t;
    // SAFETY: `value` is live, writable and `len` bytes long, `len` is a live local variable; the kernel writes at most
    // `len` bytes to the one and the written length to the other. `fd` is borrowed from an open descriptor.
    let done = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut len) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::KeyMaterial;

    fn info(aead: Aead) -> CryptoInfo {
        let mut key = [0x77; 32];
        key[0] = 0x11;
        CryptoInfo::new(&TrafficKeys {
            version: ProtocolVersion::Tls13,
            aead,
            key: KeyMaterial::new(&key[..aead.key_len()]),
            iv: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
            sequence: 0x0102,
        })
    }

    #[test]
    fn crypto_info_has_the_size_of_the_kernel_structure() {
        assert_eq!(info(Aead::Aes128Gcm).as_bytes().len(), mem::size_of::<libc::tls12_crypto_info_aes_gcm_128>());
        assert_eq!(info(Aead::Aes256Gcm).as_bytes().len(), mem::size_of::<libc::tls12_crypto_info_aes_gcm_256>());
        let chacha = mem::size_of::<libc::tls12_crypto_info_chacha20_poly1305>();
        assert_eq!(info(Aead::ChaCha20Poly1305).as_bytes().len(), chacha);
    }

    #[test]
    fn crypto_info_for_gcm_puts_the_salt_behind_the_key() {
        let info = info(Aead::Aes128Gcm);
        let bytes = info.as_bytes();
        assert_eq!(bytes[4..12], [5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(bytes[12], 0x11);
        assert_eq!(bytes[28..32], [1, 2, 3, 4]);
        assert_eq!(bytes[32..], [0, 0, 0, 0, 0, 0, 1, 2]);
    }

    #[test]
    fn crypto_info_for_chacha_has_no_salt() {
        let info = info(Aead::ChaCha20Poly1305);
        let bytes = info.as_bytes();
        assert_eq!(bytes[4..16], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(bytes[16], 0x11);
        assert_eq!(bytes[48..], [0, 0, 0, 0, 0, 0, 1, 2]);
    }
}
