//! The tuning kit and its pages say the same: what is rendered from tuning/knobs.toml is up to date.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use toml::Table;

#[test]
fn sysctl_file_is_rendered_from_the_knobs() {
    check("tuning/sysctl.d/90-sluice.conf", &sysctl_file(&knobs()));
}

#[test]
fn page_of_knobs_is_rendered_from_the_knobs() {
    check("docs/operating/knobs.md", &page(&knobs()));
}

#[test]
fn knobs_have_the_keys_that_are_known() {
    let keys = ["sysctl", "default", "value", "rule", "level", "missing", "why", "effect"];
    for knob in knobs() {
        let unknown: Vec<_> = knob.keys().filter(|key| !keys.contains(&key.as_str())).collect();
        assert!(unknown.is_empty(), "{}: {unknown:?}", text(&knob, "sysctl"));
        assert!(["why", "effect", "default"].iter().all(|key| !text(&knob, key).is_empty()));
    }
}

#[test]
fn page_of_tuning_names_every_profile() {
    let page = read("docs/operating/tuning.md");
    for entry in fs::read_dir(root().join("tuning/profiles")).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned();
        assert!(page.contains(&format!("`{name}`")), "docs/operating/tuning.md lacks {name}");
        let help = Command::new(env!("CARGO_BIN_EXE_sluice")).args(["doctor", "--profile", "none"]).output().unwrap();
        assert!(String::from_utf8(help.stderr).unwrap().contains(&name), "{name} is not built in");
    }
}

/// What it measures takes root and minutes; that it can be started does not.
#[test]
fn measurements_that_the_page_shows_can_be_asked_for() {
    let measure = root().join("tuning/measure");
    let output = Command::new("python3").arg(&measure).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for name in ["congestion", "notsent-lowat-cost", "slow-start-after-idle", "wmem", "somaxconn", "migrate-req"] {
        assert!(help.contains(name), "{name}: {help}");
    }
    let output = Command::new("python3").arg(&measure).arg("nothing").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

fn knobs() -> Vec<Table> {
    let table: Table = read("tuning/knobs.toml").parse().unwrap();
    table["knob"].as_array().unwrap().iter().map(|knob| knob.as_table().unwrap().clone()).collect()
}

fn text<'a>(knob: &'a Table, key: &str) -> &'a str {
    knob.get(key).and_then(|value| value.as_str()).unwrap_or_default()
}

fn sysctl_file(knobs: &[Table]) -> String {
    let mut file = String::from(FILE_PREFACE);
    for knob in knobs {
        let (name, value) = (text(knob, "sysctl"), text(knob, "value"));
        let (default, effect) = (text(knob, "default"), text(knob, "effect"));
        write!(file, "\n{}", wrapped(text(knob, "why"), "# ", 120)).unwrap();
        writeln!(file, "# Default: {default}. Effect: {effect}.").unwrap();
        // A leading hyphen: not there on every kernel, and no error then.
        let hyphen = if knob.contains_key("missing") { "-" } else { "" };
        writeln!(file, "{hyphen}{name} = {value}").unwrap();
    }
    file
}

fn page(knobs: &[Table]) -> String {
    let mut page = String::from(PAGE_PREFACE);
    for knob in knobs {
        let (name, value) = (text(knob, "sysctl"), text(knob, "value"));
        let fits = match text(knob, "rule") {
            "equal" => "this value",
            "at-least" => "this or more",
            "at-least-or-zero" => "this or more, or 0: no limit",
            "last-at-least" => "any whose last number is as large",
            "covers" => "this range or a wider one",
            rule => panic!("unknown rule {rule}"),
        };
        write!(page, "\n## `{name}`\n\n{}\n", wrapped(text(knob, "why"), "", 120)).unwrap();
        writeln!(page, "| default | ours | what fits | a difference is |\n| --- | --- | --- | --- |").unwrap();
        writeln!(page, "| {} | {value} | {fits} | a {} |", text(knob, "default"), text(knob, "level")).unwrap();
        write!(page, "\n{}", wrapped(&format!("Effect: {}.", text(knob, "effect")), "", 120)).unwrap();
    }
    page
}

fn wrapped(text: &str, lead: &str, columns: usize) -> String {
    let (mut lines, mut line) = (String::new(), lead.to_owned());
    for word in text.split(' ') {
        if line.len() > lead.len() && line.len() + 1 + word.len() > columns {
            lines += &format!("{line}\n");
            lead.clone_into(&mut line);
        }
        if line.len() > lead.len() {
            line.push(' ');
        }
        line += word;
    }
    lines + &line + "\n"
}

/// Compares a file with what was rendered; writes it where the variable asks for it.
fn check(path: &str, rendered: &str) {
    if std::env::var_os("SLUICE_WRITE_DOCS").is_some() {
        fs::write(root().join(path), rendered).unwrap();
    }
    let is_current = fs::read_to_string(root().join(path)).unwrap_or_default() == rendered;
    assert!(is_current, "{path} is stale: run SLUICE_WRITE_DOCS=1 cargo test --test tuning_docs");
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

const FILE_PREFACE: &str = "\
# Sysctls for Sluice, rendered from tuning/knobs.toml. Copy to /etc/sysctl.d and run `sysctl --system`; to revert, remove the
# file and boot, or write the defaults that are named here. `tuning/apply` does the same with an undo.
";

const PAGE_PREFACE: &str = "\
# Sysctls

What Sluice wants of the kernel's settings, and why. `sluice doctor --profile NAME` compares, `tuning/apply` changes and
writes down how to take it back, `tuning/sysctl.d/90-sluice.conf` keeps them over a boot. To revert one by hand:
`sysctl -w NAME=\"DEFAULT\"`. An effect that was not measured is marked as such; those that were are measured as
[tuning](tuning.md#measured) says.

This page is rendered from `tuning/knobs.toml`: `SLUICE_WRITE_DOCS=1 cargo test --test tuning_docs` writes it anew.
";
