//! Instructions for AES, and which CPUs the process may use.

use std::collections::BTreeSet;

use super::finding::{Check, Finding, Subject};
use super::plan::Plan;
use super::source;
use crate::config::{Machine, show_list};
use crate::record::{Aead, Library};
use crate::worker::{Steering, kernel_steers};

/// Stolen time, in hundredths of a per cent, from which a note is made.
const STEAL_NOTED: u64 = 500;

#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) instructions: Instructions,
    /// What protects AES-GCM records in userspace.
    pub(super) aes_gcm: Library,
    /// CPUs that run.
    pub(super) online: BTreeSet<usize>,
    /// CPUs that the process may run on.
    pub(super) allowed: BTreeSet<usize>,
    pub(super) time: Option<Time>,
    /// Whether the kernel gives connections to the CPU on which they arrive; none where nobody asked, or it could not be
    /// tried.
    pub(super) steers: Option<bool>,
}

/// What the CPU has for AES-GCM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instructions {
    /// AES rounds, and the carry-less multiplication that GCM's authentication needs.
    pub(super) aes: bool,
    pub(super) multiply: bool,
    /// Both of them for 256 bits and more at a time.
    pub(super) wide_aes: bool,
    pub(super) wide_multiply: bool,
}

/// Clock ticks of all CPUs since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time {
    pub(super) stolen: u64,
    pub(super) total: u64,
}

impl Facts {
    pub(super) fn read(plan: Option<&Plan>) -> Self {
        let machine = Machine::read();
        let wants_steering = plan.filter(|plan| plan.steering == Steering::Cpu);
        let cpu = wants_steering.and_then(|plan| plan.cpus.first());
        Self {
            instructions: Instructions::read(),
            aes_gcm: Library::of(Aead::Aes128Gcm),
            online: machine.online,
            allowed: machine.allowed,
            time: source::text("/proc/stat").and_then(|text| Time::parse(&text)),
            steers: cpu.and_then(|&cpu| kernel_steers(cpu).ok()),
        }
    }
}

impl Instructions {
    #[cfg(target_arch = "x86_64")]
    fn read() -> Self {
        Self {
            aes: std::arch::is_x86_feature_detected!("aes"),
            multiply: std::arch::is_x86_feature_detected!("pclmulqdq"),
            wide_aes: std::arch::is_x86_feature_detected!("vaes"),
            wide_multiply: std::arch::is_x86_feature_detected!("vpclmulqdq"),
        }
    }

    /// AArch64 has one width only.
    #[cfg(target_arch = "aarch64")]
    fn read() -> Self {
        let aes = std::arch::is_aarch64_feature_detected!("aes");
        let multiply = std::arch::is_aarch64_feature_detected!("pmull");
        Self { aes, multiply, wide_aes: aes, wide_multiply: multiply }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn read() -> Self {
        Self { aes: false, multiply: false, wide_aes: false, wide_multiply: false }
    }
}

impl Time {
    /// The first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal; guests' time is in user's.
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|word| word.parse().ok()).collect();
        let stolen = *ticks.get(7)?;
        Some(Self { stolen, total: ticks.iter().fold(0, |sum, ticks| sum.saturating_add(*ticks)) })
    }
}

pub(super) fn judge(facts: &Facts, plan: Option<&Plan>) -> Vec<Finding> {
    let instructions = facts.instructions;
    let mut findings = vec![judge_aes(instructions), judge_wide_aes(facts), judge_cpus(facts), judge_steal(facts.time)];
    findings.extend(plan.filter(|plan| plan.steering == Steering::Cpu).map(|_| judge_steering(facts.steers)));
    findings
}

fn judge_steering(steers: Option<bool>) -> Finding {
    let check = |found: &str| Check::new(Subject::Cpu, "steering", found, "connections go to the CPU they arrive on");
    match steers {
        Some(true) => check("connections go to the worker of the CPU they arrive on").ok(),
        Some(false) => check("this kernel spreads connections by a hash in spite of workers.steering = \"cpu\"")
            .warning("take Linux 6.2 or later, or set workers.steering = \"hash\""),
        None => check("could not be tried on the first CPU of the workers")
            .note("run the doctor where the workers' CPUs are allowed"),
    }
}

fn judge_aes(instructions: Instructions) -> Finding {
    let found = format!("AES {}, carry-less multiplication {}", yes(instructions.aes), yes(instructions.multiply));
    let check = Check::new(Subject::Cpu, "aes", found, "both, for AES-GCM at the speed of memory");
    if instructions.aes && instructions.multiply {
        check.ok()
    } else {
        check.warning(
            "enable AES-NI in the firmware; in a virtual machine pass the host's CPU model through; without it \
             ChaCha20-Poly1305 is the faster suite",
        )
    }
}

