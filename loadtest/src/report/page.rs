//! The comparison as one self-contained HTML page: no scripts, nothing to load.

use std::fmt::Write as _;

use super::words::{self, Verdict};
use super::{plot, table};
use crate::compare::schema::{Comparison, Proxy, ScenarioComparison};

/// The page.
pub fn page(comparison: &Comparison) -> anyhow::Result<String> {
    let mut html = String::new();
    let _ = write!(
        html,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Comparison of TLS termination proxies</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
    );
    head(&mut html, comparison);
    overview(&mut html, comparison)?;
    for scenario in &comparison.scenarios {
        section(&mut html, comparison, scenario)?;
    }
    proxies(&mut html, comparison);
    machine(&mut html, comparison);
    html.push_str("</main>\n</body>\n</html>\n");
    Ok(html)
}

/// `text` where HTML expects text or an attribute value.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

fn head(html: &mut String, comparison: &Comparison) {
    let machine = &comparison.environment;
    let _ = writeln!(html, "<h1>Comparison of TLS termination proxies</h1>");
    let _ = writeln!(
        html,
        "<p class=\"faint\">{} &middot; {} &middot; {} &middot; {} rounds of {} s</p>",
        escape(&comparison.started),
        escape(&machine.cpu_model),
        escape(&machine.kernel),
        comparison.settings.rounds,
        comparison.settings.seconds,
    );
    if comparison.interrupted {
        let _ = writeln!(html, "<p class=\"warning\">Interrupted: this is what was measured until then.</p>");
    }
    if let Some(note) = &machine.note {
        let _ = writeln!(html, "<p class=\"warning\">{}</p>", escape(note));
    }
}

fn overview(html: &mut String, comparison: &Comparison) -> anyhow::Result<()> {
    let title = match words::subject(comparison) {
        Some(subject) => format!("{} against the best peer", subject.name),
        None => "The best peer".to_owned(),
    };
    let reading = escape(table::READING).replacen("`level`", "<i>level</i>", 1);
    let _ = writeln!(html, "<section>\n<h2>{}</h2>\n<p class=\"faint\">{reading}</p>", escape(&title));
    if words::subject(comparison).is_some() {
        let _ = writeln!(html, "<div class=\"plot\">{}</div>", plot::overview(comparison)?);
    }
    html.push_str(
        "<div class=\"wide\"><table>\n<tr><th>Scenario</th><th class=\"number\">Subject</th>\
         <th class=\"number\">Best peer</th><th></th><th>Figure</th><th class=\"number\">Ratio</th><th></th></tr>\n",
    );
    for scenario in &comparison.scenarios {
        summary_row(html, comparison, scenario);
    }
    html.push_str("</table></div>\n");
    let reasons = table::reasons(comparison);
    if !reasons.is_empty() {
        let _ = writeln!(html, "<details><summary>{} ratios are not believed: why</summary>", reasons.len());
        unordered(html, &reasons);
        html.push_str("</details>\n");
    }
    html.push_str("</section>\n");
    Ok(())
}

fn summary_row(html: &mut String, comparison: &Comparison, scenario: &ScenarioComparison) {
    let summary = words::summary(comparison, scenario);
    let value = |value: f64| words::value(scenario.figure, value);
    let ratio = summary.ratio.and_then(|ratio| ratio.spread).map(|spread| words::ratio_with_spread(&spread));
    let _ = writeln!(
        html,
        "<tr><td class=\"name\"><a href=\"#{name}\">{name}</a></td><td class=\"number\">{}</td>\
         <td class=\"number\">{}</td><td class=\"name\">{}</td><td>{}</td><td class=\"number\">{}</td>\
         <td class=\"name {}\">{}</td></tr>",
        summary.subject.map_or_else(|| NONE.to_owned(), |spread| value(spread.median)),
        summary.best.map_or_else(|| NONE.to_owned(), |(_, spread)| value(spread.median)),
        escape(summary.best.map_or("", |(name, _)| name)),
        scenario.figure.unit(),
        ratio.unwrap_or_else(|| NONE.to_owned()),
        class(summary.verdict),
        summary.verdict.label(),
        name = escape(&scenario.name),
    );
}

