//! Ring files: what several processes, damage, clocks and revocations do to the keys in use.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod skip_support;
mod ticket_common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use openssl::ssl::SslVersion;
use skip_support::skip;
use sluice::ticket::{
    ChainSecret, FileError, FormatError, KEY_FILES_MAX, Keeper, KeeperError, KeyName, KeySource, LockWait, Lookup,
    ManualClock, Persisted, REPLACED_RINGS_MAX, RETRY_INTERVAL, Ring, RingChange, RingError, RingEvent, RingFile,
    RingShape, RingStanding, ScopeHash, Source, TicketCounters, TicketOpening, TicketSettings, UnixSeconds,
    encode_ring, seal,
};
use tempfile::TempDir;
use ticket_common::*;

const T0: UnixSeconds = UnixSeconds(1_800_000_000);
const EPOCH: Duration = Duration::from_secs(3600);
/// Longer than any ticket lives, with all its margins.
const LONG: Duration = Duration::from_secs(15 * 3600);

struct Node {
    _directory: TempDir,
    path: PathBuf,
}

impl Node {
    fn with(ring: &Ring) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ticket.ring");
        write(&path, ring);
        Self { _directory: directory, path }
    }

    fn keeper_at(&self, now: UnixSeconds) -> Result<Keeper, KeeperError> {
        Keeper::open_at(Source::File(self.path.clone()), &[], now)
    }

    fn read(&self) -> Ring {
        RingFile::at(&self.path).load().unwrap().0
    }
}

fn write(path: &Path, ring: &Ring) {
    let file = RingFile::at(path);
    file.replace(&file.lock(LockWait::Try).unwrap(), ring).unwrap();
}

fn sealing_name(keeper: &mut Keeper, now: UnixSeconds) -> Option<KeyName> {
    keeper.scope_at(scope("edge"), now).unwrap().table().sealing_at(now).map(|key| key.name())
}

fn is_usable(keeper: &mut Keeper, name: KeyName, now: UnixSeconds) -> bool {
    let keys = keeper.scope_at(scope("edge"), now).unwrap();
    let table = keys.table();
    matches!(table.opening_at(&name.0, now), Lookup::Current(_) | Lookup::Previous(_))
}

#[test]
fn session_resumes_after_a_restart_with_the_same_file() {
    let clock = ManualClock::at(real_now());
    let node = Node::with(&new_ring(clock.now()));
    let settings = TicketSettings::default();
    let session = {
        let mut keeper = node.keeper_at(clock.now()).unwrap();
        let keys = keeper.scope_at(scope("edge"), clock.now()).unwrap();
        connect(&server(SslVersion::TLS1_3, &keys, &settings, &clock), &Offer::default()).sessions.remove(0)
    };
    clock.advance(EPOCH);
    let mut keeper = node.keeper_at(clock.now()).unwrap();
    assert_eq!(keeper.maintain_at(clock.now()).unwrap().persisted.unwrap(), Persisted::Written);
    let keys = keeper.scope_at(scope("edge"), clock.now()).unwrap();
    assert!(connect(&server(SslVersion::TLS1_3, &keys, &settings, &clock), &Offer::resume(&session)).resumed);
}

#[test]
fn stolen_file_of_a_later_epoch_does_not_open_an_expired_ticket() {
    let clock = ManualClock::at(real_now());
    let node = Node::with(&new_ring(clock.now()));
    let mut keeper = node.keeper_at(clock.now()).unwrap();
    let keys = keeper.scope_at(scope("edge"), clock.now()).unwrap();
    let server = server(SslVersion::TLS1_3, &keys, &TicketSettings::default(), &clock);
    let ticket = ticket_of(connect(&server, &Offer::default()).session());
    let opens_with = |ring: &Ring, at: UnixSeconds| {
        let table = table_at(ring, &scope("edge"), at);
        seal::open(&table, &ticket, at).is_ok()
    };
    assert!(opens_with(&node.read(), clock.now()), "a file stolen today opens today's ticket");
    let issued = clock.now();
    while clock.now() < issued.plus(LONG) {
        clock.advance(EPOCH);
        keeper.maintain_at(clock.now()).unwrap().persisted.unwrap();
    }
    // The thief may set any clock.
    let stolen = node.read();
    for hours in -48_i64..48 {
        assert!(!opens_with(&stolen, UnixSeconds(issued.0.saturating_add_signed(hours * 3600))), "at {hours} h");
    }
}

