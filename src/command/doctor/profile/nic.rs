//! The NIC: its queues, their interrupts, and what the profile makes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::super::finding::{Check, Finding, Subject, counted};
use super::change::Change;
use super::file;
use crate::config::{parse_list, show_list};

/// What sysfs and procfs say about one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Nic {
    pub(super) name: String,
    /// Whether there is hardware behind it, be it emulated; a bond, a bridge or a VLAN has none.
    pub(super) is_device: bool,
    /// The memory node that it is attached to; none where the machine has one only, or does not say.
    pub(super) node: Option<usize>,
    /// For each receive queue the CPUs that its packets are passed on to (RPS).
    pub(super) receive: BTreeMap<usize, BTreeSet<usize>>,
    /// For each transmit queue the CPUs that send through it (XPS); none where the driver has no choice.
    pub(super) transmit: BTreeMap<usize, Option<BTreeSet<usize>>>,
    /// For each queue with an interrupt of its own: the interrupt, and the CPUs that it may go to.
    pub(super) interrupts: BTreeMap<usize, Interrupt>,
    /// Whether irqbalance runs, which moves interrupts as it likes.
    pub(super) is_balanced: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interrupt {
    pub(super) number: usize,
    pub(super) cpus: BTreeSet<usize>,
}

impl Nic {
    /// The interface of this name below `root`; none where there is no such interface.
    pub(super) fn read(root: &Path, name: &str) -> Option<Self> {
        let folder = root.join("sys/class/net").join(name);
        if !folder.is_dir() {
            return None;
        }
        let device = folder.join("device");
        let node = text(&device.join("numa_node")).and_then(|node| node.parse().ok());
        let queues = |kind: &str| {
            let number = |name: String| name.strip_prefix(kind)?.parse::<usize>().ok();
            let names = names(&folder.join("queues")).into_iter();
            names.filter_map(number).collect::<Vec<_>>()
        };
        let mask = |path: String| text(&folder.join("queues").join(path)).and_then(|text| parse_mask(&text));
        let receive = queues("rx-").into_iter();
        let transmit = queues("tx-").into_iter();
        Some(Self {
            name: name.to_owned(),
            is_device: device.exists(),
            node,
            receive: receive.map(|queue| (queue, mask(format!("rx-{queue}/rps_cpus")).unwrap_or_default())).collect(),
            transmit: transmit.map(|queue| (queue, mask(format!("tx-{queue}/xps_cpus")))).collect(),
            interrupts: read_interrupts(root, &device),
            is_balanced: runs(root, "irqbalance"),
        })
    }

    /// The interface that the default route goes through.
    pub(super) fn default_name(root: &Path) -> Option<String> {
        let routes = text(&root.join("proc/net/route"))?;
        let name = |line: &str| {
            let mut words = line.split_whitespace();
            let (name, destination) = (words.next()?, words.next()?);
            (destination == "00000000").then(|| name.to_owned())
        };
        routes.lines().skip(1).find_map(name)
    }

    /// What the profile wants of it, with workers on `workers`.
    pub(super) fn judge(&self, wanted: &file::Nic, workers: &BTreeSet<usize>) -> Vec<(Finding, Option<Change>)> {
        let workers: Vec<usize> = workers.iter().copied().collect();
        let mut judged = Vec::new();
        if wanted.queues == file::Queues::OnePerWorker {
            judged.push(self.judge_queues(workers.len()));
            if self.receive.len() != workers.len() {
                // Other queues come with another number; their interrupts are judged when they are there.
                return judged;
            }
        }
        if wanted.interrupts != file::Interrupts::Keep {
            judged.push(self.judge_balance());
            if self.interrupts.is_empty() {
                judged.push(self.judge_without_interrupts());
            }
        }
        for (&queue, interrupt) in &self.interrupts {
            let cpus: BTreeSet<usize> = match wanted.interrupts {
                file::Interrupts::Keep => break,
                file::Interrupts::WorkerNode => workers.iter().copied().collect(),
                file::Interrupts::OwnWorker => own(&workers, queue),
            };
            judged.push(self.judge_interrupt(queue, interrupt, &cpus));
        }
        for (&queue, cpus) in &self.transmit {
            match (wanted.transmit, cpus) {
                (file::Transmit::Keep, _) | (_, None) => {}
                (file::Transmit::OwnWorker, Some(cpus)) => {
                    let path = format!("/sys/class/net/{}/queues/tx-{queue}/xps_cpus", self.name);
                    judged.push(self.judge_mask("transmit_queue", queue, &path, cpus, &own(&workers, queue)));
                }
            }
        }
        for (&queue, cpus) in &self.receive {
            if wanted.receive == file::Receive::ByQueue {
                let path = format!("/sys/class/net/{}/queues/rx-{queue}/rps_cpus", self.name);
                judged.push(self.judge_mask("receive_queue", queue, &path, cpus, &BTreeSet::new()));
            }
        }
        judged
    }

