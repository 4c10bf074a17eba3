//! The memory ceiling: how much the process uses, and which step of giving up that calls for.
//!
//! Where an allocation fails, the process ends: nothing can be done then. So the ceiling has to act before one does, and
//! comes from the limits of the process, too, also from those that are set while it runs (prlimit(1)).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit};

use crate::guard::{Pressure, PressureCell};
use crate::telemetry::{MemoryMetrics, MemoryStep};

/// What the allocator sets aside for each thread, and its stack: address space that is taken before it is used.
const SET_ASIDE_BYTES_PER_THREAD: u64 = 34 << 20;
/// How much of the limit of a cgroup may be held there, in hundredths: at the limit the kernel kills, and between two looks
/// its sockets may take what many clients send at once.
const CGROUP_SHARE: u64 = 75;
/// Looks between two at the limits: they seldom change.
const LOOKS_PER_READING: u32 = 10;

/// Looks at the memory of the process.
pub(super) struct MemoryWatch {
    pressure: PressureCell,
    metrics: Arc<MemoryMetrics>,
    limits: Limits,
    looks: u32,
    ceiling: Option<Ceiling>,
}

/// How much the process may have in RAM, and what says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ceiling {
    bytes: u64,
    source: &'static str,
}

/// The limits of the process; none where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Limits {
    data: Option<u64>,
    address_space: Option<u64>,
    cgroup: Option<Cgroup>,
    threads: u64,
}

/// The cgroup that bounds the process: of its own and those above it the one with the least limit (cgroup v2).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cgroup {
    folder: PathBuf,
    max_bytes: u64,
}

impl MemoryWatch {
    pub(super) fn new(pressure: PressureCell, metrics: Arc<MemoryMetrics>) -> Self {
        Self { pressure, metrics, limits: Limits::default(), looks: 0, ceiling: None }
    }

    /// Looks once, and publishes what it means. Without any ceiling memory is never short; a reload may take it away.
    pub(super) fn look(&mut self, configured: Option<u64>) {
        if self.looks.is_multiple_of(LOOKS_PER_READING) {
            self.limits = Limits::read();
        }
        self.looks = self.looks.wrapping_add(1);
        self.set_ceiling(self.limits.ceiling(configured));
        let Some(ceiling) = self.ceiling else { return self.note(0, u64::MAX) };
        let group = self.limits.cgroup.as_ref().filter(|_| ceiling.source == CGROUP_SOURCE);
        let in_group = group.and_then(|group| group.held_bytes(ceiling.bytes / 2));
        if let Some(used) = MemoryMetrics::resident_bytes().max(in_group) {
            self.note(used, ceiling.bytes);
        }
    }

    fn set_ceiling(&mut self, ceiling: Option<Ceiling>) {
        if let Some(Ceiling { bytes, source }) = ceiling
            && self.ceiling.is_none_or(|before| before.bytes.abs_diff(bytes) > before.bytes / 10)
        {
            tracing::info!(max_mib = bytes >> 20, from = source, "memory has a ceiling");
        }
        let bytes = ceiling.map_or(0, |ceiling| ceiling.bytes);
        self.metrics.ceiling.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.ceiling = ceiling;
    }

    fn note(&self, used: u64, max: u64) {
        let before = self.pressure.get();
        let now = before.next(used, max);
        if now == before {
            return;
        }
        self.pressure.set(now);
        self.metrics.pressure.set(now as i64);
        for (step, pressure) in STEPS {
            if before < pressure && pressure <= now {
                self.metrics.steps.of(step).increment();
            }
        }
        let (used_mib, max_mib) = (used >> 20, max >> 20);
        let source = self.ceiling.map_or("server.memory_max", |ceiling| ceiling.source);
        if now > before {
            tracing::warn!(used_mib, max_mib, "memory is short: {} ({source})", measure(now));
        } else {
            tracing::info!(used_mib, max_mib, "memory is less short: {}", measure(now));
        }
    }
}

const STEPS: [(MemoryStep, Pressure); 3] = [
    (MemoryStep::Buffers, Pressure::Buffers),
    (MemoryStep::Accepting, Pressure::Accepting),
    (MemoryStep::Idle, Pressure::Idle),
];