#[test]
fn two_processes_share_a_file_and_agree_whoever_ratchets() {
    let node = Node::with(&new_ring(T0));
    let (mut a, mut b) = (node.keeper_at(T0).unwrap(), node.keeper_at(T0).unwrap());
    let mut now = T0;
    for round in 0..30 {
        now = now.plus(EPOCH);
        let (first, second) = if round % 2 == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
        assert_eq!(first.maintain_at(now).unwrap().persisted.unwrap(), Persisted::Written);
        let followed = second.maintain_at(now).unwrap();
        assert_eq!(followed.change, RingChange::Followed { epochs: 1 });
        assert_eq!(followed.persisted.unwrap(), Persisted::NotNeeded);
        let name = sealing_name(first, now).unwrap();
        assert_eq!(sealing_name(second, now), Some(name));
    }
    assert_eq!(node.read().first_epoch(), RingShape::default().oldest_alive_at(now));
}

#[test]
fn file_stays_private_and_alone_through_ratchets() {
    let node = Node::with(&new_ring(T0));
    let mut keeper = node.keeper_at(T0).unwrap();
    fs::write(node.path.with_file_name("ticket.ring.tmp"), "left by a crash").unwrap();
    keeper.maintain_at(T0.plus(EPOCH)).unwrap().persisted.unwrap();
    assert_eq!(fs::metadata(&node.path).unwrap().mode() & 0o777, 0o600);
    let directory = node.path.parent().unwrap();
    let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["ticket.ring", "ticket.ring.lock"]);
}

#[test]
fn symbolic_link_to_a_ring_survives_a_ratchet() {
    let node = Node::with(&new_ring(T0));
    let link = node.path.with_file_name("link");
    symlink(&node.path, &link).unwrap();
    let mut keeper = Keeper::open_at(Source::File(link.clone()), &[], T0).unwrap();
    keeper.maintain_at(T0.plus(EPOCH)).unwrap().persisted.unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    let other = Node::with(&node.read().revoked_at(T0.plus(EPOCH)).unwrap());
    fs::remove_file(&link).unwrap();
    symlink(&other.path, &link).unwrap();
    assert_eq!(keeper.maintain_at(T0.plus(EPOCH)).unwrap().change, RingChange::Revoked, "a moved link is followed");
    assert_eq!(node.read().first_epoch(), RingShape::default().oldest_alive_at(T0.plus(EPOCH)));
}

#[test]
fn damaged_or_exposed_file_gives_its_error_and_the_old_ring_stays() {
    type Damage = fn(&Path);
    type Check = fn(&FileError) -> bool;
    let cases: [(&str, Damage, Check); 9] = [
        (
            "empty",
            |path| fs::write(path, "").unwrap(),
            |error| format_error(error, |e| matches!(e, FormatError::Empty)),
        ),
        (
            "truncated",
            |path| {
                let content = fs::read(path).unwrap();
                fs::write(path, &content[..content.len() / 2]).unwrap();
            },
            |error| format_error(error, |e| matches!(e, FormatError::Truncated { .. })),
        ),
        (
            "one digit of the secret changed",
            |path| {
                let mut content = fs::read(path).unwrap();
                let at = content.windows(13).position(|bytes| bytes == b"chain-secret ").unwrap() + 20;
                content[at] = if content[at] == b'0' { b'1' } else { b'0' };
                fs::write(path, content).unwrap();
            },
            |error| format_error(error, |e| matches!(e, FormatError::Check)),
        ),
        (
            "noise",
            |path| fs::write(path, [0x80; 80]).unwrap(),
            |error| format_error(error, |e| matches!(e, FormatError::NotARing)),
        ),
        (
            "huge",
            |path| fs::File::options().write(true).open(path).unwrap().set_len(1 << 40).unwrap(),
            |error| matches!(error, FileError::TooLarge { .. }),
        ),
        (
            "world-readable",
            |path| fs::set_permissions(path, Permissions::from_mode(0o604)).unwrap(),
            |error| matches!(error, FileError::ReadableByOthers { mode: 0o604, .. }),
        ),
        (
            "group-readable",
            |path| fs::set_permissions(path, Permissions::from_mode(0o640)).unwrap(),
            |error| matches!(error, FileError::ReadableByOthers { mode: 0o640, .. }),
        ),
        ("missing", |path| fs::remove_file(path).unwrap(), |error| matches!(error, FileError::Missing { .. })),
        (
            "a FIFO",
            |path| {
                fs::remove_file(path).unwrap();
                nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR).unwrap();
            },
            |error| matches!(error, FileError::NotAFile { .. }),
        ),
    ];
    for (what, damage, check) in cases {
        let node = Node::with(&new_ring(T0));
        let mut keeper = node.keeper_at(T0).unwrap();
        let name = sealing_name(&mut keeper, T0).unwrap();
        damage(&node.path);
        for error in [keeper.reload_at(T0).map(drop).unwrap_err(), node.keeper_at(T0).map(drop).unwrap_err()] {
            let KeeperError::File(error) = error else { panic!("{what}: {error}") };
            assert!(check(&error), "{what}: {error:?}");
            assert!(error.to_string().contains("ticket.ring"), "{what}: {error}");
        }
        assert_eq!(sealing_name(&mut keeper, T0), Some(name), "{what}");
        // And it goes on ratcheting in memory.
        let later = T0.plus(EPOCH);
        let _ = keeper.maintain_at(later);
        assert!(sealing_name(&mut keeper, later).is_some_and(|next| next != name), "{what}");
        assert!(is_usable(&mut keeper, name, later), "{what}");
    }
}

