//! `[tickets]`: the files are looked at now, so that a start or reload cannot fail on them later.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::ticket::{FileError, Keeper, KeeperError, Settings, Source, load_key_file};

use super::super::diagnostic::Diagnostic;
use super::super::limit;
use super::super::raw;
use super::super::report::Report;
use super::super::scalar::Written;
use super::Environment;

pub(super) fn resolve(raw: &raw::Tickets, environment: &Environment, report: &mut Report) -> Settings {
    let lifetime = report.bounded(&raw.lifetime, &limit::TICKET_LIFETIME);
    let count = report.bounded(&raw.count, &limit::TICKET_COUNT);
    let ring = report.get(&raw.ring).map(|(path, span)| (environment.absolute(&path), span));
    if let Some(ring) = &ring
        && let Some(longest) = examine_ring(ring, environment, report)
    {
        warn_of_lifetime(raw, lifetime, longest, report);
    }
    let key_files = key_files(raw, environment, report);
    if let (true, Some((_, span))) = (lifetime.is_zero(), &ring) {
        let finding = Diagnostic::warning("`tickets.ring` has no effect");
        report.push_at(finding.help("remove it, or set a lifetime"), span, "no tickets are issued: lifetime is 0s");
    }
    let ring = ring.map(|(path, _)| path);
    Settings { ring, key_files, lifetime, count: usize::try_from(count).unwrap_or(usize::MAX) }
}

/// The longest life of a ticket under the ring, if it can be used.
fn examine_ring((path, span): &Written<PathBuf>, environment: &Environment, report: &mut Report) -> Option<Duration> {
    let folder = path.parent().unwrap_or(path);
    if !folder.is_dir() {
        let finding = Diagnostic::error("the folder of `tickets.ring` does not exist")
            .help(format!("create it for the user that runs the proxy: install -d -m 0700 {}", folder.display()));
        report.push_at(finding, span, format!("{} is not a folder", folder.display()));
        return None;
    }
    match Keeper::open_at(Source::File(path.clone()), &[], environment.now.into()) {
        Ok(keeper) => return Some(keeper.retention()),
        Err(KeeperError::File(FileError::Missing { .. })) => {
            let finding = Diagnostic::error("the file of `tickets.ring` does not exist").help(format!(
                "make a ring and give each node a copy of it: sluice tickets new --ring {}",
                path.display()
            ));
            report.push_at(finding, span, "no such file");
        }
        Err(KeeperError::File(error)) => refuse("`tickets.ring`", &error, path, span, report),
        Err(error) => report.push_at(Diagnostic::error("`tickets.ring` cannot be used"), span, error.to_string()),
    }
    None
}

fn warn_of_lifetime(raw: &raw::Tickets, lifetime: Duration, longest: Duration, report: &mut Report) {
    let Some((span, Ok(_))) = raw.lifetime.written() else { return };
    if lifetime > longest {
        let finding = Diagnostic::warning("`tickets.lifetime` is longer than the ring allows")
            .help("lower it, or make a ring with a longer life: sluice tickets new --lifetime");
        let longest = humantime::format_duration(longest);
        report.push_at(finding, &span, format!("the ring's {longest} hold"));
    }
}

fn key_files(raw: &raw::Tickets, environment: &Environment, report: &mut Report) -> Vec<PathBuf> {
    let Some((files, span)) = report.list(&raw.keys) else { return Vec::new() };
    if files.len() > limit::TICKET_KEY_FILE_COUNT_MAX {
        let finding = Diagnostic::error("`tickets.keys` has too many entries")
            .allowed(format!("allowed: up to {} key files", limit::TICKET_KEY_FILE_COUNT_MAX));
        report.push_at(finding, &span, format!("{} key files", files.len()));
    }
    let mut names = Vec::new();
    let mut paths = Vec::new();
    for (file, span) in files.into_iter().take(limit::TICKET_KEY_FILE_COUNT_MAX) {
        let path = environment.absolute(&file);
        match load_key_file(&path) {
            Ok(key) => {
                if names.contains(&key.name()) {
                    let finding = Diagnostic::error("two of the `tickets.keys` have the same key name")
                        .help("the second one would never be found: remove it, or write a new one: openssl rand 80");
                    report.push_at(finding, &span, format!("key name {} again", key.name()));
                }
                names.push(key.name());
            }
            Err(FileError::Missing { .. }) => {
                let finding = Diagnostic::error("a file of `tickets.keys` does not exist");
                report.push_at(finding.help("a key file is 80 random bytes: openssl rand 80"), &span, "no such file");
            }
            Err(error) => refuse("a file of `tickets.keys`", &error, &path, &span, report),
        }
        paths.push(path);
    }
    paths
}

/// Reports what is wrong with a file. That it is another user's is only a warning: the check may be run by another one than
/// the proxy.
fn refuse(what: &str, error: &FileError, path: &Path, span: &Range<usize>, report: &mut Report) {
    let (finding, found) = match error {
        FileError::Owner { owner, user, .. } => {
            let finding = Diagnostic::warning(format!("{what} belongs to another user"))
                .help("the proxy refuses it unless it runs as its owner");
            (finding, format!("belongs to user {owner}, and this is user {user}"))
        }
        FileError::ReadableByOthers { mode, .. } => {
            let finding = Diagnostic::error(format!("{what} could be read by others"))
                .help(format!("chmod 0600 {}, and replace the keys if anybody may have read them", path.display()));
            (finding, format!("has mode {mode:04o}"))
        }
        error => (Diagnostic::error(format!("{what} cannot be used")), error.to_string()),
    };
    report.push_at(finding, span, found);
}
