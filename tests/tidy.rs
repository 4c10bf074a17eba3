//! The rules of the tree that no compiler checks: who may use whom, where unsafe code lives, how long files get, what must
//! not be left lying about, and that documents and links lead somewhere.

#![allow(clippy::expect_used, reason = "a failed expectation is a failed test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which top-level modules a top-level module may use; anything else needs a decision here first. `main` stands for the
/// binary. Nobody but `command` uses `config`: it builds each module's `Settings`, and no module knows the file.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["command", "sys"]),
    (
        "command",
        &[
            "admin",
            "backend",
            "config",
            "guard",
            "ktls",
            "record",
            "relay",
            "server",
            "sys",
            "telemetry",
            "ticket",
            "tls",
            "worker",
        ],
    ),
    // Of `record` only a limit, as the default of a key.
    (
        "config",
        &[
            "admin",
            "backend",
            "guard",
            "ktls",
            "network",
            "proxy_protocol",
            "record",
            "server",
            "telemetry",
            "ticket",
            "tls",
            "worker",
        ],
    ),
    ("server", &["admin", "backend", "guard", "ktls", "sys", "telemetry", "ticket", "tls", "worker"]),
    // Of `sys` an option of OpenSSL; so does `telemetry`.
    ("admin", &["sys", "telemetry"]),
    (
        "worker",
        &[
            "backend",
            "guard",
            "ktls",
            "network",
            "proxy_protocol",
            "relay",
            "sys",
            "telemetry",
            "ticket",
            "timer",
            "tls",
        ],
    ),
    ("relay", &["ktls", "record", "sys", "telemetry", "timer"]),
    ("tls", &["guard", "record", "sys", "telemetry", "ticket"]),
    ("backend", &["proxy_protocol", "sys", "telemetry", "timer"]),
    ("proxy_protocol", &["sys", "telemetry"]),
    ("ktls", &["record", "sys", "telemetry"]),
    ("ticket", &["sys", "telemetry"]),
    // Labels name suites' versions and alerts.
    ("telemetry", &["record", "sys"]),
    ("record", &["sys"]),
    // Types only: the keys and content types that go to the kernel and to OpenSSL's key derivation.
    ("sys", &["record"]),
    ("guard", &["network", "timer"]),
    ("network", &[]),
    ("timer", &[]),
];

/// Where unsafe code may stand. Below `tests` only what a safe call of a crate is missing for.
const UNSAFE_ALLOWED: &[&str] =
    &["src/sys/", "loadtest/src/sys.rs", "crates/", "tests/support/tcp.rs", "tests/ticket_common/mod.rs"];

/// Longest source file; long before it, something wants to leave.
const FILE_LINES_MAX: usize = 700;

/// What must not be committed, with the files that may have it all the same.
const LEFTOVERS: &[(&str, &[&str])] = &[
    (concat!("todo", "!("), &[]),
    (concat!("unimplemented", "!("), &[]),
    (concat!("dbg", "!("), &[]),
    (concat!("FIX", "ME"), &[]),
    // The process that another test of the file measures.
    (concat!("#[", "ignore"), &["loadtest/tests/cost.rs"]),
];

/// Paths of one developer's machine, and registries, which are the affair of whoever builds.
const PLACES: &[&str] = &[
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
    concat!("crates", ".io/"),
    concat!("index.crates", ".io"),
    concat!("static.crates", ".io"),
    concat!("py", "pi.org"),
    concat!("registry.", "npmjs"),
];

#[test]
fn modules_use_only_whom_the_table_names() {
    let modules = declared_modules();
    let listed: BTreeSet<_> = ARROWS.iter().map(|(module, _)| *module).filter(|module| *module != "main").collect();
    let declared: BTreeSet<_> = modules.iter().map(String::as_str).collect();
    assert_eq!(listed, declared, "the table of arrows and the modules of src/lib.rs differ");

    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let Some(module) = module_of(&path) else { continue };
        let allowed = ARROWS.iter().find(|(name, _)| *name == module[0]).map_or(&[][..], |(_, allowed)| allowed);
        for (line, used) in uses(&product_code(&text), &module) {
            if used != module[0] && declared.contains(used.as_str()) && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{path}:{line}: {} may not use {used}", module[0]));
            }
        }
    }
    assert_none(&wrong, "see ARROWS in tests/tidy.rs, and docs/architecture.md");
}

#[test]
fn unsafe_code_stands_only_where_it_may() {
    let mut wrong = Vec::new();
    for (path, text) in sources(".") {
        if UNSAFE_ALLOWED.iter().any(|allowed| path.starts_with(allowed)) {
            continue;
        }
        let code = without_comments_and_strings(&text);
        wrong.extend(lines_with_word(&code, "unsafe").map(|line| format!("{path}:{line}: unsafe code")));
    }
    assert_none(&wrong, "unsafe code lives in src/sys");
}

