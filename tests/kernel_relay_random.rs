//! Seeded random connections: data of any size, empty records, KeyUpdates, pauses and every way to end, in both directions
//! at once, with promotion wherever it falls. Every byte is checked, and no end may claim more than was sent.
//!
//! `SLUICE_SEEDS=N` runs N seeds instead of [`SEEDS_DEFAULT`], `SLUICE_SEED=S` only seed S. On a kernel without TLS the
//! same sequences hold the userspace engine to the same promises.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod kernel_support;
mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use sluice::ktls;
use sluice::record::ContentType;
use socket2::SockRef;
use support::backend::Backend;
use support::body::{self, End};
use support::certificate::KeyKind;
use support::client::{Client, Tls};
use support::proxy::{Options, Proxy};
use support::record::{Answer, Forger, Records};
use support::suite::{Suite, Version};
use support::{DEADLINE, wait_until};

/// Sequences that each policy is tried with: a number and not a time, so that a slow machine proves as much as a fast one.
const SEEDS_DEFAULT: u64 = 30;
/// Largest piece of data in one step: some turns of the relay.
const PIECE_BYTES_MAX: u64 = 400_000;
const INTERNAL_ERROR: u8 = 80;

#[test]
fn random_sequences_on_auto_keep_every_promise() {
    run("auto", "copy");
}

#[test]
fn random_sequences_on_always_keep_every_promise() {
    run("always", "splice");
}

fn run(kernel_tls: &str, bulk: &'static str) {
    let kernel = kernel_support::kernel_tls();
    let can_rekey = kernel.is_none() || ktls::probe().rekey_receive;
    let backend = Backend::listen();
    let options = Options {
        kernel_tls: kernel_tls.to_owned(),
        kernel_tls_after: Some("16KiB".into()),
        kernel_tls_bulk: Some(bulk),
        ..Options::to([backend.address()])
    };
    let proxy = Proxy::start(&options);
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let (first, count) = match number("SLUICE_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("SLUICE_SEEDS").unwrap_or(SEEDS_DEFAULT)),
    };
    for seed in first..first + count {
        let plan = Plan::of(seed);
        let verdict = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            play(&proxy, &backend, &plan, can_rekey);
            wait_until("the connection is over", || proxy.connections_open() == 0);
        }));
        if let Err(cause) = verdict {
            eprintln!("failed with kernel_tls = {kernel_tls:?}: SLUICE_SEED={seed}\n{plan:#?}");
            std::panic::resume_unwind(cause);
        }
    }
    let promoted = ["client_to_backend", "backend_to_client"]
        .map(|way| proxy.metric(&format!("sluice_kernel_tls_promoted_total{{direction=\"{way}\"}}")));
    println!("{count} sequences on {kernel_tls}, promoted {promoted:?}");
    assert!(kernel.is_none() || count < 20 || promoted.iter().all(|count| *count > 0), "nothing was promoted");
    assert_eq!((proxy.closed("internal"), proxy.metric("sluice_panics_total")), (0, 0));
}

