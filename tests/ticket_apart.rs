//! Nodes whose rings or clocks have come apart, as real processes: whatever a session meets, it resumes or there is a
//! full handshake, never an error; counters and logs say why; and bringing files or clocks together heals it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use sluice::ticket::{ChainSecret, Ring, RingShape, UnixSeconds, encode_ring};
use support::certificate::{self, Files, KeyKind};
use support::nginx::Nginx;
use support::proxy::{Options, Proxy};
use support::returning::{Program, balancer};
use support::ring::RingFolder;
use support::wait_until;
use tempfile::TempDir;

const HOUR: Duration = Duration::from_secs(3600);
/// What every client asks for.
const BODY: &str = "what was asked for";

/// What the nodes of a fleet have in common: the backend, the certificate, and whoever looks after rings and clocks.
struct Fleet {
    nginx: Nginx,
    files: Files,
    _folder: TempDir,
}

/// A node with a ring file and a clock of its own.
struct Node {
    proxy: Proxy,
    ring: RingFolder,
    options: Options,
}

/// What becomes of a session.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Resumed,
    /// A full handshake, and the ticket is counted under this result.
    Full(&'static str),
    /// A full handshake, since there was no ticket.
    NoTicket,
}

impl Fleet {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let nginx = Nginx::start();
        nginx.publish("file", BODY.as_bytes());
        Self { nginx, files: certificate::issue(folder.path(), KeyKind::EcdsaP256), _folder: folder }
    }

    /// Starts a node whose clock is off by this much, as libfaketime takes it.
    fn node(&self, ring: RingFolder, clock: &str) -> Node {
        let options = self.options(&ring);
        set_clock(&ring, clock);
        Node { proxy: Proxy::start(&options), ring, options }
    }

    fn options(&self, ring: &RingFolder) -> Options {
        let Files { chain, key, .. } = &self.files;
        Options {
            certificates: Some(format!("certificates = [ {{ chain = {chain:?}, key = {key:?} }} ]")),
            clock_file: Some(clock_file(ring)),
            ..ring.options(self.nginx.address())
        }
    }

    /// Has programs connect to `first`, then to `second` with the session that they got. They trust both nodes.
    fn visit(&self, programs: &[Program], first: &Node, second: &Node, expected: Outcome) {
        for &program in programs {
            for &version in program.versions() {
                let what = format!("{program:?} {version:?}");
                let kind = if matches!(expected, Outcome::Resumed) { "resumed" } else { "full" };
                let handshakes = format!("sluice_handshakes_total{{version=\"{}\",kind=\"{kind}\"}}", version.number());
                let before = second.count(&handshakes, expected);
                let failed = [first, second].map(Node::failures);
                let address = balancer(&[first.proxy.address(), second.proxy.address()]);
                let output = program.fetch_twice(address, version, &self.files.ca);
                assert!(output.success && output.text().contains(BODY), "{what}: {}", output.text());
                let after = second.count(&handshakes, expected);
                // With one node it has counted the first connection, too.
                let connections = if std::ptr::eq(first, second) && kind == "full" { 2 } else { 1 };
                assert_eq!(after.0 - before.0, connections, "{what}: {expected:?}, {kind}");
                let tickets = u64::from(!matches!(expected, Outcome::NoTicket));
                assert_eq!(after.1 - before.1, tickets, "{what}: {expected:?}, tickets");
                assert_eq!([first, second].map(Node::failures), failed, "{what}: no handshake fails");
            }
        }
    }
}

fn clock_file(ring: &RingFolder) -> PathBuf {
    ring.folder().join("clock")
}

fn set_clock(ring: &RingFolder, clock: &str) {
    // At once, so that nobody reads half of it.
    let aside = ring.folder().join("clock.new");
    fs::write(&aside, clock).unwrap();
    fs::rename(aside, clock_file(ring)).unwrap();
}

impl Node {
    fn set_clock(&self, clock: &str) {
        set_clock(&self.ring, clock);
    }

