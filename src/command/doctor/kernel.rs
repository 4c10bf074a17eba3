//! The kernel's release, and the published bugs of its TLS.

use super::finding::{Check, Finding, Level, Subject};
use super::plan::{Listener, Plan, wants_kernel_tls};
use crate::ktls::{Capabilities, KnownBug, KnownBugs, Mode, Reach};

pub(super) fn judge(capabilities: &Capabilities, plan: Option<&Plan>) -> Vec<Finding> {
    let mut findings = vec![judge_release(&capabilities.kernel)];
    if capabilities.known_bugs.is_empty() {
        let found = "none published for this release, as far as this version of Sluice knows";
        findings.push(Check::new(Subject::Kernel, "known_bugs", found, "none").ok());
    }
    findings.extend(capabilities.known_bugs.iter().map(|bug| judge_bug(bug, capabilities, plan)));
    findings
}

fn judge_release(release: &str) -> Finding {
    let found = format!("Linux {release} ({})", std::env::consts::ARCH);
    let check = Check::new(Subject::Kernel, "release", found, "what follows is found out by doing, not by the number");
    if release.is_empty() { check.unread("/proc/sys/kernel/osrelease") } else { check.ok() }
}

/// Without kernel TLS in use nobody can set the bug off. Where a listener requires it, that listener's own finding says
/// that the proxy does not start.
fn judge_bug(bug: &KnownBug, capabilities: &Capabilities, plan: Option<&Plan>) -> Finding {
    let reach = match bug.reach {
        Reach::Remote => "a TLS peer can set it off",
        Reach::Local => "a process on this machine can set it off",
    };
    let is_used = capabilities.absent.is_none() && wants_kernel_tls(plan);
    let accepts = |listener: &Listener| {
        listener.kernel_tls.mode != Mode::Off && listener.kernel_tls.known_bugs == KnownBugs::Accept
    };
    let is_refused = !plan.is_some_and(|plan| plan.listeners.iter().any(accepts));
    let (level, effect) = match (bug.reach, is_used, is_refused) {
        (_, false, _) => (Level::Note, "; kernel TLS is not in use"),
        (Reach::Local, true, _) => (Level::Note, ""),
        (Reach::Remote, true, true) => (Level::Warning, "; listeners do without kernel TLS because of it"),
        (Reach::Remote, true, false) => (Level::Warning, "; a listener accepts it and uses kernel TLS"),
    };
    let found = format!("{}; {reach}{effect}", bug.summary);
    let wanted = format!("Linux {} or later of its branch", bug.fixed_in);
    let remedy = format!(
        "update to Linux {}; where the vendor's notices say that this release has the fix under its old number, set \
         kernel_tls_known_bugs = \"accept\" on the listeners",
        bug.fixed_in
    );
    Check::new(Subject::Kernel, "known_bug", found, wanted).about(bug.id).at(level, remedy)
}

#[cfg(test)]
mod tests {
    use super::super::plan::testing::plan;
    use super::*;
    use crate::ktls::{Absence, known_bugs};

    fn capabilities(release: &str) -> Capabilities {
        Capabilities {
            absent: None,
            known_bugs: known_bugs(release),
            ..Capabilities::absent(release, Absence::NotBuilt)
        }
    }

    fn levels(findings: &[Finding]) -> Vec<Level> {
        findings.iter().map(Finding::level).collect()
    }

    #[test]
    fn kernel_without_known_bugs_is_ok() {
        assert_eq!(levels(&judge(&capabilities("6.12.117"), None)), [Level::Ok, Level::Ok]);
    }

    #[test]
    fn remote_bug_is_a_warning_with_the_release_that_fixes_it() {
        let findings = judge(&capabilities("6.12.91"), Some(&plan(Mode::Auto)));
        let bug = &findings[1];
        assert_eq!((bug.title().as_str(), bug.level()), ("known_bug CVE-2026-64046", Level::Warning));
        assert!(bug.remedy().is_some_and(|remedy| remedy.contains("Linux 6.12.92")), "{bug:?}");
        assert!(bug.found().contains("do without kernel TLS"), "{bug:?}");
    }

    #[test]
    fn remote_bug_that_a_listener_accepts_is_said_to_be_in_use() {
        let mut plan = plan(Mode::Auto);
        plan.listeners[0].kernel_tls.known_bugs = KnownBugs::Accept;
        let findings = judge(&capabilities("6.12.91"), Some(&plan));
        assert_eq!(findings[1].level(), Level::Warning);
        assert!(findings[1].found().contains("accepts it"), "{findings:?}");
    }

    #[test]
    fn bug_of_kernel_tls_that_is_not_in_use_is_a_note() {
        assert_eq!(levels(&judge(&capabilities("6.12.91"), Some(&plan(Mode::Off)))), [Level::Ok, Level::Note]);
        let absent = Capabilities::absent("6.12.91", Absence::NotBuilt);
        assert_eq!(levels(&judge(&absent, None)), [Level::Ok, Level::Note]);
    }

    #[test]
    fn unreadable_release_is_a_note() {
        assert_eq!(judge(&capabilities(""), None)[0].level(), Level::Note);
    }
}
