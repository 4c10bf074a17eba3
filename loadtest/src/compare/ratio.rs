//! From runs to ratios: pairs runs round by round, drops what cannot be believed, and refuses a ratio rather than
//! print a doubtful one. No I/O here.

use std::mem::{Discriminant, discriminant};

use super::schema::{Better, Figure, Proxy, Ratio, Refusal, Run, ScenarioComparison, Spread, Standing, Tickets};
use crate::result::{Doubt, Negotiated, RunResult};

/// Fills in standings, best peer and ratios of `scenario` from its runs.
///
/// `rounds` is how many were asked for: fewer than half of them (and fewer than two, unless only one was asked for)
/// are too few for a ratio. Peers of the same product as the subject get ratios, but none is the best peer.
pub fn conclude(scenario: &mut ScenarioComparison, proxies: &[Proxy], rounds: usize) {
    scenario.standings = proxies.iter().map(|proxy| standing(scenario, &proxy.name, rounds)).collect();
    let Some(subject) = proxies.iter().find(|proxy| proxy.subject) else {
        scenario.best_peer = best(scenario, proxies.iter());
        scenario.ratios = Vec::new();
        return;
    };
    let peers = || proxies.iter().filter(|proxy| !proxy.subject);
    scenario.best_peer = best(scenario, peers().filter(|peer| !is_same_product(peer, subject)));
    scenario.ratios = peers().map(|peer| ratio(scenario, &subject.name, &peer.name, rounds)).collect();
}

/// Median (mean of the two middle values for an even count) and extremes; `None` for no values.
pub fn spread(values: &[f64]) -> Option<Spread> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (&min, &max) = (sorted.first()?, sorted.last()?);
    let (low, high) = (sorted.get((sorted.len() - 1) / 2)?, sorted.get(sorted.len() / 2)?);
    Some(Spread { median: f64::midpoint(*low, *high), min, max, count: sorted.len() })
}

/// The doubts about `result` that make its `figure` useless for a ratio.
///
/// A client at its limit does not harm work per CPU-second of the proxy, which is why the run itself does not forbid
/// it; it does harm latency, because the waiting then happens in the client.
pub fn forbidding(result: &RunResult, figure: Figure) -> impl Iterator<Item = &Doubt> {
    result.doubts.iter().filter(move |doubt| {
        doubt.forbids_ratio() || (figure == Figure::LatencyP99 && matches!(doubt, Doubt::ClientBound { .. }))
    })
}

fn is_same_product(peer: &Proxy, subject: &Proxy) -> bool {
    let product = |name: &str| name.split(['-', '+']).next().unwrap_or_default().to_owned();
    product(&peer.name) == product(&subject.name)
}

fn standing(scenario: &ScenarioComparison, proxy: &str, rounds: usize) -> Standing {
    let mut disbelieved_rounds = Vec::new();
    let mut figures = vec![None; rounds];
    let mut believed = Vec::new();
    for run in scenario.runs.iter().filter(|run| run.proxy == proxy) {
        if let Some(slot) = figures.get_mut(run.round.saturating_sub(1)) {
            *slot = run.result.as_ref().and_then(|result| scenario.figure.of(result));
        }
        match believable(run, scenario.figure) {
            Some(figure) => believed.push(figure),
            None => disbelieved_rounds.push(run.round),
        }
    }
    Standing {
        proxy: proxy.to_owned(),
        figure: spread(&believed),
        rounds: figures,
        disbelieved_rounds,
        doubts: doubts_in_words(scenario, proxy),
    }
}