    /// Sets the clock right, and waits until the ring has seen it.
    fn set_clock_right(&self) {
        self.set_clock("+0s");
        let epoch = || RingShape::default().epoch_at(now());
        wait_until("the ring sees the clock", || self.proxy.metric("sluice_ticket_ring_epoch") == epoch());
    }

    /// Handshakes of this sample, and tickets with this outcome.
    fn count(&self, handshakes: &str, outcome: Outcome) -> (u64, u64) {
        let tickets = match outcome {
            Outcome::Resumed => self.opened("current") + self.opened("previous_renewed"),
            Outcome::Full(result) => self.opened(result),
            Outcome::NoTicket => self.proxy.metric_sum("sluice_tickets_opened_total"),
        };
        (self.proxy.metric(handshakes), tickets)
    }

    fn opened(&self, result: &str) -> u64 {
        self.proxy.metric(&format!("sluice_tickets_opened_total{{result=\"{result}\"}}"))
    }

    fn failures(&self) -> u64 {
        self.proxy.metric_sum("sluice_handshakes_failed_total")
    }

    fn events(&self, event: &str) -> u64 {
        self.proxy.metric(&format!("sluice_ticket_ring_events_total{{event=\"{event}\"}}"))
    }

    fn wait_for_event(&self, event: &str) {
        wait_until(&format!("{event} is counted"), || self.events(event) > 0);
    }

    fn wait_for_log(&self, words: &str) {
        wait_until(&format!("{words:?} is in the log"), || self.proxy.log().contains(words));
    }

    fn wait_for_standing(&self, standing: &str) {
        let sample = format!("sluice_ticket_ring_standing{{standing=\"{standing}\"}}");
        wait_until(&format!("the ring is {standing}"), || self.proxy.metric(&sample) == 1);
    }

    /// What an operator compares.
    fn fingerprint(&self) -> String {
        let status: serde_json::Value = serde_json::from_str(&self.proxy.status()).unwrap();
        status["tickets"]["keys"]["ring"]["fingerprint"].as_str().unwrap().to_owned()
    }

    /// How many lines of the log have these words.
    fn told(&self, words: &str) -> usize {
        self.proxy.log().lines().filter(|line| line.contains(words)).count()
    }

    /// Reloads, and waits until it has ended like this.
    fn reload(&self, expected: Reload) {
        let sample = format!("sluice_reloads_total{{result=\"{}\"}}", expected.label());
        let before = self.proxy.metric(&sample);
        kill(self.proxy.pid(), Signal::SIGHUP).unwrap();
        wait_until(&format!("a reload is {}", expected.label()), || self.proxy.metric(&sample) > before);
    }

    /// Does something to the ring file that the node must refuse, when it looks and with a reload, with these words each
    /// time; its ring stays in use.
    fn refuses(&self, fleet: &Fleet, words: &str, reload: Reload, damage: impl FnOnce(&RingFolder)) {
        damage(&self.ring);
        self.wait_for_log(words);
        fleet.visit(&[Program::OpenSsl], self, self, Outcome::Resumed);
        let told = self.told(words);
        self.reload(reload);
        wait_until(&format!("the reload says {words:?}"), || self.told(words) > told);
        fleet.visit(&[Program::OpenSsl], self, self, Outcome::Resumed);
    }
}

/// How a reload ends.
#[derive(Clone, Copy)]
enum Reload {
    Applied,
    Refused,
}

impl Reload {
    fn label(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Refused => "refused",
        }
    }
}

fn now() -> UnixSeconds {
    SystemTime::now().into()
}

fn epochs_between(older: &Ring, newer: &Ring) -> u64 {
    newer.first_epoch() - older.first_epoch()
}

