//! What the running kernel can do for TLS, found out by doing it over loopback: never from version numbers, which say
//! nothing about backports, configuration or filters.

use std::fmt;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Serialize, Serializer};

use super::absence::{Absence, KernelFacts};
use super::bug::{KnownBug, Reach, known_bugs};
use super::control::{self, KeyUpdateRequest, Received, content_type};
use super::driver;
use super::install::{Direction, InstallError, attach_ulp, install, limit_transmit_payload};
use crate::record::{Aead, KeyMaterial, ProtocolVersion, TrafficKeys};

/// What the kernel can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// Why there is no kernel TLS at all; then nothing below is there either.
    pub absent: Option<Absence>,
    /// One entry for each version and algorithm that Sluice negotiates.
    pub suites: Vec<SuiteSupport>,
    /// The kernel's implementation of AES-GCM, where it tells.
    pub aes_gcm_driver: Option<String>,
    /// Whether the keys of a TLS 1.3 direction that sends can be replaced.
    pub rekey_transmit: bool,
    /// Whether the keys of a TLS 1.3 direction that receives can be replaced.
    pub rekey_receive: bool,
    /// Whether the size of sealed records can be limited, as a negotiated `max_fragment_length` asks for.
    pub transmit_payload_limit: bool,
    /// Published bugs of this kernel version.
    pub known_bugs: Vec<KnownBug>,
}

/// What the kernel can do with one version and algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SuiteSupport {
    /// The version.
    #[serde(serialize_with = "version_label")]
    pub version: ProtocolVersion,
    /// The algorithm.
    #[serde(serialize_with = "aead_label")]
    pub aead: Aead,
    /// Whether the kernel seals with it.
    pub transmit: bool,
    /// Whether the kernel opens with it.
    pub receive: bool,
}

impl Capabilities {
    /// Those of a kernel that was not asked.
    pub fn unasked() -> Self {
        Self::absent("", Absence::Unasked)
    }

    /// Whether the kernel was asked.
    pub fn is_asked(&self) -> bool {
        self.absent != Some(Absence::Unasked)
    }

    /// Those of a kernel without TLS.
    pub fn absent(kernel: &str, absence: Absence) -> Self {
        Self {
            kernel: kernel.to_owned(),
            absent: Some(absence),
            suites: Vec::new(),
            aes_gcm_driver: None,
            rekey_transmit: false,
            rekey_receive: false,
            transmit_payload_limit: false,
            known_bugs: known_bugs(kernel),
        }
    }

    /// Whether the kernel protects this direction with this version and algorithm.
    pub fn supports(&self, version: ProtocolVersion, aead: Aead, direction: Direction) -> bool {
        self.suites.iter().any(|suite| {
            suite.version == version
                && suite.aead == aead
                && match direction {
                    Direction::Transmit => suite.transmit,
                    Direction::Receive => suite.receive,
                }
        })
    }

    /// Whether the kernel lacks what makes this algorithm fast on this CPU, so that userspace is the cheaper way.
    pub fn is_slow(&self, aead: Aead) -> bool {
        matches!(aead, Aead::Aes128Gcm | Aead::Aes256Gcm) && self.lacks_aes_driver()
    }

    /// Whether the kernel seals AES-GCM in C.
    pub fn lacks_aes_driver(&self) -> bool {
        self.aes_gcm_driver.as_deref().is_some_and(driver::is_slow)
    }

    /// Whether the keys of a promoted direction can be replaced; never in TLS 1.2, which has no KeyUpdate.
    pub fn can_rekey(&self, version: ProtocolVersion, direction: Direction) -> bool {
        version == ProtocolVersion::Tls13
            && match direction {
                Direction::Transmit => self.rekey_transmit,
                Direction::Receive => self.rekey_receive,
            }
    }