/// Each kind of doubt once, as it was first seen, with how many runs had it; failures likewise.
fn doubts_in_words(scenario: &ScenarioComparison, proxy: &str) -> Vec<String> {
    let mut seen: Vec<(Option<Discriminant<Doubt>>, String, usize)> = Vec::new();
    let mut note = |kind: Option<Discriminant<Doubt>>, text: String| {
        let is_same = |known: &&mut (Option<Discriminant<Doubt>>, String, usize)| {
            known.0 == kind && (kind.is_some() || known.1 == text)
        };
        match seen.iter_mut().find(is_same) {
            Some(known) => known.2 += 1,
            None => seen.push((kind, text, 1)),
        }
    };
    let runs: Vec<&Run> = scenario.runs.iter().filter(|run| run.proxy == proxy).collect();
    for run in &runs {
        for doubt in run.result.iter().flat_map(|result| &result.doubts) {
            note(Some(discriminant(doubt)), doubt.to_string());
        }
        if let Some(failure) = &run.failure {
            note(None, failure.clone());
        }
    }
    let in_words = |(_, text, count): (_, String, usize)| match count {
        count if count == runs.len() => text,
        count => format!("{text} ({count} of {} runs)", runs.len()),
    };
    seen.into_iter().map(in_words).collect()
}

fn believable(run: &Run, figure: Figure) -> Option<f64> {
    let result = run.result.as_ref()?;
    if forbidding(result, figure).next().is_some() {
        return None;
    }
    figure.of(result)
}

fn best<'a>(scenario: &ScenarioComparison, candidates: impl Iterator<Item = &'a Proxy>) -> Option<String> {
    let figure_of = |proxy: &Proxy| {
        scenario.standings.iter().find(|standing| standing.proxy == proxy.name).and_then(|standing| standing.figure)
    };
    let ranked = candidates.filter_map(|proxy| Some((figure_of(proxy)?.median, proxy)));
    let better = |a: &(f64, &Proxy), b: &(f64, &Proxy)| match scenario.figure.better() {
        Better::More => a.0.total_cmp(&b.0),
        Better::Less => b.0.total_cmp(&a.0),
    };
    ranked.max_by(better).map(|(_, proxy)| proxy.name.clone())
}

fn ratio(scenario: &ScenarioComparison, subject: &str, peer: &str, rounds: usize) -> Ratio {
    let runs_of = |proxy: &str, round: usize| scenario.runs.iter().find(|run| run.proxy == proxy && run.round == round);
    let pair = |round: usize| {
        let ours = believable(runs_of(subject, round)?, scenario.figure)?;
        let theirs = believable(runs_of(peer, round)?, scenario.figure)?;
        Some(match scenario.figure.better() {
            Better::More => ours / theirs,
            Better::Less => theirs / ours,
        })
    };
    let pairs: Vec<f64> = (1..=rounds).filter_map(pair).collect();
    let refused = refusals(scenario, subject, peer, &pairs, rounds);
    let spread = if refused.is_empty() { spread(&pairs) } else { None };
    Ratio { subject: subject.to_owned(), peer: peer.to_owned(), pairs, spread, refused }
}

fn refusals(scenario: &ScenarioComparison, subject: &str, peer: &str, pairs: &[f64], rounds: usize) -> Vec<Refusal> {
    let mut refused = Vec::new();
    let needed = rounds.div_ceil(2).max(2).min(rounds.max(1));
    if pairs.len() < needed {
        refused.push(Refusal::TooFewPairs { pairs: pairs.len(), needed });
        refused.extend(why_runs_do_not_count(scenario, subject));
        refused.extend(why_runs_do_not_count(scenario, peer));
    }
    if let Some(spread) = spread(pairs) {
        let relative = (spread.max - spread.min) / spread.median;
        let limit = pair_spread_max(scenario.figure);
        if relative > limit {
            refused.push(Refusal::PairsDisagree { spread: relative, limit });
        }
    }
    if let (Some(ours), Some(theirs)) = (negotiated(scenario, subject), negotiated(scenario, peer))
        && ours != theirs
    {
        refused.push(Refusal::DifferentTls { subject: ours, peer: theirs });
    }
    if let (Some(ours), Some(theirs)) = (tickets(scenario, subject), tickets(scenario, peer))
        && ours != theirs
    {
        refused.push(Refusal::DifferentTickets { subject: ours, peer: theirs });
    }
    refused
}