    fn check(&self, name: &'static str, found: String, wanted: impl Into<String>) -> Check {
        Check::new(Subject::Profile, name, found, wanted).about(&self.name)
    }

    fn judge_queues(&self, worker_count: usize) -> (Finding, Option<Change>) {
        let (name, found) = (&self.name, self.receive.len());
        let wanted = format!("{}, one for each worker", counted(worker_count, "queue"));
        let check = self.check("queues", counted(found, "receive queue"), wanted);
        if found == worker_count {
            return (check.ok(), None);
        }
        let remedy = format!(
            "run `ethtool -L {name} combined {worker_count}`; where the NIC has fewer (`ethtool -l {name}`), set \
             workers.count to what it has"
        );
        let change = Change::Channels { interface: name.clone(), found, wanted: worker_count };
        (check.warning(remedy), Some(change))
    }

    fn judge_balance(&self) -> (Finding, Option<Change>) {
        let check = |found: &str| Check::new(Subject::Profile, "irqbalance", found, "not running");
        if self.is_balanced {
            let remedy = "run `systemctl disable --now irqbalance`, or keep it off these interrupts (--banirq)";
            return (check("runs, and moves interrupts away from where they are put").warning(remedy), None);
        }
        (check("does not run").ok(), None)
    }

    fn judge_without_interrupts(&self) -> (Finding, Option<Change>) {
        let found = if self.is_device { "no interrupts of queues" } else { "no device behind it" };
        let check = self.check("interrupts", found.to_owned(), "an interrupt for each queue (MSI-X)");
        let remedy = "name the NIC itself with --interface where this is a bond, a bridge or a VLAN; a NIC without \
                      interrupts for its queues suits the profile per-cpu only";
        (check.warning(remedy), None)
    }

    fn judge_interrupt(&self, queue: usize, found: &Interrupt, cpus: &BTreeSet<usize>) -> (Finding, Option<Change>) {
        let Interrupt { number, cpus: found } = found;
        let (list, wanted) = (show_list(found), show_list(cpus));
        let check = Check::new(Subject::Profile, "interrupt", format!("interrupt {number} on CPU {list}"), &wanted)
            .about(format!("{} {queue}", self.name));
        if !found.is_empty() && found.is_subset(cpus) {
            return (check.ok(), None);
        }
        let path = format!("/proc/irq/{number}/smp_affinity_list");
        let remedy = format!("run `echo {wanted} > {path}`, or tuning/apply");
        (check.warning(remedy), Some(Change::Write { path, found: list, wanted }))
    }

    fn judge_mask(
        &self,
        name: &'static str,
        queue: usize,
        path: &str,
        found: &BTreeSet<usize>,
        cpus: &BTreeSet<usize>,
    ) -> (Finding, Option<Change>) {
        let say = |cpus: &BTreeSet<usize>| match cpus.is_empty() {
            true => "no CPU".to_owned(),
            false => format!("CPU {}", show_list(cpus)),
        };
        let check = Check::new(Subject::Profile, name, say(found), say(cpus)).about(format!("{} {queue}", self.name));
        if found == cpus {
            return (check.ok(), None);
        }
        let (found, wanted) = (show_mask(found), show_mask(cpus));
        let remedy = format!("run `echo {wanted} > {path}`, or tuning/apply");
        (check.warning(remedy), Some(Change::Write { path: path.to_owned(), found, wanted }))
    }
}

/// The CPU of the worker that a queue belongs to; with more queues than workers they go round.
fn own(workers: &[usize], queue: usize) -> BTreeSet<usize> {
    workers.get(queue % workers.len().max(1)).copied().into_iter().collect()
}