    /// Whether a published bug of this kernel version can be set off by a TLS peer.
    pub fn has_remote_bug(&self) -> bool {
        self.known_bugs.iter().any(|bug| bug.reach == Reach::Remote)
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(absence) = &self.absent {
            writeln!(f, "kernel TLS: absent on Linux {}: {absence}", self.kernel)?;
            return writeln!(f, "  remedy: {}", absence.remedy());
        }
        let yes = |there: bool| if there { "yes" } else { "no" };
        writeln!(f, "kernel TLS: there on Linux {}", self.kernel)?;
        for suite in &self.suites {
            let (version, aead) = (version_name(suite.version), aead_name(suite.aead));
            let (transmit, receive) = (yes(suite.transmit), yes(suite.receive));
            writeln!(f, "  TLS {version} {aead:<17}  transmit {transmit:<3}  receive {receive}")?;
        }
        if let Some(driver) = &self.aes_gcm_driver {
            writeln!(f, "  AES-GCM driver              {driver}")?;
            if driver::is_slow(driver) {
                writeln!(
                    f,
                    "    kernel_tls = \"auto\" keeps AES-GCM in userspace; remedy: load the driver of the CPU's AES"
                )?;
            }
        }
        let rekey = (yes(self.rekey_transmit), yes(self.rekey_receive));
        writeln!(f, "  TLS 1.3 re-key              transmit {:<3}  receive {}", rekey.0, rekey.1)?;
        if !(self.rekey_transmit && self.rekey_receive) {
            writeln!(f, "    a client's KeyUpdate ends a promoted connection; remedy: Linux 6.14 or later")?;
        }
        writeln!(f, "  record size limit           transmit {}", yes(self.transmit_payload_limit))?;
        if !self.transmit_payload_limit {
            writeln!(f, "    connections with max_fragment_length stay in userspace; remedy: Linux 6.19 or later")?;
        }
        for bug in &self.known_bugs {
            let reach = if bug.reach == Reach::Remote { "remote" } else { "local" };
            writeln!(f, "  known bug {} ({reach}): {}; remedy: Linux {}", bug.id, bug.summary, bug.fixed_in)?;
        }
        Ok(())
    }
}

/// Finds out what the running kernel can do. Takes some milliseconds, longer when modules of algorithms are loaded for it,
/// and seconds for each step that hangs: for start-up and `sluice doctor`, not for the data path. A process with `CAP_NET_ADMIN` makes the kernel load its module.
pub fn probe() -> Capabilities {
    let kernel = nix::sys::utsname::uname().map_or_else(|_| String::new(), |name| name.release().display().to_string());
    match Pair::attached() {
        Ok(_) => Capabilities {
            absent: None,
            suites: VERSIONS.iter().flat_map(|&version| AEADS.map(|aead| probe_suite(version, aead))).collect(),
            // Behind the suites: the first use of an algorithm loads its module.
            aes_gcm_driver: driver::of_aes_gcm(),
            rekey_transmit: probe_rekey_transmit().unwrap_or(false),
            rekey_receive: probe_rekey_receive().unwrap_or(false),
            transmit_payload_limit: probe_payload_limit().unwrap_or(false),
            known_bugs: known_bugs(&kernel),
            kernel,
        },
        Err(error) => Capabilities::absent(&kernel, Absence::diagnose(&error, &KernelFacts::read(&kernel))),
    }
}

const VERSIONS: [ProtocolVersion; 2] = [ProtocolVersion::Tls13, ProtocolVersion::Tls12];
const AEADS: [Aead; 3] = [Aead::Aes128Gcm, Aead::Aes256Gcm, Aead::ChaCha20Poly1305];
const PAYLOAD: &[u8] = b"kernel TLS probe";
const RECORD_HEADER_BYTES: usize = 5;
/// How long one step may take before what it waits for is taken as absent. Refusals come at once; this is for kernels that
/// hang, and long enough for a machine that is busy.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

fn probe_suite(version: ProtocolVersion, aead: Aead) -> SuiteSupport {
    let transmit = seals(version, aead).unwrap_or(false);
    SuiteSupport { version, aead, transmit, receive: transmit && opens(version, aead).unwrap_or(false) }
}

/// Whether what is sent leaves as one sealed record.
fn seals(version: ProtocolVersion, aead: Aead) -> Result<bool, InstallError> {
    let mut pair = Pair::attached()?;
    install(pair.sender.as_fd(), Direction::Transmit, &keys(version, aead, 1))?;
    let mut seen = [0; 256];
    let len = pair.send_and_peek(&mut seen)?;
    let record = &seen[..len];
    Ok(record.len() > RECORD_HEADER_BYTES + PAYLOAD.len()
        && record[..3] == [content_type::APPLICATION_DATA, 3, 3]
        && !record.windows(PAYLOAD.len()).any(|window| window == PAYLOAD))
}

/// Whether a record comes back as what was sent.
fn opens(version: ProtocolVersion, aead: Aead) -> Result<bool, InstallError> {
    let mut pair = Pair::attached()?;
    install(pair.sender.as_fd(), Direction::Transmit, &keys(version, aead, 1))?;
    install(pair.receiver.as_fd(), Direction::Receive, &keys(version, aead, 1))?;
    pair.carries(PAYLOAD)
}