fn format_error(error: &FileError, check: fn(&FormatError) -> bool) -> bool {
    matches!(error, FileError::Format { source, .. } if check(source))
}

#[test]
fn file_of_another_user_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root, who can give a file away");
    }
    let node = Node::with(&new_ring(T0));
    nix::unistd::chown(&node.path, Some(nix::unistd::Uid::from_raw(12_345)), None).unwrap();
    let error = node.keeper_at(T0).map(drop).unwrap_err();
    assert!(matches!(error, KeeperError::File(FileError::Owner { owner: 12_345, .. })), "{error}");
}

#[test]
fn revocation_reaches_a_node_by_its_file_and_cannot_be_taken_back() {
    let before = new_ring(T0);
    let node = Node::with(&before);
    let mut keeper = node.keeper_at(T0).unwrap();
    let name = sealing_name(&mut keeper, T0).unwrap();
    write(&node.path, &before.revoked_at(T0).unwrap());
    assert_eq!(keeper.maintain_at(T0).unwrap().change, RingChange::Revoked);
    assert!(!is_usable(&mut keeper, name, T0));
    let fresh = sealing_name(&mut keeper, T0).unwrap();

    write(&node.path, &before);
    let error = keeper.reload_at(T0).map(drop).unwrap_err();
    assert!(matches!(error, KeeperError::Revoked { file: 0, own: 1, .. }), "{error}");
    assert_eq!(sealing_name(&mut keeper, T0), Some(fresh));
    assert!(!is_usable(&mut keeper, name, T0));
    let events = keeper.telemetry();
    assert_eq!(events.events.of(RingEvent::Revoked).value(), 1);
    assert_eq!(events.events.of(RingEvent::RefusedRevoked).value(), 1);
}

#[test]
fn revoked_ring_cannot_be_taken_back_after_another_one_was_in_use_either() {
    let (before, other) = (new_ring(T0), new_ring(T0));
    let node = Node::with(&before);
    let mut keeper = node.keeper_at(T0).unwrap();
    let name = sealing_name(&mut keeper, T0).unwrap();
    let revoked = before.revoked_at(T0).unwrap();
    for (ring, change) in [(&revoked, RingChange::Revoked), (&other, RingChange::Replaced)] {
        write(&node.path, ring);
        assert_eq!(keeper.maintain_at(T0).unwrap().change, change);
    }
    write(&node.path, &before);
    let error = keeper.maintain_at(T0).map(drop).unwrap_err();
    assert!(matches!(error, KeeperError::Revoked { file: 0, own: 1, .. }), "{error}");
    assert!(!is_usable(&mut keeper, name, T0));
    // A new configuration remembers it, too.
    let error = Node::with(&before).keeper_at(T0).unwrap().succeed(&keeper).map(drop).unwrap_err();
    assert!(matches!(error, KeeperError::Revoked { file: 0, own: 1, .. }), "{error}");
    let moved = Node::with(&new_ring(T0)).keeper_at(T0).unwrap().succeed(&keeper).unwrap();
    let error = Node::with(&before).keeper_at(T0).unwrap().succeed(&moved).map(drop).unwrap_err();
    assert!(matches!(error, KeeperError::Revoked { file: 0, own: 1, .. }), "{error}");
    // So does one with key files alone in between.
    let directory = tempfile::tempdir().unwrap();
    let files = [key_file(&directory, "keys", &[1; 80])];
    let ringless = Keeper::open_at(Source::KeyFiles, &files, T0).unwrap();
    let revoked_keeper = Node::with(&revoked).keeper_at(T0).unwrap();
    let ringless = ringless.succeed(&revoked_keeper).unwrap();
    let error = Node::with(&before).keeper_at(T0).unwrap().succeed(&ringless).map(drop).unwrap_err();
    assert!(matches!(error, KeeperError::Revoked { file: 0, own: 1, .. }), "{error}");
    // After its revocation the ring is as good as any.
    write(&node.path, &revoked);
    assert_eq!(keeper.maintain_at(T0).unwrap().change, RingChange::Replaced);
    assert!(!is_usable(&mut keeper, name, T0));
}

