//! No file, however broken, makes the configuration reader panic, and what it says can always be rendered.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

#[path = "check_support/mod.rs"]
mod support;

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use sluice::config::{Severity, Style, check_bytes};
use support::GOOD;

/// Checks and renders; the outcome must not contradict itself.
fn exercise(bytes: &[u8]) {
    let checked = check_bytes(Path::new("sluice.toml"), bytes.to_vec());
    let errors = checked.diagnostics.count(Severity::Error);
    assert_eq!(checked.settings.is_none(), errors > 0);
    for item in checked.diagnostics.iter() {
        let line = checked.diagnostics.line(item);
        assert!(line.starts_with("sluice.toml:") && !line.contains(|c: char| c.is_control()), "{line:?}");
    }
    let plain = checked.diagnostics.render(Style::Plain);
    assert_eq!(plain.is_empty(), checked.diagnostics.is_empty());
    assert!(!plain.contains('\u{1b}'), "an escape of the file reaches the terminal: {plain:?}");
    let _ = checked.diagnostics.render(Style::Coloured);
}

/// Pieces that the grammar and the schema know, so that random files get past the parser.
const PIECES: &[&str] = &[
    "[[listener]]\n",
    "[listener.tls]\n",
    "[[backend]]\n",
    "[backend]\n",
    "[workers]\n",
    "[admin]\n",
    "[tickets]\n",
    "[server]\n",
    "name = ",
    "address = ",
    "backend = ",
    "servers = ",
    "certificates = ",
    "chain = ",
    "key = ",
    "alpn = ",
    "policy = ",
    "kernel_tls = ",
    "kernel_tls_after = ",
    "idle_timeout = ",
    "cpus = ",
    "count = ",
    "lifetime = ",
    "ring = ",
    "io = ",
    "tls = ",
    "tls.policy = ",
    "workers.cpus = ",
    "nonsense = ",
    "\"edge\"",
    "\"0.0.0.0:8443\"",
    "\"[::1]:1\"",
    "\"unix:x\"",
    "\"10s\"",
    "\"99999999999999999999years\"",
    "\"64KiB\"",
    "\"999999999999TiB\"",
    "\"0-3,8\"",
    "\"auto\"",
    "\"h2\"",
    "\"\"",
    "'é\u{202e}'",
    "\"\\u0000\"",
    "\"\\u001b[31m\\u202e\\n\"",
    "\"/\"",
    "\".\"",
    "0",
    "-1",
    "1.5",
    "nan",
    "1e400",
    "99999999999999999999",
    "true",
    "1979-05-27T07:32:00Z",
    "[",
    "]",
    "{ ",
    " }",
    ", ",
    "\n",
    "\r\n",
    "\t",
    "# é\n",
    "=",
    "\"\"\"\n",
    "\u{feff}",
    "\u{1b}[31m",
    "\0",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn file_of_any_bytes_is_judged(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        exercise(&bytes);
    }

    #[test]
    fn file_of_any_characters_is_judged(text in "\\PC*") {
        exercise(text.as_bytes());
    }

    #[test]
    fn file_of_known_pieces_is_judged(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..60)) {
        exercise(pieces.concat().as_bytes());
    }

    #[test]
    fn good_file_with_a_piece_anywhere_is_judged(at in 0..GOOD.len(), cut in 0..12_usize, piece in proptest::sample::select(PIECES)) {
        let mut bytes = GOOD.as_bytes().to_vec();
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, piece.bytes());
        exercise(&bytes);
    }
}

/// Runs under `cargo test` for a bounded time, and as a fuzz target under `cargo bolero test`.
#[test]
fn fuzz_config() {
    bolero::check!().with_test_time(Duration::from_secs(3)).with_max_len(2048).for_each(|bytes: &[u8]| exercise(bytes));
}

#[test]
fn nesting_without_end_is_refused() {
    exercise(format!("workers = {}", "[".repeat(100_000)).as_bytes());
    exercise(format!("workers = {}", "{a=".repeat(100_000)).as_bytes());
    exercise(format!("workers.{} = 1", vec!["a"; 100_000].join(".")).as_bytes());
    exercise(format!("[{}]", vec!["a"; 100_000].join(".")).as_bytes());
}
