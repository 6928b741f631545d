//! Whole runs, with literal figures.

mod faults;
mod stability;

use std::time::Duration;

use super::testing::scenario;
use super::{Arrivals, Faults, Load, PolicyKind, Rate, RunReport, Scenario, Shape, run};

fn constant(rate: f64, seconds: usize) -> Load {
    Load::Rate(Rate { bin_seconds: 1.0, per_second: vec![rate; seconds] })
}

fn play(scenario: &Scenario, arrivals: &Arrivals, policy: PolicyKind) -> RunReport {
    run(scenario, arrivals, policy, None, 1).unwrap()
}

/// One replica at a constant rate waits as long as the theory of batch service says.
#[test]
fn the_plant_agrees_with_the_bound_on_waiting() {
    for (rate, most_milliseconds) in [(40.0, 8.0), (100.0, 14.0), (136.7, 21.0)] {
        let scenario = Scenario { max_replicas: 1, ..scenario() };
        let arrivals = constant(rate, 1000).draw(5);
        let report = play(&scenario, &arrivals, PolicyKind::StaticPeak);
        assert!(report.wait_p50 * 1e3 < most_milliseconds, "{rate}/s: {report:?}");
        assert!(report.refused == 0.0 && (report.gpu_hours - 1000.0 / 3600.0).abs() < 1e-3);
    }
    // Beyond what it can do, the queue fills and requests are refused.
    let scenario = Scenario { max_replicas: 1, ..scenario() };
    let report = play(&scenario, &constant(250.0, 200).draw(5), PolicyKind::StaticPeak);
    assert!(report.refused > 9_000.0 && report.slo_share < 0.1, "{report:?}");
}

#[test]
fn a_run_is_the_same_every_time() {
    let scenario = scenario();
    let arrivals = Shape::Step.load(400.0, 600.0).draw(3);
    for policy in PolicyKind::ALL {
        let reports = [run(&scenario, &arrivals, policy, None, 3), run(&scenario, &arrivals, policy, None, 3)];
        assert_eq!(reports[0].as_ref().unwrap(), reports[1].as_ref().unwrap(), "{}", policy.as_str());
    }
}

#[test]
fn every_request_is_counted_once() {
    let scenario = scenario();
    let arrivals = Shape::Bursty.load(500.0, 900.0).draw(2);
    for policy in PolicyKind::ALL {
        let report = play(&scenario, &arrivals, policy);
        assert!((report.requests - f64::from(crate::scaling::whole(arrivals.moments.len()))).abs() < 0.5);
        assert!((0.0..=1.0).contains(&report.slo_share));
        assert!(report.gpu_hours >= 900.0 / 3600.0 && report.gpu_hours <= 12.0 * 900.0 / 3600.0 + 0.1);
    }
}

#[test]
fn the_bounds_bound() {
    let scenario = scenario();
    let arrivals = Shape::Step.load(400.0, 1800.0).draw(1);
    let [oracle, peak, ours] = [PolicyKind::Oracle, PolicyKind::StaticPeak, PolicyKind::Flotilla]
        .map(|policy| play(&scenario, &arrivals, policy));
    assert!(oracle.slo_share > 0.99 && peak.slo_share > 0.99, "{} {}", oracle.slo_share, peak.slo_share);
    assert!(oracle.gpu_hours < ours.gpu_hours && ours.gpu_hours < peak.gpu_hours);
}

#[test]
fn a_step_is_decided_within_two_scrapes() {
    let scenario = scenario();
    let arrivals = Shape::Step.load(400.0, 1200.0).draw(1);
    let report = play(&scenario, &arrivals, PolicyKind::Flotilla);
    assert!(report.step.first_decision.is_some_and(|seconds| seconds <= 5.0), "{:?}", report.step);
    let triton = Scenario { metrics: super::ServerMetrics::Triton, ..scenario };
    let report = play(&triton, &arrivals, PolicyKind::Flotilla);
    assert!(report.step.first_decision.is_some_and(|seconds| seconds <= 7.0), "{:?}", report.step);
}

#[test]
fn a_fleet_without_enough_gpus_orders_no_more_than_waits() {
    let scenario = Scenario { gpu_quota: 2, slo_wait: Duration::from_millis(60), ..scenario() };
    let arrivals = constant(600.0, 600).draw(1);
    let report = play(&scenario, &arrivals, PolicyKind::Flotilla);
    assert!(report.gpu_hours <= 2.0 * 600.0 / 3600.0 + 1e-6, "{}", report.gpu_hours);
    let faults = Faults { blackout: Some((0.0, 600.0)), ..Faults::default() };
    let blind = play(&Scenario { faults, ..scenario }, &arrivals, PolicyKind::Flotilla);
    assert!(blind.actions < 0.5, "nothing is decided in the dark");
}
