//! Whether a direction is promoted to kernel TLS: a pure decision, asked at record boundaries.

use super::install::{Direction, InstallError};
use super::probe::Capabilities;
use super::settings::{KnownBugs, Mode, Settings};
use crate::record::{Aead, ProtocolVersion};
pub use crate::telemetry::KeepReason;

/// A direction at a record boundary.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Which one.
    pub direction: Direction,
    /// The negotiated version.
    pub version: ProtocolVersion,
    /// The negotiated algorithm.
    pub aead: Aead,
    /// The negotiated limit of a record's plaintext, if any (RFC 6066 section 4).
    pub max_fragment_length: Option<u16>,
    /// Bytes of application data so far.
    pub bytes: u64,
    /// Whether the last read filled its buffer: data comes faster than it is relayed.
    pub is_bulk: bool,
}

impl KeepReason {
    /// Whether a later record boundary may bring another decision.
    pub const fn may_change(self) -> bool {
        matches!(self, Self::TooSmall)
    }
}

impl From<&InstallError> for KeepReason {
    fn from(error: &InstallError) -> Self {
        match error {
            InstallError::NotEstablished => Self::NotEstablished,
            InstallError::NoKernelTls => Self::NoKernelTls,
            InstallError::Suite { .. } => Self::Suite,
            InstallError::OutOfMemory => Self::OutOfMemory,
            InstallError::AlreadyAttached
            | InstallError::NotAttached
            | InstallError::RekeyUnsupported
            | InstallError::Other(_) => Self::SetsockoptFailed,
        }
    }
}

/// What to do with a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Hand it to the kernel.
    Promote,
    /// Keep it in userspace.
    Keep(KeepReason),
}

/// Why `kernel_tls = "required"` refuses to start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequirementUnmet {
    /// There is no kernel TLS.
    #[error("kernel_tls = \"required\", but Linux {kernel} has no kernel TLS: {reason}; {remedy}")]
    Absent {
        /// The kernel's release.
        kernel: String,
        /// Why.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// No suite is protected in both directions.
    #[error(
        "kernel_tls = \"required\", but Linux {kernel} protects no suite in both directions; `sluice doctor` lists them"
    )]
    NoSuite {
        /// The kernel's release.
        kernel: String,
    },
    /// The kernel has published bugs that a TLS peer can set off.
    #[error(
        "kernel_tls = \"required\", but Linux {kernel} has {bugs}; update to Linux {fixed_in} or later of its branch, or accept known bugs"
    )]
    KnownBugs {
        /// The kernel's release.
        kernel: String,
        /// Their CVE numbers.
        bugs: String,
        /// The release that has every fix.
        fixed_in: String,
    },
}

impl Settings {
    /// Decides on one direction.
    pub fn decide(&self, capabilities: &Capabilities, candidate: &Candidate) -> Decision {
        match self.keep_reason(capabilities, candidate) {
            Some(reason) => Decision::Keep(reason),
            None => Decision::Promote,
        }
    }

    /// Refuses to start where kernel TLS is required and cannot be had.
    pub fn check_at_start(&self, capabilities: &Capabilities) -> Result<(), RequirementUnmet> {
        if self.mode != Mode::Required {
            return Ok(());
        }
        let kernel = capabilities.kernel.clone();
        if let Some(absence) = &capabilities.absent {
            let (reason, remedy) = (absence.to_string(), absence.remedy());
            return Err(RequirementUnmet::Absent { kernel, reason, remedy });
        }
        if !capabilities.suites.iter().any(|suite| suite.transmit && suite.receive) {
            return Err(RequirementUnmet::NoSuite { kernel });
        }
        if self.known_bugs == KnownBugs::Refuse && capabilities.has_remote_bug() {
            let bugs: Vec<_> = capabilities.known_bugs.iter().map(|bug| bug.id).collect();
            // The table is in the order of the fixes.
            let fixed_in = capabilities.known_bugs.last().map(|bug| bug.fixed_in.clone()).unwrap_or_default();
            return Err(RequirementUnmet::KnownBugs { kernel, bugs: bugs.join(", "), fixed_in });
        }
        Ok(())
    }

