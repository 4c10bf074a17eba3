//! The comparison as text: short for the terminal, complete in Markdown.

use std::fmt::Write as _;

use super::words::{self, Verdict};
use crate::compare::schema::{Comparison, Proxy, ScenarioComparison};

/// The summary for a terminal, with the reasons of every refused ratio.
pub fn text(comparison: &Comparison) -> String {
    let mut rows = vec![SUMMARY_HEAD.map(str::to_owned).to_vec()];
    rows.extend(comparison.scenarios.iter().map(|scenario| summary_row(comparison, scenario)));
    let mut text = aligned(&rows);
    for reason in reasons(comparison) {
        let _ = writeln!(text, "{reason}");
    }
    for absent in &comparison.absent {
        let _ = writeln!(text, "left out: {}: {}", absent.name, absent.reason);
    }
    text
}

/// Everything in Markdown: summary, each scenario, who took part, the machine.
pub fn markdown(comparison: &Comparison) -> String {
    let mut text = String::from("# Comparison of TLS termination proxies\n\n");
    if comparison.interrupted {
        text.push_str("**Interrupted: this is what was measured until then.**\n\n");
    }
    text.push_str(READING);
    text.push_str("\n\n");
    text.push_str(&pipes(
        &SUMMARY_HEAD,
        comparison.scenarios.iter().map(|scenario| emphasised(summary_row(comparison, scenario))).collect(),
    ));
    list(&mut text, "Not believed", reasons(comparison));
    for scenario in &comparison.scenarios {
        let _ = writeln!(text, "\n## {}\n\n{}\n", scenario.name, describe(scenario));
        text.push_str(&pipes(&DETAIL_HEAD, detail_rows(comparison, scenario)));
    }
    text.push_str("\n## Proxies\n\n");
    text.push_str(&pipes(&PROXY_HEAD, comparison.proxies.iter().map(proxy_row).collect()));
    list(
        &mut text,
        "Left out",
        comparison.absent.iter().map(|absent| format!("{}: {}", absent.name, absent.reason)).collect(),
    );
    text.push_str("\n## Machine and settings\n\n");
    let facts = words::passport(comparison);
    text.push_str(&pipes(&["", ""], facts.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect()));
    text
}

/// What a scenario does and compares, in one sentence.
pub fn describe(scenario: &ScenarioComparison) -> String {
    let rate =
        scenario.rate.map_or_else(String::new, |rate| format!(" at {} arrivals per second", words::digits(rate)));
    let better = match scenario.figure.better() {
        crate::compare::schema::Better::More => "more is better",
        crate::compare::schema::Better::Less => "less is better",
    };
    format!("{}{rate}. In {}; {better}.", scenario.title, scenario.figure.unit())
}

/// Why ratios against best peers are refused, and which peers could not be judged, one line each.
pub fn reasons(comparison: &Comparison) -> Vec<String> {
    let mut lines = Vec::new();
    for scenario in &comparison.scenarios {
        for ratio in scenario.ratios.iter().filter(|ratio| !ratio.refused.is_empty()) {
            let why: Vec<String> = ratio.refused.iter().map(ToString::to_string).collect();
            lines.push(format!("{}: {} against {}: {}", scenario.name, ratio.subject, ratio.peer, why.join("; ")));
        }
    }
    lines
}

fn summary_row(comparison: &Comparison, scenario: &ScenarioComparison) -> Vec<String> {
    let summary = words::summary(comparison, scenario);
    let value = |value: f64| words::value(scenario.figure, value);
    vec![
        scenario.name.clone(),
        scenario.figure.unit().to_owned(),
        summary.subject.map_or_else(|| NONE.to_owned(), |spread| value(spread.median)),
        summary.best.map_or_else(|| NONE.to_owned(), |(name, spread)| format!("{} {name}", value(spread.median))),
        summary
            .ratio
            .and_then(|ratio| ratio.spread)
            .map_or_else(|| NONE.to_owned(), |spread| words::ratio_with_spread(&spread)),
        summary.verdict.label().to_owned(),
    ]
}

/// The rows that a reader must not miss.
fn emphasised(mut row: Vec<String>) -> Vec<String> {
    if let Some(verdict) = row.last_mut().filter(|verdict| *verdict == Verdict::Behind.label()) {
        *verdict = format!("**{verdict}**");
    }
    row
}

fn detail_rows(comparison: &Comparison, scenario: &ScenarioComparison) -> Vec<Vec<String>> {
    let row = |proxy: &Proxy| {
        let standing = words::standing(scenario, &proxy.name)?;
        let ratio = scenario.ratios.iter().find(|ratio| ratio.peer == proxy.name);
        let value = |value: f64| words::value(scenario.figure, value);
        Some(vec![
            proxy.name.clone(),
            standing.figure.map_or_else(|| NONE.to_owned(), |spread| value(spread.median)),
            standing
                .figure
                .map_or_else(|| NONE.to_owned(), |spread| format!("{} to {}", value(spread.min), value(spread.max))),
            match ratio {
                None => String::new(),
                Some(ratio) => {
                    ratio.spread.map_or_else(|| "not believed".to_owned(), |spread| words::ratio_with_spread(&spread))
                }
            },
            standing.doubts.join("; "),
        ])
    };
    comparison.proxies.iter().filter_map(row).collect()
}

fn proxy_row(proxy: &Proxy) -> Vec<String> {
    [&proxy.name, &proxy.version, &proxy.mode, &proxy.records, &proxy.tls_library, &proxy.binary]
        .map(String::clone)
        .to_vec()
}

fn list(text: &mut String, title: &str, lines: Vec<String>) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{title}:\n");
    for line in lines {
        let _ = writeln!(text, "- {}", one_line(&line));
    }
}

/// A Markdown table; cells cannot break out of it.
fn pipes(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut text = format!("| {} |\n|{}\n", head.join(" | "), " --- |".repeat(head.len()));
    for row in rows {
        let cells: Vec<String> = row.iter().map(|cell| one_line(cell).replace('|', "\\|")).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Columns as wide as their widest cell.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

/// How to read the summary.
pub const READING: &str = "The ratio compares the subject with the best peer of the same rounds, pair by pair: median \
(smallest to largest). Above 1 the subject is ahead, whichever way the figure is better. `level` means that the pairs \
lie on both sides of 1. Work is counted per CPU-second of the proxy, not per second: that is what holds on a shared \
machine.";

const SUMMARY_HEAD: [&str; 6] = ["scenario", "figure", "subject", "best peer", "ratio", "verdict"];
const DETAIL_HEAD: [&str; 5] = ["proxy", "median", "smallest to largest", "subject's ratio to it", "doubts"];
const PROXY_HEAD: [&str; 6] = ["name", "version", "mode", "records", "TLS library", "program"];
const NONE: &str = "-";
