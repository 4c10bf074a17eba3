//! A sysctl, what is wanted of it, and whether a machine has that.

use serde::Deserialize;

use super::super::finding::{Check, Finding, Level, Subject};
use super::change::Change;

/// One entry of tuning/knobs.toml.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Knob {
    pub(super) sysctl: String,
    /// What Linux has by itself; for people.
    pub(super) default: String,
    pub(super) value: String,
    pub(super) rule: Rule,
    /// What a difference is worth.
    pub(super) level: Worth,
    /// What it is worth that the kernel does not have the sysctl.
    #[serde(default)]
    pub(super) missing: Missing,
    pub(super) why: String,
}

/// When a value fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Rule {
    Equal,
    AtLeast,
    /// 0 stands for no limit.
    AtLeastOrZero,
    /// The last of several numbers counts.
    LastAtLeast,
    /// A range that holds the one wanted.
    Covers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Worth {
    Warning,
    Note,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Missing {
    Ok,
    #[default]
    Note,
}

impl Knob {
    /// A knob that only one profile has.
    pub(super) fn of_profile(sysctl: &str, value: &str) -> Self {
        Self {
            sysctl: sysctl.to_owned(),
            default: "unknown here".to_owned(),
            value: value.to_owned(),
            rule: Rule::Equal,
            level: Worth::Warning,
            missing: Missing::Note,
            why: "the profile says so".to_owned(),
        }
    }

    /// Where the kernel shows it.
    pub(super) fn path(&self) -> String {
        format!("/proc/sys/{}", self.sysctl.replace('.', "/"))
    }

    /// What is to be thought of `found`, the machine's value, and what would make it fit.
    pub(super) fn judge(&self, found: Option<&str>) -> (Finding, Option<Change>) {
        let Self { sysctl, value, .. } = self;
        let wanted = format!("{}. {} Default: {}", self.wanted(), self.why, self.default);
        let check = |found: String| Check::new(Subject::Profile, "sysctl", found, &wanted).about(sysctl);
        let Some(found) = found else {
            let check = check(format!("{sysctl} is not there"));
            let finding = match self.missing {
                Missing::Ok => check.ok(),
                Missing::Note => check.note("nothing on this kernel; a newer one may have it"),
            };
            return (finding, None);
        };
        // The kernel separates numbers by tabs, people by spaces.
        let found = found.split_whitespace().collect::<Vec<_>>().join(" ");
        let check = check(found.clone());
        if self.rule.is_met(&found, value) {
            return (check.ok(), None);
        }
        let remedy = format!("run `sysctl -w {sysctl}=\"{value}\"`; tuning/sysctl.d keeps it");
        let level = match self.level {
            Worth::Warning => Level::Warning,
            Worth::Note => Level::Note,
        };
        (check.at(level, remedy), Some(Change::Write { path: self.path(), found, wanted: value.clone() }))
    }

    /// The rule in words.
    pub(super) fn wanted(&self) -> String {
        let value = &self.value;
        match self.rule {
            Rule::Equal => value.clone(),
            Rule::AtLeast => format!("{value} or more"),
            Rule::AtLeastOrZero => format!("{value} or more, or 0: no limit"),
            Rule::LastAtLeast => format!("{value}, the last or more"),
            Rule::Covers => format!("{value} or wider"),
        }
    }
}

impl Rule {
    /// Whether `found` will do where `value` is wanted. What is no number where one is due does not fit.
    fn is_met(self, found: &str, value: &str) -> bool {
        let number = |text: &str| text.parse::<u64>().ok();
        let at_least =
            |found: &str, value: &str| number(found).zip(number(value)).is_some_and(|(found, value)| found >= value);
        let ends = |text: &str| {
            let (first, last) = text.split_once(' ')?;
            number(first).zip(number(last))
        };
        match self {
            Self::Equal => found == value,
            Self::AtLeast => at_least(found, value),
            Self::AtLeastOrZero => number(found) == Some(0) || at_least(found, value),
            Self::LastAtLeast => {
                let last = |text: &str| text.rsplit(' ').next().map(str::to_owned).unwrap_or_default();
                at_least(&last(found), &last(value))
            }
            Self::Covers => ends(found).zip(ends(value)).is_some_and(|((first, last), (wanted_first, wanted_last))| {
                first <= wanted_first && last >= wanted_last
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use super::super::file::common_knobs;
    use super::*;

    #[test]
    fn rules_are_met_by_what_is_as_good() {
        assert!(Rule::Equal.is_met("1", "1") && !Rule::Equal.is_met("2", "1"));
        assert!(Rule::AtLeast.is_met("4097", "4096") && !Rule::AtLeast.is_met("4095", "4096"));
        assert!(Rule::AtLeastOrZero.is_met("0", "4096") && !Rule::AtLeastOrZero.is_met("1", "4096"));
        assert!(Rule::LastAtLeast.is_met("1 2 17", "4096 16384 16") && !Rule::LastAtLeast.is_met("9 9 15", "1 1 16"));
        assert!(Rule::Covers.is_met("1024 65535", "10240 65535") && !Rule::Covers.is_met("32768 60999", "10240 65535"));
        assert!(!Rule::AtLeast.is_met("many", "4096") && !Rule::Covers.is_met("5", "1 2"));
    }

    #[test]
    fn every_knob_fits_its_own_value_and_says_why() {
        for knob in common_knobs() {
            assert!(knob.rule.is_met(&knob.value, &knob.value), "{}", knob.sysctl);
            assert!(knob.why.len() > 20 && !knob.default.is_empty(), "{}", knob.sysctl);
        }
    }

    #[test]
    fn difference_has_a_remedy_and_a_change_back() {
        let knob = common_knobs().into_iter().find(|knob| knob.sysctl == "net.ipv4.ip_local_port_range").unwrap();
        let (finding, change) = knob.judge(Some("32768\t60999"));
        assert_eq!((finding.level(), finding.found()), (Level::Note, "32768 60999"));
        assert!(finding.remedy().unwrap().contains("`sysctl -w net.ipv4.ip_local_port_range=\"10240 65535\"`"));
        let change = change.unwrap();
        assert_eq!(change.line(), "write\t/proc/sys/net/ipv4/ip_local_port_range\t32768 60999\t10240 65535");
        assert!(knob.judge(Some("10240 65535")).1.is_none());
    }

    #[test]
    fn sysctl_that_is_missing_is_ok_where_nobody_needs_it() {
        let level = |name: &str| {
            let knob = common_knobs().into_iter().find(|knob| knob.sysctl == name).unwrap();
            let (finding, change) = knob.judge(None);
            assert!(change.is_none());
            finding.level()
        };
        assert_eq!(level("net.netfilter.nf_conntrack_max"), Level::Ok);
        assert_eq!(level("net.ipv4.tcp_migrate_req"), Level::Note);
    }
}
