//! CPUs: the list syntax of the kernel, and what this machine and process have.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use super::topology::Topology;

/// The CPUs of the machine, as far as they matter to this process.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// CPUs that exist.
    pub(super) present: BTreeSet<usize>,
    /// CPUs that run.
    pub(crate) online: BTreeSet<usize>,
    /// CPUs that the process may run on.
    pub(crate) allowed: BTreeSet<usize>,
    /// Which CPUs share a core or a memory node.
    pub(crate) topology: Topology,
}

impl Machine {
    /// Asks the kernel. Where sysfs is not mounted, the CPUs that the process may run on are taken as all there are.
    pub(crate) fn read() -> Self {
        Self::read_below(Path::new("/"), affinity())
    }

    /// Reads sysfs below `root`; `allowed`: the CPUs that the process may run on, where that is known.
    pub(crate) fn read_below(root: &Path, allowed: Option<BTreeSet<usize>>) -> Self {
        let listed = |name| {
            let text = fs::read_to_string(root.join("sys/devices/system/cpu").join(name)).ok()?;
            parse_list(text.trim()).ok().map(|list| list.into_iter().collect::<BTreeSet<_>>())
        };
        let (present, online) = (listed("present"), listed("online"));
        let allowed = allowed.or_else(|| online.clone()).unwrap_or_else(|| BTreeSet::from([0]));
        let online = online.unwrap_or_else(|| allowed.clone());
        let present = present.unwrap_or_else(|| online.clone());
        Self { present, online, allowed, topology: Topology::read(root) }
    }

    /// The CPUs that a worker can be pinned to; never empty.
    pub(crate) fn usable(&self) -> BTreeSet<usize> {
        let usable: BTreeSet<usize> = self.allowed.intersection(&self.online).copied().collect();
        if usable.is_empty() { BTreeSet::from([0]) } else { usable }
    }
}

fn affinity() -> Option<BTreeSet<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0)).ok()?;
    Some((0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect())
}

/// Why a list cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ListError {
    #[error("{0:?} is neither a number nor a range")]
    NotNumber(String),
    #[error("the range {0}-{1} runs backwards")]
    Backwards(usize, usize),
    #[error("CPU {0} is beyond {CPU_MAX}")]
    TooLarge(usize),
    #[error("CPU {0} is named twice")]
    Repeated(usize),
}

/// Reads `0-3,8`; gives ascending numbers, at least one.
pub(crate) fn parse_list(text: &str) -> Result<Vec<usize>, ListError> {
    let mut cpus = BTreeSet::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            let not_number = || ListError::NotNumber(part.chars().take(PART_CHARS_MAX).collect());
            if digits { text.parse::<usize>().map_err(|_| not_number()) } else { Err(not_number()) }
        };
        let (first, last) = (number(first)?, number(last)?);
        if let Some(&cpu) = [first, last].iter().find(|&&cpu| cpu > CPU_MAX) {
            return Err(ListError::TooLarge(cpu));
        }
        if first > last {
            return Err(ListError::Backwards(first, last));
        }
        if let Some(cpu) = (first..=last).find(|&cpu| !cpus.insert(cpu)) {
            return Err(ListError::Repeated(cpu));
        }
    }
    Ok(cpus.into_iter().collect())
}

/// Writes ascending numbers as the kernel does: `0-3,8`.
pub(crate) fn show_list<'a>(cpus: impl IntoIterator<Item = &'a usize>) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let shown = ranges.iter().map(|&(first, last)| match last - first {
        0 => first.to_string(),
        _ => format!("{first}-{last}"),
    });
    shown.collect::<Vec<_>>().join(",")
}

/// Largest CPU number: Linux's largest NR_CPUS, less one.
const CPU_MAX: usize = 8191;

/// Characters of a wrong part that a message repeats.
const PART_CHARS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use super::*;

    #[test]
    fn list_of_ranges_is_read_in_ascending_order() {
        assert_eq!(parse_list("8,0-3").unwrap(), [0, 1, 2, 3, 8]);
        assert_eq!(parse_list("0").unwrap(), [0]);
        assert_eq!(parse_list(" 0-1 , 3 ").unwrap(), [0, 1, 3]);
    }

    #[test]
    fn list_with_a_mistake_is_refused() {
        assert_eq!(parse_list("3-1"), Err(ListError::Backwards(3, 1)));
        assert_eq!(parse_list("0-2,1"), Err(ListError::Repeated(1)));
        assert_eq!(parse_list("0-99999999"), Err(ListError::TooLarge(99_999_999)));
        for text in ["", ",", "0,", "a", "-1", "+1", "1-", "1-2-3", "99999999999999999999999"] {
            assert!(matches!(parse_list(text), Err(ListError::NotNumber(_))), "{text}");
        }
    }

    #[test]
    fn shown_list_is_read_back_as_itself() {
        for text in ["0", "0-3,8", "0,2,4", "5-8191"] {
            assert_eq!(show_list(&parse_list(text).unwrap()), text);
        }
    }

    #[test]
    fn machine_has_a_usable_cpu() {
        let machine = Machine::read();
        assert!(machine.usable().iter().all(|cpu| machine.present.contains(cpu)));
        assert!(!machine.usable().is_empty());
    }
}
