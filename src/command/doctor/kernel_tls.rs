//! What the kernel does for TLS, by version, suite and direction, against what the listeners want.

use super::finding::{Check, Finding, Level, Subject};
use super::plan::{Listener, Plan, wants_kernel_tls};
use crate::ktls::probe::SuiteSupport;
use crate::ktls::{Absence, Capabilities, Mode, RequirementUnmet};
use crate::record::{Aead, ProtocolVersion};

pub(super) fn judge(capabilities: &Capabilities, plan: Option<&Plan>) -> Vec<Finding> {
    let is_wanted = wants_kernel_tls(plan);
    let mut findings = match &capabilities.absent {
        Some(absence) => vec![judge_absence(absence, is_wanted)],
        None => judge_presence(capabilities, is_wanted),
    };
    let listeners = plan.map_or(&[][..], |plan| &plan.listeners);
    findings.extend(listeners.iter().filter_map(|listener| judge_listener(listener, capabilities)));
    findings
}

fn judge_absence(absence: &Absence, is_wanted: bool) -> Finding {
    let (level, effect) = if is_wanted {
        (Level::Warning, "records are protected in userspace, and nothing is spliced")
    } else {
        (Level::Note, "no listener wants it")
    };
    let wanted = "kernel TLS: setsockopt(TCP_ULP, \"tls\") works";
    Check::new(Subject::KernelTls, "available", format!("{absence}; {effect}"), wanted).at(level, absence.remedy())
}

fn judge_presence(capabilities: &Capabilities, is_wanted: bool) -> Vec<Finding> {
    let mut findings = vec![Check::new(Subject::KernelTls, "available", "yes, probed over loopback", "yes").ok()];
    findings.extend(capabilities.suites.iter().map(|suite| judge_suite(suite, is_wanted)));
    findings.extend(capabilities.aes_gcm_driver.as_ref().map(|driver| judge_driver(driver, capabilities, is_wanted)));
    let (transmit, receive) = (capabilities.rekey_transmit, capabilities.rekey_receive);
    let effect = if transmit && receive { "" } else { "; a KeyUpdate ends a connection that the kernel protects" };
    let found = format!("{}{effect}", directions(transmit, receive));
    findings.push(Check::new(Subject::KernelTls, "rekey", found, BOTH).at(
        worse_if(!(transmit && receive), is_wanted, Level::Warning),
        "use Linux 6.14 or later, or kernel_tls = \"off\" where clients update keys",
    ));
    let has_limit = capabilities.transmit_payload_limit;
    let effect = if has_limit { "" } else { "; connections with max_fragment_length stay in userspace" };
    let found = format!("transmit {}{effect}", yes(has_limit));
    findings.push(
        Check::new(Subject::KernelTls, "payload_limit", found, "transmit yes")
            .at(worse_if(!has_limit, is_wanted, Level::Note), "use Linux 6.19 or later, if such clients matter"),
    );
    findings
}

fn judge_suite(suite: &SuiteSupport, is_wanted: bool) -> Finding {
    let is_whole = suite.transmit && suite.receive;
    let effect = if is_whole { "" } else { "; the rest stays in userspace" };
    let found = format!("{}{effect}", directions(suite.transmit, suite.receive));
    let (option, module) = match suite.aead {
        Aead::Aes128Gcm | Aead::Aes256Gcm => ("CONFIG_CRYPTO_GCM", "aesni_intel"),
        Aead::ChaCha20Poly1305 => ("CONFIG_CRYPTO_CHACHA20POLY1305", "chacha20poly1305"),
    };
    let remedy = format!("run `modprobe {module}`, or boot a newer kernel with {option}=m or =y");
    Check::new(Subject::KernelTls, "suite", found, BOTH)
        .about(format!("{} {}", version_name(suite.version), aead_name(suite.aead)))
        .at(worse_if(!is_whole, is_wanted, Level::Warning), remedy)
}

