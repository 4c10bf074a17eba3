//! Which ring the workers get, and what stands in the way of a better one.

use nix::sys::resource::{Resource, getrlimit};

use super::finding::{Check, Finding, Level, Subject};
use super::plan::Plan;
use super::source;
use crate::worker::{IoDriver, Ring, choose_ring};

/// Locked memory that a ring may be charged with, where the kernel charges for rings at all (before Linux 5.12).
const RING_LOCKED_BYTES: u64 = 8 << 20;

#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// The best ring that the kernel grants; asked for io_uring even where the configuration wants epoll.
    pub(super) ring: Ring,
    /// Why that is epoll.
    pub(super) refusal: Option<Refusal>,
    /// kernel.io_uring_disabled; none before Linux 6.6.
    pub(super) disabled: Option<u64>,
    /// Soft RLIMIT_MEMLOCK in bytes, `u64::MAX` for none; none where it cannot be read.
    pub(super) memlock_bytes: Option<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) error: String,
    pub(super) remedy: &'static str,
}

impl Facts {
    pub(super) fn read() -> Self {
        let (ring, refusal) = match choose_ring(IoDriver::Auto) {
            Ok((ring, error)) => (ring, error),
            Err(error) => (Ring::Epoll, Some(error)),
        };
        Self {
            ring,
            refusal: refusal.map(|error| Refusal { error: error.source.to_string(), remedy: error.remedy }),
            disabled: source::sysctl_number("kernel.io_uring_disabled"),
            memlock_bytes: getrlimit(Resource::RLIMIT_MEMLOCK).ok().map(|(soft, _)| soft),
        }
    }
}

pub(super) fn judge(facts: &Facts, plan: Option<&Plan>) -> Vec<Finding> {
    vec![judge_ring(facts, plan), judge_switch(facts), judge_memlock(facts, plan)]
}

fn judge_ring(facts: &Facts, plan: Option<&Plan>) -> Finding {
    let io = plan.map_or(IoDriver::Auto, |plan| plan.io);
    let wanted = Ring::DeferTaskrun.name();
    let check = |found: String| Check::new(Subject::IoUring, "ring", found, wanted);
    if io == IoDriver::Epoll {
        return check(format!("workers use epoll, as configured; there is {}", facts.ring.name()))
            .at(if facts.ring == Ring::Epoll { Level::Ok } else { Level::Note }, "set workers.io = \"auto\"");
    }
    match facts.ring {
        Ring::DeferTaskrun => check(facts.ring.name().to_owned()).ok(),
        Ring::CoopTaskrun => check(facts.ring.name().to_owned()).note("use Linux 6.1 or later"),
        Ring::Plain => check(format!("{}: every completion interrupts the worker", facts.ring.name()))
            .warning("use Linux 6.1 or later"),
        Ring::Epoll => {
            let (error, remedy) = match &facts.refusal {
                Some(refusal) => (refusal.error.as_str(), refusal.remedy),
                None => ("refused", "see dmesg and the limits of the process"),
            };
            let level = if io == IoDriver::Uring { Level::Broken } else { Level::Warning };
            let effect = if io == IoDriver::Uring {
                "workers.io = \"uring\" refuses to start"
            } else {
                "workers use epoll, which costs throughput"
            };
            check(format!("io_uring is not available: {error}; {effect}")).at(level, remedy)
        }
    }
}

fn judge_switch(facts: &Facts) -> Finding {
    let check = |found: &str| Check::new(Subject::IoUring, "io_uring_disabled", found, "kernel.io_uring_disabled = 0");
    let Some(disabled) = facts.disabled else { return check("this kernel has no such switch").ok() };
    let found = format!("kernel.io_uring_disabled = {disabled}");
    match disabled {
        0 => check(&found).ok(),
        1 => {
            let found = format!("{found}: only for privileged users and the group kernel.io_uring_group");
            let remedy = "run `sysctl -w kernel.io_uring_disabled=0`, or set kernel.io_uring_group to the group of the \
                          service; keep it in /etc/sysctl.d";
            check(&found).at(if facts.ring == Ring::Epoll { Level::Warning } else { Level::Note }, remedy)
        }
        _ => check(&format!("{found}: nobody gets a ring"))
            .warning("run `sysctl -w kernel.io_uring_disabled=0`, and keep it in /etc/sysctl.d"),
    }
}