#[test]
fn revoked_rings_beyond_the_limit_are_forgotten_the_first_one_first() {
    let rings: Vec<_> = (0..=REPLACED_RINGS_MAX).map(|_| new_ring(T0)).collect();
    let node = Node::with(&new_ring(T0));
    let mut keeper = node.keeper_at(T0).unwrap();
    for ring in &rings {
        write(&node.path, &ring.revoked_at(T0).unwrap());
        keeper.maintain_at(T0).unwrap();
    }
    write(&node.path, &new_ring(T0));
    keeper.maintain_at(T0).unwrap();
    write(&node.path, &rings[1]);
    assert!(matches!(keeper.maintain_at(T0), Err(KeeperError::Revoked { file: 0, own: 1, .. })));
    write(&node.path, &rings[0]);
    assert_eq!(keeper.maintain_at(T0).unwrap().change, RingChange::Replaced, "forgotten");
}

#[test]
fn forged_ring_under_the_same_id_is_refused() {
    let ring = new_ring(T0);
    let node = Node::with(&ring);
    let mut keeper = node.keeper_at(T0).unwrap();
    let name = sealing_name(&mut keeper, T0).unwrap();
    let chain = ChainSecret::generate().unwrap();
    write(&node.path, &Ring::from_parts(ring.id(), 0, ring.shape(), ring.first_epoch(), chain));
    let error = keeper.maintain_at(T0).map(drop).unwrap_err();
    assert!(matches!(error, KeeperError::Ring(RingError::Diverged { .. })), "{error}");
    assert_eq!(sealing_name(&mut keeper, T0), Some(name));
    assert_eq!(keeper.telemetry().events.of(RingEvent::RefusedDiverged).value(), 1);
}

#[test]
fn different_ring_replaces_the_one_in_use() {
    let node = Node::with(&new_ring(T0));
    let mut keeper = node.keeper_at(T0).unwrap();
    let name = sealing_name(&mut keeper, T0).unwrap();
    write(&node.path, &new_ring(T0));
    assert_eq!(keeper.reload_at(T0).unwrap().change, RingChange::Replaced);
    assert!(!is_usable(&mut keeper, name, T0));
    assert_ne!(sealing_name(&mut keeper, T0), Some(name));
}

#[test]
fn file_behind_is_ratcheted_forward_again() {
    let node = Node::with(&new_ring(T0));
    let backup = fs::read(&node.path).unwrap();
    let mut keeper = node.keeper_at(T0).unwrap();
    let now = T0.plus(2 * EPOCH);
    keeper.maintain_at(now).unwrap().persisted.unwrap();
    let name = sealing_name(&mut keeper, now).unwrap();
    fs::write(&node.path, backup).unwrap();
    let done = keeper.maintain_at(now).unwrap();
    assert_eq!(done.change, RingChange::KeptOurs { epochs: 2 });
    assert_eq!(done.persisted.unwrap(), Persisted::Written);
    assert_eq!(sealing_name(&mut keeper, now), Some(name));
    assert_eq!(node.read().first_epoch(), RingShape::default().oldest_alive_at(now));
}

