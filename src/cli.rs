//! The command line.

use clap::{Parser, Subcommand};
use sluice::command::{Exit, audit, check, demo, doctor, run, tickets};

/// TLS termination proxy: io_uring workers, OpenSSL handshakes, kernel TLS records
#[derive(Debug, Parser)]
#[command(name = "sluice", version, after_help = exit_codes(), subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve
    Run(run::Arguments),
    /// Check a configuration, and the files that it names
    Check(check::Arguments),
    /// Judge this machine: kernel, io_uring, kernel TLS, limits, network, CPUs
    Doctor(doctor::Arguments),
    /// Session-ticket rings: make, show, ratchet, revoke
    Tickets(tickets::TicketsArgs),
    /// Audit logs: verify the chain of records
    Audit(audit::Arguments),
    /// Try it: throw-away certificate, built-in backend
    Demo(demo::Arguments),
}

fn exit_codes() -> String {
    let lines = Exit::ALL.map(|(exit, meaning)| format!("  {:<3} {meaning}", exit.code()));
    format!("Exit codes:\n{}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// A command line of a document that this version does not take misleads whoever copies it.
    #[test]
    fn command_lines_in_documents_are_understood() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut pages = vec![root.join("README.md"), root.join("tuning/README.md")];
        pages.extend(pages_below(&root.join("docs")));
        let mut count = 0;
        for page in pages {
            for line in command_lines(&fs::read_to_string(&page).unwrap()) {
                count += 1;
                let parsed = Cli::try_parse_from(line.split_whitespace());
                // Help and version are "errors" of the parser that belong to a good command line.
                let is_good = parsed.as_ref().map_or_else(|error| !error.use_stderr(), |_| true);
                assert!(is_good, "{}: {line}: {}", page.display(), parsed.unwrap_err());
            }
        }
        assert!(count > 10, "{count}");
    }

    #[test]
    fn command_lines_are_found_behind_paths_and_before_pipes() {
        let found = command_lines(
            "```sh\nsudo -u sluice /usr/bin/sluice check -c F  # why\nx | sluice doctor > f\n```\nsluice no\n",
        );
        assert_eq!(found, ["sluice check -c F", "sluice doctor"]);
    }

    /// The command lines of `sluice` in the fenced code of a page, without what a shell does with them.
    fn command_lines(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut is_code = false;
        for line in text.lines() {
            if line.trim_start().starts_with("```") {
                is_code = !is_code;
                continue;
            }
            let plain = line.split(" # ").next().unwrap_or_default();
            for part in plain.split(['|', '>', ';', '&']).filter(|_| is_code) {
                let words: Vec<_> = part.split_whitespace().collect();
                let is_program = |word: &&str| word.rsplit('/').next() == Some("sluice");
                // Behind the name comes a command; elsewhere it is a user or a folder.
                let commands = ["run", "check", "doctor", "tickets", "demo", "audit", "--version", "--help"];
                let start = words.windows(2).position(|pair| is_program(&pair[0]) && commands.contains(&pair[1]));
                if let Some(start) = start.filter(|_| !part.contains("...")) {
                    found.push(["sluice"].iter().chain(&words[start + 1..]).copied().collect::<Vec<_>>().join(" "));
                }
            }
        }
        found
    }

    fn pages_below(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
        let pages = files.into_iter().filter(|path| path.extension().is_some_and(|end| end == "md"));
        pages.chain(folders.iter().flat_map(|folder| pages_below(folder))).collect()
    }
}
