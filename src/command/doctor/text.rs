//! The findings for people: what is ok takes one line, what is not says what is wanted and what to do.

use super::finding::{Finding, Level, counted};
use super::report::Report;
use crate::config::Style;

/// Columns that lines are wrapped at; a longer word stays whole, so that it can be copied.
const COLUMNS: usize = 100;
/// Columns of the level, the widest of which is `warning`.
const LEVEL_COLUMNS: usize = 7;
/// Columns of a check's name before what was found moves out of line.
const TITLE_COLUMNS: usize = 28;

/// Grouped by subject, with a last line that counts and names the worst: what is seen first on a terminal.
pub(super) fn render(report: &Report, style: Style) -> String {
    let title_columns = report.findings.iter().map(|finding| finding.title().chars().count());
    let title_columns = title_columns.filter(|&columns| columns <= TITLE_COLUMNS).max().unwrap_or(0);
    let mut text = String::new();
    let mut subject = None;
    for finding in &report.findings {
        if subject.replace(finding.subject()) != Some(finding.subject()) {
            text.push_str(&format!("{}\n", finding.subject()));
        }
        render_finding(&mut text, finding, title_columns, style);
    }
    text.push('\n');
    render_summary(&mut text, report, style);
    text
}

fn render_finding(text: &mut String, finding: &Finding, title_columns: usize, style: Style) {
    let level = paint(finding.level(), &format!("{:<LEVEL_COLUMNS$}", finding.level().name()), style);
    let head = format!("  {level}  {:<title_columns$}  ", finding.title());
    let indent = 2 + LEVEL_COLUMNS + 2 + title_columns + 2;
    wrap(text, &head, finding.found(), indent);
    if let Some(remedy) = finding.remedy() {
        let indent = 2 + LEVEL_COLUMNS + 2;
        let label = |name| format!("{:indent$}{name:<8}", "");
        if !finding.wanted().is_empty() {
            wrap(text, &label("wanted"), finding.wanted(), indent + 8);
        }
        wrap(text, &label("remedy"), remedy, indent + 8);
    }
}

fn render_summary(text: &mut String, report: &Report, style: Style) {
    let level = if report.is_broken() { Level::Broken } else { Level::Ok };
    let counts = format!(
        "{} broken, {}, {}, {} ok",
        report.count(Level::Broken),
        counted(report.count(Level::Warning), "warning"),
        counted(report.count(Level::Note), "note"),
        report.count(Level::Ok)
    );
    text.push_str(&format!("{}\n", paint(level, &counts, style)));
    for finding in report.findings.iter().filter(|finding| finding.level() == Level::Broken) {
        text.push_str(&format!("broken: {}: {}\n", finding.subject(), finding.title()));
    }
}

/// Writes `head` and `body`, and breaks lines between words so that every further line starts at column `indent`. What
/// stands in backticks stays in one line, so that a command can be copied.
fn wrap(text: &mut String, head: &str, body: &str, indent: usize) {
    text.push_str(head);
    // Escapes take no columns, so the head's width is what it is said to be, or more where a title is long.
    let mut column = indent.max(visible(head));
    let mut is_first = true;
    for word in words(body) {
        let columns = word.chars().count();
        if !is_first && column + 1 + columns > COLUMNS {
            text.push_str(&format!("\n{:indent$}", ""));
            column = indent;
            is_first = true;
        }
        if !is_first {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += columns;
        is_first = false;
    }
    text.push('\n');
}

/// Splits at white space outside of backticks.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    let is_border = move |c: char| {
        is_quoted ^= c == '`';
        !is_quoted && c.is_whitespace()
    };
    text.split(is_border).filter(|word| !word.is_empty())
}

/// The columns that `text` takes: everything but the colours of [`paint`].
fn visible(text: &str) -> usize {
    let mut is_escape = false;
    let counts = |c: &char| {
        if *c == '\u{1b}' {
            is_escape = true;
        }
        let is_counted = !is_escape;
        if is_escape && *c == 'm' {
            is_escape = false;
        }
        is_counted
    };
    text.chars().filter(counts).count()
}

fn paint(level: Level, text: &str, style: Style) -> String {
    let colour = match level {
        Level::Ok => 32,
        Level::Note => 36,
        Level::Warning => 33,
        Level::Broken => 31,
    };
    match style {
        Style::Plain => text.to_owned(),
        Style::Coloured => format!("\u{1b}[1;{colour}m{text}\u{1b}[0m"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::{Check, Subject};
    use super::*;
    use crate::ktls::Capabilities;

    fn report() -> Report {
        let findings = vec![
            Check::new(Subject::Kernel, "release", "Linux 6.18", "").ok(),
            Check::new(Subject::Limits, "open_files", "1024", "40256").warning("raise LimitNOFILE="),
            Check::new(Subject::Limits, "locked_memory", "word ".repeat(60), "x").ok(),
            Check::new(Subject::KernelTls, "listener", "no kernel TLS", "kernel TLS").about("edge").broken("load it"),
        ];
        Report { findings, capabilities: Capabilities::unasked() }
    }

    #[test]
    fn text_is_aligned_and_ends_with_what_is_broken() {
        let text = render(&report(), Style::Plain);
        let columns: Vec<_> = ["Linux 6.18", "1024", "word", "no kernel TLS"]
            .iter()
            .map(|found| text.lines().find_map(|line| line.find(found)))
            .collect();
        assert!(columns.iter().all(|column| *column == Some(26)), "{columns:?}\n{text}");
        assert!(text.contains("\n           wanted  40256\n           remedy  raise LimitNOFILE=\n"), "{text}");
        assert!(text.ends_with("1 broken, 1 warning, 0 notes, 2 ok\nbroken: kernel TLS: listener edge\n"), "{text}");
    }

    #[test]
    fn text_is_wrapped_between_words() {
        let text = render(&report(), Style::Plain);
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
        assert_eq!(text.matches("word").count(), 60);
        assert!(text.lines().filter(|line| line.contains("word")).all(|line| line.find("word") == Some(26)), "{text}");
    }

    #[test]
    fn command_in_backticks_stays_in_one_line() {
        let mut text = String::new();
        wrap(&mut text, "", &format!("{} `sysctl -w a=\"1024 65535\"`, then more", "word ".repeat(17)), 0);
        assert!(text.contains("\n`sysctl -w a=\"1024 65535\"`, then more\n"), "{text}");
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let (plain, coloured) = (render(&report(), Style::Plain), render(&report(), Style::Coloured));
        let stripped = without_colours(&coloured);
        assert_eq!(stripped, plain);
        assert!(coloured.contains("\u{1b}[1;31m") && !plain.contains('\u{1b}'));
    }

    fn without_colours(text: &str) -> String {
        let mut parts = text.split('\u{1b}');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |stripped, part| stripped + part.split_once('m').map_or("", |(_, rest)| rest))
    }
}