#[test]
fn ring_ahead_of_this_nodes_clock_is_refused_and_the_old_stays() {
    let node = Node::with(&new_ring(T0));
    let mut keeper = node.keeper_at(T0).unwrap();
    let name = sealing_name(&mut keeper, T0).unwrap();
    let mut ahead = node.read();
    ahead.ratchet_at(T0.plus(LONG * 4)).unwrap();
    write(&node.path, &ahead);
    for error in [keeper.reload_at(T0).map(drop).unwrap_err(), node.keeper_at(T0).map(drop).unwrap_err()] {
        assert!(matches!(error, KeeperError::Ahead { epochs, .. } if epochs > 10), "{error}");
    }
    assert_eq!(sealing_name(&mut keeper, T0), Some(name));
    assert_eq!(node.read().first_epoch(), ahead.first_epoch(), "the file is not touched");
}

#[test]
fn ring_that_a_wrong_clock_has_ratcheted_is_restored_from_a_good_copy() {
    let node = Node::with(&new_ring(T0));
    let good = fs::read(&node.path).unwrap();
    let mut keeper = node.keeper_at(T0).unwrap();
    let name = sealing_name(&mut keeper, T0).unwrap();
    keeper.maintain_at(T0.plus(4 * LONG)).unwrap().persisted.unwrap();
    let burned = node.read().first_epoch();
    let done = keeper.maintain_at(T0).unwrap();
    assert_eq!((done.change, done.persisted.unwrap()), (RingChange::None, Persisted::NotNeeded));
    assert_eq!(sealing_name(&mut keeper, T0), None, "what is burned is burned");
    assert_eq!(keeper.status_at(T0).unwrap().ring.unwrap().standing, RingStanding::Ahead);

    fs::write(&node.path, &good).unwrap();
    let epochs = burned - RingShape::default().oldest_alive_at(T0);
    assert_eq!(keeper.maintain_at(T0).unwrap().change, RingChange::Restored { epochs });
    assert_eq!(sealing_name(&mut keeper, T0), Some(name));
    assert!(is_usable(&mut keeper, name, T0), "tickets from before open again");
    assert_eq!(fs::read(&node.path).unwrap(), good, "the file is left as it is");
    assert_eq!(keeper.telemetry().events.of(RingEvent::Restored).value(), 1);
}

#[test]
fn ring_that_a_wrong_clock_has_ratcheted_does_not_replace_a_good_file() {
    let node = Node::with(&new_ring(T0));
    let good = fs::read(&node.path).unwrap();
    let mut keeper = node.keeper_at(T0).unwrap();
    let name = sealing_name(&mut keeper, T0).unwrap();
    let held = RingFile::at(&node.path).lock(LockWait::Try).unwrap();
    assert!(matches!(keeper.maintain_at(T0.plus(4 * LONG)).unwrap().persisted, Err(FileError::Busy { .. })));
    drop(held);
    assert!(matches!(keeper.maintain_at(T0).unwrap().change, RingChange::Restored { .. }));
    assert_eq!(sealing_name(&mut keeper, T0), Some(name));
    assert_eq!(fs::read(&node.path).unwrap(), good);
}

#[test]
fn ring_in_memory_that_a_wrong_clock_has_ratcheted_is_made_anew() {
    let mut keeper = Keeper::open_at(Source::Memory(RingShape::default()), &[], T0).unwrap();
    let name = sealing_name(&mut keeper, T0).unwrap();
    keeper.maintain_at(T0.plus(4 * LONG)).unwrap();
    assert!(keeper.is_due_at(T0));
    assert_eq!(keeper.maintain_at(T0).unwrap().change, RingChange::Replaced);
    assert!(sealing_name(&mut keeper, T0).is_some_and(|fresh| fresh != name));
    assert!(!is_usable(&mut keeper, name, T0));
    assert_eq!(keeper.maintain_at(T0).unwrap().change, RingChange::None, "once is enough");
}

#[test]
fn revocation_by_a_clock_that_is_ahead_is_obeyed_all_the_same() {
    let node = Node::with(&new_ring(T0));
    let mut keeper = node.keeper_at(T0).unwrap();
    let name = sealing_name(&mut keeper, T0).unwrap();
    let revoked = node.read().revoked_at(T0.plus(4 * LONG)).unwrap();
    write(&node.path, &revoked);
    assert_eq!(keeper.maintain_at(T0).unwrap().change, RingChange::Revoked);
    assert!(!is_usable(&mut keeper, name, T0));
    assert_eq!(sealing_name(&mut keeper, T0), None, "no key for the present, and no former one instead");
    assert_eq!(keeper.status_at(T0).unwrap().ring.unwrap().standing, RingStanding::Ahead);
    keeper.maintain_at(T0.plus(4 * LONG)).unwrap();
    assert!(sealing_name(&mut keeper, T0.plus(4 * LONG)).is_some());
}

