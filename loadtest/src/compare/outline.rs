//! What a comparison would do, for `sluice-load plan`: nothing is started.

use std::fmt::Write as _;
use std::time::Duration;

use super::proxy::Candidate;
use super::scenario::Case;
use super::schema::Absent;

/// What `plan` prints. `cpus` is the proxy's CPU and the others.
pub fn outline(
    candidates: &[Candidate],
    absent: &[Absent],
    cases: &[Case],
    rounds: usize,
    times: (Duration, Duration),
    cpus: (usize, &[usize]),
) -> String {
    let mut text = String::new();
    let mut line = |content: String| {
        let _ = writeln!(text, "{content}");
    };
    line(format!("Proxies ({} on CPU {} in turn, client and backend on {:?}):", candidates.len(), cpus.0, cpus.1));
    for one in candidates {
        let facts = &one.build;
        line(format!("  {:<20} {} with {}, {}", one.name, facts.version, facts.tls_library, facts.binary.display()));
    }
    for one in absent {
        line(format!("  {:<20} left out: {}", one.name, one.reason));
    }
    line("Scenarios, in this order:".to_owned());
    for case in cases {
        line(format!("  {:<20} {} ({})", case.name, case.title, case.figure.unit()));
    }
    let runs = candidates.len() * cases.len() * rounds;
    let (duration, warmup) = times;
    line(format!(
        "{runs} runs: {rounds} rounds of {} proxies in {} scenarios, {:.1} s each after {:.1} s of warm-up.",
        candidates.len(),
        cases.len(),
        duration.as_secs_f64(),
        warmup.as_secs_f64(),
    ));
    line(format!("About {}.", in_words(estimate(runs, duration, warmup))));
    text
}

/// Wall time of `runs`.
pub fn estimate(runs: usize, duration: Duration, warmup: Duration) -> Duration {
    (duration + warmup + START_AND_STOP) * u32::try_from(runs).unwrap_or(u32::MAX)
}

fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 { format!("{seconds} s") } else { format!("{} min {} s", seconds / 60, seconds % 60) }
}

/// Starting, probing and stopping a proxy, and opening the connections; measured as a mean over the standard set.
const START_AND_STOP: Duration = Duration::from_millis(300);