/// What one connection does.
#[derive(Debug)]
struct Plan {
    seed: u64,
    suite: Suite,
    client: Vec<Step>,
    client_end: Close,
    backend: Vec<Step>,
    backend_end: Close,
    /// How each reader reads: bytes at a time, and a pause before it begins.
    readers: [(usize, Duration); 2],
    small_buffers: bool,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Data(usize),
    /// In records of this many bytes.
    DataIn(usize, usize),
    Empty,
    KeyUpdate(Answer),
    Pause(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Close {
    /// close_notify, or the end of the backend's stream.
    Clean,
    /// close_notify and the end of the TCP stream.
    CleanAndEnd,
    /// The end of the TCP stream only; only a client can.
    Truncate,
    Reset,
}

/// xorshift64*: enough for choosing.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

impl Plan {
    fn of(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d);
        for _warm_up in 0..8 {
            random.below(2);
        }
        let suites: Vec<_> = Suite::with_key(KeyKind::EcdsaP256).collect();
        let suite = suites[random.below(suites.len() as u64) as usize];
        let client = (0..random.below(10)).map(|_| client_step(&mut random, suite.version)).collect();
        let backend = (0..random.below(10)).map(|_| data_step(&mut random)).collect();
        let client_end = match random.below(10) {
            0 => Close::Reset,
            1 => Close::Truncate,
            2..=5 => Close::CleanAndEnd,
            _ => Close::Clean,
        };
        let backend_end = if random.below(10) == 0 { Close::Reset } else { Close::Clean };
        let readers = [(); 2].map(|()| {
            let len = [700, 5000, 65_536, 65_536][random.below(4) as usize];
            (len, Duration::from_millis([0, 0, 5, 60][random.below(4) as usize]))
        });
        let small_buffers = random.below(3) == 0;
        Self { seed, suite, client, client_end, backend, backend_end, readers, small_buffers }
    }

    fn sent(steps: &[Step]) -> usize {
        let len = |step: &Step| match step {
            Step::Data(len) | Step::DataIn(len, _) => *len,
            _ => 0,
        };
        steps.iter().map(len).sum()
    }

    fn updates_keys(&self) -> bool {
        self.client.iter().any(|step| matches!(step, Step::KeyUpdate(_)))
    }
}

fn data_step(random: &mut Random) -> Step {
    match random.below(8) {
        0 => Step::Pause(Duration::from_millis(random.below(20))),
        1..=3 => Step::Data(1 + random.below(2000) as usize),
        4..=5 => Step::Data(1 + random.below(40_000) as usize),
        _ => Step::Data(1 + random.below(PIECE_BYTES_MAX) as usize),
    }
}

fn client_step(random: &mut Random, version: Version) -> Step {
    match random.below(8) {
        0 if version == Version::Tls13 => {
            Step::KeyUpdate(if random.below(2) == 0 { Answer::Requested } else { Answer::NotRequested })
        }
        1 => Step::Empty,
        2 => Step::DataIn(1 + random.below(3000) as usize, 1 + random.below(200) as usize),
        _ => data_step(random),
    }
}

/// Whether the other side took all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Everything,
    Refused,
}

/// What a reader got: how many bytes, all of which were right, and how they ended.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    len: usize,
    end: End,
}

fn play(proxy: &Proxy, backend: &Backend, plan: &Plan, can_rekey: bool) {
    let client = Client::of(proxy).suite(plan.suite);
    let client = if plan.small_buffers { client.small_receive_buffer() } else { client };
    let (tls, records) = Forger::new(client.connect(), plan.suite).into_parts();
    let server = backend.accept();
    let up = body::bytes(Plan::sent(&plan.client), plan.seed * 2);
    let down = body::bytes(Plan::sent(&plan.backend), plan.seed * 2 + 1);
    let (sending, writing) = (tls.socket().try_clone().unwrap(), server.try_clone().unwrap());
    let is_left = [AtomicBool::new(false), AtomicBool::new(false)];
    let (got_up, got_down) = std::thread::scope(|scope| {
        let sending_down = scope.spawn(|| send_backend(writing, &is_left[1], plan, &down));
        let reading_up = scope.spawn(|| read_plain(server, &is_left[1], &up, plan.readers[0]));
        let reading_down = scope.spawn(|| read_tls(tls, &is_left[0], &down, plan.readers[1]));
        scope.spawn(|| send_client(sending, &is_left[0], records, plan, &up));
        let mut got_up = reading_up.join().unwrap();
        if sending_down.join().unwrap() == Sent::Refused {
            // Whoever writes after a reset takes the error, and the reader is left with an end.
            got_up.end = End::Reset;
        }
        (got_up, reading_down.join().unwrap())
    });
    judge(plan, got_up, got_down, [up.len(), down.len()], can_rekey);
}

/// Nothing claims more than it is, and what nobody disturbed is whole.
fn judge(plan: &Plan, up: Outcome, down: Outcome, sent: [usize; 2], can_rekey: bool) {
    let says_close_notify = matches!(plan.client_end, Close::Clean | Close::CleanAndEnd);
    if up.end == End::EndOfStream {
        assert!(says_close_notify && up.len == sent[0], "the backend took a part for the whole: {up:?}");
    }
    if down.end == End::CloseNotify {
        assert!(
            plan.backend_end == Close::Clean && down.len == sent[1],
            "the client took a part for the whole: {down:?}"
        );
    }
    let may_lack_keys = plan.updates_keys() && !can_rekey;
    if may_lack_keys && down.end == End::Alert(INTERNAL_ERROR) {
        assert_eq!(up.end, End::Reset);
        return;
    }
    let is_disturbed = plan.backend_end == Close::Reset || !says_close_notify || may_lack_keys;
    if !is_disturbed {
        assert_eq!((up.len, up.end), (sent[0], End::EndOfStream), "up, undisturbed");
        assert_eq!((down.len, down.end), (sent[1], End::CloseNotify), "down, undisturbed");
    }
    assert!(!matches!(down.end, End::Alert(_)), "an alert that nobody earned: {down:?}");
}