#[test]
fn sessions_of_another_ring_are_full_handshakes_until_one_ring_is_distributed() {
    let fleet = Fleet::new();
    let ring = RingFolder::new();
    let copy = ring.copy();
    let [a, b, other] = [ring, copy, RingFolder::new()].map(|ring| fleet.node(ring, "+0s"));
    fleet.visit(&[Program::OpenSsl], &a, &b, Outcome::Resumed);
    fleet.visit(&Program::ALL, &a, &other, Outcome::Full("unknown_key"));
    fleet.visit(&Program::ALL, &other, &a, Outcome::Full("unknown_key"));
    assert_eq!(a.fingerprint(), b.fingerprint());
    assert_ne!(a.fingerprint(), other.fingerprint());

    other.ring.put(&a.ring.content());
    other.wait_for_event("replaced");
    other.wait_for_log("change=Replaced");
    assert_eq!(a.fingerprint(), other.fingerprint());
    fleet.visit(&Program::ALL, &a, &other, Outcome::Resumed);
    fleet.visit(&Program::ALL, &other, &b, Outcome::Resumed);
}

#[test]
fn ring_that_is_behind_is_brought_up_and_sessions_resume_all_the_time() {
    let fleet = Fleet::new();
    let old = Ring::generate_at(RingShape::default(), now().minus(5 * HOUR)).unwrap();
    let ring = RingFolder::with(&old);
    let stale = ring.content();
    let (a, b) = (ring.copy(), ring);
    let a = fleet.node(a, "+0s");
    wait_until("a has ratcheted its file", || epochs_between(&old, &a.ring.ring()) >= 5);
    // Its file is as old as the ring.
    let b = fleet.node(b, "+0s");
    fleet.visit(&Program::ALL, &a, &b, Outcome::Resumed);
    wait_until("b has ratcheted its file too", || epochs_between(&a.ring.ring(), &b.ring.ring()) == 0);

    b.ring.put(&stale);
    b.wait_for_event("kept_ours");
    b.wait_for_log("change=KeptOurs { epochs: ");
    wait_until("b has brought the file up", || epochs_between(&old, &b.ring.ring()) >= 5);
    fleet.visit(&Program::ALL, &a, &b, Outcome::Resumed);
    fleet.visit(&Program::ALL, &b, &a, Outcome::Resumed);
}

#[test]
fn ring_that_was_ratcheted_further_is_followed_and_what_it_left_behind_is_a_full_handshake() {
    let fleet = Fleet::new();
    let ring = RingFolder::new();
    let before = ring.ring();
    let (fast, slow) = (ring.copy(), ring.copy());
    let a = fleet.node(ring, "+0s");
    let fast = fleet.node(fast, "+6h");
    let slow = fleet.node(slow, "-11h");
    wait_until("the fast node has ratcheted", || epochs_between(&before, &fast.ring.ring()) >= 6);
    // Six and eleven hours old by the clock of the node that gets them.
    fleet.visit(&Program::ALL, &a, &fast, Outcome::Resumed);
    fleet.visit(&Program::ALL, &slow, &a, Outcome::Resumed);
    fleet.visit(&Program::ALL, &fast, &a, Outcome::Full("unknown_key"));

    a.ring.put(&fast.ring.content());
    a.wait_for_event("followed");
    a.wait_for_log("change=Followed { epochs: ");
    a.wait_for_standing("current");
    fleet.visit(&Program::ALL, &slow, &a, Outcome::Full("expired"));
    fleet.visit(&Program::ALL, &a, &a, Outcome::Resumed);
    fleet.visit(&Program::ALL, &fast, &a, Outcome::Full("unknown_key"));

    // The rings agree; it takes the clocks.
    fast.set_clock_right();
    slow.set_clock_right();
    for (first, second) in [(&fast, &a), (&a, &fast), (&slow, &a), (&a, &slow)] {
        fleet.visit(&Program::ALL, first, second, Outcome::Resumed);
    }
}

