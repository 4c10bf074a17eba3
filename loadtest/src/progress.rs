//! What the user sees while a run goes on, and ctrl-C.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::signal::{SIGINT, SIGTERM};

use crate::plan::Plan;
use crate::result::Scenario;
use crate::run::{Live, Watch};
use crate::text;

/// A bar with live rates on standard error, if that is a terminal.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    scenario: Scenario,
    stop: Arc<AtomicBool>,
}

impl Progress {
    /// Takes over ctrl-C and SIGTERM: the first one ends the run, whose result is still printed; the second one ends
    /// the process at once, with 130.
    pub fn new(plan: &Plan) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the second signal finds the flag that the first one has set.
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        let bar = if io::stderr().is_terminal() { bar(plan) } else { ProgressBar::hidden() };
        Ok(Self { bar, scenario: plan.scenario, stop })
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Watch for Progress {
    fn tick(&self, live: &Live) {
        self.bar.set_position(u64::try_from(Duration::from_secs_f64(live.elapsed_seconds).as_millis()).unwrap_or(0));
        self.bar.set_message(text::live(self.scenario, live));
    }

    fn interrupted(&self) -> bool {
        self.stop.load(Relaxed)
    }
}

fn bar(plan: &Plan) -> ProgressBar {
    let bar = ProgressBar::new(u64::try_from(plan.duration.as_millis()).unwrap_or(u64::MAX));
    if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:24} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(plan.scenario.label());
    bar
}
