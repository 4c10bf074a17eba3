//! Published bugs of the kernel's TLS, by kernel version: for warnings and for the operator's choice, never for deciding
//! what a kernel can do.
//!
//! CVE-2026-74611 is left out: it needs `TLS_RX_EXPECT_NO_PAD`, which Sluice never sets.

use serde::Serialize;

/// Who can set a bug off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// A TLS peer.
    Remote,
    /// A process on the machine.
    Local,
}

/// A bug that a kernel of this version has, unless its vendor carries the fix under an older number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KnownBug {
    /// The CVE number.
    pub id: &'static str,
    /// What goes wrong.
    pub summary: &'static str,
    /// Who can set it off.
    pub reach: Reach,
    /// The release to update to: of the same stable branch when that has the fix, otherwise the next that has.
    pub fixed_in: String,
}

/// The published bugs of the kernel with this `uname -r`; none when the release cannot be read.
///
/// Kernels of vendors that keep an old number while they take fixes (`-generic`, `.el9`) are listed too often: only
/// the vendor's own notices tell.
pub fn known_bugs(release: &str) -> Vec<KnownBug> {
    let Some(version) = Version::parse(release) else { return Vec::new() };
    BUGS.iter()
        .filter_map(|bug| {
            let fixed_in = bug.fix_needed(version)?.to_string();
            Some(KnownBug { id: bug.id, summary: bug.summary, reach: bug.reach, fixed_in })
        })
        .collect()
}

/// A kernel version; the branch is the first two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u16, u16, u16);

impl Version {
    fn parse(release: &str) -> Option<Self> {
        let end = release.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(release.len());
        let mut numbers = release[..end].split('.').map(str::parse);
        let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        Some(Self(major, minor, numbers.next().and_then(Result::ok).unwrap_or(0)))
    }

    fn branch(self) -> (u16, u16) {
        (self.0, self.1)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self(major, minor, 0) => write!(f, "{major}.{minor}"),
            Self(major, minor, patch) => write!(f, "{major}.{minor}.{patch}"),
        }
    }
}

struct Bug {
    id: &'static str,
    summary: &'static str,
    reach: Reach,
    /// The first version with the bug.
    since: Version,
    /// The first fixed version of each branch that got the fix, ascending. Branches in between that are not named never
    /// got it, and everything after the last is fixed.
    fixed: &'static [Version],
}

impl Bug {
    /// The version that cures `version`, if it has the bug.
    fn fix_needed(&self, version: Version) -> Option<Version> {
        if version < self.since {
            return None;
        }
        if let Some(&fix) = self.fixed.iter().find(|fix| fix.branch() == version.branch()) {
            return (version < fix).then_some(fix);
        }
        self.fixed.iter().copied().find(|fix| *fix > version)
    }
}

const BUGS: &[Bug] = {
    const fn v(major: u16, minor: u16, patch: u16) -> Version {
        Version(major, minor, patch)
    }
    &[
        Bug {
            id: "CVE-2024-35841",
            summary: "splicing into a kernel-TLS socket with a full record corrupts its state",
            reach: Reach::Local,
            since: v(6, 5, 0),
            fixed: &[v(6, 6, 14), v(6, 7, 2), v(6, 8, 0)],
        },
        Bug {
            id: "CVE-2025-38616",
            summary: "data taken from under the receiver makes it read a wrong record",
            reach: Reach::Local,
            since: v(6, 0, 0),
            fixed: &[v(6, 6, 103), v(6, 12, 43), v(6, 15, 11), v(6, 16, 2), v(6, 17, 0)],
        },
        Bug {
            id: "CVE-2025-39682",
            summary: "a record of length zero makes the receiver use freed memory",
            reach: Reach::Remote,
            since: v(6, 0, 0),
            fixed: &[v(6, 1, 149), v(6, 6, 103), v(6, 12, 44), v(6, 16, 4), v(6, 17, 0)],
        },
        Bug {
            id: "CVE-2025-39946",
            summary: "records with bogus headers overflow the receiver's buffer",
            reach: Reach::Remote,
            since: v(6, 0, 0),
            fixed: &[v(6, 1, 154), v(6, 6, 108), v(6, 12, 49), v(6, 16, 9), v(6, 17, 0)],
        },
        Bug {
            id: "CVE-2025-40176",
            summary: "a failed asynchronous decryption leaves the receiver with freed memory",
            reach: Reach::Remote,
            since: v(6, 0, 0),
            fixed: &[v(6, 1, 158), v(6, 6, 114), v(6, 12, 55), v(6, 17, 5), v(6, 18, 0)],
        },
        Bug {
            id: "CVE-2026-23240",
            summary: "closing a socket races with records that are still to be sent and uses freed memory",
            reach: Reach::Remote,
            since: v(5, 3, 0),
            fixed: &[v(6, 12, 75), v(6, 18, 16), v(6, 19, 6), v(7, 0, 0)],
        },
        Bug {
            id: "CVE-2026-31533",
            summary: "a busy crypto queue makes the sender use freed memory",
            reach: Reach::Remote,
            since: v(4, 13, 0),
            fixed: &[v(5, 15, 203), v(6, 1, 169), v(6, 6, 135), v(6, 12, 82), v(6, 18, 23), v(6, 19, 13), v(7, 0, 0)],
        },
        Bug {
            id: "CVE-2026-64046",
            summary: "a full ring of fragments makes the sender write past its end",
            reach: Reach::Remote,
            since: v(5, 5, 0),
            fixed: &[
                v(5, 10, 258),
                v(5, 15, 209),
                v(6, 1, 175),
                v(6, 6, 142),
                v(6, 12, 92),
                v(6, 18, 34),
                v(7, 0, 11),
                v(7, 1, 0),
            ],
        },
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(release: &str) -> Vec<&'static str> {
        known_bugs(release).into_iter().map(|bug| bug.id).collect()
    }

    #[test]
    fn known_bugs_of_a_fixed_stable_release_are_none() {
        assert!(ids("6.12.117+deb12-amd64").is_empty());
        assert!(ids("7.2.12+deb13-amd64").is_empty());
        assert!(ids("6.18.44-fc-v657").is_empty());
    }

    #[test]
    fn known_bugs_of_a_branch_stop_at_its_own_fix() {
        assert_eq!(ids("6.12.91"), ["CVE-2026-64046"]);
        assert_eq!(ids("6.12.81"), ["CVE-2026-31533", "CVE-2026-64046"]);
    }

    #[test]
    fn known_bug_of_a_branch_without_the_fix_names_the_next_that_has_it() {
        let bugs = known_bugs("6.1.180");
        let close = bugs.iter().find(|bug| bug.id == "CVE-2026-23240").map(|bug| bug.fixed_in.as_str());
        assert_eq!(close, Some("6.12.75"));
    }

    #[test]
    fn known_bugs_before_they_were_introduced_are_none() {
        assert!(!ids("5.10.10").contains(&"CVE-2025-39682"));
    }

    #[test]
    fn known_bugs_of_an_unreadable_release_are_none() {
        assert!(ids("").is_empty());
        assert!(ids("linux").is_empty());
        assert!(ids("6").is_empty());
        assert!(ids("99999999.1.1").is_empty());
    }

    #[test]
    fn fixed_versions_are_ascending() {
        assert!(BUGS.iter().all(|bug| bug.fixed.is_sorted()));
    }
}
