//! `sluice audit verify FILE..`: was an audit log tampered with?

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::Exit;
use crate::telemetry::audit::{Fault, Head, Link};

/// Checks audit logs.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check the chain of records: changed, missing, moved and added ones are shown
    Verify {
        /// The files of one log, oldest first
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// A record that must be there, as NUMBER:HASH; without it, records cut off at the end cannot be noticed
        #[arg(long, value_name = "NUMBER:HASH", value_parser = parse_head)]
        head: Option<Head>,
    },
}

/// Runs the command; what is wrong goes to standard error, a line each.
pub fn run(arguments: &Arguments) -> Exit {
    let Action::Verify { files, head } = &arguments.action;
    let mut verification = Verification { head: None, wanted: head.as_ref(), faults: 0 };
    for file in files {
        if let Err(error) = verification.read(file) {
            eprintln!("{}: {error}", file.display());
            return Exit::Unavailable;
        }
    }
    verification.conclude()
}

struct Verification<'a> {
    /// The last record so far.
    head: Option<Head>,
    /// A record that is still to come.
    wanted: Option<&'a Head>,
    faults: usize,
}

impl Verification<'_> {
    fn read(&mut self, path: &Path) -> io::Result<()> {
        let mut reader = BufReader::new(File::open(path)?);
        let (mut count, mut line) = (0_usize, Vec::new());
        let faults_before = self.faults;
        while read_line(&mut reader, &mut line)? > 0 {
            count += 1;
            let Some(record) = line.strip_suffix(b"\n") else {
                self.fault(path, count, "the record is torn: its line does not end");
                break;
            };
            if let Err(fault) = self.check(record) {
                self.fault(path, count, &fault.to_string());
            }
            if self.wanted.is_some() && self.wanted == self.head.as_ref() {
                self.wanted = None;
            }
        }
        let verdict = if self.faults == faults_before { "good" } else { "TAMPERED WITH" };
        print(format_args!("{}: {verdict}: {count} records", path.display()));
        Ok(())
    }

    fn check(&mut self, record: &[u8]) -> Result<(), Fault> {
        match &mut self.head {
            Some(head) => head.check_next(record),
            // The records before the first file were rotated away, perhaps.
            None => {
                let Link { previous, head } = Link::read(record)?;
                let first = self.head.insert(head);
                if first.sequence > 1 {
                    print(format_args!("begins at record {}, which follows {previous}", first.sequence));
                } else if previous != Head::genesis().hash {
                    return Err(Fault::Previous { sequence: first.sequence });
                }
                Ok(())
            }
        }
    }

    fn fault(&mut self, path: &Path, line: usize, what: &str) {
        self.faults += 1;
        eprintln!("{}:{line}: {what}", path.display());
    }

    fn conclude(self) -> Exit {
        if let Some(wanted) = self.wanted {
            eprintln!("record {wanted} is not there: the log was cut off, or is another one");
        }
        if let Some(head) = &self.head {
            print(format_args!("head {head}"));
        }
        if self.faults == 0 && self.wanted.is_none() { Exit::Ok } else { Exit::Failed }
    }
}

/// Longest line that is read; no record is as long.
const LINE_BYTES_MAX: u64 = 1 << 20;

fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<usize> {
    line.clear();
    io::Read::take(reader, LINE_BYTES_MAX).read_until(b'\n', line)
}

/// Nobody is left to tell where standard output cannot be written to; the exit status says it all.
fn print(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{text}");
}

fn parse_head(text: &str) -> Result<Head, String> {
    let parse = || {
        let (sequence, hash) = text.split_once(':')?;
        let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        Some(Head { sequence: sequence.parse().ok()?, hash: hash.to_lowercase() }).filter(|_| is_hash)
    };
    parse().ok_or_else(|| "allowed: the number of a record, a colon, and 64 hexadecimal digits".to_owned())
}
