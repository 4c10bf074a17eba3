//! Two nodes that share a ring file agree, and no expired key opens, for any sequence of clock steps, maintenance runs,
//! reloads and restarts.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod ticket_common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use sluice::ticket::{
    CLOCK_SKEW_MAX, Keeper, KeeperError, KeyName, LockWait, Lookup, RingFile, RingShape, ScopeKeys, Source, UnixSeconds,
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
}

fn event() -> impl Strategy<Value = (usize, Event)> {
    let step = prop_oneof![-5000_i64..5000, -130_i64..130, 0_i64..700];
    let event = prop_oneof![
        4 => step.prop_map(Event::ClockStep),
        3 => Just(Event::Maintain),
        1 => Just(Event::Reload),
        1 => Just(Event::Restart),
    ];
    (0..2_usize, event)
}

struct Node {
    path: PathBuf,
    keeper: Keeper,
    keys: Arc<ScopeKeys>,
    now: UnixSeconds,
}

impl Node {
    fn start(path: &Path, now: UnixSeconds) -> Result<Self, KeeperError> {
        let mut keeper = Keeper::open_at(Source::File(path.to_path_buf()), &[], now)?;
        let keys = keeper.scope_at(scope("edge"), now)?;
        Ok(Self { path: path.to_path_buf(), keeper, keys, now })
    }

    /// Tells whether the tables are of this moment now.
    fn apply(&mut self, event: &Event) -> Result<bool, TestCaseError> {
        let before = self.first_epoch();
        let result = match event {
            Event::ClockStep(by) => {
                self.now = UnixSeconds(self.now.0.saturating_add_signed(*by));
                Ok(())
            }
            Event::Maintain => self.keeper.maintain_at(self.now).map(drop),
            Event::Reload => self.keeper.reload_at(self.now).map(drop),
            Event::Restart => Self::start(&self.path, self.now).map(|node| *self = node),
        };
        // The other node's clock may have ratcheted the file past ours: then ours stays. Nothing else may go wrong.
        prop_assert!(matches!(result, Ok(()) | Err(KeeperError::Ahead { .. })), "{:?}", result);
        // A new process starts where the file is, and what the former one did not write is forgotten.
        prop_assert!(self.first_epoch() >= before || matches!(event, Event::Restart), "a ring never goes back");
        Ok(match event {
            Event::ClockStep(_) => false,
            Event::Maintain => true,
            Event::Reload | Event::Restart => result.is_ok(),
        })
    }

    fn first_epoch(&self) -> u64 {
        self.keeper.status_at(self.now).unwrap().ring.unwrap().first_epoch
    }

    fn sealing_name(&self) -> Option<KeyName> {
        self.keys.table().sealing_at(self.now).map(|key| key.name())
    }

    fn opens(&self, name: KeyName) -> bool {
        matches!(self.keys.table().opening_at(&name.0, self.now), Lookup::Current(_) | Lookup::Previous(_))
    }
}

/// When tickets of an epoch may be opened.
fn window(epoch: u64) -> std::ops::Range<UnixSeconds> {
    let end = shape().start_of(epoch + 1).plus(shape().retention() + CLOCK_SKEW_MAX);
    shape().start_of(epoch).minus(CLOCK_SKEW_MAX)..end
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn nodes_with_one_file_agree_and_no_expired_key_opens(events in prop::collection::vec(event(), 1..30)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ring");
        let file = RingFile::at(&path);
        let ring = sluice::ticket::Ring::generate_at(shape(), T0).unwrap();
        file.create(&file.lock(LockWait::Try).unwrap(), &ring).unwrap();
        let mut nodes = [Node::start(&path, T0).unwrap(), Node::start(&path, T0).unwrap()];
        let mut sealed: Vec<(KeyName, u64)> = Vec::new();
        for (which, event) in &events {
            let fresh = nodes[*which].apply(event)?;
            if let Some(name) = nodes[*which].sealing_name() {
                let epoch = shape().epoch_at(nodes[*which].now);
                // One epoch has one key, whoever seals and whenever.
                prop_assert!(sealed.iter().all(|(other, at)| (*other == name) == (*at == epoch)));
                sealed.push((name, epoch));
            }
            for (name, epoch) in &sealed {
                let node = &nodes[*which];
                let usable = window(*epoch).contains(&node.now);
                // With an old table too: what has expired by the clock does not open.
                prop_assert!(usable || !node.opens(*name), "expired, and opens");
                let derivable = *epoch >= node.first_epoch();
                prop_assert!(!(fresh && usable && derivable) || node.opens(*name), "alive, and does not open");
                prop_assert!(!fresh || derivable || !node.opens(*name), "ratcheted past, and opens");
            }
        }
    }
}