fn judge_wide_aes(facts: &Facts) -> Finding {
    let Facts { instructions, aes_gcm, .. } = facts;
    let (aes, multiply) = (yes(instructions.wide_aes), yes(instructions.wide_multiply));
    let found = format!("VAES {aes}, VPCLMULQDQ {multiply}; AES-GCM by {}", aes_gcm.name());
    let check = Check::new(Subject::Cpu, "vector_aes", found, "both");
    if instructions.wide_aes && instructions.wide_multiply {
        check.ok()
    } else {
        check.note("nothing on this CPU; newer ones have it (Intel from Ice Lake, AMD from Zen 3 on), if bulk matters")
    }
}

fn judge_cpus(facts: &Facts) -> Finding {
    let usable: BTreeSet<usize> = facts.allowed.intersection(&facts.online).copied().collect();
    let (online, allowed) = (show_list(&facts.online), show_list(&usable));
    let check =
        |found: String| Check::new(Subject::Cpu, "affinity", found, format!("every CPU that is online: {online}"));
    if usable == facts.online {
        check(format!("may run on {allowed}")).ok()
    } else {
        check(format!("may run on {allowed} of {online}: workers start on those only"))
            .note("if that is not on purpose, see CPUAffinity= and AllowedCPUs= of the service, taskset and the cpuset")
    }
}

fn judge_steal(time: Option<Time>) -> Finding {
    let check = |found: String| Check::new(Subject::Cpu, "steal", found, "under 5 % since boot");
    let Some(Time { stolen, total }) = time else { return check(String::new()).unread("/proc/stat") };
    let share = u64::try_from(u128::from(stolen) * 10_000 / u128::from(total.max(1))).unwrap_or(u64::MAX);
    let check = check(format!("{}.{:02} % since boot", share / 100, share % 100));
    if share < STEAL_NOTED {
        check.ok()
    } else {
        check.note("other guests take this machine's CPUs: pin its virtual CPUs on the host, or use bare metal")
    }
}

const fn yes(there: bool) -> &'static str {
    if there { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::plan::testing::plan;
    use super::*;
    use crate::ktls::Mode;

    fn facts() -> Facts {
        Facts {
            instructions: Instructions { aes: true, multiply: true, wide_aes: true, wide_multiply: true },
            aes_gcm: Library::Ring,
            online: BTreeSet::from([0, 1, 2]),
            allowed: BTreeSet::from([0, 1, 2, 3]),
            time: Some(Time { stolen: 499, total: 10_000 }),
            steers: None,
        }
    }

    fn levels(facts: &Facts) -> Vec<Level> {
        judge(facts, None).iter().map(Finding::level).collect()
    }

    #[test]
    fn modern_cpu_of_its_own_is_ok() {
        assert_eq!(levels(&facts()), [Level::Ok; 4]);
    }

    #[test]
    fn cpu_without_aes_is_a_warning_and_without_vector_aes_a_note() {
        let mut facts = facts();
        facts.instructions.wide_multiply = false;
        assert_eq!(levels(&facts)[..2], [Level::Ok, Level::Note]);
        facts.instructions.multiply = false;
        assert_eq!(levels(&facts)[..2], [Level::Warning, Level::Note]);
    }

    #[test]
    fn cpus_that_the_process_may_not_use_are_a_note() {
        let facts = Facts { allowed: BTreeSet::from([0, 1]), ..facts() };
        let finding = &judge(&facts, None)[2];
        assert_eq!(finding.level(), Level::Note);
        assert!(finding.found().contains("0-1 of 0-2"), "{finding:?}");
    }

    #[test]
    fn kernel_that_does_not_steer_is_a_warning_where_steering_is_configured() {
        let mut plan = plan(Mode::Auto);
        let steering = |plan: &Plan, steers| judge(&Facts { steers, ..facts() }, Some(plan)).get(4).map(Finding::level);
        assert_eq!(steering(&plan, Some(false)), None);
        plan.steering = Steering::Cpu;
        assert_eq!(steering(&plan, Some(true)), Some(Level::Ok));
        assert_eq!(steering(&plan, Some(false)), Some(Level::Warning));
        assert_eq!(steering(&plan, None), Some(Level::Note));
    }

    #[test]
    fn steal_is_noted_from_five_per_cent_on() {
        let level = |stolen, total| judge_steal(Some(Time { stolen, total })).level();
        assert_eq!(level(500, 10_000), Level::Note);
        assert_eq!(level(0, 0), Level::Ok);
        assert_eq!(level(u64::MAX, 1), Level::Note);
        assert_eq!(judge_steal(None).level(), Level::Note);
        assert_eq!(judge_steal(Some(Time { stolen: 123, total: 10_000 })).found(), "1.23 % since boot");
    }

    #[test]
    fn time_is_read_from_the_line_of_all_cpus() {
        let text = "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(Time::parse(text), Some(Time { stolen: 8, total: 36 }));
        assert_eq!(Time::parse("cpu  1 2 3\n"), None);
        assert_eq!(Time::parse("cpu0 1 2 3 4 5 6 7 8\n"), None);
    }
}