fn measure(pressure: Pressure) -> &'static str {
    match pressure {
        Pressure::None => "everything is as usual",
        Pressure::Buffers => "no large relay buffers",
        Pressure::Accepting => "no large relay buffers, no new connections",
        Pressure::Idle => "no large relay buffers, no new connections, idle connections are closed",
    }
}

impl Limits {
    fn read() -> Self {
        let limit = |resource| match getrlimit(resource) {
            Ok((soft, _)) if soft != libc::RLIM_INFINITY => Some(soft),
            _ => None,
        };
        // A folder has a link for each folder in it, and two more: that of the tasks one for each thread.
        let threads = fs::metadata("/proc/self/task").map_or(0, |tasks| tasks.nlink().saturating_sub(2));
        Self {
            data: limit(Resource::RLIMIT_DATA),
            address_space: limit(Resource::RLIMIT_AS),
            cgroup: fs::read_to_string("/proc/self/cgroup")
                .ok()
                .and_then(|text| Cgroup::of(&text, Path::new(CGROUP_ROOT))),
            threads,
        }
    }

    /// What they and the configuration come to: a limit at which allocations fail always counts, that of a cgroup where
    /// nothing is configured.
    fn ceiling(&self, configured: Option<u64>) -> Option<Ceiling> {
        // Of a limit that is as low as this, half is left: there is no telling how the allocator gets along.
        let left = |limit: u64| limit.saturating_sub(SET_ASIDE_BYTES_PER_THREAD * self.threads).max(limit / 2);
        let share = |group: &Cgroup| group.max_bytes / 100 * CGROUP_SHARE;
        [
            (configured, "server.memory_max"),
            (self.data.map(left), "RLIMIT_DATA of the process"),
            (self.address_space.map(left), "RLIMIT_AS of the process"),
            (self.cgroup.as_ref().map(share).filter(|_| configured.is_none()), CGROUP_SOURCE),
        ]
        .into_iter()
        .filter_map(|(bytes, source)| Some(Ceiling { bytes: bytes?, source }))
        .min_by_key(|ceiling| ceiling.bytes)
    }
}

impl Cgroup {
    /// That of the process with this `/proc/self/cgroup`.
    fn of(membership: &str, root: &Path) -> Option<Self> {
        let path = membership.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let own: PathBuf = root.join(path);
        let above = own.ancestors().take_while(|folder| folder.starts_with(root));
        let limited = above.filter_map(|folder| {
            let max_bytes = number_in(&folder.join("memory.max"))?;
            Some(Self { folder: folder.to_owned(), max_bytes })
        });
        limited.min_by_key(|group| group.max_bytes)
    }

    /// What its processes hold and the kernel could not take back before it kills: of sockets, too, which a client that
    /// reads slowly can fill with megabytes. Below `exact_from` all that is charged to the group, without a look at the rest.
    fn held_bytes(&self, exact_from: u64) -> Option<u64> {
        let charged = number_in(&self.folder.join("memory.current"))?;
        if charged < exact_from {
            return Some(charged);
        }
        let stat = fs::read_to_string(self.folder.join("memory.stat")).ok()?;
        let of = |name: &str| stat.lines().find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok());
        Some(RECLAIMABLE.iter().filter_map(|name| of(name)).fold(charged, u64::saturating_sub))
    }
}