#[test]
fn ring_left_lying_for_years_is_refused() {
    let node = Node::with(&new_ring(T0));
    let error = node.keeper_at(T0.plus(Duration::from_secs(3 * 366 * 86_400))).map(drop).unwrap_err();
    assert!(matches!(error, KeeperError::Ring(RingError::StepTooLong { .. })), "{error}");
    assert!(error.to_string().contains("sluice tickets new"), "{error}");
}

#[test]
fn locked_file_is_reported_and_written_with_the_next_run() {
    let node = Node::with(&new_ring(T0));
    let mut keeper = node.keeper_at(T0).unwrap();
    let now = T0.plus(EPOCH);
    let held = RingFile::at(&node.path).lock(LockWait::Try).unwrap();
    let done = keeper.maintain_at(now).unwrap();
    assert_eq!(done.ratcheted_epochs, 1);
    assert!(matches!(done.persisted, Err(FileError::Busy { .. })));
    drop(held);
    assert_eq!(keeper.maintain_at(now).unwrap().persisted.unwrap(), Persisted::Written);
    assert_eq!(keeper.maintain_at(now).unwrap().persisted.unwrap(), Persisted::NotNeeded);
}

#[test]
fn ring_in_memory_ratchets_without_a_file() {
    let mut keeper = Keeper::open_at(Source::Memory(RingShape::default()), &[], T0).unwrap();
    let name = sealing_name(&mut keeper, T0).unwrap();
    let done = keeper.maintain_at(T0.plus(LONG)).unwrap();
    assert_eq!((done.ratcheted_epochs, done.persisted.unwrap()), (15, Persisted::NotNeeded));
    assert!(!is_usable(&mut keeper, name, T0.plus(LONG)));
}

#[test]
fn tickets_of_expired_keys_and_other_scopes_are_told_apart_from_unknown_ones() {
    let node = Node::with(&new_ring(T0));
    let mut keeper = node.keeper_at(T0).unwrap();
    let edge = keeper.scope_at(scope("edge"), T0).unwrap();
    let other = keeper.scope_at(scope("other"), T0).unwrap();
    let edge_name = edge.table().sealing_at(T0).unwrap().name();
    let lookup =
        |now| format!("{:?}", other.table().opening_at(&edge_name.0, now)).split('(').next().unwrap().to_owned();
    keeper.maintain_at(T0).unwrap();
    assert_eq!(lookup(T0), "OtherScope");
    drop(edge);
    keeper.maintain_at(T0).unwrap();
    assert_eq!(lookup(T0), "OtherScope", "a scope that was retired, as after a changed CRL, is remembered");
    let own = other.table().sealing_at(T0).unwrap().name();
    keeper.maintain_at(T0.plus(LONG)).unwrap();
    assert_eq!(lookup(T0.plus(LONG)), "Unknown");
    assert!(matches!(other.table().opening_at(&own.0, T0.plus(LONG)), Lookup::Expired));
    write(&node.path, &node.read().revoked_at(T0.plus(LONG)).unwrap());
    keeper.maintain_at(T0.plus(LONG)).unwrap();
    assert!(matches!(other.table().opening_at(&own.0, T0.plus(LONG)), Lookup::Unknown));
}

#[test]
fn same_scope_gives_the_same_keys() {
    let mut keeper = Keeper::open_at(Source::Memory(RingShape::default()), &[], T0).unwrap();
    let one = keeper.scope_at(scope("edge"), T0).unwrap();
    let two = keeper.scope_at(scope("edge"), T0).unwrap();
    assert!(std::sync::Arc::ptr_eq(&one, &two));
}

#[test]
fn status_shows_names_and_no_secret() {
    let node = Node::with(&new_ring(T0));
    let mut keeper = node.keeper_at(T0).unwrap();
    let name = sealing_name(&mut keeper, T0);
    let keys = keeper.scope_at(ScopeHash::from([1; 32]), T0).unwrap();
    let json = serde_json::to_string(&keeper.status_at(T0.plus(Duration::from_secs(7))).unwrap()).unwrap();
    assert!(name.is_some() && json.contains(&keys.table().sealing_at(T0).unwrap().name().to_string()), "{json}");
    assert!(json.contains(&format!("\"changed_unix_seconds\":{T0}")), "{json}");
    let text = encode_ring(&node.read()).unwrap();
    let secret = text.lines().find_map(|line| line.strip_prefix("chain-secret ")).unwrap();
    assert!(!json.contains(&secret[..8]), "{json}");
}

