//! What a run should not be believed for. Pure: figures in, doubts out.

use openssl::ssl::cipher_name;

use crate::plan::Plan;
use crate::result::{Doubt, Negotiated, Resumption, Scenario};

/// What a run knows about itself.
#[derive(Clone, Debug, Default)]
pub struct Evidence<'a> {
    /// Share of its CPUs that the client used, 0 to 1.
    pub client_cpu_share: f64,
    /// Stolen share of the machine's CPU time, 0 to 1.
    pub stolen_share: f64,
    /// CPU clock at start and end.
    pub mhz: Option<(f64, f64)>,
    /// Work per time slice: per CPU-second of the target where that is known, else per second.
    pub slices: &'a [f64],
    /// Failures.
    pub errors: u64,
    /// Units of work.
    pub work: u64,
    /// Finished operations per second.
    pub operations_per_second: f64,
    /// Resumptions.
    pub resumption: Option<Resumption>,
    /// What the first handshake negotiated.
    pub negotiated: Option<&'a Negotiated>,
    /// Suites of the handshakes of the run.
    pub suites: [Option<&'static str>; 2],
    /// Connections that were open at the end of `idle`.
    pub open: u64,
    /// Processes of the target that came or went.
    pub processes_changed: u64,
    /// Ctrl-C was pressed.
    pub was_interrupted: bool,
}

/// The doubts about a run of `plan`, gravest last.
pub fn doubts(plan: &Plan, evidence: &Evidence<'_>) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    let mut doubt_if = |condition: bool, doubt: Doubt| {
        if condition {
            doubts.push(doubt);
        }
    };
    let is_idle = plan.scenario == Scenario::Idle;
    let cpu_share = evidence.client_cpu_share;
    doubt_if(cpu_share > CLIENT_SHARE_MAX && !is_idle, Doubt::ClientBound { cpu_share });
    doubt_if(evidence.stolen_share > STOLEN_SHARE_MAX, Doubt::CpuStolen { share: evidence.stolen_share });
    if let Some((from_mhz, to_mhz)) = evidence.mhz {
        doubt_if((to_mhz - from_mhz).abs() > from_mhz * DRIFT_MAX, Doubt::FrequencyDrift { from_mhz, to_mhz });
    }
    if let Some(spread) = spread(evidence.slices).filter(|_| !is_idle && plan.rate.is_none()) {
        doubt_if(spread > SPREAD_MAX, Doubt::SpreadTooWide { spread, limit: SPREAD_MAX });
    }
    doubt_if(evidence.processes_changed > 0, Doubt::TargetChanged { processes: evidence.processes_changed });
    let limit = samples_min(plan.scenario);
    doubt_if(evidence.work < limit, Doubt::TooFewSamples { count: evidence.work, limit });
    if let Some(rate) = plan.rate {
        let achieved = evidence.operations_per_second;
        doubt_if(achieved < rate * RATE_REACHED_MIN, Doubt::RateNotReached { asked: rate, achieved });
    }
    let asked = plan.connections as u64;
    doubt_if(is_idle && evidence.open < asked, Doubt::ConnectionsMissing { asked, open: evidence.open });
    if let Some(resumption) = evidence.resumption {
        doubt_if(
            plan.scenario == Scenario::Resume && resumption.rate < RESUMPTION_MIN,
            Doubt::ResumptionBelowRequest { asked: 1.0, achieved: resumption.rate },
        );
        doubt_if(
            plan.scenario == Scenario::Handshake && resumption.resumed > 0,
            Doubt::UnwantedResumption { count: resumption.resumed },
        );
    }
    doubts.extend(suite_mismatch(plan, evidence));
    if evidence.errors > 0 {
        doubts.push(Doubt::ErrorsSeen { count: evidence.errors });
    }
    if evidence.was_interrupted {
        doubts.push(Doubt::Interrupted);
    }
    doubts
}

/// Interquartile range over the median; `None` for fewer than six slices, which say too little.
pub fn spread(slices: &[f64]) -> Option<f64> {
    let mut sorted = slices.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    if count < SLICES_MIN {
        return None;
    }
    let median = sorted[count / 2];
    (median > 0.0).then(|| (sorted[count * 3 / 4] - sorted[count / 4]) / median)
}

fn suite_mismatch(plan: &Plan, evidence: &Evidence<'_>) -> Option<Doubt> {
    let asked = plan.tls.as_ref()?.suite.as_deref();
    let mut seen = evidence.suites.into_iter().flatten().chain(evidence.negotiated.map(|n| n.suite.as_str()));
    let first = seen.next()?;
    let asked = asked.unwrap_or(first);
    let other = std::iter::once(first).chain(seen).find(|suite| !same_suite(asked, suite))?;
    Some(Doubt::SuiteMismatch { asked: asked.to_owned(), negotiated: other.to_owned() })
}

/// One suite may be written in IANA and in OpenSSL form.
fn same_suite(asked: &str, negotiated: &str) -> bool {
    asked == negotiated || cipher_name(negotiated) == asked
}

fn samples_min(scenario: Scenario) -> u64 {
    match scenario {
        Scenario::Idle => 1,
        Scenario::Transfer => 1 << 20,
        _ => 20,
    }
}