#[test]
fn ring_past_the_present_is_refused_and_one_that_a_wrong_clock_has_burned_is_restored_from_a_good_copy() {
    let fleet = Fleet::new();
    let ring = RingFolder::new();
    let good = ring.content();
    let before = ring.ring();
    let wrong = fleet.node(ring.copy(), "+3d");
    let a = fleet.node(ring, "+0s");
    wait_until("the wrong clock has ratcheted its file", || epochs_between(&before, &wrong.ring.ring()) >= 70);
    fleet.visit(&Program::ALL, &a, &wrong, Outcome::Full("unknown_key"));
    fleet.visit(&Program::ALL, &wrong, &a, Outcome::Full("unknown_key"));

    // Distributed, it would burn the keys of every node.
    a.ring.put(&wrong.ring.content());
    a.wait_for_event("refused_ahead");
    a.wait_for_log("epochs in the future; set this node's clock, or revoke the ring");
    fleet.visit(&Program::ALL, &a, &a, Outcome::Resumed);
    a.reload(Reload::Refused);
    fleet.visit(&[Program::OpenSsl], &a, &a, Outcome::Resumed);
    let start = Proxy::refused(&a.options);
    assert!(start.code == Some(1) && start.log.contains("epochs in the future"), "{:?} {}", start.code, start.log);
    a.ring.put(&good);
    a.wait_for_log("all is well again");

    // The wrong clock is set right, and its node has no key for the present.
    wrong.set_clock("+0s");
    wrong.wait_for_standing("ahead");
    wrong.wait_for_log("no tickets until the clock gets there");
    let without = wrong.proxy.metric("sluice_tickets_issued_total{result=\"no_key\"}");
    fleet.visit(&[Program::Curl, Program::Python], &wrong, &wrong, Outcome::NoTicket);
    assert!(wrong.proxy.metric("sluice_tickets_issued_total{result=\"no_key\"}") > without);
    fleet.visit(&Program::ALL, &a, &wrong, Outcome::Full("unknown_key"));

    wrong.ring.put(&a.ring.content());
    wrong.wait_for_event("restored");
    wrong.wait_for_log("change=Restored { epochs: ");
    wrong.wait_for_log("all is well again");
    wrong.wait_for_standing("current");
    fleet.visit(&Program::ALL, &a, &wrong, Outcome::Resumed);
    fleet.visit(&Program::ALL, &wrong, &a, Outcome::Resumed);
    wait_until("the files agree", || wrong.ring.ring().first_epoch() == a.ring.ring().first_epoch());
}

#[test]
fn ring_in_memory_that_a_wrong_clock_has_burned_is_made_anew() {
    let fleet = Fleet::new();
    let ring = RingFolder::new();
    // The clock lies in a folder that the configuration does not name.
    let server_keys = "sandbox = \"off\"".to_owned();
    let options = Options { tickets: String::new(), server_keys, ..fleet.options(&ring) };
    set_clock(&ring, "+3d");
    let node = Node { proxy: Proxy::start(&options), ring, options };
    fleet.visit(&[Program::OpenSsl], &node, &node, Outcome::Resumed);
    node.set_clock("+0s");
    node.wait_for_event("replaced");
    node.wait_for_log("made anew, it was ahead of the clock");
    node.wait_for_standing("current");
    fleet.visit(&Program::ALL, &node, &node, Outcome::Resumed);
}

#[test]
fn clocks_within_the_skew_cost_nothing_and_further_apart_a_full_handshake() {
    let fleet = Fleet::new();
    let ring = RingFolder::new();
    let copy = ring.copy();
    let [a, b] = [ring, copy].map(|ring| fleet.node(ring, "+0s"));
    for clock in ["+100s", "-100s"] {
        b.set_clock(clock);
        fleet.visit(&[Program::OpenSsl, Program::GnuTls], &a, &b, Outcome::Resumed);
        fleet.visit(&[Program::OpenSsl, Program::GnuTls], &b, &a, Outcome::Resumed);
    }
    // A ticket of the future is refused, one of the past is only older than it is.
    b.set_clock("+10m");
    fleet.visit(&Program::ALL, &b, &a, Outcome::Full("expired"));
    fleet.visit(&[Program::OpenSsl], &a, &b, Outcome::Resumed);
    b.set_clock("-10m");
    fleet.visit(&Program::ALL, &a, &b, Outcome::Full("expired"));
    fleet.visit(&[Program::OpenSsl], &b, &a, Outcome::Resumed);
    b.set_clock("+0s");
    fleet.visit(&Program::ALL, &a, &b, Outcome::Resumed);
    fleet.visit(&Program::ALL, &b, &a, Outcome::Resumed);
}

/// Makes something of a good ring file that must not be used.
type Damage = fn(&Path);