fn probe_rekey_transmit() -> Result<bool, InstallError> {
    let (version, aead) = (ProtocolVersion::Tls13, Aead::Aes128Gcm);
    let mut pair = Pair::attached()?;
    install(pair.sender.as_fd(), Direction::Transmit, &keys(version, aead, 1))?;
    install(pair.sender.as_fd(), Direction::Transmit, &keys(version, aead, 2))?;
    install(pair.receiver.as_fd(), Direction::Receive, &keys(version, aead, 2))?;
    pair.carries(PAYLOAD)
}

/// A KeyUpdate under the first keys, after which the receiver waits for the second.
fn probe_rekey_receive() -> Result<bool, InstallError> {
    let (version, aead) = (ProtocolVersion::Tls13, Aead::Aes128Gcm);
    let mut pair = Pair::attached()?;
    install(pair.sender.as_fd(), Direction::Transmit, &keys(version, aead, 1))?;
    install(pair.receiver.as_fd(), Direction::Receive, &keys(version, aead, 1))?;
    let sent = control::send_key_update(pair.sender.as_fd(), KeyUpdateRequest::NotRequested);
    if sent.map_err(InstallError::Other)? == control::Sent::WouldBlock {
        return Ok(false);
    }
    wait_readable(&pair.receiver).map_err(InstallError::Other)?;
    let received = control::receive(pair.receiver.as_fd(), &mut [0; 256]).map_err(InstallError::Other)?;
    if !matches!(received, Received::Control { content_type: content_type::HANDSHAKE, .. }) {
        return Ok(false);
    }
    install(pair.receiver.as_fd(), Direction::Receive, &keys(version, aead, 2))?;
    install(pair.sender.as_fd(), Direction::Transmit, &keys(version, aead, 2))?;
    pair.carries(PAYLOAD)
}

/// Whether a record holds no more than it may.
fn probe_payload_limit() -> Result<bool, InstallError> {
    const LIMIT_BYTES: u16 = 512;
    let mut pair = Pair::attached()?;
    install(pair.sender.as_fd(), Direction::Transmit, &keys(ProtocolVersion::Tls13, Aead::Aes128Gcm, 1))?;
    limit_transmit_payload(pair.sender.as_fd(), LIMIT_BYTES)?;
    pair.sender.write_all(&[0; 2 * LIMIT_BYTES as usize]).map_err(InstallError::Other)?;
    wait_readable(&pair.receiver).map_err(InstallError::Other)?;
    let mut header = [0; RECORD_HEADER_BYTES];
    let len = pair.receiver.peek(&mut header).map_err(InstallError::Other)?;
    let record_len = u16::from_be_bytes([header[3], header[4]]);
    // In TLS 1.3 the type's octet and the tag come on top.
    Ok(len == RECORD_HEADER_BYTES && record_len == LIMIT_BYTES + 1 + 16)
}

/// Keys for loopback, told apart by `generation`; nothing secret is sent under them.
fn keys(version: ProtocolVersion, aead: Aead, generation: u8) -> TrafficKeys {
    let key = [generation; 32];
    TrafficKeys { version, aead, key: KeyMaterial::new(&key[..aead.key_len()]), iv: [generation; 12], sequence: 0 }
}

/// Two ends of a loopback connection with kernel TLS attached.
struct Pair {
    sender: TcpStream,
    receiver: TcpStream,
}

impl Pair {
    fn attached() -> Result<Self, InstallError> {
        let pair = Self::connected().map_err(InstallError::Other)?;
        attach_ulp(pair.sender.as_fd())?;
        attach_ulp(pair.receiver.as_fd())?;
        Ok(pair)
    }

    fn connected() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let sender = TcpStream::connect(listener.local_addr()?)?;
        let own_address = sender.local_addr()?;
        // Somebody else may have connected first.
        let (receiver, peer_address) = listener.accept()?;
        if own_address != peer_address {
            return Err(io::Error::other("a stranger connected to the probe's socket"));
        }
        sender.set_write_timeout(Some(STEP_TIMEOUT))?;
        receiver.set_read_timeout(Some(STEP_TIMEOUT))?;
        Ok(Self { sender, receiver })
    }

    fn send_and_peek(&mut self, seen: &mut [u8]) -> Result<usize, InstallError> {
        self.sender.write_all(PAYLOAD).map_err(InstallError::Other)?;
        self.receiver.peek(seen).map_err(InstallError::Other)
    }

    fn carries(&mut self, payload: &[u8]) -> Result<bool, InstallError> {
        self.sender.write_all(payload).map_err(InstallError::Other)?;
        wait_readable(&self.receiver).map_err(InstallError::Other)?;
        let mut buffer = [0; 256];
        let received = control::receive(self.receiver.as_fd(), &mut buffer).map_err(InstallError::Other)?;
        Ok(matches!(received, Received::Data(len) if buffer[..len] == *payload))
    }
}

