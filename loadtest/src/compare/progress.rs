//! What the user sees while a comparison runs, and ctrl-C.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM};

use super::scenario::Case;
use super::schema::Run;
use crate::run::{Live, Watch};

/// Progress on standard error: a bar with the run that is going on where that is a terminal, and a line for each
/// finished run everywhere.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    stop: Arc<AtomicBool>,
}

impl Progress {
    /// Takes over ctrl-C (and SIGTERM, SIGHUP): the first one ends the comparison in order, the second one at once.
    pub fn new() -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // Order matters: the second signal finds the flag set by the first and gives up waiting.
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        Ok(Self { bar: ProgressBar::no_length(), stop })
    }

    /// `runs` are to come.
    pub fn begin(&self, runs: usize) {
        self.bar.set_length(u64::try_from(runs).unwrap_or(u64::MAX));
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} {elapsed}, {eta} to go\n{msg}") {
            self.bar.set_style(style);
        }
    }

    /// The next run begins.
    pub fn announce(&self, scenario: &str, round: usize, rounds: usize, proxy: &str) {
        self.bar.set_message(format!("{scenario} round {round}/{rounds} {proxy}"));
    }

    /// A run of the scenario `case` has ended.
    pub fn report(&self, case: &Case, run: &Run) {
        self.bar.inc(1);
        let position = format!("[{}/{}]", self.bar.position(), self.bar.length().unwrap_or(0));
        self.line(&format!(
            "{position} {:<16} round {} {:<18} {}",
            case.name,
            run.round,
            run.proxy,
            summary(case, run)
        ));
    }

    /// A line for the user.
    pub fn line(&self, text: &str) {
        if self.bar.is_hidden() {
            eprintln!("{text}");
        } else {
            self.bar.println(text);
        }
    }

    /// Nothing more is to come.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl Watch for Progress {
    fn tick(&self, _live: &Live) {
        self.bar.tick();
    }

    fn interrupted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

fn summary(case: &Case, run: &Run) -> String {
    let Some(result) = &run.result else {
        let reason: Vec<&str> = run.failure.as_deref().unwrap_or("interrupted").split_whitespace().collect();
        return format!("failed: {}", reason.join(" "));
    };
    let figure = match case.figure.of(result) {
        Some(value) => format!("{:.1} {}", case.figure.scaled(value), case.figure.unit()),
        None => "no figure".to_owned(),
    };
    let doubts: Vec<String> = result.doubts.iter().map(ToString::to_string).collect();
    if doubts.is_empty() { figure } else { format!("{figure} ({})", doubts.join("; ")) }
}
