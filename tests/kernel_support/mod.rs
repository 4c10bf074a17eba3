//! What the tests of kernel TLS share: keys, a record layer in userspace that is not the proxy's, and sockets.

#![allow(dead_code, unreachable_pub, reason = "each test target uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

pub mod record;
pub mod socket;

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sluice::ktls::{self, InstallError, Statistics, attach_ulp};
use sluice::record::{Aead, KeyMaterial, ProtocolVersion, TrafficKeys};

pub const VERSIONS: [ProtocolVersion; 2] = [ProtocolVersion::Tls12, ProtocolVersion::Tls13];
pub const AEADS: [Aead; 3] = [Aead::Aes128Gcm, Aead::Aes256Gcm, Aead::ChaCha20Poly1305];

/// A kernel with TLS, used by one test at a time, and its counters when the test began.
pub struct KernelTls {
    before: Statistics,
    _alone: MutexGuard<'static, ()>,
}

/// The kernel's TLS. Where there is none, this asserts what Sluice promises for that case instead, and there is nothing
/// else to test; with `SLUICE_EXPECT_KTLS` set that is a failure.
pub fn kernel_tls() -> Option<KernelTls> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (sender, _receiver) = socket::pair();
    match attach_ulp(sender.as_fd()) {
        Ok(()) => Some(KernelTls { before: Statistics::read().expect("/proc/net/tls_stat"), _alone: alone }),
        Err(error) => {
            assert!(std::env::var_os("SLUICE_EXPECT_KTLS").is_none(), "kernel TLS is expected here: {error}");
            assert!(matches!(error, InstallError::NoKernelTls), "{error:?}");
            assert_eq!(error.label(), "no_kernel_tls");
            let capabilities = ktls::probe();
            let absence = capabilities.absent.as_ref().expect("a kernel without TLS is reported absent");
            assert!(!absence.remedy().is_empty());
            assert!(capabilities.suites.is_empty() && !capabilities.rekey_transmit && !capabilities.rekey_receive);
            None
        }
    }
}

impl KernelTls {
    /// Counts from here on: a proxy that starts asks the kernel what it can do.
    pub fn begin(&mut self) {
        self.before = Statistics::read().expect("/proc/net/tls_stat");
    }

    /// How much one of the kernel's counters grew during the test.
    pub fn grown(&self, counter: &str) -> u64 {
        Statistics::read().expect("/proc/net/tls_stat").of(counter) - self.before.of(counter)
    }
}

/// What one of the kernel's counters stands at.
pub fn current(counter: &str) -> u64 {
    Statistics::read().expect("/proc/net/tls_stat").of(counter)
}

/// The major and minor number of the running kernel.
pub fn kernel_version() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Keys of a direction; `generation` tells them apart.
pub fn keys(version: ProtocolVersion, aead: Aead, generation: u8, sequence: u64) -> TrafficKeys {
    let key: Vec<u8> = (0..aead.key_len()).map(|i| generation.wrapping_mul(37).wrapping_add(i as u8)).collect();
    let iv = std::array::from_fn(|i| generation.wrapping_mul(11).wrapping_add(0x40 + i as u8));
    TrafficKeys { version, aead, key: KeyMaterial::new(&key), iv, sequence }
}

/// Bytes that are different at every place a record could be cut.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

/// A connected pair whose addresses nobody else can mix up.
pub(crate) fn connect() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (receiver, peer) = listener.accept().unwrap();
    assert_eq!(sender.local_addr().unwrap(), peer);
    (sender, receiver)
}