#[test]
fn damaged_or_exposed_ring_file_is_refused_at_the_start_while_serving_and_by_a_reload() {
    let fleet = Fleet::new();
    let ring = RingFolder::new();
    let good = ring.content();
    let node = fleet.node(ring, "+0s");
    let cases: [(&str, Damage); 9] = [
        ("has mode 0644", |path| set_mode(path, 0o644)),
        ("has mode 0620", |path| set_mode(path, 0o620)),
        ("is empty", |path| set_len(path, 0)),
        ("is cut short: line 5 with `retention`", |path| {
            let text = fs::read_to_string(path).unwrap();
            set_len(path, text.find("retention").unwrap() as u64);
        }),
        ("is cut short: line 8 with `check`", |path| set_len(path, path.metadata().unwrap().len() - 1)),
        ("is damaged or was edited: its check value does not fit", |path| {
            let text = fs::read_to_string(path).unwrap();
            fs::write(path, text.replacen("generation 0", "generation 1", 1)).unwrap();
        }),
        ("is not a ticket ring", |path| fs::write(path, [0x80; 80]).unwrap()),
        ("bytes or more, a file of this kind at most 1024", |path| set_len(path, 1 << 40)),
        ("is not a regular file", |path| {
            fs::remove_file(path).unwrap();
            nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        }),
    ];
    for (words, damage) in cases {
        node.refuses(&fleet, words, Reload::Refused, |ring| ring.put_with(&good, damage));
        let start = Proxy::refused(&node.options);
        assert!(start.code == Some(1) && start.log.contains(words), "{words}: {:?} {}", start.code, start.log);
    }
    node.refuses(&fleet, "does not exist", Reload::Refused, |ring| fs::remove_file(ring.path()).unwrap());
    let start = Proxy::refused(&node.options);
    assert!(start.code == Some(1) && start.log.contains("does not exist"), "{:?} {}", start.code, start.log);
    if nix::unistd::geteuid().is_root() {
        let words = "belongs to user 12345";
        let give_away = |path: &Path| std::os::unix::fs::chown(path, Some(12_345), None).unwrap();
        // Whoever checks a configuration may be another than the proxy's user: it takes the process to say so.
        node.refuses(&fleet, words, Reload::Applied, |ring| ring.put_with(&good, give_away));
        let start = Proxy::refused(&node.options);
        assert!(start.code == Some(69) && start.log.contains(words), "{:?} {}", start.code, start.log);
    }
    node.ring.put(&good);
    node.wait_for_log("all is well again");
    fleet.visit(&Program::ALL, &node, &node, Outcome::Resumed);
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn set_len(path: &Path, len: u64) {
    fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

#[test]
fn ring_that_does_not_follow_the_one_in_use_is_refused_while_serving_and_by_a_reload() {
    let fleet = Fleet::new();
    let ring = RingFolder::new();
    let before_revocation = ring.content();
    ring.tickets("revoke");
    let good = ring.content();
    let used = ring.ring();
    let node = fleet.node(ring, "+0s");
    let text = |ring: Ring| encode_ring(&ring).unwrap().as_bytes().to_vec();
    let chain = ChainSecret::generate().unwrap();
    let forged = Ring::from_parts(used.id(), used.generation(), used.shape(), used.first_epoch(), chain);
    let years_ago = now().minus(Duration::from_secs(3 * 366 * 86_400));
    let forgotten = Ring::generate_at(RingShape::default(), years_ago).unwrap();
    let cases = [
        ("refused_revoked", before_revocation, "a revoked ring is never taken back", Reload::Applied),
        ("refused_diverged", text(forged), "has other keys than the ring in use", Reload::Applied),
        // No process could start with it.
        ("refused_far_behind", text(forgotten), "epochs apart, at most", Reload::Refused),
    ];
    for (event, content, words, reload) in cases {
        node.refuses(&fleet, words, reload, |ring| ring.put(&content));
        assert!(node.events(event) > 0, "{event}");
    }
    node.ring.put(&good);
    node.wait_for_log("all is well again");
    fleet.visit(&Program::ALL, &node, &node, Outcome::Resumed);
}
