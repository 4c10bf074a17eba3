//! From readings to figures.

use crate::doubt::{self, Evidence};
use crate::engine::runtime::Engine;
use crate::engine::tally::{Counts, ThreadReport, kind_index};
use crate::plan::Plan;
use crate::result::{Bytes, Negotiated, Part, Resumption, RunResult, SCHEMA_VERSION, Scenario, Work, WorkUnit};

use super::Moment;

/// What a result is made of.
pub(super) struct Ingredients<'a> {
    pub(super) plan: &'a Plan,
    pub(super) started: String,
    pub(super) engine: Engine,
    pub(super) negotiated: Option<Negotiated>,
    pub(super) begin: Moment,
    pub(super) end: Moment,
    pub(super) slices: Vec<f64>,
    pub(super) report: ThreadReport,
    /// Memory of the target before the first and with the last connection.
    pub(super) pss: (u64, u64),
    pub(super) was_interrupted: bool,
}

/// The result, with its doubts.
#[allow(clippy::cast_precision_loss, reason = "counts of a run are far below 2^53")]
pub(super) fn result(from: Ingredients<'_>) -> RunResult {
    let Ingredients { plan, begin, end, report, .. } = from;
    let seconds = end.at.saturating_duration_since(begin.at).as_secs_f64().max(f64::EPSILON);
    let counts = end.counts - begin.counts;
    let count = if plan.scenario == Scenario::Idle { end.counts.open } else { counts.work(plan.scenario) };
    let (mut target_cost, processes_changed) = end.target.since(&begin.target);
    target_cost.pss_bytes = from.pss.1;
    if plan.scenario == Scenario::Idle && count > 0 {
        target_cost.pss_per_connection_bytes = Some((from.pss.1 as f64 - from.pss.0 as f64) / count as f64);
    }
    let (client_cost, _) = end.client.since(&begin.client);
    let client_cpu_share = client_cost.cpu_seconds / (seconds * client_cpus(plan) as f64);
    let resumption = resumption(plan, &counts);
    let evidence = Evidence {
        client_cpu_share,
        stolen_share: end.machine.stolen_since(&begin.machine),
        mhz: begin.machine.mhz.zip(end.machine.mhz),
        slices: &from.slices,
        errors: report.errors.values().sum(),
        work: count,
        operations_per_second: counts.operations.iter().sum::<u64>() as f64 / seconds,
        resumption,
        negotiated: from.negotiated.as_ref(),
        suites: report.suites,
        open: end.counts.open,
        processes_changed,
        was_interrupted: from.was_interrupted,
    };
    let doubts = doubt::doubts(plan, &evidence);
    let has_cost = !plan.pids.is_empty();
    RunResult {
        schema_version: SCHEMA_VERSION,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        started: from.started,
        scenario: plan.scenario,
        target: plan.target.clone(),
        settings: plan.settings(from.engine.label()),
        duration_seconds: seconds,
        interrupted: from.was_interrupted,
        work: Work {
            unit: unit(plan.scenario),
            count,
            per_second: count as f64 / seconds,
            per_target_cpu_second: (has_cost && target_cost.cpu_seconds > 0.0)
                .then(|| count as f64 / target_cost.cpu_seconds),
        },
        bytes: Bytes { sent: counts.sent, received: counts.received },
        latency: report.latency(),
        parts: parts(plan, &counts, &report, seconds),
        errors: report.errors,
        resumption,
        target_cost: has_cost.then_some(target_cost),
        client_cost,
        client_cpu_share,
        tls: from.negotiated,
        doubts,
    }
}

/// CPUs that the client's threads can fill.
fn client_cpus(plan: &Plan) -> usize {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let mut pinned = plan.cpus.clone();
    pinned.sort_unstable();
    pinned.dedup();
    let room = if pinned.is_empty() { available } else { pinned.len() };
    plan.threads.min(room).max(1)
}

#[allow(clippy::cast_precision_loss, reason = "counts of a run are far below 2^53")]
fn resumption(plan: &Plan, counts: &Counts) -> Option<Resumption> {
    let Counts { handshakes, offered, resumed, .. } = *counts;
    let was_tried = plan.scenario == Scenario::Resume || offered > 0 || resumed > 0;
    (was_tried && handshakes > 0).then(|| Resumption {
        handshakes,
        offered,
        resumed,
        rate: resumed as f64 / handshakes as f64,
    })
}

#[allow(clippy::cast_precision_loss, reason = "counts of a run are far below 2^53")]
fn parts(plan: &Plan, counts: &Counts, report: &ThreadReport, seconds: f64) -> Vec<Part> {
    if plan.scenario != Scenario::Mixed {
        return Vec::new();
    }
    let part = |scenario: &Scenario| {
        let count = counts.operations[kind_index(*scenario)];
        let latency = report.latency_of(*scenario);
        Part { scenario: *scenario, count, per_second: count as f64 / seconds, latency }
    };
    plan.weights.keys().map(part).collect()
}

fn unit(scenario: Scenario) -> WorkUnit {
    match scenario {
        Scenario::Handshake | Scenario::Resume => WorkUnit::Handshakes,
        Scenario::Request => WorkUnit::Requests,
        Scenario::Transfer => WorkUnit::Bytes,
        Scenario::Idle => WorkUnit::Connections,
        Scenario::Mixed => WorkUnit::Operations,
    }
}
