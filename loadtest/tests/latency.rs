//! Latency counts from the intended start: a stall of the target shows in every arrival that it delayed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod common;

use std::time::Duration;

use common::{Behaviour, Target, run};
use sluice_loadtest::plan::Plan;
use sluice_loadtest::result::{Doubt, Scenario};

const STALL: Duration = Duration::from_millis(600);

fn stalling_target() -> Target {
    Target::start(Behaviour { stall: Some((50, STALL)), ..Behaviour::default() })
}

#[test]
fn open_loop_shows_a_stall_in_the_percentiles() {
    let target = stalling_target();
    // 400 arrivals; the stall delays the 120 that are due meanwhile, by 300 ms in the mean.
    let plan =
        Plan { rate: Some(200.0), duration: Duration::from_secs(2), connections: 8, ..target.plan(Scenario::Request) };
    let result = run(&plan);
    let latency = result.latency.unwrap();
    assert!((340..=410).contains(&result.work.count), "{result:#?}");
    assert!(latency.max >= 0.55, "{latency:?}");
    assert!(latency.p99 >= 0.5, "{latency:?}");
    assert!(latency.p90 >= 0.25, "{latency:?}");
    assert!(latency.p50 < 0.1, "{latency:?}");
}

#[test]
fn closed_loop_hides_the_same_stall_from_all_but_the_slowest() {
    let target = stalling_target();
    let plan = Plan { duration: Duration::from_secs(2), connections: 8, ..target.plan(Scenario::Request) };
    let latency = run(&plan).latency.unwrap();
    assert!(latency.max >= 0.55, "{latency:?}");
    assert!(latency.p90 < 0.1, "{latency:?}");
}

#[test]
fn arrivals_that_a_stalled_target_never_got_are_in_the_percentiles() {
    // The stall outlasts the run: what was due meanwhile has no answer at all.
    let target = Target::start(Behaviour { stall: Some((20, Duration::from_secs(4))), ..Behaviour::default() });
    let plan = Plan {
        rate: Some(100.0),
        duration: Duration::from_secs(1),
        connections: 2,
        timeout: Duration::from_secs(1),
        ..target.plan(Scenario::Request)
    };
    let result = run(&plan);
    let latency = result.latency.unwrap();
    assert!(latency.count > result.work.count + 50, "{result:#?}");
    assert!(latency.p50 > 0.1 && latency.p90 > 0.4, "{latency:?}");
    assert!(result.doubts.iter().any(|doubt| matches!(doubt, Doubt::RateNotReached { .. })), "{:?}", result.doubts);
}

#[test]
fn rate_is_kept_by_several_threads_together() {
    let target = Target::start(Behaviour::default());
    let plan = Plan { rate: Some(300.0), threads: 3, connections: 6, ..target.plan(Scenario::Request) };
    let result = run(&plan);
    assert!((280..=310).contains(&result.work.count), "{result:#?}");
}

#[test]
fn handshakes_can_arrive_at_a_fixed_rate() {
    let target = Target::start(Behaviour::default());
    let plan = Plan { rate: Some(50.0), ..target.plan(Scenario::Handshake) };
    let result = run(&plan);
    assert!((40..=52).contains(&result.work.count), "{result:#?}");
}