/// Each kind of reason once: five rounds with the same doubt are one line for the reader.
fn why_runs_do_not_count(scenario: &ScenarioComparison, proxy: &str) -> Vec<Refusal> {
    let mut reasons: Vec<Refusal> = Vec::new();
    for run in scenario.runs.iter().filter(|run| run.proxy == proxy) {
        if let Some(reason) = &run.failure {
            let failed = Refusal::RunFailed { proxy: proxy.to_owned(), reason: reason.clone() };
            if !reasons.contains(&failed) {
                reasons.push(failed);
            }
        }
        for doubt in run.result.iter().flat_map(|result| forbidding(result, scenario.figure)) {
            let is_known = |known: &Refusal| match known {
                Refusal::RunDoubt { doubt: known, .. } => discriminant(known) == discriminant(doubt),
                _ => false,
            };
            if !reasons.iter().any(is_known) {
                reasons.push(Refusal::RunDoubt { proxy: proxy.to_owned(), doubt: doubt.clone() });
            }
        }
    }
    reasons
}

fn negotiated(scenario: &ScenarioComparison, proxy: &str) -> Option<String> {
    let results = scenario.runs.iter().filter(|run| run.proxy == proxy).filter_map(|run| run.result.as_ref());
    results.filter_map(|result| result.tls.as_ref()).map(describe).next()
}

fn describe(tls: &Negotiated) -> String {
    let parts = [Some(&tls.version), Some(&tls.suite), tls.group.as_ref(), tls.certificate.as_ref()];
    parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" ")
}

/// Tickets on a full handshake, where full handshakes are the work. Elsewhere one connection carries many requests and
/// the difference drowns, and a resumption has a rate of its own that is checked in every run.
fn tickets(scenario: &ScenarioComparison, proxy: &str) -> Option<usize> {
    if scenario.figure != Figure::HandshakesPerCpuSecond || scenario.tickets != Tickets::Off {
        return None;
    }
    scenario.runs.iter().filter(|run| run.proxy == proxy).find_map(|run| run.probe)?.tickets
}