#[test]
fn every_context_of_the_programs_takes_no_compressed_certificates() {
    const BUILDERS: [&str; 4] =
        ["SslContextBuilder::new(", "SslContext::builder(", "SslConnector::builder(", "SslAcceptor::mozilla_"];
    let mut wrong = Vec::new();
    let mut count = 0;
    for (path, text) in sources("src").into_iter().chain(sources("loadtest/src")) {
        let code = product_code(&text);
        let built: usize = BUILDERS.iter().map(|builder| code.matches(builder).count()).sum();
        let option = |statement: &&str| {
            statement.contains("set_options(") && statement.contains("NO_RX_CERTIFICATE_COMPRESSION")
        };
        let set = code.split(';').filter(option);
        if set.count() < built {
            wrong.push(format!("{path}: a context without the option NO_RX_CERTIFICATE_COMPRESSION"));
        }
        count += built;
    }
    assert_none(&wrong, "a few KiB of a peer could expand to 16 MiB, see src/sys/ssl.rs");
    assert!(count >= 6, "the builders of contexts are found");
}

#[test]
fn source_files_stay_short() {
    let too_long = sources(".")
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, count)| *count > FILE_LINES_MAX);
    let wrong: Vec<_> = too_long.map(|(path, count)| format!("{path}: {count} lines")).collect();
    assert_none(&wrong, &format!("at most {FILE_LINES_MAX} lines"));
}

#[test]
fn nothing_unfinished_is_left_lying_about() {
    let mut wrong = Vec::new();
    for (path, text) in sources(".") {
        for (leftover, allowed) in LEFTOVERS {
            if !allowed.contains(&path.as_str()) {
                wrong.extend(lines_with(&text, leftover).map(|line| format!("{path}:{line}: {leftover}")));
            }
        }
    }
    assert_none(&wrong, "finish it, or write an issue");
}

#[test]
fn no_file_names_a_place_that_only_its_author_knows() {
    let mut wrong = Vec::new();
    for path in files(".") {
        // The lock file names the registry of each crate; that is its job.
        if path == "Cargo.lock" {
            continue;
        }
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        for place in PLACES {
            wrong.extend(lines_with(&text, place).map(|line| format!("{path}:{line}: {place}")));
        }
    }
    assert_none(&wrong, "no paths of a developer's machine, no registries");
}

#[test]
fn documents_are_all_in_the_index() {
    let index = read("docs/README.md");
    let documents = files("docs").into_iter().filter(|path| path.ends_with(".md") && path != "docs/README.md");
    let missing = documents.filter(|path| {
        let link = path.trim_start_matches("docs/");
        !index.contains(&format!("]({link})"))
    });
    assert_none(&missing.collect::<Vec<_>>(), "docs/README.md has no link to it");
}

#[test]
fn decisions_are_numbered_without_a_gap() {
    let names = files("docs/decisions");
    let numbers = names.iter().map(|path| path.trim_start_matches("docs/decisions/").get(..4).unwrap_or(path));
    let expected = (1..=names.len()).map(|number| format!("{number:04}"));
    assert!(!names.is_empty(), "there are decisions");
    assert!(numbers.eq(expected), "numbers start at 0001 and go up by one: {names:?}");
}

#[test]
fn links_between_documents_lead_to_a_file() {
    let mut wrong = Vec::new();
    for path in files(".").into_iter().filter(|path| path.ends_with(".md")) {
        let folder = Path::new(&path).parent().expect("a file has a folder").to_owned();
        for (line, target) in links(&read(&path)) {
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !target.contains("://") && !root().join(&folder).join(file).exists() {
                wrong.push(format!("{path}:{line}: {target}"));
            }
        }
    }
    assert_none(&wrong, "the link leads nowhere");
}

#[test]
fn links_to_a_heading_find_it() {
    let mut wrong = Vec::new();
    for path in files(".").into_iter().filter(|path| path.ends_with(".md")) {
        let folder = Path::new(&path).parent().expect("a file has a folder").to_owned();
        let text = read(&path);
        for (line, target) in links(&text) {
            let Some((file, anchor)) = target.split_once('#').filter(|_| !target.contains("://")) else { continue };
            let page = match file {
                "" => text.clone(),
                file => fs::read_to_string(root().join(&folder).join(file)).unwrap_or_default(),
            };
            if !anchors(&page).contains(&anchor.to_owned()) {
                wrong.push(format!("{path}:{line}: {target}"));
            }
        }
    }
    assert_none(&wrong, "there is no such heading");
}

