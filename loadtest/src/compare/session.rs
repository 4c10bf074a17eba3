//! The runs of a comparison, in order: every scenario, every round, every proxy in turn (A B C, A B C), so that what
//! changes on the machine over time hits all of them alike.

use std::env;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::certificate::{self, Identity, KeyType};
use super::instance::{self, Ground, Instance};
use super::probe::probe_until_it_answers;
use super::process::{Launch, Process};
use super::progress::Progress;
use super::proxy::Candidate;
use super::ratio;
use super::scenario::{Arrivals, Case, Load, OPEN_LOOP_SHARE};
use super::schema::{Absent, Proxy, Run, ScenarioComparison, Tickets};
use crate::run::{self, Watch as _};

/// What to run.
#[derive(Debug)]
pub struct Session<'a> {
    /// Proxies in the order of a round.
    pub candidates: Vec<Candidate>,
    /// Scenarios in order.
    pub cases: Vec<Case>,
    /// How often each proxy runs each scenario, at least 1.
    pub rounds: usize,
    /// Measured time of a run.
    pub duration: Duration,
    /// Time before it.
    pub warmup: Duration,
    /// CPU of the proxy.
    pub proxy_cpu: usize,
    /// CPUs of client and backend.
    pub load_cpus: Vec<usize>,
    /// Where configurations, keys and outputs go.
    pub directory: &'a Path,
    /// Name of what the others are compared with.
    pub subject: &'a str,
}

/// What came out.
#[derive(Debug)]
pub struct Outcome {
    /// Who took part.
    pub proxies: Vec<Proxy>,
    /// Who was left out before the first run because it refused its configuration or did not answer.
    pub absent: Vec<Absent>,
    /// The scenarios that have at least one run.
    pub scenarios: Vec<ScenarioComparison>,
    /// Wall time.
    pub elapsed: Duration,
}

/// Runs everything; ends early, with what was measured, when `progress` says that the user interrupted.
pub fn run(mut session: Session<'_>, progress: &Progress) -> anyhow::Result<Outcome> {
    let begin = Instant::now();
    let identities = Identities::create(session.directory)?;
    let (_backend, backend) = start_backend(session.directory, &session.load_cpus)?;
    let ground = Ground { directory: session.directory, backend, proxy_cpu: session.proxy_cpu };
    let mut absent = Vec::new();
    session.candidates.retain(|candidate| match fitness(candidate, &ground, &identities) {
        Ok(()) => true,
        Err(error) => {
            let reason = format!("{error:#}");
            progress.line(&format!("{} is left out: {reason}", candidate.name));
            absent.push(Absent { name: candidate.name.clone(), reason });
            false
        }
    });
    if session.candidates.is_empty() {
        let reasons: Vec<String> = absent.iter().map(|one| format!("{}: {}", one.name, one.reason)).collect();
        bail!("no proxy can run: {}", reasons.join("; "));
    }
    let proxies: Vec<Proxy> = session.candidates.iter().map(|one| one.describe(session.subject)).collect();
    let scenarios = Bench { session: &session, ground, identities: &identities, progress }.run(&proxies);
    Ok(Outcome { proxies, absent, scenarios, elapsed: begin.elapsed() })
}

struct Bench<'a> {
    session: &'a Session<'a>,
    ground: Ground<'a>,
    identities: &'a Identities,
    progress: &'a Progress,
}

impl Bench<'_> {
    fn run(&self, proxies: &[Proxy]) -> Vec<ScenarioComparison> {
        let session = self.session;
        let mut scenarios: Vec<ScenarioComparison> = Vec::new();
        self.progress.begin(session.candidates.len() * session.cases.len() * session.rounds);
        for case in &session.cases {
            let rate = match case.arrivals {
                Arrivals::Closed => None,
                Arrivals::Open => self.open_loop_rate(&scenarios),
            };
            if self.progress.interrupted() {
                break;
            }
            if case.arrivals == Arrivals::Open && rate.is_none() {
                self.progress.line(&format!("{} is left out: no proxy has a request rate", case.name));
                continue;
            }
            let mut comparison = without_runs(case, rate);
            comparison.runs = self.run_case(case, rate);
            ratio::conclude(&mut comparison, proxies, session.rounds);
            scenarios.push(comparison);
        }
        self.progress.end();
        scenarios
    }

    fn run_case(&self, case: &Case, rate: Option<f64>) -> Vec<Run> {
        let mut runs = Vec::new();
        for round in 1..=self.session.rounds {
            for candidate in &self.session.candidates {
                if self.progress.interrupted() {
                    return runs;
                }
                self.progress.announce(case.name, round, self.session.rounds, &candidate.name);
                let run = self.run_one(case, round, candidate, rate, self.session.duration);
                self.progress.report(case, &run);
                runs.push(run);
            }
        }
        runs
    }

    fn run_one(&self, case: &Case, round: usize, candidate: &Candidate, rate: Option<f64>, duration: Duration) -> Run {
        let mut run = Run { round, proxy: candidate.name.clone(), probe: None, result: None, failure: None };
        if let Err(error) = self.fill(&mut run, case, candidate, rate, duration) {
            run.failure = Some(format!("{error:#}"));
        }
        run
    }

    fn fill(
        &self,
        run: &mut Run,
        case: &Case,
        candidate: &Candidate,
        rate: Option<f64>,
        duration: Duration,
    ) -> anyhow::Result<()> {
        let identity = self.identities.of(case.key_type);
        let instance = Instance::start(candidate, &self.ground, identity, case.tickets)?;
        let with_last_words = || match instance.last_words() {
            words if words.is_empty() => candidate.name.clone(),
            words => format!("{} (it wrote: {words})", candidate.name),
        };
        run.probe = Some(
            probe_until_it_answers(instance.address, &identity.chain, case.version).with_context(with_last_words)?,
        );
        let session = self.session;
        let load = Load { root: &identity.chain, cpus: &session.load_cpus, duration, warmup: session.warmup };
        let plan = case.plan(instance.address, instance.pid(), &load, rate);
        run.result = Some(run::run(&plan, self.progress).with_context(with_last_words)?);
        Ok(())
    }

    /// The request rate that every proxy can follow: from the closed-loop requests where they ran, else from a short
    /// calibration. `None` when no proxy has a rate.
    fn open_loop_rate(&self, scenarios: &[ScenarioComparison]) -> Option<f64> {
        let measured = scenarios.iter().find(|scenario| scenario.name == REQUEST);
        let slowest = match measured {
            Some(requests) => slowest_rate(&requests.runs),
            None => slowest_rate(&self.calibrate(&Case::named(REQUEST)?)),
        };
        slowest.map(|rate| (rate * OPEN_LOOP_SHARE).floor())
    }

    fn calibrate(&self, case: &Case) -> Vec<Run> {
        let candidates = self.session.candidates.iter().take_while(|_| !self.progress.interrupted());
        let run = |candidate: &Candidate| {
            self.progress.announce("calibration of the open loop", 1, 1, &candidate.name);
            self.run_one(case, 1, candidate, None, CALIBRATION.min(self.session.duration))
        };
        candidates.map(run).collect()
    }
}