/// Without the driver of the CPU's AES the kernel seals in C.
fn judge_driver(driver: &str, capabilities: &Capabilities, is_wanted: bool) -> Finding {
    let is_slow = capabilities.lacks_aes_driver();
    let effect = if is_slow { "; kernel_tls = \"auto\" keeps AES-GCM in userspace" } else { "" };
    Check::new(Subject::KernelTls, "aes_driver", format!("{driver}{effect}"), "a driver of the CPU's AES").at(
        worse_if(is_slow, is_wanted, Level::Warning),
        "load it at each start (`modprobe aesni_intel`, on Arm `modprobe aes_ce_blk`), or set kernel_tls = \"off\"",
    )
}

/// A listener that requires kernel TLS refuses to start without it.
fn judge_listener(listener: &Listener, capabilities: &Capabilities) -> Option<Finding> {
    if listener.kernel_tls.mode != Mode::Required {
        return None;
    }
    let check = |found: String| {
        let wanted = "what kernel_tls = \"required\" demands";
        Check::new(Subject::KernelTls, "listener", found, wanted).about(&listener.name)
    };
    let otherwise = "or set kernel_tls = \"auto\" on the listener";
    Some(match listener.kernel_tls.check_at_start(capabilities) {
        Ok(()) => check("kernel_tls = \"required\" is met".to_owned()).ok(),
        Err(RequirementUnmet::Absent { reason, remedy, .. }) => {
            check(format!("the proxy refuses to start: {reason}")).broken(format!("{remedy}; {otherwise}"))
        }
        Err(RequirementUnmet::NoSuite { kernel }) => {
            check(format!("the proxy refuses to start: Linux {kernel} protects no suite in both directions"))
                .broken(format!("follow the remedies of the suites above, {otherwise}"))
        }
        Err(RequirementUnmet::KnownBugs { kernel, bugs, fixed_in }) => {
            check(format!("the proxy refuses to start: Linux {kernel} has {bugs}")).broken(format!(
                "update to Linux {fixed_in} or later of its branch; where the vendor has fixed them under the old \
                 number, set kernel_tls_known_bugs = \"accept\"; {otherwise}"
            ))
        }
    })
}

const BOTH: &str = "transmit yes, receive yes";

fn directions(transmit: bool, receive: bool) -> String {
    format!("transmit {}, receive {}", yes(transmit), yes(receive))
}

const fn yes(there: bool) -> &'static str {
    if there { "yes" } else { "no" }
}