/// Largest (max - min) / median of the pairs that is believed. Work per CPU-second repeats within some percent even
/// on a shared machine, memory nearly exactly; a 99th percentile does not.
fn pair_spread_max(figure: Figure) -> f64 {
    match figure {
        Figure::BytesPerCpuSecond | Figure::RequestsPerCpuSecond | Figure::HandshakesPerCpuSecond => 0.4,
        Figure::PssPerConnection => 0.4,
        Figure::LatencyP99 => 1.0,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

    use serde_json::json;

    use super::*;
    use crate::compare::schema::Probe;

    const DOUBTLESS: Vec<Doubt> = Vec::new();

    fn proxy(name: &str) -> Proxy {
        Proxy {
            name: name.to_owned(),
            subject: name == "sluice",
            mode: "tcp".to_owned(),
            records: "userspace".to_owned(),
            binary: String::new(),
            version: String::new(),
            tls_library: String::new(),
        }
    }

    fn result(value: f64, suite: &str, doubts: Vec<Doubt>) -> RunResult {
        let cost = json!({"user_seconds": 0.5, "system_seconds": 0.5, "cpu_seconds": 1.0, "context_switches": 1,
            "pss_bytes": 1, "pss_per_connection_bytes": value, "processes": 1});
        let latency = json!({"p50": value, "p90": value, "p99": value, "p999": value, "max": value, "mean": value,
            "count": 9});
        serde_json::from_value(json!({
            "schema_version": 1, "tool_version": "0", "started": "", "scenario": "request", "target": "localhost:1",
            "tls": {"version": "TLSv1.3", "suite": suite, "group": "X25519", "certificate": "ecdsa", "kind": "full"},
            "settings": serde_json::to_value(crate::result::Settings::default()).unwrap(),
            "duration_seconds": 1.0, "interrupted": false,
            "work": {"unit": "requests", "count": 9, "per_second": value, "per_target_cpu_second": value},
            "bytes": {"sent": 0, "received": 0}, "latency": latency, "errors": {}, "resumption": null,
            "target_cost": cost, "client_cost": cost, "client_cpu_share": 0.5,
            "doubts": serde_json::to_value(doubts).unwrap(),
        }))
        .unwrap()
    }

    fn run(proxy: &str, round: usize, value: f64, doubts: Vec<Doubt>) -> Run {
        Run {
            round,
            proxy: proxy.to_owned(),
            probe: Some(Probe { tickets: Some(0), resumes: false }),
            result: Some(result(value, "TLS_AES_128_GCM_SHA256", doubts)),
            failure: None,
        }
    }

    fn concluded(figure: Figure, names: &[&str], runs: Vec<Run>, rounds: usize) -> ScenarioComparison {
        let mut scenario = ScenarioComparison {
            name: "test".to_owned(),
            title: String::new(),
            figure,
            certificate: "ecdsa-p256".to_owned(),
            tickets: Tickets::Off,
            rate: None,
            runs,
            standings: Vec::new(),
            best_peer: None,
            ratios: Vec::new(),
        };
        let proxies: Vec<Proxy> = names.iter().map(|name| proxy(name)).collect();
        conclude(&mut scenario, &proxies, rounds);
        scenario
    }

    fn rounds_of(proxy: &str, values: &[f64]) -> Vec<Run> {
        values.iter().enumerate().map(|(index, value)| run(proxy, index + 1, *value, DOUBTLESS)).collect()
    }

    #[test]
    fn spread_of_known_values_is_median_and_extremes() {
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0, count: 3 }));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
    }

    #[test]
    fn ratio_is_taken_round_by_round_not_from_medians() {
        // The machine is twice as fast in round 2: the ratio is 1.5 in each round all the same.
        let runs = [rounds_of("sluice", &[150.0, 300.0, 150.0]), rounds_of("hitch", &[100.0, 200.0, 100.0])].concat();
        let scenario = concluded(Figure::RequestsPerCpuSecond, &["sluice", "hitch"], runs, 3);
        let ratio = scenario.ratios.first().unwrap();
        assert_eq!(ratio.pairs, [1.5, 1.5, 1.5]);
        assert_eq!(ratio.spread, Some(Spread { median: 1.5, min: 1.5, max: 1.5, count: 3 }));
    }

    #[test]
    fn ratio_above_one_means_ahead_where_less_is_better_too() {
        let runs = [rounds_of("sluice", &[4.0, 4.0]), rounds_of("hitch", &[16.0, 16.0])].concat();
        let scenario = concluded(Figure::PssPerConnection, &["sluice", "hitch"], runs, 2);
        assert_eq!(scenario.ratios.first().unwrap().spread.unwrap().median, 4.0);
    }

    #[test]
    fn best_peer_is_the_best_by_median_and_never_the_subjects_own_product() {
        let names = ["sluice", "sluice+ktls", "hitch", "nginx-http"];
        let runs: Vec<Run> =
            names.iter().zip([1.0, 9.0, 3.0, 5.0]).flat_map(|(name, value)| rounds_of(name, &[value, value])).collect();
        let more = concluded(Figure::RequestsPerCpuSecond, &names, runs.clone(), 2);
        assert_eq!(more.best_peer.as_deref(), Some("nginx-http"));
        assert_eq!(more.ratios.len(), 3);
        let less = concluded(Figure::LatencyP99, &names, runs, 2);
        assert_eq!(less.best_peer.as_deref(), Some("hitch"));
    }

    #[test]
    fn run_with_a_forbidding_doubt_gives_no_pair_and_too_few_pairs_no_ratio() {
        let mut runs = [rounds_of("sluice", &[100.0, 100.0, 100.0]), rounds_of("hitch", &[100.0])].concat();
        for round in [2, 3] {
            runs.push(run("hitch", round, 500.0, vec![Doubt::ErrorsSeen { count: 3 }]));
        }
        let scenario = concluded(Figure::RequestsPerCpuSecond, &["sluice", "hitch"], runs, 3);
        let ratio = scenario.ratios.first().unwrap();
        assert_eq!((ratio.pairs.len(), ratio.spread), (1, None));
        assert!(ratio.refused.contains(&Refusal::TooFewPairs { pairs: 1, needed: 2 }), "{:?}", ratio.refused);
        let doubts = ratio.refused.iter().filter(|why| matches!(why, Refusal::RunDoubt { .. })).count();
        assert_eq!(doubts, 1, "one line for each kind of doubt: {:?}", ratio.refused);
        assert_eq!(scenario.standings.last().unwrap().disbelieved_rounds, [2, 3]);
    }

    #[test]
    fn client_at_its_limit_forbids_latency_and_not_work_per_cpu_second() {
        let bound = || vec![Doubt::ClientBound { cpu_share: 1.0 }];
        let runs = || vec![run("sluice", 1, 2.0, bound()), run("hitch", 1, 1.0, DOUBTLESS)];
        let work = concluded(Figure::RequestsPerCpuSecond, &["sluice", "hitch"], runs(), 1);
        assert_eq!(work.ratios.first().unwrap().spread.unwrap().median, 2.0);
        let latency = concluded(Figure::LatencyP99, &["sluice", "hitch"], runs(), 1);
        assert_eq!(latency.ratios.first().unwrap().spread, None);
    }

    #[test]
    fn rounds_that_disagree_give_no_ratio() {
        let runs = [rounds_of("sluice", &[100.0, 200.0, 110.0]), rounds_of("hitch", &[100.0, 100.0, 100.0])].concat();
        let scenario = concluded(Figure::RequestsPerCpuSecond, &["sluice", "hitch"], runs, 3);
        let ratio = scenario.ratios.first().unwrap();
        assert_eq!(ratio.spread, None);
        assert!(matches!(ratio.refused.as_slice(), [Refusal::PairsDisagree { .. }]), "{:?}", ratio.refused);
    }

    #[test]
    fn different_suites_give_no_ratio() {
        let mut runs = [rounds_of("sluice", &[1.0, 1.0]), rounds_of("hitch", &[1.0, 1.0])].concat();
        for run in runs.iter_mut().filter(|run| run.proxy == "hitch") {
            run.result = Some(result(1.0, "TLS_AES_256_GCM_SHA384", DOUBTLESS));
        }
        let scenario = concluded(Figure::RequestsPerCpuSecond, &["sluice", "hitch"], runs, 2);
        assert!(matches!(scenario.ratios.first().unwrap().refused.as_slice(), [Refusal::DifferentTls { .. }]));
    }

    #[test]
    fn different_ticket_counts_give_no_handshake_ratio() {
        let mut runs = [rounds_of("sluice", &[1.0, 1.0]), rounds_of("hitch", &[1.0, 1.0])].concat();
        for run in runs.iter_mut().filter(|run| run.proxy == "hitch") {
            run.probe = Some(Probe { tickets: Some(2), resumes: true });
        }
        let handshakes = concluded(Figure::HandshakesPerCpuSecond, &["sluice", "hitch"], runs.clone(), 2);
        let expected = Refusal::DifferentTickets { subject: 0, peer: 2 };
        assert_eq!(handshakes.ratios.first().unwrap().refused, [expected]);
        let requests = concluded(Figure::RequestsPerCpuSecond, &["sluice", "hitch"], runs, 2);
        assert!(requests.ratios.first().unwrap().spread.is_some(), "tickets do not matter to requests");
    }

    #[test]
    fn failed_runs_are_named_in_the_refusal() {
        let mut runs = rounds_of("sluice", &[1.0, 1.0]);
        let failed =
            |round| Run { result: None, failure: Some("it ended".to_owned()), ..run("hitch", round, 1.0, DOUBTLESS) };
        runs.extend([failed(1), failed(2)]);
        let scenario = concluded(Figure::RequestsPerCpuSecond, &["sluice", "hitch"], runs, 2);
        let failed = Refusal::RunFailed { proxy: "hitch".to_owned(), reason: "it ended".to_owned() };
        assert!(scenario.ratios.first().unwrap().refused.contains(&failed));
        assert_eq!(scenario.best_peer, None);
    }

    #[test]
    fn comparison_without_subject_has_standings_and_no_ratios() {
        let runs = [rounds_of("nginx-http", &[1.0]), rounds_of("hitch", &[2.0])].concat();
        let scenario = concluded(Figure::RequestsPerCpuSecond, &["nginx-http", "hitch"], runs, 1);
        assert!(scenario.ratios.is_empty());
        assert_eq!(scenario.best_peer.as_deref(), Some("hitch"));
    }
}