fn key_file(directory: &TempDir, name: &str, content: &[u8]) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

#[test]
fn key_files_seal_with_the_first_and_open_with_all() {
    let directory = tempfile::tempdir().unwrap();
    let long = key_file(&directory, "long", &[1; 80]);
    let short = key_file(&directory, "short", &[2; 48]);
    let settings = TicketSettings::default();
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let clock = ManualClock::at(real_now());
        let server_with = |files: &[PathBuf]| {
            let mut keeper = Keeper::open_at(Source::KeyFiles, files, clock.now()).unwrap();
            server(version, &keeper.scope_at(scope("edge"), clock.now()).unwrap(), &settings, &clock)
        };
        let by_short = connect(&server_with(std::slice::from_ref(&short)), &Offer::default());
        assert_eq!(&ticket_of(by_short.session())[..16], &[2; 16]);
        let both = server_with(&[long.clone(), short.clone()]);
        let renewed = connect(&both, &Offer::resume(by_short.session()));
        assert!(renewed.resumed);
        assert_eq!(&ticket_of(renewed.session())[..16], &[1; 16], "renewed under the first key");
        assert!(!connect(&server_with(std::slice::from_ref(&long)), &Offer::resume(by_short.session())).resumed);
    }
}

#[test]
fn key_file_beside_a_ring_opens_and_never_seals() {
    let directory = tempfile::tempdir().unwrap();
    let files = [key_file(&directory, "old", &[1; 80])];
    let clock = ManualClock::at(real_now());
    let settings = TicketSettings::default();
    let mut keeper = Keeper::open_at(Source::KeyFiles, &files, clock.now()).unwrap();
    let keys = keeper.scope_at(scope("edge"), clock.now()).unwrap();
    let session = connect(&server(SslVersion::TLS1_2, &keys, &settings, &clock), &Offer::default());

    let node = Node::with(&new_ring(clock.now()));
    let mut keeper = Keeper::open_at(Source::File(node.path.clone()), &files, clock.now()).unwrap();
    let keys = keeper.scope_at(scope("edge"), clock.now()).unwrap();
    let server = server(SslVersion::TLS1_2, &keys, &settings, &clock);
    let before = TicketCounters::of_this_thread().opened.of(TicketOpening::PreviousRenewed).value();
    let migrated = connect(&server, &Offer::resume(session.session()));
    assert!(migrated.resumed);
    assert_ne!(&ticket_of(migrated.session())[..16], &[1; 16], "renewed under the ring");
    assert_eq!(TicketCounters::of_this_thread().opened.of(TicketOpening::PreviousRenewed).value(), before + 1);
}

#[test]
fn key_file_of_another_size_or_readable_by_others_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let open = |path: PathBuf| Keeper::open_at(Source::KeyFiles, &[path], T0).map(drop).unwrap_err();
    let error = open(key_file(&directory, "odd", &[1; 64]));
    assert!(matches!(error, KeeperError::File(FileError::KeyFileSize { bytes: 64, .. })), "{error}");
    let error = open(key_file(&directory, "big", &[1; 81]));
    assert!(matches!(error, KeeperError::File(FileError::TooLarge { .. })), "{error}");
    let exposed = key_file(&directory, "exposed", &[1; 80]);
    fs::set_permissions(&exposed, Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(open(exposed), KeeperError::File(FileError::ReadableByOthers { .. })));
    assert!(matches!(Keeper::open_at(Source::KeyFiles, &[], T0), Err(KeeperError::NoKeys)));
}

#[test]
fn key_files_with_one_name_or_too_many_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let files = [key_file(&directory, "one", &[1; 80]), key_file(&directory, "two", &[1; 48])];
    let error = Keeper::open_at(Source::KeyFiles, &files, T0).map(drop).unwrap_err();
    assert!(matches!(&error, KeeperError::SameKeyName { path, first } if *path == files[1] && *first == files[0]));
    let many = vec![files[0].clone(); KEY_FILES_MAX + 1];
    let error = Keeper::open_at(Source::KeyFiles, &many, T0).map(drop).unwrap_err();
    assert!(matches!(error, KeeperError::TooManyKeyFiles { count } if count == KEY_FILES_MAX + 1), "{error}");
}