/// The smallest of the proxies' median rates; proxies without any count as out of the race.
fn slowest_rate(runs: &[Run]) -> Option<f64> {
    let mut names: Vec<&str> = runs.iter().map(|run| run.proxy.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let median = |name: &str| {
        let results = runs.iter().filter(|run| run.proxy == name).filter_map(|run| run.result.as_ref());
        let rates: Vec<f64> = results.map(|result| result.work.per_second).filter(|rate| *rate > 0.0).collect();
        ratio::spread(&rates).map(|spread| spread.median)
    };
    names.into_iter().filter_map(median).min_by(f64::total_cmp)
}

fn without_runs(case: &Case, rate: Option<f64>) -> ScenarioComparison {
    ScenarioComparison {
        name: case.name.to_owned(),
        title: case.title.to_owned(),
        figure: case.figure,
        certificate: case.key_type.label().to_owned(),
        tickets: case.tickets,
        rate,
        runs: Vec::new(),
        standings: Vec::new(),
        best_peer: None,
        ratios: Vec::new(),
    }
}

/// The program's own check, then a connection through it: a proxy that cannot serve would fail every single run.
fn fitness(candidate: &Candidate, ground: &Ground<'_>, identities: &Identities) -> anyhow::Result<()> {
    let identity = identities.of(KeyType::EcdsaP256);
    for tickets in [Tickets::Off, Tickets::On] {
        instance::check(candidate, ground, identity, tickets)?;
    }
    let instance = Instance::start(candidate, ground, identity, Tickets::On)?;
    probe_until_it_answers(instance.address, &identity.chain, crate::plan::TlsVersion::Tls13)
        .with_context(|| instance.last_words())?;
    Ok(())
}

/// The certificates of one comparison.
struct Identities {
    ecdsa: Identity,
    rsa: Identity,
}

impl Identities {
    fn create(directory: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            ecdsa: certificate::create(directory, KeyType::EcdsaP256)?,
            rsa: certificate::create(directory, KeyType::Rsa2048)?,
        })
    }

    fn of(&self, key_type: KeyType) -> &Identity {
        match key_type {
            KeyType::EcdsaP256 => &self.ecdsa,
            KeyType::Rsa2048 => &self.rsa,
        }
    }
}

/// The plain backend is this program's own, in a process of its own so that its CPU time is not the client's.
fn start_backend(directory: &Path, cpus: &[usize]) -> anyhow::Result<(Process, SocketAddr)> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, instance::free_port()?));
    let mut backend = Process::start(&Launch {
        name: "backend".to_owned(),
        program: env::current_exe().context("cannot find the own program")?,
        arguments: ["backend".into(), "--listen".into(), address.to_string().into()].to_vec(),
        environment: Vec::new(),
        cpus: cpus.to_vec(),
        directory: directory.to_owned(),
    })?;
    instance::wait_until_ready(&mut backend, address)?;
    Ok((backend, address))
}

/// The scenario whose rates set the pace of the open loop.
const REQUEST: &str = "request";
/// Measured time of a calibration run.
const CALIBRATION: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

    use super::*;

    #[test]
    fn slowest_rate_without_results_is_none() {
        let run = Run { round: 1, proxy: "a".to_owned(), probe: None, result: None, failure: Some("x".to_owned()) };
        assert_eq!(slowest_rate(&[run]), None);
        assert_eq!(slowest_rate(&[]), None);
    }
}
