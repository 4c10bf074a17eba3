//! Two nodes that share a ring file agree, and no expired or revoked key opens, for any sequence of clock steps,
//! maintenance runs, reloads, restarts, revocations, and files that are put back.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod ticket_common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;
use sluice::ticket::{
    CLOCK_SKEW_MAX, Keeper, KeeperError, KeyName, LockWait, Lookup, Ring, RingFacts, RingFile, RingShape, ScopeKeys,
    Source, UnixSeconds, decode_ring,
};
use ticket_common::*;

const T0: UnixSeconds = UnixSeconds(1_800_000_000);

fn shape() -> RingShape {
    RingShape::new(Duration::from_secs(600), Duration::from_secs(1800)).unwrap()
}

#[derive(Clone, Debug)]
enum Event {
    ClockStep(i64),
    Maintain,
    Reload,
    Restart,
    /// `sluice tickets revoke`, by the clock of the node.
    Revoke,
    /// The file becomes what it was at some time before, revoked or not.
    PutBack(Index),
}

fn event() -> impl Strategy<Value = (usize, Event)> {
    let step = prop_oneof![-5000_i64..5000, -130_i64..130, 0_i64..700];
    let event = prop_oneof![
        8 => step.prop_map(Event::ClockStep),
        6 => Just(Event::Maintain),
        2 => Just(Event::Reload),
        2 => Just(Event::Restart),
        1 => Just(Event::Revoke),
        1 => any::<Index>().prop_map(Event::PutBack),
    ];
    (0..2_usize, event)
}

/// The file that the nodes share, and everything that it has ever been.
struct Shared {
    path: PathBuf,
    /// Open, so that no two have one inode: changes that a coarse clock cannot tell apart would look like none.
    former: Vec<(Vec<u8>, File)>,
}

impl Shared {
    fn ring(&self) -> Ring {
        RingFile::at(&self.path).load().unwrap().0
    }

    fn remember(&mut self) {
        let content = fs::read(&self.path).unwrap();
        self.former.push((content, File::open(&self.path).unwrap()));
    }

    /// The latest state of the newest generation.
    fn newest(&self) -> (u32, &[u8]) {
        let states = self.former.iter().map(|(content, _)| (decode_ring(content).unwrap().generation(), &content[..]));
        states.max_by_key(|(generation, _)| *generation).unwrap()
    }

    /// Revokes the ring, unless it is one that has been revoked: two revocations of the same state are two rings of one
    /// generation, which no node takes for one another (`forged_ring_under_the_same_id_is_refused`).
    fn revoke_at(&self, now: UnixSeconds) {
        let ring = self.ring();
        if ring.generation() == self.newest().0 {
            let file = RingFile::at(&self.path);
            file.replace(&file.lock(LockWait::Try).unwrap(), &ring.revoked_at(now).unwrap()).unwrap();
        }
    }

    fn put_back(&self, content: &[u8]) {
        let aside = self.path.with_extension("copy");
        fs::copy(&self.path, &aside).unwrap();
        fs::write(&aside, content).unwrap();
        fs::rename(&aside, &self.path).unwrap();
    }
}

struct Node {
    path: PathBuf,
    keeper: Keeper,
    keys: Arc<ScopeKeys>,
    now: UnixSeconds,
}

/// How a node's tables stand after an event.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tables {
    /// They are of this moment.
    Fresh,
    /// They may be of another.
    Old,
}

impl Node {
    fn start(path: &Path, now: UnixSeconds) -> Result<Self, KeeperError> {
        let mut keeper = Keeper::open_at(Source::File(path.to_path_buf()), &[], now)?;
        let keys = keeper.scope_at(scope("edge"), now)?;
        Ok(Self { path: path.to_path_buf(), keeper, keys, now })
    }

