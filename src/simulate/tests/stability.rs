//! A steady load gives a steady number, however long replicas take to start: the dead times of a control loop on queue
//! time, of which most make a rule that multiplies by the queue time swing.

use std::time::Duration;

use super::super::testing::scenario;
use super::super::{PolicyKind, Routing, Scenario, ServerMetrics, run};
use super::constant;

#[test]
fn a_steady_load_settles_at_every_dead_time() {
    for startup_seconds in [5.0, 15.0, 60.0, 120.0, 240.0] {
        for (rate, metrics) in
            [(100.0, ServerMetrics::Flotilla), (330.0, ServerMetrics::Flotilla), (330.0, ServerMetrics::Triton)]
        {
            let window = Duration::from_mins(2);
            let scenario = Scenario { startup_seconds, metrics, stabilization_window: window, ..scenario() };
            let report = run(&scenario, &constant(rate, 1500).draw(9), PolicyKind::Flotilla, None, 9).unwrap();
            let settled = 2.0 * startup_seconds + 300.0;
            let late: Vec<_> = report.orders.iter().filter(|order| order.at > settled).collect();
            assert!(late.len() <= 2, "{rate}/s, {startup_seconds} s, {metrics:?}: {:?}", report.orders);
            assert!(report.reversals < 0.5, "{rate}/s, {startup_seconds} s, {metrics:?}: {:?}", report.orders);
            let most = report.orders.iter().map(|order| order.after).max().unwrap_or(1);
            assert!(
                most <= scenario.needed(rate) + 2,
                "{rate}/s, {startup_seconds} s, {metrics:?}: {:?}",
                report.orders
            );
        }
    }
}

#[test]
fn routing_changes_the_waits_and_not_the_number() {
    for routing in Routing::ALL {
        let scenario = Scenario { routing, ..scenario() };
        let report = run(&scenario, &constant(330.0, 900).draw(9), PolicyKind::Flotilla, None, 9).unwrap();
        let last = report.orders.last().map_or(1, |order| order.after);
        assert!((3..=4).contains(&last), "{}: {:?}", routing.as_str(), report.orders);
    }
}
