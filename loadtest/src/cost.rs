//! What processes spend: CPU time, context switches, memory. Read from outside, from the kernel's own accounts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use crate::result::Cost;

/// Processes whose cost is read, with all their descendants.
#[derive(Clone, Debug)]
pub struct Processes {
    roots: Vec<i32>,
}

/// The accounts at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    accounts: BTreeMap<i32, Account>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Account {
    cpu: Duration,
    user_ticks: u64,
    system_ticks: u64,
    context_switches: u64,
}

impl Processes {
    /// The process trees below `roots`. The error names the first root that is not there.
    pub fn new(roots: &[i32]) -> Result<Self, (i32, io::Error)> {
        for &pid in roots {
            fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|error| (pid, error))?;
        }
        Ok(Self { roots: roots.to_vec() })
    }

    /// This process alone.
    pub fn this() -> Self {
        Self { roots: vec![Pid::this().as_raw()] }
    }

    /// The accounts of `members` now. Takes some 0.1 ms for each, where [`Processes::members`] looks at every process
    /// of the machine: call that one before the moment that counts.
    pub fn read(members: &BTreeSet<i32>) -> Reading {
        Reading { accounts: members.iter().filter_map(|&pid| Some((pid, account(pid)?))).collect() }
    }

    /// The accounts of the roots alone, whose children are somebody else's business.
    pub fn read_roots(&self) -> Reading {
        Self::read(&self.roots.iter().copied().collect())
    }

    /// Proportional set size of the trees; 0 when none of it could be read.
    pub fn pss_bytes(&self) -> u64 {
        self.members().into_iter().filter_map(pss_bytes).sum()
    }

    /// CPU time of the processes in `known`, without looking for new ones.
    pub fn cpu_of(known: &Reading) -> Duration {
        known.accounts.keys().filter_map(|&pid| cpu_time(pid)).sum()
    }

    /// The roots and all their descendants.
    pub fn members(&self) -> BTreeSet<i32> {
        let mut members: BTreeSet<i32> = self.roots.iter().copied().collect();
        let parents = parents();
        // A child may be listed before its parent: repeat until nothing is added. Bounded by the tree's depth.
        loop {
            let before = members.len();
            for (child, parent) in &parents {
                if members.contains(parent) {
                    members.insert(*child);
                }
            }
            if members.len() == before {
                return members;
            }
        }
    }
}

impl Reading {
    /// CPU time of all of them.
    pub fn cpu(&self) -> Duration {
        self.accounts.values().map(|account| account.cpu).sum()
    }

    /// What was spent since `earlier`, and how many processes came or went in between (so that some of the cost is
    /// not known).
    pub fn since(&self, earlier: &Self) -> (Cost, u64) {
        let mut cost = Cost { processes: self.accounts.len(), ..Cost::default() };
        let (mut cpu, mut user, mut system) = (Duration::ZERO, 0, 0);
        for (pid, now) in &self.accounts {
            let then = earlier.accounts.get(pid).copied().unwrap_or_default();
            cpu += now.cpu.saturating_sub(then.cpu);
            user += now.user_ticks.saturating_sub(then.user_ticks);
            system += now.system_ticks.saturating_sub(then.system_ticks);
            cost.context_switches += now.context_switches.saturating_sub(then.context_switches);
        }
        cost.cpu_seconds = cpu.as_secs_f64();
        cost.user_seconds = cost.cpu_seconds * share(user, user + system);
        cost.system_seconds = cost.cpu_seconds - cost.user_seconds;
        let changed = self.accounts.keys().collect::<BTreeSet<_>>();
        let before = earlier.accounts.keys().collect::<BTreeSet<_>>();
        (cost, changed.symmetric_difference(&before).count() as u64)
    }
}

/// `part / whole`, a half when nothing is known.
#[allow(clippy::cast_precision_loss, reason = "tick counts are small")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.5 } else { part as f64 / whole as f64 }
}

fn account(pid: i32) -> Option<Account> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (user_ticks, system_ticks) = stat_ticks(&stat)?;
    Some(Account { cpu: cpu_time(pid)?, user_ticks, system_ticks, context_switches: context_switches(pid) })
}

/// CPU time of all threads of a process, those that ended included: the scheduler's clock, in nanoseconds.
fn cpu_time(pid: i32) -> Option<Duration> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid)).ok()?;
    clock_gettime(clock).ok().map(Duration::from)
}

/// `utime` and `stime` of a `/proc/PID/stat` line. The command in parentheses may hold anything.
fn stat_ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn stat_parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Sum over the threads that live now.
fn context_switches(pid: i32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
        .map(|status| field(&status, "voluntary_ctxt_switches:") + field(&status, "nonvoluntary_ctxt_switches:"))
        .sum()
}

fn pss_bytes(pid: i32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    Some(field(&rollup, "Pss:") * 1024)
}

/// The number behind `name` at the start of a line, 0 if there is none.
fn field(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Every process with its parent.
fn parents() -> Vec<(i32, i32)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, stat_parent(&fs::read_to_string(entry.path().join("stat")).ok()?)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

    use std::process::{Command, Stdio};
    use std::time::Instant;

    use super::*;

    #[test]
    fn stat_line_is_read_behind_a_hostile_command_name() {
        let line = "42 (a) b) 9 (c) S 7 42 42 0 -1 4194560 1 2 3 4 55 66 0 0 20 0 1 0 100 200 300";
        assert_eq!(stat_ticks(line), Some((55, 66)));
        assert_eq!(stat_parent(line), Some(7));
    }

    #[test]
    fn cpu_time_of_this_process_grows_by_what_it_burns() {
        let this = Processes::this();
        let before = this.read_roots();
        let start = Instant::now();
        let mut sum = 0u64;
        while start.elapsed() < Duration::from_millis(50) {
            sum = sum.wrapping_add(std::hint::black_box(1));
        }
        std::hint::black_box(sum);
        let (cost, _) = this.read_roots().since(&before);
        assert!(cost.cpu_seconds > 0.005, "{cost:?}");
        assert!((cost.user_seconds + cost.system_seconds - cost.cpu_seconds).abs() < 1e-9);
    }

    #[test]
    fn children_of_a_process_belong_to_it() {
        let mut child = Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().unwrap();
        let members = Processes::this().members();
        let pid = i32::try_from(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(members.contains(&pid));
    }

    #[test]
    fn process_that_is_not_there_is_named() {
        // Above the kernel's largest pid.
        let (pid, error) = Processes::new(&[i32::MAX]).unwrap_err();
        assert_eq!((pid, error.kind()), (i32::MAX, io::ErrorKind::NotFound));
    }

    #[test]
    fn memory_of_this_process_is_known() {
        assert!(Processes::this().pss_bytes() > 100 * 1024);
    }
}