fn judge_memlock(facts: &Facts, plan: Option<&Plan>) -> Finding {
    let worker_count = plan.map_or(1, |plan| plan.worker_count.max(1)) as u64;
    let needed = RING_LOCKED_BYTES.saturating_mul(worker_count);
    let wanted = format!("{}: 8 MiB for each worker, or no limit", show(needed));
    let check = |found: String| Check::new(Subject::IoUring, "locked_memory", found, wanted);
    match facts.memlock_bytes {
        // Kernels that know these flags charge rings to the memory cgroup instead.
        Some(bytes) if matches!(facts.ring, Ring::DeferTaskrun | Ring::CoopTaskrun) => {
            check(format!("{}; this kernel does not charge rings to it", show(bytes))).ok()
        }
        None => check(String::new()).unread("/proc/self/limits"),
        Some(bytes) if bytes >= needed => check(show(bytes)).ok(),
        Some(bytes) => {
            let level = if facts.ring == Ring::Epoll { Level::Warning } else { Level::Note };
            let found = format!("{} for this process; kernels before 5.12 charge rings to it", show(bytes));
            check(found).at(level, "raise LimitMEMLOCK= of the service (ulimit -l)")
        }
    }
}

fn show(bytes: u64) -> String {
    if bytes == u64::MAX { "no limit".to_owned() } else { format!("{} KiB", bytes >> 10) }
}

#[cfg(test)]
mod tests {
    use super::super::plan::testing::plan;
    use super::*;
    use crate::ktls::Mode;

    fn facts(ring: Ring) -> Facts {
        let refusal = (ring == Ring::Epoll)
            .then(|| Refusal { error: "Operation not permitted".to_owned(), remedy: "allow io_uring_setup" });
        Facts { ring, refusal, disabled: Some(0), memlock_bytes: Some(u64::MAX) }
    }

    fn levels(facts: &Facts, io: IoDriver) -> [Level; 3] {
        let plan = Plan { io, ..plan(Mode::Auto) };
        let findings = judge(facts, Some(&plan));
        [findings[0].level(), findings[1].level(), findings[2].level()]
    }

    #[test]
    fn best_ring_is_ok_and_lesser_rings_are_worse_by_degrees() {
        let ring = |ring| levels(&facts(ring), IoDriver::Auto)[0];
        assert_eq!(ring(Ring::DeferTaskrun), Level::Ok);
        assert_eq!(ring(Ring::CoopTaskrun), Level::Note);
        assert_eq!(ring(Ring::Plain), Level::Warning);
        assert_eq!(ring(Ring::Epoll), Level::Warning);
    }

    #[test]
    fn refused_ring_is_broken_exactly_where_the_configuration_demands_one() {
        let finding = &judge(&facts(Ring::Epoll), Some(&Plan { io: IoDriver::Uring, ..plan(Mode::Auto) }))[0];
        assert_eq!((finding.level(), finding.remedy()), (Level::Broken, Some("allow io_uring_setup")));
        assert!(finding.found().contains("Operation not permitted"), "{finding:?}");
        assert_eq!(judge(&facts(Ring::Epoll), None)[0].level(), Level::Warning);
        assert_eq!(levels(&facts(Ring::DeferTaskrun), IoDriver::Uring)[0], Level::Ok);
    }

    #[test]
    fn epoll_as_configured_is_a_note_where_there_is_a_ring() {
        assert_eq!(levels(&facts(Ring::DeferTaskrun), IoDriver::Epoll)[0], Level::Note);
        assert_eq!(levels(&facts(Ring::Epoll), IoDriver::Epoll)[0], Level::Ok);
    }

    #[test]
    fn switch_that_leaves_privileged_users_a_ring_is_a_note_while_there_is_one() {
        let switch = |ring, disabled| levels(&Facts { disabled, ..facts(ring) }, IoDriver::Auto)[1];
        assert_eq!(switch(Ring::DeferTaskrun, None), Level::Ok);
        assert_eq!(switch(Ring::DeferTaskrun, Some(1)), Level::Note);
        assert_eq!(switch(Ring::Epoll, Some(1)), Level::Warning);
        assert_eq!(switch(Ring::Epoll, Some(2)), Level::Warning);
    }

    #[test]
    fn locked_memory_is_judged_for_every_worker_where_the_kernel_may_charge_for_rings() {
        let memlock = |ring, bytes| levels(&Facts { memlock_bytes: bytes, ..facts(ring) }, IoDriver::Auto)[2];
        assert_eq!(memlock(Ring::Plain, Some(16 << 20)), Level::Ok);
        assert_eq!(memlock(Ring::Plain, Some((16 << 20) - 1)), Level::Note);
        assert_eq!(memlock(Ring::Epoll, Some(64 << 10)), Level::Warning);
        assert_eq!(memlock(Ring::DeferTaskrun, Some(0)), Level::Ok);
        assert_eq!(memlock(Ring::CoopTaskrun, Some(0)), Level::Ok);
        assert_eq!(memlock(Ring::DeferTaskrun, None), Level::Note);
    }
}
