//! How far the machine is from a profile of `tuning/`, and what would bring it there.

mod change;
mod file;
mod knob;
mod nic;

use std::collections::BTreeSet;
use std::path::Path;

use super::finding::{Check, Finding, Subject};
use super::plan::Plan;
use crate::config::{Machine, show_list};
use crate::worker::Steering;
use change::Change;
pub(super) use file::Error;
use file::{Nodes, Profile, Threads};
use nic::Nic;

/// What the machine is compared with, and where it is looked for.
pub(super) struct Comparison<'a> {
    profile: Profile,
    name: String,
    /// The NIC; none: that of the default route.
    interface: Option<&'a str>,
    /// `/`, or a copy of a machine's /proc and /sys.
    root: &'a Path,
}

/// What came of it.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) findings: Vec<Finding>,
    changes: Vec<Change>,
}

impl<'a> Comparison<'a> {
    /// # Errors
    /// When there is no such profile, or its file is wrong.
    pub(super) fn new(profile: &str, interface: Option<&'a str>, root: &'a Path) -> Result<Self, Error> {
        Ok(Self { profile: Profile::load(profile)?, name: profile.to_owned(), interface, root })
    }

    pub(super) fn judge(&self, machine: &Machine, plan: Option<&Plan>) -> Outcome {
        let mut outcome = Outcome::default();
        let found = format!("{}: {}", self.name, self.profile.summary);
        outcome.findings.push(Check::new(Subject::Profile, "profile", found, "").ok());
        let name = self.interface.map(str::to_owned).or_else(|| Nic::default_name(self.root));
        let nic = name.as_deref().and_then(|name| Nic::read(self.root, name));
        if nic.is_none() && self.needs_nic() {
            outcome.findings.push(no_nic(name.as_deref()));
        }
        let cpus = self.cpus(machine, nic.as_ref());
        outcome.findings.push(self.judge_placement(&cpus, plan));
        for knob in self.profile.knobs() {
            let found = std::fs::read_to_string(self.root.join(&knob.path()[1..])).ok();
            outcome.take(knob.judge(found.as_deref()));
        }
        for judged in nic.iter().flat_map(|nic| nic.judge(&self.profile.nic, &cpus)) {
            outcome.take(judged);
        }
        outcome
    }

    fn needs_nic(&self) -> bool {
        let file::Nic { queues, interrupts, transmit, receive } = &self.profile.nic;
        self.profile.workers.nodes == Nodes::Nic
            || *queues != file::Queues::Keep
            || *interrupts != file::Interrupts::Keep
            || *transmit != file::Transmit::Keep
            || *receive != file::Receive::Keep
    }

    /// The CPUs that the profile gives workers.
    fn cpus(&self, machine: &Machine, nic: Option<&Nic>) -> BTreeSet<usize> {
        let mut cpus = machine.usable();
        let node = nic.and_then(|nic| nic.node).filter(|_| self.profile.workers.nodes == Nodes::Nic);
        if let Some(of_node) = node.and_then(|node| machine.topology.cpus_of_node(node)) {
            let inside: BTreeSet<usize> = cpus.intersection(of_node).copied().collect();
            if !inside.is_empty() {
                cpus = inside;
            }
        }
        match self.profile.workers.threads {
            Threads::All => cpus,
            Threads::OnePerCore => machine.topology.one_per_core(&cpus),
        }
    }

    fn judge_placement(&self, cpus: &BTreeSet<usize>, plan: Option<&Plan>) -> Finding {
        let steering = match self.profile.workers.steering {
            file::Steering::Hash => Steering::Hash,
            file::Steering::Cpu => Steering::Cpu,
        };
        let word = |steering| match steering {
            Steering::Hash => "hash",
            Steering::Cpu => "cpu",
        };
        let written = match (self.profile.workers.nodes, self.profile.workers.threads) {
            (Nodes::All, Threads::All) => "auto".to_owned(),
            (Nodes::All, Threads::OnePerCore) => "cores".to_owned(),
            (Nodes::Nic, _) => show_list(cpus),
        };
        let wanted = format!("workers on CPU {}, steering by {}", show_list(cpus), word(steering));
        let keys = format!("workers.cpus = \"{written}\" and workers.steering = \"{}\"", word(steering));
        let check = |found: String| Check::new(Subject::Profile, "placement", found, &wanted);
        let Some(plan) = plan else {
            return check(format!("{wanted}: {keys} (--config FILE compares)")).ok();
        };
        let found = format!("workers on CPU {}, steering by {}", show_list(&plan.cpus), word(plan.steering));
        if plan.cpus.iter().copied().eq(cpus.iter().copied()) && plan.steering == steering {
            return check(found).ok();
        }
        check(found).warning(format!("set {keys}, without workers.count"))
    }
}

impl Outcome {
    fn take(&mut self, (finding, change): (Finding, Option<Change>)) {
        self.findings.push(finding);
        self.changes.extend(change);
    }

    /// The changes, one a line; docs/doctor.md describes the form.
    pub(super) fn changes(&self) -> String {
        self.changes.iter().map(|change| change.line() + "\n").collect()
    }
}

fn no_nic(name: Option<&str>) -> Finding {
    let found = match name {
        Some(name) => format!("there is no interface {name}"),
        None => "no default route tells which NIC is meant".to_owned(),
    };
    Check::new(Subject::Profile, "nic", found, "the NIC that clients come through")
        .warning("name it with --interface; `ip -br link` lists them")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use super::super::finding::Level;
    use super::super::plan::testing::plan;
    use super::*;
    use crate::ktls::Mode;

    fn judge(profile: &str, plan: Option<&Plan>) -> Finding {
        let comparison = Comparison::new(profile, None, Path::new("/nonexistent")).unwrap();
        let cpus: BTreeSet<usize> = BTreeSet::from([0, 1]);
        comparison.judge_placement(&cpus, plan)
    }

    #[test]
    fn placement_of_the_configuration_is_compared_with_the_profile() {
        let mut plan = plan(Mode::Auto);
        assert_eq!(judge("per-cpu", Some(&plan)).level(), Level::Ok);
        let finding = judge("nic-queues", Some(&plan));
        assert_eq!(finding.level(), Level::Warning);
        assert!(
            finding.remedy().is_some_and(|text| text.contains("workers.cpus = \"0-1\" and workers.steering = \"cpu\""))
        );
        plan.cpus = vec![0];
        assert_eq!(judge("per-cpu", Some(&plan)).level(), Level::Warning);
        assert_eq!(judge("per-core", None).level(), Level::Ok);
    }
}