/// The number that the file holds alone.
fn number_in(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

const CGROUP_ROOT: &str = "/sys/fs/cgroup";
const CGROUP_SOURCE: &str = "memory.max of its cgroup";
/// Lines of memory.stat.
const RECLAIMABLE: [&str; 3] = ["active_file ", "inactive_file ", "slab_reclaimable "];

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::*;
    use crate::telemetry::Label;

    #[test]
    fn each_step_that_is_reached_is_counted_once() {
        let (pressure, metrics) = (PressureCell::default(), Arc::<MemoryMetrics>::default());
        let watch = MemoryWatch::new(pressure.clone(), Arc::clone(&metrics));
        let counted = || MemoryStep::ALL.iter().map(|step| metrics.steps.of(*step).value()).collect::<Vec<_>>();
        watch.note(100, 1000);
        assert_eq!(counted(), [0, 0, 0]);
        watch.note(1200, 1000);
        watch.note(1200, 1000);
        assert_eq!(counted(), [1, 1, 1]);
        assert_eq!(pressure.get(), Pressure::Idle);
        watch.note(100, 1000);
        watch.note(860, 1000);
        assert_eq!(counted(), [2, 1, 1]);
        assert_eq!(metrics.pressure.value(), 1);
    }

    #[test]
    fn process_without_a_ceiling_is_never_short() {
        let (pressure, metrics) = (PressureCell::default(), Arc::<MemoryMetrics>::default());
        let mut watch = MemoryWatch::new(pressure.clone(), Arc::clone(&metrics));
        let mut look = |configured: Option<u64>| {
            // Whatever limits the tests run under.
            watch.looks = 1;
            watch.look(configured);
            (pressure.get(), metrics.ceiling.value())
        };
        assert_eq!(look(None), (Pressure::None, 0));
        assert_eq!(look(Some(1)), (Pressure::Idle, 1), "the memory of this process is seen");
        assert_eq!(look(None), (Pressure::None, 0), "the ceiling is gone");
    }

    #[test]
    fn lowest_bound_counts_and_a_cgroup_only_where_nothing_is_configured() {
        let mib = |count: u64| count << 20;
        let group = Cgroup { folder: PathBuf::new(), max_bytes: mib(1000) };
        let limits = Limits { data: None, address_space: None, cgroup: Some(group), threads: 4 };
        let ceiling =
            |limits: Limits, configured| limits.ceiling(configured).map(|found| (found.bytes >> 20, found.source));
        assert_eq!(ceiling(Limits::default(), None), None);
        assert_eq!(ceiling(limits.clone(), None), Some((750, "memory.max of its cgroup")));
        assert_eq!(ceiling(limits.clone(), Some(mib(900))), Some((900, "server.memory_max")));
        let limits = Limits { data: Some(mib(600)), address_space: Some(mib(2000)), ..limits };
        assert_eq!(ceiling(limits.clone(), Some(mib(900))), Some((600 - 4 * 34, "RLIMIT_DATA of the process")));
        assert_eq!(ceiling(limits.clone(), Some(mib(100))), Some((100, "server.memory_max")));
        let low = Limits { data: Some(mib(100)), ..limits };
        assert_eq!(ceiling(low, None), Some((50, "RLIMIT_DATA of the process")));
    }

    #[test]
    fn limit_of_a_cgroup_is_the_least_on_the_way_up() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("system.slice/sluice.service");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("memory.max"), "max\n").unwrap();
        let of = |membership: &str| Cgroup::of(membership, root.path()).map(|group| group.max_bytes);
        assert_eq!(of("0::/system.slice/sluice.service\n"), None);
        fs::write(root.path().join("system.slice/memory.max"), "4096\n").unwrap();
        assert_eq!(of("1:name=systemd:/x\n0::/system.slice/sluice.service\n"), Some(4096));
        fs::write(inner.join("memory.max"), "1024\n").unwrap();
        assert_eq!(of("0::/system.slice/sluice.service\n"), Some(1024));
        assert_eq!(of("4:memory:/docker\n"), None, "cgroup v1");
        assert_eq!(of("0::/gone\n"), None);
    }

    #[test]
    fn files_that_the_kernel_can_drop_are_not_held_in_a_cgroup() {
        let root = tempfile::tempdir().unwrap();
        let group = Cgroup { folder: root.path().to_owned(), max_bytes: 10_000 };
        assert_eq!(group.held_bytes(0), None, "not counted");
        fs::write(root.path().join("memory.current"), "5000\n").unwrap();
        assert_eq!(group.held_bytes(5001), Some(5000));
        assert_eq!(group.held_bytes(5000), None, "no statistics");
        let stat =
            "anon 1000\nsock 700\ninactive_file 900\nactive_file 1100\nslab_reclaimable 300\nslab_unreclaimable 9\n";
        fs::write(root.path().join("memory.stat"), stat).unwrap();
        assert_eq!(group.held_bytes(5000), Some(5000 - 900 - 1100 - 300));
    }
}
