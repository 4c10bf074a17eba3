//! Numbers and verdicts in words, the same in table and page.

use crate::compare::schema::{Comparison, Figure, Proxy, Ratio, ScenarioComparison, Spread, Standing};

/// How the subject stands against the best peer of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every pair is above 1.
    Ahead,
    /// Every pair is below 1.
    Behind,
    /// The pairs lie on both sides of 1.
    Level,
    /// The ratio is refused.
    Refused,
    /// There is nothing to compare with.
    Alone,
}

impl Verdict {
    /// One word for the reader.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ahead => "ahead",
            Self::Behind => "behind",
            Self::Level => "level",
            Self::Refused => "not believed",
            Self::Alone => "no peer",
        }
    }

    /// The verdict that `spread` supports.
    pub fn of(spread: &Spread) -> Self {
        if spread.min > 1.0 {
            Self::Ahead
        } else if spread.max < 1.0 {
            Self::Behind
        } else {
            Self::Level
        }
    }
}

/// The summary row of one scenario.
#[derive(Debug)]
pub struct Summary<'a> {
    /// The subject's figure.
    pub subject: Option<Spread>,
    /// The best peer's name and figure.
    pub best: Option<(&'a str, Spread)>,
    /// The subject against the best peer.
    pub ratio: Option<&'a Ratio>,
    /// What that means.
    pub verdict: Verdict,
}

/// Summarises `scenario`.
pub fn summary<'a>(comparison: &'a Comparison, scenario: &'a ScenarioComparison) -> Summary<'a> {
    let figure = |name: &str| standing(scenario, name).and_then(|standing| standing.figure);
    let best = scenario.best_peer.as_deref().and_then(|name| Some((name, figure(name)?)));
    let ratio = best.and_then(|(name, _)| scenario.ratios.iter().find(|ratio| ratio.peer == name));
    let verdict = match ratio {
        None => Verdict::Alone,
        Some(ratio) => ratio.spread.as_ref().map_or(Verdict::Refused, Verdict::of),
    };
    Summary { subject: subject(comparison).and_then(|proxy| figure(&proxy.name)), best, ratio, verdict }
}

/// What the others are compared with.
pub fn subject(comparison: &Comparison) -> Option<&Proxy> {
    comparison.proxies.iter().find(|proxy| proxy.subject)
}

/// The standing of the proxy `name`.
pub fn standing<'a>(scenario: &'a ScenarioComparison, name: &str) -> Option<&'a Standing> {
    scenario.standings.iter().find(|standing| standing.proxy == name)
}

/// The value of a figure in its unit, with the digits that a reader can use: `54,321`, `812`, `4.27`.
pub fn value(figure: Figure, value: f64) -> String {
    digits(figure.scaled(value))
}

/// `1.31 (1.28 to 1.35)`.
pub fn ratio_with_spread(spread: &Spread) -> String {
    format!("{:.2} ({:.2} to {:.2})", spread.median, spread.min, spread.max)
}

/// At least three significant digits, thousands apart.
pub fn digits(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let plain = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in plain.chars().enumerate() {
        if index > 0 && (plain.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Facts about machine and settings, as pairs of name and value.
pub fn passport(comparison: &Comparison) -> Vec<(&'static str, String)> {
    let (machine, settings) = (&comparison.environment, &comparison.settings);
    let mut facts = vec![
        ("Date", comparison.started.clone()),
        ("Machine", format!("{}, {} CPUs, {} GiB", machine.cpu_model, machine.cpus.len(), machine.memory_bytes >> 30)),
        ("CPU features", machine.cpu_features.join(" ")),
        ("Kernel", format!("{} {}, {}", machine.kernel, machine.architecture, machine.distribution)),
        ("Virtual machine", machine.hypervisor.clone().unwrap_or_else(|| "no".to_owned())),
        ("Frequency governor", machine.governor.clone().unwrap_or_else(|| "not shown".to_owned())),
        ("Load before", digits(machine.load_average)),
        ("Congestion control", format!("{} (default of the machine, for every proxy)", machine.congestion_control)),
        ("TCP upper layers", machine.tcp_upper_layers.join(" ")),
        ("CPUs", format!("proxy on {}, client and backend on {:?}", settings.proxy_cpu, settings.load_cpus)),
        (
            "Runs",
            format!(
                "{} rounds, {} s each after {} s of warm-up; {:.0} s in all",
                settings.rounds, settings.seconds, settings.warmup_seconds, comparison.elapsed_seconds
            ),
        ),
        ("TLS 1.3 suites", settings.tls13_suites.replace(':', ", ")),
        ("TLS 1.2 suites", settings.tls12_suites.replace(':', ", ")),
        ("Groups", settings.groups.replace(':', ", ")),
        ("Client", format!("sluice-load {} with {}", comparison.tool_version, machine.client_tls_library)),
        ("Command", comparison.command_line.join(" ")),
    ];
    facts.extend(machine.note.clone().map(|note| ("Note", note)));
    facts.retain(|(_, value)| !value.is_empty());
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_keep_three_and_part_thousands() {
        for (value, text) in [(0.0, "0.00"), (4.268, "4.27"), (47.04, "47.0"), (812.4, "812"), (54_321.2, "54,321")] {
            assert_eq!(digits(value), text);
        }
        assert_eq!(digits(1_234_567.0), "1,234,567");
    }

    #[test]
    fn verdict_needs_every_pair_on_one_side() {
        let spread = |min, max| Spread { median: 1.0, min, max, count: 3 };
        assert_eq!(Verdict::of(&spread(1.01, 1.3)), Verdict::Ahead);
        assert_eq!(Verdict::of(&spread(0.7, 0.99)), Verdict::Behind);
        assert_eq!(Verdict::of(&spread(0.9, 1.1)), Verdict::Level);
    }
}