/// The scanner itself: an arrow must not hide behind the way it is written.
#[test]
fn uses_are_found_however_they_are_written() {
    let used = |text: &str| {
        let module = ["relay".to_owned(), "close".to_owned()];
        uses(&product_code(text), &module).into_iter().map(|(_, used)| used).collect::<Vec<_>>()
    };
    assert_eq!(used("use crate::config::Limit;"), ["config"]);
    assert_eq!(used("use crate::{\n    tls::{self, Policy},\n    worker,\n};"), ["tls", "worker"]);
    assert_eq!(used("fn f() { crate::admin::g() }"), ["admin"]);
    assert_eq!(used("use super::super::http::Head;"), ["http"]);
    assert_eq!(used("use super::super::{http, worker::Plan};"), ["http", "worker"]);
    assert!(used("use super::pipe::PIPE_LEN; // not crate::config").is_empty());
    assert!(used("const HELP: &str = \"crate::config\";").is_empty());
    assert!(used("#[cfg(test)]\nmod tests {\n    use crate::config::Limit;\n}").is_empty());
    assert_eq!(used("#[cfg(test)]\nuse crate::config;\nuse crate::tls;"), ["config", "tls"]);
}

fn assert_none(wrong: &[String], rule: &str) {
    assert!(wrong.is_empty(), "{rule}:\n{}", wrong.join("\n"));
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).expect("a file of the tree can be read")
}

/// Every file below a folder, as paths from the root, in order; what is built or fetched is left out.
fn files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the tree can be read") {
            let path = entry.expect("an entry can be read").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_symlink() || ["target", ".git", ".cache"].contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                let path = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
                found.push(path.trim_start_matches("./").to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Every Rust file below a folder, with its text.
fn sources(folder: &str) -> Vec<(String, String)> {
    let rust = files(folder).into_iter().filter(|path| path.ends_with(".rs"));
    rust.map(|path| (path.clone(), read(&path))).collect()
}

fn declared_modules() -> Vec<String> {
    let names = read("src/lib.rs");
    let declared = names.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    declared.map(str::to_owned).collect()
}

/// The module of a file as its path from the crate; none for the list of modules and for files of tests alone.
fn module_of(path: &str) -> Option<Vec<String>> {
    let inside = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    if inside == "lib" || inside.ends_with("_tests") || inside.ends_with("/testing") {
        return None;
    }
    if inside == "main" || inside == "cli" {
        return Some(vec!["main".to_owned()]);
    }
    Some(inside.trim_end_matches("/mod").split('/').map(str::to_owned).collect())
}

/// The file without its module of tests, which may use whatever proves something, and without comments and strings.
fn product_code(text: &str) -> String {
    let code = without_comments_and_strings(text);
    let end = code.find("\nmod tests").filter(|_| code.contains("#[cfg(test)]")).unwrap_or(code.len());
    code[..end].to_owned()
}

/// The top-level modules that `code`, a part of `module`, names, each with its line.
fn uses(code: &str, module: &[String]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let to_root = "super::".repeat(module.len());
    for start in ["crate::", "sluice::", to_root.as_str()] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            let is_longer_path = before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
            if is_longer_path {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            found.extend(heads(&code[at + start.len()..]).into_iter().map(|head| (line, head)));
        }
    }
    found
}

/// The first names of a path or of a group of paths.
fn heads(rest: &str) -> Vec<String> {
    let name = |text: &str| text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let Some(group) = rest.strip_prefix('{') else { return vec![name(rest)] };
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                found.push(name(&group[start..at]));
                start = at + 1;
                if character == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found.retain(|name: &String| !name.is_empty());
    found
}

/// The text with comments and string literals blanked, line by line; enough for words and paths.
fn without_comments_and_strings(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    let mut in_string = false;
    while let Some(character) = characters.next() {
        match character {
            '\\' if in_string => {
                // Whatever is escaped, a line must stay a line.
                result.extend(characters.next().filter(|escaped| *escaped == '\n'));
            }
            '"' => in_string = !in_string,
            '\n' => result.push('\n'),
            _ if in_string => {}
            '\'' if characters.peek() == Some(&'"') => {
                characters.next();
            }
            '/' if characters.peek() == Some(&'/') => while characters.next_if(|c| *c != '\n').is_some() {},
            _ => result.push(character),
        }
    }
    result
}

fn lines_with<'a>(text: &'a str, part: &'a str) -> impl Iterator<Item = usize> {
    text.lines().enumerate().filter(move |(_, line)| line.contains(part)).map(|(index, _)| index + 1)
}

fn lines_with_word<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> {
    let words = |line: &'a str| line.split(|c: char| !c.is_alphanumeric() && c != '_');
    code.lines().enumerate().filter(move |(_, line)| words(line).any(|found| found == word)).map(|(index, _)| index + 1)
}

/// The anchors of the headings of a Markdown text, as GitHub makes them; code is left out.
fn anchors(text: &str) -> Vec<String> {
    let mut in_code = false;
    let mut found = Vec::new();
    for line in text.lines() {
        in_code ^= line.trim_start().starts_with("```");
        let title = line.trim_start_matches('#');
        if in_code || title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let letters = title.trim().to_lowercase().replace(' ', "-");
        found.push(letters.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect());
    }
    found
}

/// The targets of the links of a Markdown text, each with its line; code is left out.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        in_code ^= line.trim_start().starts_with("```");
        if in_code {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            let target = line[at + 2..].split(')').next().unwrap_or_default();
            found.push((index + 1, target.to_owned()));
        }
    }
    found
}
