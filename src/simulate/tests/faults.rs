//! Flotilla's law when something goes wrong. Each run is compared with the same run without the fault.

use super::super::testing::scenario;
use super::super::{Arrivals, Faults, Load, PolicyKind, Rate, Routing, RunReport, Scenario, Sickness, run};
use super::constant;

/// Low, high, low again: the peak lasts from 200 to 700 s.
fn hill() -> Arrivals {
    let rate = |second: i32| if (200..700).contains(&second) { 400.0 } else { 80.0 };
    Load::Rate(Rate { bin_seconds: 1.0, per_second: (0..900).map(rate).collect() }).draw(4)
}

fn with(faults: Faults, arrivals: &Arrivals) -> RunReport {
    run(&Scenario { faults, ..scenario() }, arrivals, PolicyKind::Flotilla, None, 4).unwrap()
}

/// When replicas were removed.
fn removals(report: &RunReport) -> Vec<f64> {
    report.orders.iter().filter(|order| order.after < order.before).map(|order| order.at).collect()
}

#[test]
fn half_of_the_scrapes_may_be_lost_on_a_plateau() {
    let arrivals = constant(400.0, 900).draw(4);
    let whole = with(Faults::default(), &arrivals);
    let lossy = with(Faults { lost_scrapes: 0.5, ..Faults::default() }, &arrivals);
    assert!(removals(&lossy).is_empty(), "{:?}", lossy.orders);
    assert!(lossy.slo_share > whole.slo_share - 0.02, "{} instead of {}", lossy.slo_share, whole.slo_share);
}

#[test]
fn in_the_dark_the_number_stays() {
    let arrivals = hill();
    let whole = with(Faults::default(), &arrivals);
    let blind = with(Faults { blackout: Some((400.0, 520.0)), ..Faults::default() }, &arrivals);
    assert!(blind.orders.iter().all(|order| !(400.0..520.0).contains(&order.at)), "{:?}", blind.orders);
    // A whole window of sight after the peak, as without the dark.
    assert!(removals(&blind).iter().all(|at| *at >= 900.0), "{:?}", blind.orders);
    assert!(blind.slo_share > whole.slo_share - 0.02, "{} instead of {}", blind.slo_share, whole.slo_share);
}

#[test]
fn a_rise_in_the_dark_is_answered_two_scrapes_after_it() {
    let arrivals = hill();
    let blind = with(Faults { blackout: Some((150.0, 270.0)), ..Faults::default() }, &arrivals);
    let first = blind.orders.first().map(|order| order.at);
    // Two scrapes 2 s apart make a rate; the decision follows 0.3 s after the second.
    assert!(first.is_some_and(|at| (270.0..274.4).contains(&at)), "{:?}", blind.orders);
}

#[test]
fn counters_that_begin_anew_at_the_peak_remove_nothing() {
    let arrivals = hill();
    let whole = with(Faults::default(), &arrivals);
    let reset = with(Faults { counter_reset: Some(450.0), ..Faults::default() }, &arrivals);
    assert!(removals(&reset).is_empty(), "{:?}", reset.orders);
    assert!(reset.slo_share > whole.slo_share - 0.02, "{} instead of {}", reset.slo_share, whole.slo_share);
}

#[test]
fn an_operator_that_restarts_at_the_peak_removes_nothing() {
    let arrivals = hill();
    let whole = with(Faults::default(), &arrivals);
    let restarted = with(Faults { restart: Some(450.0), ..Faults::default() }, &arrivals);
    assert!(removals(&restarted).is_empty(), "{:?}", restarted.orders);
    assert!(restarted.slo_share > whole.slo_share - 0.02, "{} instead of {}", restarted.slo_share, whole.slo_share);
}

#[test]
fn a_sick_replica_is_left_out_where_routing_leaves_it_out() {
    let arrivals = constant(400.0, 900).draw(4);
    let sick = Some(Sickness { from: 300.0, to: 600.0, factor: 10.0 });
    let [whole, sick] = [None, sick].map(|sick| {
        let faults = Faults { sick, ..Faults::default() };
        let scenario = Scenario { routing: Routing::LeastPending, faults, ..scenario() };
        run(&scenario, &arrivals, PolicyKind::Flotilla, None, 4).unwrap()
    });
    assert!(sick.slo_share > whole.slo_share - 0.02, "{} instead of {}", sick.slo_share, whole.slo_share);
    let most = sick.orders.iter().map(|order| order.after).max();
    assert!(most <= whole.orders.iter().map(|order| order.after + 1).max(), "one more at most: {:?}", sick.orders);
}