/// The interrupts of a device that belong to a receive queue, by queue.
fn read_interrupts(root: &Path, device: &Path) -> BTreeMap<usize, Interrupt> {
    // A virtio device has its interrupts at its parent, the PCI device. The link is to be followed first.
    let real = fs::canonicalize(device).unwrap_or_else(|_| device.to_owned());
    let mut numbers = names(&real.join("msi_irqs"));
    if numbers.is_empty() {
        numbers = real.parent().map(|parent| names(&parent.join("msi_irqs"))).unwrap_or_default();
    }
    let read = |number: String| {
        let number: usize = number.parse().ok()?;
        let actions = text(&root.join(format!("sys/kernel/irq/{number}/actions")))?;
        let queue = actions.split(',').find_map(receive_queue)?;
        let list = text(&root.join(format!("proc/irq/{number}/smp_affinity_list")))?;
        let cpus = parse_list(&list).map(BTreeSet::from_iter).unwrap_or_default();
        Some((queue, Interrupt { number, cpus }))
    };
    numbers.into_iter().filter_map(read).collect()
}

/// The receive queue that an interrupt's name stands for: `eth0-TxRx-3`, `ens5-Tx-Rx-3`, `mlx5_comp3@pci:0000:01:00.0`,
/// `virtio0-input.3`, `eth0-rx-3`, `eth0-fp-3`. None for what is not named so: configuration, errors, transmit alone.
fn receive_queue(name: &str) -> Option<usize> {
    let name = name.split('@').next().unwrap_or_default().trim().to_ascii_lowercase();
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let queue = name[stem.len()..].parse().ok()?;
    let stem = stem.trim_end_matches(['-', '.', '_']);
    ["txrx", "tx-rx", "comp", "input", "rx", "fp", "queue", "q"].iter().any(|end| stem.ends_with(end)).then_some(queue)
}

/// Whether a process of this name runs.
fn runs(root: &Path, name: &str) -> bool {
    let proc = root.join("proc");
    let processes = names(&proc).into_iter().filter(|entry| entry.bytes().all(|byte| byte.is_ascii_digit()));
    processes.map(|process| proc.join(process).join("comm")).any(|comm| text(&comm).as_deref() == Some(name))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn text(path: &PathBuf) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Reads a mask as the kernel writes it: hexadecimal groups of 32 bits, the highest first.
fn parse_mask(text: &str) -> Option<BTreeSet<usize>> {
    let mut cpus = BTreeSet::new();
    for (group, word) in text.rsplit(',').enumerate() {
        let bits = u32::from_str_radix(word, 16).ok()?;
        cpus.extend((0..32).filter(|bit| bits >> bit & 1 == 1).map(|bit| group * 32 + bit));
    }
    Some(cpus)
}

fn show_mask(cpus: &BTreeSet<usize>) -> String {
    let group_count = cpus.last().map_or(1, |last| last / 32 + 1);
    let bits = |group: usize| {
        let inside = cpus.range(group * 32..(group + 1) * 32);
        inside.fold(0_u32, |bits, cpu| bits | 1 << (cpu % 32))
    };
    (0..group_count).rev().map(|group| format!("{:08x}", bits(group))).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_read_and_written_as_the_kernel_does() {
        assert_eq!(parse_mask("00000000,00000003"), Some(BTreeSet::from([0, 1])));
        assert_eq!(parse_mask("1,80000000"), Some(BTreeSet::from([31, 32])));
        assert_eq!(parse_mask("3"), Some(BTreeSet::from([0, 1])));
        assert_eq!(parse_mask("x"), None);
        for cpus in [BTreeSet::new(), BTreeSet::from([0]), BTreeSet::from([31, 32, 100])] {
            assert_eq!(parse_mask(&show_mask(&cpus)), Some(cpus));
        }
    }

    #[test]
    fn interrupts_of_receive_queues_are_known_by_the_names_of_common_drivers() {
        for (name, queue) in [
            ("eth0-TxRx-3", Some(3)),
            ("i40e-eth0-TxRx-12", Some(12)),
            ("ens5-Tx-Rx-0", Some(0)),
            ("mlx5_comp7@pci:0000:01:00.0", Some(7)),
            ("virtio0-input.1", Some(1)),
            ("eth0-rx-2", Some(2)),
            ("virtio0-output.1", None),
            ("virtio0-config", None),
            ("mlx5_async0@pci:0000:01:00.0", None),
            ("eth0-tx-2", None),
            ("eth0", None),
        ] {
            assert_eq!(receive_queue(name), queue, "{name}");
        }
    }

    #[test]
    fn queues_beyond_the_workers_go_round() {
        assert_eq!(own(&[0, 2], 3), BTreeSet::from([2]));
        assert_eq!(own(&[], 3), BTreeSet::new());
    }
}
