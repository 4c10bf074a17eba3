//! What the machine did meanwhile: CPU time taken by the hypervisor, and the clock of the CPUs.

use std::fs;

/// The machine at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    total_ticks: u64,
    stolen_ticks: u64,
    /// Mean clock of the CPUs, if it can be read.
    pub mhz: Option<f64>,
}

impl Reading {
    /// Reads `/proc/stat` and the CPU clocks.
    pub fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let (total_ticks, stolen_ticks) = cpu_ticks(&stat).unwrap_or_default();
        Self { total_ticks, stolen_ticks, mhz: mhz() }
    }

    /// Share of the CPU time since `earlier` that the hypervisor took, 0 to 1.
    #[allow(clippy::cast_precision_loss, reason = "tick counts are far below 2^53")]
    pub fn stolen_since(&self, earlier: &Self) -> f64 {
        let total = self.total_ticks.saturating_sub(earlier.total_ticks);
        let stolen = self.stolen_ticks.saturating_sub(earlier.stolen_ticks);
        if total == 0 { 0.0 } else { stolen as f64 / total as f64 }
    }
}

/// Sum of all states and the stolen time of the `cpu` line: user nice system idle iowait irq softirq steal.
fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let states: Vec<u64> = line.split_ascii_whitespace().take(8).filter_map(|word| word.parse().ok()).collect();
    Some((states.iter().sum(), states.get(7).copied().unwrap_or(0)))
}

fn mhz() -> Option<f64> {
    mean(scaling_khz().map(|khz| khz / 1000.0)).or_else(|| mean(cpuinfo_mhz().into_iter()))
}

fn scaling_khz() -> impl Iterator<Item = f64> {
    let cpus = fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
    cpus.filter_map(|cpu| fs::read_to_string(cpu.path().join("cpufreq/scaling_cur_freq")).ok()?.trim().parse().ok())
}

fn cpuinfo_mhz() -> Vec<f64> {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let lines = text.lines().filter(|line| line.starts_with("cpu MHz"));
    lines.filter_map(|line| line.split_once(':')?.1.trim().parse().ok()).collect()
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.fold((0u32, 0.0), |(count, sum), value| (count + 1, sum + value));
    (count > 0).then(|| sum / f64::from(count))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

    use super::*;

    #[test]
    fn stolen_share_is_taken_of_the_time_in_between() {
        let at = |line: &str| {
            let (total_ticks, stolen_ticks) = cpu_ticks(line).unwrap();
            Reading { total_ticks, stolen_ticks, mhz: None }
        };
        let before = at("cpu  100 0 100 800 0 0 0 0 0 0\n");
        let after = at("cpu  150 0 120 820 0 0 0 10 0 0\n");
        assert!((after.stolen_since(&before) - 0.1).abs() < 1e-9);
    }

    #[test]
    fn machine_that_stood_still_lost_nothing() {
        let now = Reading::now();
        assert!(now.stolen_since(&now).abs() < f64::EPSILON);
    }
}
