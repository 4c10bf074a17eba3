//! The commands of `sluice`.

pub mod audit;
pub mod check;
pub mod demo;
pub mod doctor;
pub mod run;
pub mod tickets;

use std::env;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::{Diagnostics, Style};

/// How a command ends. Numbers from 64 on are those of sysexits(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// The configuration has errors, or a self-check failed.
    Failed = 1,
    /// The command line is wrong; the parser of the command line exits with it.
    Usage = 2,
    /// Something that is needed cannot be had: an address in use, kernel TLS where it is required.
    Unavailable = 69,
    /// A bug.
    Internal = 70,
}

impl Exit {
    /// Every way to end, with its meaning for `--help`.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Ok, "done"),
        (Self::Failed, "the configuration has errors, or a self-check failed"),
        (Self::Usage, "the command line is wrong"),
        (Self::Unavailable, "something needed cannot be had: an address in use, kernel TLS where it is required"),
        (Self::Internal, "a bug: please report it"),
    ];

    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The option that names the configuration file.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigOption {
    /// Configuration file
    #[arg(long = "config", short = 'c', value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}

/// Shows findings on standard error, with colours where that is a terminal.
pub fn print_diagnostics(diagnostics: &Diagnostics) {
    let mut stderr = io::stderr().lock();
    // https://no-color.org: set and not empty.
    let wants_plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let style = if stderr.is_terminal() && !wants_plain { Style::Coloured } else { Style::Plain };
    // Nobody is left to tell where standard error cannot be written to.
    let _ = stderr.write_all(diagnostics.render(style).as_bytes());
}

/// Where the configuration lies unless the command line says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/sluice/sluice.toml";