fn section(html: &mut String, comparison: &Comparison, scenario: &ScenarioComparison) -> anyhow::Result<()> {
    let _ = writeln!(
        html,
        "<section id=\"{name}\">\n<h2>{name}</h2>\n<p class=\"faint\">{}</p>\n<div class=\"plot\">{}</div>",
        escape(&table::describe(scenario)),
        plot::bars(comparison, scenario)?,
        name = escape(&scenario.name),
    );
    if let Some(percentiles) = plot::percentiles(comparison, scenario) {
        let _ = writeln!(
            html,
            "<p class=\"faint\">Latency from the intended start: p50, p90, p99 (large) and p99.9, medians over the \
             rounds.</p>\n<div class=\"plot\">{}</div>",
            percentiles?
        );
    }
    html.push_str(
        "<div class=\"wide\"><table>\n<tr><th>Proxy</th><th class=\"number\">Median</th>\
         <th class=\"number\">Smallest to largest</th><th class=\"number\">Subject's ratio to it</th><th>Doubts</th></tr>\n",
    );
    for proxy in &comparison.proxies {
        detail_row(html, scenario, proxy);
    }
    html.push_str("</table></div>\n</section>\n");
    Ok(())
}

fn detail_row(html: &mut String, scenario: &ScenarioComparison, proxy: &Proxy) {
    let Some(standing) = words::standing(scenario, &proxy.name) else { return };
    let value = |value: f64| words::value(scenario.figure, value);
    let ratio = scenario.ratios.iter().find(|ratio| ratio.peer == proxy.name);
    let (ratio, class) = match ratio.map(|ratio| ratio.spread) {
        None => (String::new(), class(Verdict::Alone)),
        Some(None) => (Verdict::Refused.label().to_owned(), class(Verdict::Refused)),
        Some(Some(spread)) => (words::ratio_with_spread(&spread), class(Verdict::of(&spread))),
    };
    let _ = writeln!(
        html,
        "<tr{}><td class=\"name\">{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td>\
         <td class=\"number {class}\">{ratio}</td><td class=\"faint\">{}</td></tr>",
        if proxy.subject { " class=\"subject\"" } else { "" },
        escape(&proxy.name),
        standing.figure.map_or_else(|| NONE.to_owned(), |spread| value(spread.median)),
        standing.figure.map_or_else(String::new, |spread| format!("{} to {}", value(spread.min), value(spread.max))),
        escape(&standing.doubts.join("; ")),
    );
}

fn proxies(html: &mut String, comparison: &Comparison) {
    html.push_str(
        "<section>\n<h2>Who took part</h2>\n<div class=\"wide\"><table>\n<tr><th>Name</th><th>Version</th><th>Mode</th>\
         <th>Records</th><th>TLS library</th><th>Program</th></tr>\n",
    );
    for proxy in &comparison.proxies {
        let _ = writeln!(
            html,
            "<tr{}><td class=\"name\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td><code>{}</code></td></tr>",
            if proxy.subject { " class=\"subject\"" } else { "" },
            escape(&proxy.name),
            escape(&proxy.version),
            escape(&proxy.mode),
            escape(&proxy.records),
            escape(&proxy.tls_library),
            escape(&proxy.binary),
        );
    }
    html.push_str("</table></div>\n");
    if !comparison.absent.is_empty() {
        let lines: Vec<String> =
            comparison.absent.iter().map(|absent| format!("{}: {}", absent.name, absent.reason)).collect();
        html.push_str("<p>Left out:</p>\n");
        unordered(html, &lines);
    }
    html.push_str("</section>\n");
}

fn machine(html: &mut String, comparison: &Comparison) {
    html.push_str("<section>\n<h2>Machine and settings</h2>\n<div class=\"wide\"><table>\n");
    for (name, value) in words::passport(comparison) {
        let _ = writeln!(html, "<tr><td class=\"name faint\">{name}</td><td>{}</td></tr>", escape(&value));
    }
    html.push_str("</table></div>\n</section>\n");
}

fn unordered(html: &mut String, lines: &[String]) {
    html.push_str("<ul>\n");
    for line in lines {
        let _ = writeln!(html, "<li>{}</li>", escape(line));
    }
    html.push_str("</ul>\n");
}

fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ahead => "ahead",
        Verdict::Behind => "behind",
        Verdict::Level => "level",
        Verdict::Refused => "refused",
        Verdict::Alone => "alone",
    }
}

const STYLE: &str = include_str!("page.css");
const NONE: &str = "&ndash;";