/// Share of its CPUs above which the client, and not the target, may have set the pace.
const CLIENT_SHARE_MAX: f64 = 0.9;
const STOLEN_SHARE_MAX: f64 = 0.02;
const DRIFT_MAX: f64 = 0.05;
const SPREAD_MAX: f64 = 0.3;
const RATE_REACHED_MIN: f64 = 0.98;
const RESUMPTION_MIN: f64 = 0.99;
const SLICES_MIN: usize = 6;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

    use super::*;
    use crate::plan::TlsPlan;

    fn plan(scenario: Scenario) -> Plan {
        Plan::new(scenario, "127.0.0.1:1".parse().unwrap())
    }

    fn good() -> Evidence<'static> {
        Evidence { work: 1 << 30, operations_per_second: 1e6, open: 1 << 20, ..Evidence::default() }
    }

    fn only(plan: &Plan, evidence: &Evidence<'_>) -> Doubt {
        let doubts = doubts(plan, evidence);
        assert_eq!(doubts.len(), 1, "{doubts:?}");
        doubts.into_iter().next().unwrap()
    }

    #[test]
    fn quiet_run_is_not_doubted() {
        assert_eq!(doubts(&plan(Scenario::Request), &good()), []);
    }

    #[test]
    fn full_client_is_doubted() {
        let evidence = Evidence { client_cpu_share: 0.97, ..good() };
        assert_eq!(only(&plan(Scenario::Request), &evidence), Doubt::ClientBound { cpu_share: 0.97 });
    }

    #[test]
    fn stolen_time_is_doubted() {
        let evidence = Evidence { stolen_share: 0.1, ..good() };
        assert_eq!(only(&plan(Scenario::Request), &evidence), Doubt::CpuStolen { share: 0.1 });
    }

    #[test]
    fn changed_clock_is_doubted() {
        let evidence = Evidence { mhz: Some((3000.0, 2000.0)), ..good() };
        assert_eq!(
            only(&plan(Scenario::Request), &evidence),
            Doubt::FrequencyDrift { from_mhz: 3000.0, to_mhz: 2000.0 }
        );
    }

    #[test]
    fn uneven_slices_are_doubted_in_closed_loop_only() {
        let evidence = Evidence { slices: &[1.0, 1.0, 5.0, 5.0, 9.0, 9.0, 9.0, 9.0], ..good() };
        let mut plan = plan(Scenario::Request);
        assert!(matches!(only(&plan, &evidence), Doubt::SpreadTooWide { .. }));
        plan.rate = Some(10.0);
        assert_eq!(doubts(&plan, &evidence), []);
    }

    #[test]
    fn missed_rate_is_doubted() {
        let plan = Plan { rate: Some(100.0), ..plan(Scenario::Request) };
        let evidence = Evidence { operations_per_second: 90.0, ..good() };
        assert_eq!(only(&plan, &evidence), Doubt::RateNotReached { asked: 100.0, achieved: 90.0 });
    }

    #[test]
    fn resumption_is_doubted_when_it_is_missing_and_when_it_is_unwanted() {
        let of = |resumed, rate| Some(Resumption { handshakes: 100, offered: 100, resumed, rate });
        let evidence = Evidence { resumption: of(50, 0.5), ..good() };
        let below = Doubt::ResumptionBelowRequest { asked: 1.0, achieved: 0.5 };
        assert_eq!(only(&plan(Scenario::Resume), &evidence), below);
        assert_eq!(only(&plan(Scenario::Handshake), &evidence), Doubt::UnwantedResumption { count: 50 });
    }

    #[test]
    fn other_suite_is_doubted_but_not_the_other_form_of_its_name() {
        let with_suite = |suite: &str| Plan {
            tls: Some(TlsPlan { suite: Some(suite.to_owned()), ..TlsPlan::default() }),
            ..plan(Scenario::Request)
        };
        let evidence = Evidence { suites: [Some("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"), None], ..good() };
        assert_eq!(doubts(&with_suite("ECDHE-ECDSA-AES128-GCM-SHA256"), &evidence), []);
        let other = only(&with_suite("ECDHE-RSA-AES128-GCM-SHA256"), &evidence);
        assert!(matches!(other, Doubt::SuiteMismatch { .. }));
    }

    #[test]
    fn two_suites_in_one_run_are_doubted() {
        let plan = Plan { tls: Some(TlsPlan::default()), ..plan(Scenario::Handshake) };
        let evidence = Evidence { suites: [Some("TLS_A"), Some("TLS_B")], ..good() };
        assert!(matches!(only(&plan, &evidence), Doubt::SuiteMismatch { .. }));
    }

    #[test]
    fn missing_connections_errors_and_interruption_are_doubted() {
        let evidence = Evidence { open: 3, errors: 13, was_interrupted: true, ..good() };
        let doubts = doubts(&plan(Scenario::Idle), &evidence);
        let expected =
            [Doubt::ConnectionsMissing { asked: 16, open: 3 }, Doubt::ErrorsSeen { count: 13 }, Doubt::Interrupted];
        assert_eq!(doubts, expected);
    }
}