    fn keep_reason(&self, capabilities: &Capabilities, candidate: &Candidate) -> Option<KeepReason> {
        if self.mode == Mode::Off {
            return Some(KeepReason::PolicyOff);
        }
        if capabilities.absent.is_some() {
            return Some(KeepReason::NoKernelTls);
        }
        if self.known_bugs == KnownBugs::Refuse && capabilities.has_remote_bug() {
            return Some(KeepReason::KnownBug);
        }
        if !capabilities.supports(candidate.version, candidate.aead, candidate.direction) {
            return Some(KeepReason::Suite);
        }
        // Whoever demands the kernel gets it; `auto` is about what is cheaper.
        if self.mode == Mode::Auto && capabilities.is_slow(candidate.aead) {
            return Some(KeepReason::SlowCipher);
        }
        // Only what we seal has to be small: the client cuts its own records.
        let limited = candidate.direction == Direction::Transmit && candidate.max_fragment_length.is_some();
        if limited && !capabilities.transmit_payload_limit {
            return Some(KeepReason::MaxFragmentLength);
        }
        let waits_for_bulk = matches!(self.mode, Mode::Auto | Mode::Required);
        let is_bulky = candidate.is_bulk && candidate.bytes >= self.promote_after_bytes;
        (waits_for_bulk && !is_bulky).then_some(KeepReason::TooSmall)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::super::absence::Absence;
    use super::super::bug;
    use super::super::probe::SuiteSupport;
    use super::super::settings::Bulk;
    use super::*;
    use crate::telemetry::Label;

    const AUTO: Settings = settings(Mode::Auto, KnownBugs::Accept);
    const ALWAYS: Settings = settings(Mode::Always, KnownBugs::Accept);
    const REQUIRED: Settings = settings(Mode::Required, KnownBugs::Accept);

    const fn settings(mode: Mode, known_bugs: KnownBugs) -> Settings {
        Settings { mode, promote_after_bytes: 1000, bulk: Bulk::Auto, known_bugs }
    }

    fn capable() -> Capabilities {
        let suite =
            SuiteSupport { version: ProtocolVersion::Tls13, aead: Aead::Aes128Gcm, transmit: true, receive: true };
        Capabilities {
            kernel: "7.2.12".to_owned(),
            absent: None,
            suites: vec![suite],
            aes_gcm_driver: None,
            rekey_transmit: true,
            rekey_receive: true,
            transmit_payload_limit: false,
            known_bugs: Vec::new(),
        }
    }

    fn buggy() -> Capabilities {
        Capabilities { kernel: "6.12.1".to_owned(), known_bugs: bug::known_bugs("6.12.1"), ..capable() }
    }

    fn bulky() -> Candidate {
        Candidate {
            direction: Direction::Transmit,
            version: ProtocolVersion::Tls13,
            aead: Aead::Aes128Gcm,
            max_fragment_length: None,
            bytes: 1000,
            is_bulk: true,
        }
    }

    fn decide(settings: Settings, candidate: &Candidate) -> Decision {
        settings.decide(&capable(), candidate)
    }

    #[test]
    fn auto_promotes_a_direction_at_its_thresholds_and_not_before() {
        assert_eq!(decide(AUTO, &bulky()), Decision::Promote);
        let kept = Decision::Keep(KeepReason::TooSmall);
        assert_eq!(decide(AUTO, &Candidate { bytes: 999, ..bulky() }), kept);
        assert_eq!(decide(AUTO, &Candidate { is_bulk: false, ..bulky() }), kept);
        assert!(KeepReason::TooSmall.may_change());
    }

    #[test]
    fn always_promotes_at_once_and_required_like_auto() {
        let fresh = Candidate { bytes: 0, is_bulk: false, ..bulky() };
        assert_eq!(decide(ALWAYS, &fresh), Decision::Promote);
        assert_eq!(decide(REQUIRED, &fresh), Decision::Keep(KeepReason::TooSmall));
        assert_eq!(decide(REQUIRED, &bulky()), Decision::Promote);
    }

    #[test]
    fn off_keeps_everything() {
        assert_eq!(decide(settings(Mode::Off, KnownBugs::Accept), &bulky()), Decision::Keep(KeepReason::PolicyOff));
    }

    #[test]
    fn suite_that_the_kernel_does_not_protect_is_kept() {
        let candidate = Candidate { aead: Aead::ChaCha20Poly1305, ..bulky() };
        assert_eq!(decide(ALWAYS, &candidate), Decision::Keep(KeepReason::Suite));
    }

    #[test]
    fn max_fragment_length_keeps_only_what_the_kernel_would_seal_too_large() {
        let limited = Candidate { max_fragment_length: Some(512), ..bulky() };
        assert_eq!(decide(AUTO, &limited), Decision::Keep(KeepReason::MaxFragmentLength));
        assert_eq!(decide(AUTO, &Candidate { direction: Direction::Receive, ..limited }), Decision::Promote);
        let capabilities = Capabilities { transmit_payload_limit: true, ..capable() };
        assert_eq!(AUTO.decide(&capabilities, &limited), Decision::Promote);
    }

    #[test]
    fn absent_kernel_tls_keeps_everything_and_fails_the_requirement_with_its_remedy() {
        let capabilities = Capabilities::absent("6.12.1", Absence::ModuleNotLoaded);
        let decision = ALWAYS.decide(&capabilities, &bulky());
        assert_eq!(decision, Decision::Keep(KeepReason::NoKernelTls));
        let refusal = REQUIRED.check_at_start(&capabilities).unwrap_err();
        assert!(refusal.to_string().contains("modprobe tls"), "{refusal}");
        assert_eq!(ALWAYS.check_at_start(&capabilities), Ok(()));
    }

    #[test]
    fn slow_cipher_is_kept_by_auto_and_taken_by_who_demands_it() {
        let driver = Some("gcm_base(ctr(aes-lib),ghash-lib)".to_owned());
        let capabilities = Capabilities { aes_gcm_driver: driver, ..capable() };
        assert_eq!(AUTO.decide(&capabilities, &bulky()), Decision::Keep(KeepReason::SlowCipher));
        assert!(!KeepReason::SlowCipher.may_change());
        assert_eq!(ALWAYS.decide(&capabilities, &bulky()), Decision::Promote);
        assert_eq!(REQUIRED.decide(&capabilities, &bulky()), Decision::Promote);
        assert!(!capabilities.is_slow(Aead::ChaCha20Poly1305), "the driver is about AES");
        let driver = Some("generic-gcm-aesni-avx".to_owned());
        let capabilities = Capabilities { aes_gcm_driver: driver, ..capable() };
        assert_eq!(AUTO.decide(&capabilities, &bulky()), Decision::Promote);
    }

    #[test]
    fn known_bugs_matter_only_where_they_are_refused() {
        assert_eq!(AUTO.decide(&buggy(), &bulky()), Decision::Promote);
        assert_eq!(
            settings(Mode::Auto, KnownBugs::Refuse).decide(&buggy(), &bulky()),
            Decision::Keep(KeepReason::KnownBug)
        );
        assert_eq!(REQUIRED.check_at_start(&buggy()), Ok(()));
        let refusal = settings(Mode::Required, KnownBugs::Refuse).check_at_start(&buggy()).unwrap_err();
        assert!(refusal.to_string().contains("CVE-2026-64046") && refusal.to_string().contains("6.12.92"));
    }

    #[test]
    fn requirement_needs_a_suite_in_both_directions() {
        let mut capabilities = capable();
        capabilities.suites[0].receive = false;
        let refusal = REQUIRED.check_at_start(&capabilities);
        assert!(matches!(refusal, Err(RequirementUnmet::NoSuite { .. })));
        assert_eq!(REQUIRED.check_at_start(&capable()), Ok(()));
    }

    #[test]
    fn install_errors_have_a_reason_each() {
        assert_eq!(KeepReason::from(&InstallError::NotEstablished).label(), "not_established");
        assert_eq!(KeepReason::from(&InstallError::RekeyUnsupported).label(), "setsockopt_failed");
        assert_eq!(KeepReason::from(&InstallError::OutOfMemory).label(), "out_of_memory");
    }
}