/// Stops where the peer does not take any more.
fn send_client(socket: TcpStream, is_left: &AtomicBool, mut records: Records, plan: &Plan, data: &[u8]) {
    let mut at = 0;
    for step in &plan.client {
        let bytes = match *step {
            Step::Data(len) | Step::DataIn(len, _) => {
                let record_len = if let Step::DataIn(_, record_len) = step { *record_len } else { 16_384 };
                let part = &data[at..at + len];
                at += len;
                records.seal_data(part, record_len)
            }
            Step::Empty => records.seal(ContentType::ApplicationData, b""),
            Step::KeyUpdate(answer) => records.seal_key_update(answer),
            Step::Pause(pause) => {
                std::thread::park_timeout(pause);
                continue;
            }
        };
        if !write(&socket, &bytes) {
            return;
        }
    }
    match plan.client_end {
        Close::Clean | Close::CleanAndEnd => {
            write(&socket, &records.seal(ContentType::Alert, &[1, 0]));
            if plan.client_end == Close::CleanAndEnd {
                let _ = socket.shutdown(Shutdown::Write);
            }
        }
        Close::Truncate => {
            let _ = socket.shutdown(Shutdown::Write);
        }
        Close::Reset => reset(&socket, is_left),
    }
}

fn send_backend(socket: TcpStream, is_left: &AtomicBool, plan: &Plan, data: &[u8]) -> Sent {
    let mut at = 0;
    for step in &plan.backend {
        match *step {
            Step::Data(len) => {
                if !write(&socket, &data[at..at + len]) {
                    return Sent::Refused;
                }
                at += len;
            }
            Step::Pause(pause) => std::thread::park_timeout(pause),
            other => unreachable!("a backend cannot {other:?}"),
        }
    }
    match plan.backend_end {
        Close::Reset => reset(&socket, is_left),
        _ => drop(socket.shutdown(Shutdown::Write)),
    }
    Sent::Everything
}

/// Resets the connection as soon as its reader has let go of it too.
fn reset(socket: &TcpStream, is_left: &AtomicBool) {
    SockRef::from(socket).set_linger(Some(Duration::ZERO)).unwrap();
    is_left.store(true, Ordering::Release);
}

/// Waits for something to read; false when its own sender resets the connection.
fn may_read(socket: &TcpStream, is_left: &AtomicBool) -> bool {
    let deadline = Instant::now() + DEADLINE;
    while !is_left.load(Ordering::Acquire) {
        if poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], 20_u8).unwrap() > 0 {
            return true;
        }
        assert!(Instant::now() < deadline, "nothing to read for {DEADLINE:?}");
    }
    false
}

/// Whether all of it was taken.
fn write(mut socket: &TcpStream, bytes: &[u8]) -> bool {
    match socket.write_all(bytes) {
        Ok(()) => true,
        Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {
            panic!("nothing was taken for {DEADLINE:?}")
        }
        Err(_) => false,
    }
}

fn read_plain(
    mut server: TcpStream,
    is_left: &AtomicBool,
    expected: &[u8],
    (len, pause): (usize, Duration),
) -> Outcome {
    std::thread::park_timeout(pause);
    check(expected, len, |buffer| {
        if !may_read(&server, is_left) {
            return Err(End::Reset);
        }
        match server.read(buffer) {
            Ok(0) => Err(End::EndOfStream),
            Ok(count) => Ok(count),
            Err(error) => Err(body::end_of(&error)),
        }
    })
}

fn read_tls(mut tls: Tls, is_left: &AtomicBool, expected: &[u8], (len, pause): (usize, Duration)) -> Outcome {
    std::thread::park_timeout(pause);
    check(expected, len, |buffer| {
        if tls.ssl().pending() == 0 && !may_read(tls.socket(), is_left) {
            return Err(End::Reset);
        }
        tls.read(buffer)
    })
}

fn check(expected: &[u8], len: usize, mut read: impl FnMut(&mut [u8]) -> Result<usize, End>) -> Outcome {
    let (mut buffer, mut at) = (vec![0; len], 0);
    loop {
        match read(&mut buffer) {
            Ok(count) => {
                let is_right = expected.get(at..at + count) == Some(&buffer[..count]);
                assert!(is_right, "wrong bytes within {at}..{}", at + count);
                at += count;
            }
            Err(end) => return Outcome { len: at, end },
        }
    }
}