/// Waits until there is a record to read, or the step's time is over: then the read that follows finds nothing.
fn wait_readable(stream: &TcpStream) -> io::Result<()> {
    let timeout = PollTimeout::try_from(STEP_TIMEOUT).unwrap_or(PollTimeout::MAX);
    poll(&mut [PollFd::new(stream.as_fd(), PollFlags::POLLIN)], timeout)?;
    Ok(())
}

const fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::Tls12 => "1.2",
        ProtocolVersion::Tls13 => "1.3",
    }
}

const fn aead_name(aead: Aead) -> &'static str {
    match aead {
        Aead::Aes128Gcm => "AES-128-GCM",
        Aead::Aes256Gcm => "AES-256-GCM",
        Aead::ChaCha20Poly1305 => "ChaCha20-Poly1305",
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn version_label<S: Serializer>(version: &ProtocolVersion, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(version_name(*version))
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn aead_label<S: Serializer>(aead: &Aead, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(aead_name(*aead))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::*;

    fn capable() -> Capabilities {
        let suite =
            SuiteSupport { version: ProtocolVersion::Tls13, aead: Aead::Aes128Gcm, transmit: true, receive: false };
        Capabilities {
            kernel: "6.12.1".to_owned(),
            absent: None,
            suites: vec![suite],
            aes_gcm_driver: Some("gcm_base(ctr(aes-generic),ghash-generic)".to_owned()),
            rekey_transmit: true,
            rekey_receive: false,
            transmit_payload_limit: false,
            known_bugs: known_bugs("6.12.1"),
        }
    }

    #[test]
    fn capabilities_are_asked_per_direction_and_suite() {
        let capabilities = capable();
        assert!(capabilities.supports(ProtocolVersion::Tls13, Aead::Aes128Gcm, Direction::Transmit));
        assert!(!capabilities.supports(ProtocolVersion::Tls13, Aead::Aes128Gcm, Direction::Receive));
        assert!(!capabilities.supports(ProtocolVersion::Tls12, Aead::Aes128Gcm, Direction::Transmit));
        assert!(capabilities.can_rekey(ProtocolVersion::Tls13, Direction::Transmit));
        assert!(!capabilities.can_rekey(ProtocolVersion::Tls13, Direction::Receive));
        assert!(!capabilities.can_rekey(ProtocolVersion::Tls12, Direction::Transmit));
    }

    #[test]
    fn capabilities_text_names_what_is_missing_with_its_remedy() {
        let text = capable().to_string();
        assert!(text.contains("TLS 1.3 AES-128-GCM        transmit yes  receive no"), "{text}");
        assert!(text.contains("ghash-generic") && text.contains("the driver of the CPU's AES"), "{text}");
        assert!(text.contains("remedy: Linux 6.14 or later"), "{text}");
        assert!(text.contains("CVE-2025-39682 (remote)") && text.contains("remedy: Linux 6.12.44"), "{text}");
        assert!(capable().has_remote_bug());
    }

    #[test]
    fn capabilities_text_of_an_absent_kernel_tls_is_reason_and_remedy() {
        let text = Capabilities::absent("6.12.117", Absence::ModuleNotLoaded).to_string();
        assert!(text.contains("the tls module is not loaded") && text.contains("modprobe tls"), "{text}");
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn capabilities_json_uses_the_names_of_the_metrics() {
        let json = serde_json::to_value(capable()).unwrap();
        assert_eq!(json["suites"][0]["version"], "1.3");
        assert_eq!(json["suites"][0]["aead"], "AES-128-GCM");
        assert_eq!(json["aes_gcm_driver"], "gcm_base(ctr(aes-generic),ghash-generic)");
        assert_eq!(json["absent"], serde_json::Value::Null);
        let absent = serde_json::to_value(Capabilities::absent("6.1", Absence::NotBuilt)).unwrap();
        assert_eq!(absent["absent"]["reason"], "not_built");
    }
}
