//! `[workers]`: which CPUs, how many of them, and what each worker may hold.

use std::ops::Range;

use crate::worker::{IoDriver, Settings, Steering};

use super::super::cpu::{Machine, show_list};
use super::super::diagnostic::Diagnostic;
use super::super::limit;
use super::super::raw;
use super::super::report::Report;
use super::super::scalar::{CpuChoice, WorkerCount};

pub(super) fn resolve(raw: &raw::Workers, machine: &Machine, report: &mut Report) -> Settings {
    let mut cpus = match report.get(&raw.cpus) {
        None | Some((CpuChoice::Auto, _)) => machine.usable().into_iter().collect(),
        Some((CpuChoice::Cores, _)) => machine.topology.one_per_core(&machine.usable()).into_iter().collect(),
        Some((CpuChoice::List(list), span)) => {
            check_cpus(&list, &span, machine, report);
            list
        }
    };
    if let Some((WorkerCount::Number(count), span)) = report.get(&raw.count) {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count == 0 || count > cpus.len() {
            too_many(count, &cpus, &span, report);
        }
        cpus.truncate(count);
    }
    let connections_max = report.bounded(&raw.connections_max, &limit::CONNECTIONS_MAX);
    let handshakes_max = report.bounded(&raw.handshakes_max, &limit::HANDSHAKES_MAX);
    let buffer_memory = report.bounded(&raw.buffer_memory, &limit::BUFFER_MEMORY);
    Settings {
        cpus,
        steering: report.get_or(&raw.steering, Steering::Hash),
        io: report.get_or(&raw.io, IoDriver::Auto),
        connections_max: usize::try_from(connections_max).unwrap_or(usize::MAX),
        handshakes_max: usize::try_from(handshakes_max).unwrap_or(usize::MAX),
        buffer_bytes_max: usize::try_from(buffer_memory.0).unwrap_or(usize::MAX),
    }
}

fn check_cpus(list: &[usize], span: &Range<usize>, machine: &Machine, report: &mut Report) {
    let absent: Vec<usize> = list.iter().copied().filter(|cpu| !machine.present.contains(cpu)).collect();
    let offline = list.iter().copied().filter(|cpu| machine.present.contains(cpu) && !machine.online.contains(cpu));
    let offline: Vec<usize> = offline.collect();
    let barred = list.iter().copied().filter(|cpu| machine.online.contains(cpu) && !machine.allowed.contains(cpu));
    let barred: Vec<usize> = barred.collect();
    let usable = format!("allowed: {}", show_list(&machine.usable()));
    let mut push = |cpus: &[usize], title: &str, help: &str| {
        if !cpus.is_empty() {
            let finding = Diagnostic::error(title).allowed(usable.clone()).help(help);
            report.push_at(finding, span, format!("CPU {}", show_list(cpus)));
        }
    };
    push(&absent, "`workers.cpus` names a CPU that does not exist", "lscpu -e lists the CPUs of this machine");
    push(
        &offline,
        "`workers.cpus` names a CPU that is offline",
        "bring it online in /sys/devices/system/cpu/cpuN/online",
    );
    push(
        &barred,
        "`workers.cpus` names a CPU that this process may not use",
        "look for a cgroup cpuset, systemd's CPUAffinity= or a taskset around the process",
    );
}

fn too_many(count: usize, cpus: &[usize], span: &Range<usize>, report: &mut Report) {
    let title =
        if count == 0 { "`workers.count` is zero" } else { "`workers.count` is larger than the number of CPUs" };
    let finding = Diagnostic::error(title)
        .allowed(format!("allowed: 1 to {} (CPUs {}), or \"auto\"", cpus.len(), show_list(cpus)))
        .help("each worker has a CPU of its own: more workers than CPUs only wait for each other");
    report.push_at(finding, span, format!("found {count}"));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use std::collections::BTreeSet;

    use super::super::super::shape::Index;
    use super::super::super::topology::testing::topology;
    use super::*;

    fn machine() -> Machine {
        Machine {
            present: BTreeSet::from([0, 1, 2, 3]),
            online: BTreeSet::from([0, 1, 2]),
            allowed: BTreeSet::from([0, 2, 3]),
            topology: topology(&[&[0, 2], &[1, 3]], &[]),
        }
    }

    fn resolved(text: &str) -> (Settings, Vec<String>) {
        let raw: raw::Workers = toml::from_str(text).unwrap();
        let mut report = Report::new(Index::default(), Vec::new());
        let settings = resolve(&raw, &machine(), &mut report);
        (settings, report.into_findings().into_iter().map(|finding| finding.title).collect())
    }

    #[test]
    fn cpus_left_to_us_are_those_online_and_allowed() {
        let (settings, findings) = resolved("");
        assert_eq!(settings.cpus, [0, 2]);
        assert!(findings.is_empty());
    }

    #[test]
    fn cores_give_one_cpu_each() {
        assert_eq!(resolved("cpus = \"cores\"").0.cpus, [0]);
        assert!(resolved("cpus = \"cores\"\ncount = 2").1.iter().any(|title| title.contains("larger than")));
    }

    #[test]
    fn count_takes_the_first_cpus() {
        assert_eq!(resolved("count = 1").0.cpus, [0]);
        assert_eq!(resolved("count = 1\ncpus = \"2\"").0.cpus, [2]);
        assert!(resolved("count = 3").1.iter().any(|title| title.contains("larger than")));
        assert!(resolved("count = 0").1.iter().any(|title| title.contains("zero")));
    }

    #[test]
    fn cpu_that_cannot_be_used_is_refused_with_its_reason() {
        assert!(resolved("cpus = \"9\"").1.iter().any(|title| title.contains("does not exist")));
        assert!(resolved("cpus = \"3\"").1.iter().any(|title| title.contains("offline")));
        assert!(resolved("cpus = \"1\"").1.iter().any(|title| title.contains("may not use")));
        assert_eq!(resolved("cpus = \"1,3,9\"").1.len(), 3);
    }
}