#[test]
fn keeper_is_due_for_an_epoch_a_clock_step_a_changed_file_a_scope_and_a_retry_and_else_not() {
    let node = Node::with(&new_ring(T0));
    let mut keeper = node.keeper_at(T0).unwrap();
    let run = |keeper: &mut Keeper, now: UnixSeconds, what: &str| {
        assert!(keeper.is_due_at(now), "{what}");
        keeper.maintain_at(now).unwrap().persisted.unwrap();
        assert!(!keeper.is_due_at(now), "{what}: done");
    };
    run(&mut keeper, T0, "the first run");
    let keys = keeper.scope_at(scope("edge"), T0).unwrap();
    run(&mut keeper, T0, "a scope");
    assert!(!keeper.is_due_at(T0.plus(Duration::from_secs(100))));
    run(&mut keeper, T0.plus(EPOCH), "an epoch");
    run(&mut keeper, T0.plus(Duration::from_secs(3599)), "a step back over the border");
    write(&node.path, &node.read());
    run(&mut keeper, T0, "a file that was written");
    drop(keys);
    run(&mut keeper, T0, "a scope that nobody uses");

    fs::set_permissions(&node.path, Permissions::from_mode(0o644)).unwrap();
    assert!(keeper.is_due_at(T0), "a file that was opened to others");
    assert!(keeper.maintain_at(T0).is_err());
    assert!(!keeper.is_due_at(T0), "looked at");
    assert!(keeper.is_due_at(T0.plus(RETRY_INTERVAL)), "looked at again after a while");
    assert!(keeper.is_due_at(T0.minus(Duration::from_secs(1))), "or when the clock went back");
    fs::set_permissions(&node.path, Permissions::from_mode(0o600)).unwrap();
    run(&mut keeper, T0, "a file that was put right");
}

#[test]
fn keeper_that_takes_the_place_of_another_reports_on_and_refuses_what_was_revoked() {
    let (node, copy) = (Node::with(&new_ring(T0)), Node::with(&new_ring(T0)));
    write(&copy.path, &node.read());
    let mut former = copy.keeper_at(T0).unwrap();
    let same = node.keeper_at(T0).unwrap().succeed(&former).unwrap();
    assert!(std::sync::Arc::ptr_eq(&same.telemetry(), &former.telemetry()));
    write(&copy.path, &copy.read().revoked_at(T0).unwrap());
    former.maintain_at(T0).unwrap();
    let error = node.keeper_at(T0).unwrap().succeed(&former).map(drop).unwrap_err();
    assert!(matches!(&error, KeeperError::Revoked { file: 0, own: 1, path } if *path == node.path), "{error}");
    let other = Node::with(&new_ring(T0));
    assert!(other.keeper_at(T0).unwrap().succeed(&former).is_ok());
}

#[test]
fn telemetry_shows_the_ring_as_of_the_last_run() {
    let node = Node::with(&new_ring(T0));
    let mut keeper = node.keeper_at(T0).unwrap();
    let _keys = keeper.scope_at(scope("edge"), T0).unwrap();
    keeper.maintain_at(T0).unwrap();
    let telemetry = keeper.telemetry();
    let status = telemetry.status();
    let ring = status.ring.as_ref().unwrap();
    assert_eq!(
        (status.source, ring.standing, ring.current_epoch),
        (KeySource::File, RingStanding::Current, T0.0 / 3600)
    );
    assert_eq!(ring.next_ratchet_unix_seconds, T0.0 + 120);
    assert_eq!((status.key_count, status.key_names.len()), (15, 15));
    let later = UnixSeconds(ring.next_ratchet_unix_seconds);
    assert_eq!(keeper.maintain_at(later.minus(Duration::from_secs(1))).unwrap().ratcheted_epochs, 0);
    assert_eq!(keeper.maintain_at(later).unwrap().ratcheted_epochs, 1, "the ratchet comes when it was announced");
    assert_eq!(telemetry.status().changed_unix_seconds, later.0);
    write(&node.path, &node.read().revoked_at(later).unwrap());
    keeper.maintain_at(later).unwrap();
    assert_eq!(telemetry.status().ring.as_ref().unwrap().generation, 1);
}