    fn apply(&mut self, event: &Event, shared: &Shared) -> Result<Tables, TestCaseError> {
        let before = self.facts();
        let offered = shared.ring();
        let result = match event {
            Event::ClockStep(by) => {
                self.now = UnixSeconds(self.now.0.saturating_add_signed(*by));
                Ok(())
            }
            Event::Maintain => self.keeper.maintain_at(self.now).map(drop),
            Event::Reload => self.keeper.reload_at(self.now).map(drop),
            Event::Restart => Self::start(&self.path, self.now).map(|node| *self = node),
            Event::Revoke => {
                shared.revoke_at(self.now);
                Ok(())
            }
            Event::PutBack(index) => {
                shared.put_back(&index.get(&shared.former).0);
                Ok(())
            }
        };
        let after = self.facts();
        // The other node's clock may have ratcheted the file past ours, or somebody has put back a revoked one: then
        // ours stays. Nothing else may go wrong.
        let is_expected = match &result {
            Ok(()) | Err(KeeperError::Ahead { .. }) => true,
            Err(KeeperError::Revoked { file, own, .. }) => file < own && offered.generation() == *file,
            Err(_) => false,
        };
        prop_assert!(is_expected, "{:?}", result);
        // A new process starts where the file is, and what the former one had seen is forgotten.
        if !matches!(event, Event::Restart) {
            prop_assert!(after.generation >= before.generation, "a revocation is never taken back");
            // By a wrong clock the ring had gone too far, and the file had it as it was.
            let is_restored = before.first_epoch > shape().epoch_at(self.now);
            let may_go_back = is_restored || after.generation > before.generation;
            prop_assert!(after.first_epoch >= before.first_epoch || may_go_back, "a ring never goes back");
        }
        if matches!(event, Event::Maintain | Event::Reload) {
            prop_assert!(after.generation >= offered.generation(), "a revocation is obeyed, whatever the clocks say");
        }
        Ok(match event {
            Event::Maintain => Tables::Fresh,
            Event::Reload | Event::Restart if result.is_ok() => Tables::Fresh,
            _ => Tables::Old,
        })
    }

    fn facts(&self) -> RingFacts {
        self.keeper.status_at(self.now).unwrap().ring.unwrap()
    }

    fn sealing_name(&self) -> Option<KeyName> {
        self.keys.table().sealing_at(self.now).map(|key| key.name())
    }

    fn opens(&self, name: KeyName) -> bool {
        matches!(self.keys.table().opening_at(&name.0, self.now), Lookup::Current(_) | Lookup::Previous(_))
    }
}

/// A key that has sealed.
struct Sealed {
    name: KeyName,
    generation: u32,
    epoch: u64,
}

/// When tickets of an epoch may be opened.
fn window(epoch: u64) -> std::ops::Range<UnixSeconds> {
    let end = shape().start_of(epoch + 1).plus(shape().retention() + CLOCK_SKEW_MAX);
    shape().start_of(epoch).minus(CLOCK_SKEW_MAX)..end
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn nodes_with_one_file_agree_and_no_expired_or_revoked_key_opens(events in prop::collection::vec(event(), 1..40)) {
        let directory = tempfile::tempdir().unwrap();
        let mut shared = Shared { path: directory.path().join("ring"), former: Vec::new() };
        let file = RingFile::at(&shared.path);
        file.create(&file.lock(LockWait::Try).unwrap(), &Ring::generate_at(shape(), T0).unwrap()).unwrap();
        shared.remember();
        let mut nodes = [Node::start(&shared.path, T0).unwrap(), Node::start(&shared.path, T0).unwrap()];
        let mut sealed: Vec<Sealed> = Vec::new();
        let mut latest = T0;
        for (which, event) in &events {
            let tables = nodes[*which].apply(event, &shared)?;
            shared.remember();
            check(&nodes[*which], tables, &mut sealed)?;
            latest = latest.max(nodes[*which].now);
        }
        // Whatever has happened: the newest file, and a clock that none has been ahead of, bring them together.
        shared.put_back(shared.newest().1);
        for node in &mut nodes {
            node.now = latest;
            let done = node.keeper.maintain_at(latest);
            prop_assert!(done.is_ok(), "{:?}", done);
            check(node, Tables::Fresh, &mut sealed)?;
        }
        let names = [nodes[0].sealing_name(), nodes[1].sealing_name()];
        prop_assert!(names[0].is_some() && names[0] == names[1], "{:?}", names);
    }
}

fn check(node: &Node, tables: Tables, sealed: &mut Vec<Sealed>) -> Result<(), TestCaseError> {
    let facts = node.facts();
    if let Some(name) = node.sealing_name() {
        let (generation, epoch) = (facts.generation, shape().epoch_at(node.now));
        // One epoch of one generation has one key, whoever seals and whenever.
        let agrees = |other: &Sealed| (other.name == name) == (other.generation == generation && other.epoch == epoch);
        prop_assert!(sealed.iter().all(agrees), "nodes disagree");
        sealed.push(Sealed { name, generation, epoch });
    }
    for Sealed { name, generation, epoch } in sealed.iter() {
        let opens = node.opens(*name);
        // With an old table too: what has expired by the clock does not open.
        let is_usable = window(*epoch).contains(&node.now);
        prop_assert!(is_usable || !opens, "expired, and opens");
        prop_assert!(*generation == facts.generation || !opens, "revoked, and opens");
        let is_derivable = *generation == facts.generation && *epoch >= facts.first_epoch;
        let is_fresh = tables == Tables::Fresh;
        prop_assert!(!(is_fresh && is_usable && is_derivable) || opens, "alive, and does not open");
        prop_assert!(!is_fresh || is_derivable || !opens, "ratcheted past, and opens");
    }
    Ok(())
}
