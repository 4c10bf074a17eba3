//! How the CPUs hang together: which of them share a core, and which memory node they belong to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::cpu::parse_list;

/// Cores and memory nodes. A CPU that it does not know is a core of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Topology {
    /// For each CPU all the CPUs of its core, itself included.
    siblings: BTreeMap<usize, BTreeSet<usize>>,
    /// The CPUs of each memory node that has any.
    nodes: BTreeMap<usize, BTreeSet<usize>>,
}

impl Topology {
    /// Reads sysfs below `root`, which is `/` but for tests. What cannot be read is left out.
    pub(crate) fn read(root: &Path) -> Self {
        let cpus = root.join("sys/devices/system/cpu");
        let siblings = numbered(&cpus, "cpu").into_iter().filter_map(|cpu| {
            let folder = cpus.join(format!("cpu{cpu}/topology"));
            // Linux 5.7 gave the file the first name, and keeps the second. An offline CPU has neither.
            let list = read_list(&folder.join("core_cpus_list"));
            list.or_else(|| read_list(&folder.join("thread_siblings_list"))).map(|list| (cpu, list))
        });
        let nodes = root.join("sys/devices/system/node");
        let node_cpus = numbered(&nodes, "node").into_iter().filter_map(|node| {
            // A node of memory alone has an empty list.
            read_list(&nodes.join(format!("node{node}/cpulist"))).map(|list| (node, list))
        });
        Self { siblings: siblings.collect(), nodes: node_cpus.collect() }
    }

    /// The first CPU of each core, as far as it is among `cpus`; ascending.
    pub(crate) fn one_per_core(&self, cpus: &BTreeSet<usize>) -> BTreeSet<usize> {
        let mut chosen = BTreeSet::new();
        for &cpu in cpus {
            let is_taken = self.siblings.get(&cpu).is_some_and(|core| !core.is_disjoint(&chosen));
            if !is_taken {
                chosen.insert(cpu);
            }
        }
        chosen
    }

    /// The CPUs of a memory node; none where there is no such node, or none with CPUs.
    pub(crate) fn cpus_of_node(&self, node: usize) -> Option<&BTreeSet<usize>> {
        self.nodes.get(&node)
    }
}

/// The numbers of the entries called `prefix` and a number.
fn numbered(folder: &Path, prefix: &str) -> BTreeSet<usize> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok();
    entries.filter_map(number).collect()
}

fn read_list(path: &Path) -> Option<BTreeSet<usize>> {
    parse_list(fs::read_to_string(path).ok()?.trim()).ok().map(BTreeSet::from_iter)
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// `cores`: the CPUs of each core; `nodes`: the CPUs of each node.
    pub(crate) fn topology(cores: &[&[usize]], nodes: &[&[usize]]) -> Topology {
        let set = |cpus: &[usize]| cpus.iter().copied().collect::<BTreeSet<_>>();
        let siblings = cores.iter().flat_map(|core| core.iter().map(|&cpu| (cpu, set(core)))).collect();
        Topology { siblings, nodes: nodes.iter().map(|cpus| set(cpus)).enumerate().collect() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use super::testing::topology;
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn sysfs_is_read_with_either_name_of_the_list_and_without_offline_cpus() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "sys/devices/system/cpu/cpu0/topology/core_cpus_list", "0,2\n");
        write(root.path(), "sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "0,2\n");
        write(root.path(), "sys/devices/system/cpu/cpu1/topology/core_cpus_list", "1\n");
        write(root.path(), "sys/devices/system/cpu/cpu3/online", "0\n");
        write(root.path(), "sys/devices/system/cpu/cpufreq/boost", "1\n");
        write(root.path(), "sys/devices/system/node/node0/cpulist", "0-1\n");
        write(root.path(), "sys/devices/system/node/node1/cpulist", "2-3\n");
        write(root.path(), "sys/devices/system/node/node2/cpulist", "\n");
        assert_eq!(Topology::read(root.path()), topology(&[&[0, 2], &[1]], &[&[0, 1], &[2, 3]]));
    }

    #[test]
    fn machine_without_sysfs_has_cores_of_one_cpu() {
        let read = Topology::read(Path::new("/nonexistent"));
        assert_eq!(read, Topology::default());
        assert_eq!(read.one_per_core(&BTreeSet::from([0, 1])), BTreeSet::from([0, 1]));
        assert_eq!(read.cpus_of_node(0), None);
    }

    #[test]
    fn core_is_taken_once_by_its_first_usable_cpu() {
        let smt = topology(&[&[0, 4], &[1, 5], &[2, 6], &[3, 7]], &[]);
        assert_eq!(smt.one_per_core(&(0..8).collect()), (0..4).collect());
        // CPU 0 is not ours: its core is served by the other one.
        assert_eq!(smt.one_per_core(&(1..8).collect()), BTreeSet::from([1, 2, 3, 4]));
    }

    #[test]
    fn this_machine_has_at_least_one_core() {
        let root = Path::new("/");
        let cpus = numbered(&root.join("sys/devices/system/cpu"), "cpu");
        assert!(!Topology::read(root).one_per_core(&cpus).is_empty());
    }
}