/// `level` for what is missing, but only a note where nobody wants it.
fn worse_if(is_missing: bool, is_wanted: bool, level: Level) -> Level {
    match (is_missing, is_wanted) {
        (false, _) => Level::Ok,
        (true, false) => Level::Note,
        (true, true) => level,
    }
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

#[cfg(test)]
mod tests {
    use super::super::plan::testing::plan;
    use super::*;
    use crate::ktls::known_bugs;

    fn capable(release: &str) -> Capabilities {
        let suite = |aead| SuiteSupport { version: ProtocolVersion::Tls13, aead, transmit: true, receive: true };
        Capabilities {
            kernel: release.to_owned(),
            absent: None,
            suites: vec![suite(Aead::Aes128Gcm), suite(Aead::ChaCha20Poly1305)],
            aes_gcm_driver: Some("generic-gcm-aesni-avx".to_owned()),
            rekey_transmit: true,
            rekey_receive: true,
            transmit_payload_limit: true,
            known_bugs: known_bugs(release),
        }
    }

    fn level(capabilities: &Capabilities, mode: Mode, title: &str) -> Option<Level> {
        let findings = judge(capabilities, Some(&plan(mode)));
        findings.iter().find(|finding| finding.title() == title).map(Finding::level)
    }

    #[test]
    fn kernel_that_can_everything_is_ok_throughout() {
        let findings = judge(&capable("7.2"), Some(&plan(Mode::Required)));
        assert!(findings.iter().all(|finding| finding.level() == Level::Ok), "{findings:?}");
        let titles: Vec<_> = findings.iter().map(Finding::title).collect();
        let suites = ["suite 1.3 AES-128-GCM", "suite 1.3 ChaCha20-Poly1305"];
        let expected = ["available", suites[0], suites[1], "aes_driver", "rekey", "payload_limit", "listener edge"];
        assert_eq!(titles, expected);
    }

    #[test]
    fn missing_driver_of_the_cpus_aes_is_a_warning_that_names_what_there_is() {
        let driver = Some("gcm_base(ctr(aes-generic),ghash-generic)".to_owned());
        let capabilities = Capabilities { aes_gcm_driver: driver, ..capable("7.2") };
        assert_eq!(level(&capabilities, Mode::Auto, "aes_driver"), Some(Level::Warning));
        assert_eq!(level(&capabilities, Mode::Off, "aes_driver"), Some(Level::Note));
        let findings = judge(&capabilities, None);
        let finding = findings.iter().find(|finding| finding.title() == "aes_driver");
        assert!(finding.is_some_and(|finding| finding.found().contains("ghash-generic")), "{findings:?}");
        assert!(finding.and_then(Finding::remedy).is_some_and(|remedy| remedy.contains("aesni_intel")));
    }

    #[test]
    fn absence_is_broken_exactly_where_a_listener_requires_kernel_tls() {
        let absent = Capabilities::absent("6.12.117", Absence::ModuleNotLoaded);
        for (mode, expected) in [(Mode::Off, Level::Note), (Mode::Auto, Level::Warning), (Mode::Always, Level::Warning)]
        {
            let findings = judge(&absent, Some(&plan(mode)));
            assert_eq!(findings.iter().map(Finding::level).collect::<Vec<_>>(), [expected]);
        }
        let findings = judge(&absent, Some(&plan(Mode::Required)));
        assert_eq!(findings[1].level(), Level::Broken);
        assert!(findings[1].remedy().is_some_and(|remedy| remedy.contains("modprobe tls")), "{findings:?}");
        assert_eq!(judge(&absent, None)[0].level(), Level::Warning);
    }

    #[test]
    fn suite_that_is_missing_in_a_direction_is_named_with_it() {
        let mut capabilities = capable("7.2");
        capabilities.suites[1].receive = false;
        let findings = judge(&capabilities, None);
        assert_eq!(
            (findings[2].title().as_str(), findings[2].level()),
            ("suite 1.3 ChaCha20-Poly1305", Level::Warning)
        );
        assert!(findings[2].found().starts_with("transmit yes, receive no"), "{findings:?}");
        assert!(findings[2].remedy().is_some_and(|remedy| remedy.contains("CHACHA20POLY1305")), "{findings:?}");
    }

    #[test]
    fn missing_rekey_is_a_warning_and_missing_payload_limit_a_note() {
        let capabilities = Capabilities { rekey_receive: false, transmit_payload_limit: false, ..capable("6.12.117") };
        assert_eq!(level(&capabilities, Mode::Auto, "rekey"), Some(Level::Warning));
        assert_eq!(level(&capabilities, Mode::Off, "rekey"), Some(Level::Note));
        assert_eq!(level(&capabilities, Mode::Auto, "payload_limit"), Some(Level::Note));
    }

    #[test]
    fn requirement_is_broken_by_known_bugs_and_by_a_kernel_without_a_whole_suite() {
        assert_eq!(level(&capable("6.12.91"), Mode::Required, "listener edge"), Some(Level::Broken));
        let half = Capabilities { suites: Vec::new(), ..capable("7.2") };
        assert_eq!(level(&half, Mode::Required, "listener edge"), Some(Level::Broken));
        assert_eq!(level(&capable("6.12.91"), Mode::Auto, "listener edge"), None);
    }
}
