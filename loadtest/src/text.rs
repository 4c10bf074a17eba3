//! A result in words, for people.

use std::fmt::Write as _;

use crate::result::{Cost, Latency, RunResult, Scenario, Work, WorkUnit};
use crate::run::Live;

/// The whole result, several lines.
pub fn report(result: &RunResult) -> String {
    let mut text = format!("{} against {}, {:.1} s", result.scenario, result.target, result.duration_seconds);
    if result.interrupted {
        text.push_str(" (interrupted)");
    }
    text.push('\n');
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<12}{value}");
    };
    if let Some(tls) = &result.tls {
        let group = tls.group.as_deref().map_or(String::new(), |group| format!(", {group}"));
        let certificate = tls.certificate.as_deref().map_or(String::new(), |kind| format!(", {kind} certificate"));
        line("tls", format!("{}, {}{group}{certificate}", tls.version, tls.suite));
    }
    line("work", work(&result.work));
    for part in &result.parts {
        let median = part.latency.map_or(String::new(), |latency| format!(", p50 {}", seconds(latency.p50)));
        line("", format!("{} {} ({:.0} per second{median})", part.count, part.scenario, part.per_second));
    }
    if let Some(latency) = &result.latency {
        line("latency", latencies(latency));
    }
    if let Some(resumption) = &result.resumption {
        let percent = resumption.rate * 100.0;
        line("resumption", format!("{percent:.1} % ({} of {})", resumption.resumed, resumption.handshakes));
    }
    if let Some(cost) = &result.target_cost {
        line("target", costs(cost));
        if let Some(bytes) = cost.pss_per_connection_bytes {
            line("memory", format!("{:.1} KiB per connection (PSS)", bytes / 1024.0));
        }
    }
    let share = result.client_cpu_share * 100.0;
    line(
        "client",
        format!(
            "{:.2} CPU-seconds, {share:.0} % of its CPUs, {}",
            result.client_cost.cpu_seconds, result.settings.engine
        ),
    );
    for (class, count) in &result.errors {
        line("error", format!("{count} {}", class.label()));
    }
    for doubt in &result.doubts {
        line("doubt", doubt.to_string());
    }
    text
}

/// One line for the progress bar.
#[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
pub fn live(scenario: Scenario, live: &Live) -> String {
    let seconds = live.elapsed_seconds.max(1e-3);
    let rate = match scenario {
        Scenario::Transfer => format!("{:.0} MB/s", live.bytes as f64 / seconds / 1e6),
        Scenario::Idle => format!("{} open", live.open),
        _ => format!("{:.0}/s", live.work as f64 / seconds),
    };
    if live.errors > 0 { format!("{rate}, {} errors", live.errors) } else { rate }
}

fn work(work: &Work) -> String {
    let (scale, unit) = match work.unit {
        WorkUnit::Bytes => (1e-6, "MB"),
        other => (1.0, other.label()),
    };
    #[allow(clippy::cast_precision_loss, reason = "shown without decimals")]
    let count = work.count as f64 * scale;
    let mut text = format!("{count:.0} {unit}, {:.0} per second", work.per_second * scale);
    if let Some(rate) = work.per_target_cpu_second {
        let _ = write!(text, ", {:.0} per CPU-second of the target", rate * scale);
    }
    text
}

fn latencies(latency: &Latency) -> String {
    let Latency { p50, p90, p99, p999, max, .. } = *latency;
    let named = [("p50", p50), ("p90", p90), ("p99", p99), ("p99.9", p999), ("max", max)];
    named.map(|(name, value)| format!("{name} {}", seconds(value))).join("  ")
}

fn costs(cost: &Cost) -> String {
    format!(
        "{:.2} CPU-seconds (user {:.2}, system {:.2}), {} context switches, {:.1} MiB PSS, {} processes",
        cost.cpu_seconds,
        cost.user_seconds,
        cost.system_seconds,
        cost.context_switches,
        mebibytes(cost.pss_bytes),
        cost.processes,
    )
}

#[allow(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

fn seconds(value: f64) -> String {
    match value {
        value if value < 1e-3 => format!("{:.0} us", value * 1e6),
        value if value < 1.0 => format!("{:.2} ms", value * 1e3),
        value => format!("{value:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_shown_in_the_unit_that_fits() {
        assert_eq!([seconds(0.000_042), seconds(0.0123), seconds(2.5)], ["42 us", "12.30 ms", "2.50 s"]);
    }
}
