//! Stories with literal times: what is seen, and what is to be decided.

mod advised;
mod explained;
mod mixed;
mod properties;
mod simulation;
mod thresholds;

use std::time::Duration;

use super::testing::{Story, at, fleet, idle, measured, missing, overloaded, policy, settings, starting, steady};
use super::{
    BatchDelta, BatchLine, CapacitySource, Decision, Measurement, MissingReason, Observation, Policy, PolicySettings,
    QueueTime, Reason, ReplicaSample, Starting, Term,
};

/// A fleet of this many replicas at which this much arrives, evenly.
fn balanced(replicas: u32, arrivals: f64, now: super::Monotonic) -> Observation {
    fleet(measured((0..replicas).map(|_| steady(arrivals / f64::from(replicas), now)).collect()))
}

#[test]
fn the_line_inverts_at_the_target() {
    let timer = BatchLine { alpha: 0.005, tau0: 0.010 };
    // 136.7 is the exact solution for 20 ms; from about 30 ms on the planned load of 85 % is the limit.
    for (milliseconds, expected) in [(20, 136.7), (100, 160.0), (5, 0.0), (1, 0.0)] {
        let rate = timer.rate_within(Duration::from_millis(milliseconds), 32);
        assert!(expected == 0.0 || (rate - expected).abs() < 0.5, "{milliseconds} ms: {rate}");
        assert!(rate > 20.0, "a target below half an execution's fixed cost is raised to it: {rate}");
    }
    assert_eq!(timer.attainable_target(Duration::from_millis(1)), Duration::from_millis(5));
    let alone = timer.rate_within(Duration::from_millis(20), 1);
    assert!((alone - 48.5).abs() < 0.5, "without batches the queue is M/D/1: {alone}");
}

#[test]
fn the_demand_over_the_capacity_is_ordered_at_once() {
    for (arrivals, replicas) in [(100.0, 1), (200.0, 2), (340.0, 3), (500.0, 4)] {
        let decision = Story::new(policy()).see_until(0, 4, |now| balanced(1, arrivals, now));
        assert_eq!(decision.replicas, replicas, "{arrivals}/s: {decision:?}");
        let expected = if replicas == 1 { Reason::AtMinimum } else { Reason::DemandAboveCapacity };
        assert_eq!(decision.reason, expected);
        assert_eq!(decision.inputs.capacity_source, CapacitySource::BatchLine);
    }
}

#[test]
fn noise_around_a_whole_number_moves_nothing() {
    let mut story = Story::new(policy());
    story.see_until(0, 10, |now| balanced(2, 268.0, now));
    for (round, arrivals) in (0..).zip([279.0, 266.0, 281.0, 277.0, 284.0, 270.0]) {
        let second = 12.0 + f64::from(round) * 2.0;
        assert_eq!(story.see(second, &balanced(2, arrivals, at(second))).replicas, 2);
    }
}

#[test]
fn a_growing_queue_orders_before_anything_is_known_of_the_capacity() {
    let blind = |measurement: Measurement| Measurement { batches: Vec::new(), ..measurement };
    let mut story = Story::new(policy());
    story.see_until(0, 4, |now| fleet(measured(vec![idle(now)])));
    let decision = story.see(6.0, &fleet(measured(vec![blind(overloaded(400.0, 0.0, at(6.0)))])));
    assert_eq!((decision.replicas, decision.reason), (2, Reason::QueueGrowing));

    // The one that was ordered is starting: the same queue, read again, orders no other.
    for second in [8.0, 10.0, 12.0] {
        let hot = blind(overloaded(400.0, 200.0 * second, at(second)));
        let mut observation = fleet(measured(vec![hot]));
        (observation.current, observation.starting) = (2, vec![starting(at(6.5))]);
        let decision = story.see(second, &observation);
        assert!(decision.replicas <= 3, "400/s at a throughput of 188/s need 3, not {}", decision.replicas);
    }
}

#[test]
fn starting_replicas_count_until_their_time_or_their_third_restart() {
    let unexplained = |now| Measurement { arrivals_per_second: 100.0, ..overloaded(300.0, 50.0, now) };
    let seen = |starting: Vec<Starting>| {
        let mut story = Story::new(policy());
        let mut before = fleet(measured(vec![steady(100.0, at(0.0)), steady(100.0, at(0.0))]));
        before.current += u32::try_from(starting.len()).unwrap();
        let mut decision = story.see(0.0, &before);
        for second in [2.0, 4.0] {
            let hot = measured(vec![unexplained(at(second)), unexplained(at(second))]);
            let mut observation = fleet(hot);
            observation.current += u32::try_from(starting.len()).unwrap();
            observation.starting.clone_from(&starting);
            observation.startup_p90 = Some(Duration::from_secs(20));
            decision = story.see(second, &observation);
        }
        (decision.replicas, decision.reason)
    };
    let failing = |since| Starting { restarts: 3, ..starting(since) };
    assert_eq!(seen(vec![]), (3, Reason::QueueGrowing));
    assert_eq!(seen(vec![starting(at(1.0))]), (3, Reason::StartingCapacity));
    assert_eq!(seen(vec![starting(at(-30.0))]), (4, Reason::QueueGrowing), "older than the p90 of starts");
    assert_eq!(seen(vec![failing(at(1.0))]), (4, Reason::QueueGrowing));
    assert_eq!(seen(vec![failing(at(1.0)), failing(at(1.0))]), (4, Reason::ReplicasFailing));
}

#[test]
fn an_unschedulable_replica_blocks_further_orders() {
    let mut story = Story::new(policy());
    let decision = story.see_until(0, 6, |now| {
        let mut observation = balanced(1, 500.0, now);
        observation.current = 2;
        observation.starting = vec![Starting { unschedulable: true, ..starting(now) }];
        observation
    });
    assert_eq!((decision.replicas, decision.reason), (2, Reason::CapacityUnavailable));
    assert_eq!(decision.inputs.wanted, Some(4));
}

#[test]
fn fewer_only_after_a_whole_window_that_agreed() {
    let mut story = Story::new(policy());
    story.see_until(0, 20, |now| balanced(4, 500.0, now));
    // The load falls at 20 s; smoothing lets go of it within seconds, the window after 60 s.
    let decision = story.see_until(22, 78, |now| balanced(4, 100.0, now));
    assert_eq!((decision.replicas, decision.reason), (4, Reason::ScaleDownWindow));
    // Half of them go at once.
    let decision = story.see_until(80, 100, |now| balanced(4, 100.0, now));
    assert_eq!((decision.replicas, decision.reason), (2, Reason::DemandBelowCapacity));
}

#[test]
fn after_a_restart_of_the_operator_a_full_window_is_seen_first() {
    let mut story = Story::new(policy());
    let decision = story.see_until(0, 58, |now| fleet(measured(vec![idle(now), idle(now), idle(now)])));
    assert_eq!((decision.replicas, decision.reason), (3, Reason::ScaleDownWindow));
    let decision = story.see_until(60, 62, |now| fleet(measured(vec![idle(now), idle(now), idle(now)])));
    assert_eq!((decision.replicas, decision.reason), (1, Reason::DemandBelowCapacity));
}

#[test]
fn no_data_holds_and_the_bounds_hold_without_data() {
    let bounded = Policy::new(PolicySettings { min_replicas: 2, max_replicas: 5, ..settings() }).unwrap();
    for (current, replicas, reason) in
        [(1, 2, Reason::BelowMinimum), (3, 3, Reason::NoData), (9, 5, Reason::AboveMaximum)]
    {
        let unknown = vec![missing(at(0.0)); current];
        let decision = Story::new(bounded.clone()).see_until(0, 400, |_| fleet(unknown.clone()));
        assert_eq!((decision.replicas, decision.reason), (replicas, reason), "from {current}");
        assert_eq!(decision.inputs.arrivals_per_second, None, "unknown is not zero");
    }
    let nobody = Observation { current: 3, ..Observation::default() };
    assert_eq!(Story::new(bounded).see(0.0, &nobody).reason, Reason::NoReadyReplicas);
}

#[test]
fn old_and_partial_measurements_never_lower() {
    let mut story = Story::new(policy());
    story.see_until(0, 100, |now| balanced(4, 300.0, now));
    // Idle as far as can be seen, but one of four can't be.
    let mut last = None;
    for second in (102..300).step_by(2).map(f64::from) {
        let mut samples = measured(vec![idle(at(second)); 3]);
        samples.push(missing(at(100.0)));
        last = Some(story.see(second, &fleet(samples)));
        assert_eq!(last.as_ref().unwrap().replicas, 4);
    }
    assert_eq!(last.unwrap().reason, Reason::PartialMetrics);
    let old = fleet(measured(vec![idle(at(300.0)); 4]));
    let decision = story.see(320.0, &old);
    assert_eq!((decision.replicas, decision.reason), (4, Reason::StaleMetrics));
    // Everything is seen again: the blindness was no agreement, so the window starts with it.
    let decision = story.see_until(322, 350, |now| fleet(measured(vec![idle(now); 4])));
    assert_eq!((decision.replicas, decision.reason), (4, Reason::ScaleDownWindow));
}

#[test]
fn partial_measurements_may_raise() {
    let mut story = Story::new(policy());
    let decision = story.see_until(0, 6, |now| {
        let mut samples = measured(vec![steady(130.0, now), steady(130.0, now)]);
        samples.push(missing(at(0.0)));
        fleet(samples)
    });
    // 260/s are seen at two of three: 390/s are assumed, which need three.
    assert_eq!(decision.replicas, 3);
    let decision = story.see_until(8, 20, |now| {
        let mut samples = measured(vec![steady(180.0, now), steady(180.0, now)]);
        samples.push(missing(at(0.0)));
        fleet(samples)
    });
    assert_eq!((decision.replicas, decision.reason), (4, Reason::DemandAboveCapacity));
}

#[test]
fn a_replica_that_just_became_ready_is_no_fault() {
    let mut story = Story::new(policy());
    story.see_until(0, 6, |now| balanced(1, 120.0, now));
    let fresh = ReplicaSample::Missing { since: at(6.0), reason: MissingReason::NotYetSampled };
    let mut samples = measured(vec![steady(400.0, at(8.0))]);
    samples.extend([fresh.clone(), fresh]);
    let decision = story.see(8.0, &fleet(samples));
    assert_eq!(decision.replicas, 3, "two unmeasured newcomers are not assumed to be as busy as the first");
    assert!(decision.reason.has_metrics());
}

#[test]
fn uneven_load_is_recognised_and_orders_nothing() {
    let mut story = Story::new(policy());
    let decision = story.see_until(0, 20, |now| {
        let hot = Measurement { arrivals_per_second: 188.0, ..overloaded(188.0, 200.0, now) };
        fleet(measured(vec![hot, steady(5.0, now), steady(5.0, now)]))
    });
    assert_eq!((decision.replicas, decision.reason), (3, Reason::LoadImbalance));
}

#[test]
fn what_saturated_replicas_complete_limits_what_the_line_promises() {
    // The device could do 137/s, but decoding holds the server at 60/s.
    let decode_bound = |now| Measurement {
        completed_per_second: 60.0,
        arrivals_per_second: 100.0,
        pending_images_before: 100.0,
        pending_images: 180.0,
        queue_time: Some(QueueTime { mean: Duration::from_secs(2), ..QueueTime::default() }),
        ..steady(60.0, now)
    };
    let decision = Story::new(policy()).see_until(0, 6, |now| fleet(measured(vec![decode_bound(now)])));
    assert_eq!(decision.inputs.capacity_source, CapacitySource::Saturation);
    assert_eq!((decision.replicas, decision.inputs.capacity_per_replica), (2, Some(51.0)));
}

#[test]
fn a_warming_replica_does_not_spoil_the_line() {
    let compiling = |now| Measurement {
        batches: vec![BatchDelta { size: 1.0, executions: 30.0, seconds: 35.0 }],
        tainted: true,
        ..steady(20.0, now)
    };
    let decision = Story::new(policy())
        .see_until(0, 10, |now| fleet(measured(vec![steady(100.0, now), compiling(now), steady(100.0, now)])));
    let line = decision.inputs.batch_line.unwrap();
    assert!((line.alpha - 0.005).abs() < 1e-6 && (line.tau0 - 0.010).abs() < 1e-6, "{line:?}");
}

#[test]
fn few_clients_that_wait_for_their_answers_order_nothing() {
    // One connection: 66 images a second one by one, never a queue, the device all but busy.
    let serial = |now| Measurement {
        batches: vec![BatchDelta { size: 1.0, executions: 132.0, seconds: 1.98 }],
        queue_time: Some(QueueTime::default()),
        ..steady(66.0, now)
    };
    let decision = Story::new(policy()).see_until(0, 60, |now| fleet(measured(vec![serial(now)])));
    assert_eq!((decision.replicas, decision.inputs.capacity_source), (1, CapacitySource::Observed));
}

#[test]
fn tritons_queue_time_is_compared_without_its_batching_delay() {
    let delayed = Policy::new(PolicySettings { batching_delay: Duration::from_millis(100), ..settings() }).unwrap();
    let triton = |now| Measurement {
        queue_time: Some(QueueTime { mean: Duration::from_millis(96), p95: None, includes_batching_delay: true }),
        ..steady(1.0, now)
    };
    let decision = Story::new(delayed).see_until(0, 10, |now| fleet(measured(vec![triton(now)])));
    assert!(decision.inputs.queue_time.unwrap() < Duration::from_millis(1), "{decision:?}");
    assert_eq!(decision.replicas, 1);
}

#[test]
fn a_rollout_freezes_lowering_and_starts_from_the_old_speed() {
    let mut story = Story::new(policy());
    story.see_until(0, 100, |now| balanced(3, 300.0, now));
    let decision = story.see_until(102, 200, |now| {
        let mut observation = balanced(3, 100.0, now);
        observation.rolling_out = true;
        for replica in &mut observation.ready {
            replica.class = "b".to_owned();
            if let ReplicaSample::Measured(measurement) = &mut replica.sample {
                measurement.batches.clear();
            }
        }
        observation
    });
    assert_eq!((decision.replicas, decision.reason), (3, Reason::RollingOut));
    assert!((decision.inputs.capacity_per_replica.unwrap() - 0.8 * 136.7).abs() < 0.5);
}

#[test]
fn implausible_numbers_are_no_data() {
    for absurd in [f64::NAN, f64::INFINITY, -1.0, 1e12] {
        let decision = Story::new(policy()).see_until(0, 10, |now| fleet(measured(vec![steady(absurd, now); 2])));
        assert_eq!((decision.replicas, decision.reason), (2, Reason::NoData));
    }
}

#[test]
fn the_maximum_is_named_when_it_is_in_the_way() {
    let decision = Story::new(policy()).see_until(0, 30, |now| balanced(8, 3000.0, now));
    assert_eq!((decision.replicas, decision.reason), (8, Reason::AtMaximum));
}

#[test]
fn a_replica_far_slower_than_its_class_says_nothing_and_one_comes_in_its_place() {
    let sick = |now| Measurement {
        batches: vec![BatchDelta { size: 16.0, executions: 2.0, seconds: 1.8 }],
        queue_time: Some(QueueTime { mean: Duration::from_secs(3), ..QueueTime::default() }),
        pending_images: 300.0,
        pending_images_before: 280.0,
        oldest_wait: Some(Duration::from_secs(4)),
        ..steady(20.0, now)
    };
    let mut story = Story::new(policy());
    story.see_until(0, 20, |now| balanced(3, 340.0, now));
    let decision =
        story.see_until(22, 40, |now| fleet(measured(vec![steady(160.0, now), steady(160.0, now), sick(now)])));
    assert_eq!((decision.replicas, decision.reason, decision.inputs.slow), (4, Reason::SlowReplica, 1));
    assert_eq!(decision.inputs.capacity_source, CapacitySource::BatchLine, "its throughput is nobody's ceiling");
    let line = decision.inputs.batch_line.unwrap();
    assert!((line.alpha - 0.005).abs() < 1e-6, "{line:?}");
}

/// Its executions take so many times as long.
fn slower(times: f64, measurement: Measurement) -> Measurement {
    let slow = |batch: &BatchDelta| BatchDelta { seconds: batch.seconds * times, ..*batch };
    Measurement { batches: measurement.batches.iter().map(slow).collect(), ..measurement }
}

#[test]
fn what_a_slow_start_taught_is_taken_back() {
    let mut story = Story::new(policy());
    let cold = story.see_until(0, 6, |now| fleet(measured(vec![slower(20.0, steady(5.0, now))])));
    assert!(cold.inputs.capacity_per_replica.unwrap() < 10.0, "nothing else is known yet");
    // Later on only the smaller of the two sizes occurs, so what is known of the other stays for hours.
    let small = |now| {
        let warm = steady(40.0, now);
        fleet(measured(vec![Measurement { batches: warm.batches[..1].to_vec(), ..warm }]))
    };
    let decision = story.see_until(8, 10, |now| fleet(measured(vec![steady(40.0, now)])));
    assert!((decision.inputs.capacity_per_replica.unwrap() - 136.7).abs() < 0.5, "{decision:?}");
    let decision = story.see_until(12, 100, small);
    assert!((decision.inputs.capacity_per_replica.unwrap() - 136.7).abs() < 0.5, "{decision:?}");
}

#[test]
fn a_replica_that_is_slow_from_the_first_round_on_teaches_nothing() {
    for others in [1, 2, 5] {
        let seen = |now| {
            let mut all = vec![steady(60.0, now); others];
            all.insert(others / 2, slower(20.0, steady(5.0, now)));
            fleet(measured(all))
        };
        let mut story = Story::new(policy());
        let first = story.see(0.0, &seen(at(0.0)));
        assert!((first.inputs.capacity_per_replica.unwrap() - 136.7).abs() < 0.5, "beside {others}: {first:?}");
        let decision = story.see_until(2, 60, seen);
        assert!((decision.inputs.capacity_per_replica.unwrap() - 136.7).abs() < 0.5, "beside {others}: {decision:?}");
        assert_eq!(decision.inputs.slow, 1, "beside {others}");
    }
}

#[test]
fn a_ramp_is_ordered_ahead() {
    let mut story = Story::new(policy());
    let mut first = None;
    for second in (0..400).step_by(2) {
        let seconds = f64::from(second);
        let mut observation = balanced(1, 60.0 + 0.3 * seconds, at(seconds));
        observation.startup_p90 = Some(Duration::from_mins(1));
        let decision = story.see(seconds, &observation);
        if decision.replicas == 2 && first.is_none() {
            first = Some((60.0 + 0.3 * seconds, decision.reason));
        }
    }
    // One replica takes 136.7/s, and 5 % more orders nothing: without the trend it were 143.5/s and more.
    let (rate, reason) = first.unwrap();
    assert!((125.0..138.0).contains(&rate) && reason == Reason::DemandRising, "{rate} {reason}");
}

#[test]
fn a_panic_keeps_what_there_is_for_a_minute() {
    let short = Policy::new(PolicySettings { stabilization_window: Duration::from_secs(4), ..settings() }).unwrap();
    let mut story = Story::new(short);
    story.see_until(0, 10, |now| balanced(2, 200.0, now));
    story.see(12.0, &balanced(2, 900.0, at(12.0)));
    let decision = story.see_until(14, 70, |now| balanced(2, 20.0, now));
    assert_eq!((decision.replicas, decision.reason), (2, Reason::ScaleDownWindow));
    let decision = story.see_until(72, 76, |now| balanced(2, 20.0, now));
    assert_eq!(decision.reason, Reason::DemandBelowCapacity);
}

#[test]
fn peaks_that_recur_are_waited_for() {
    let mut story = Story::new(policy());
    let tell = |story: &mut Story, from: u32, to: u32, replicas: u32, arrivals: f64| {
        story.see_until(from, to, |now| balanced(replicas, arrivals, now))
    };
    tell(&mut story, 0, 20, 4, 500.0);
    assert_eq!(tell(&mut story, 22, 90, 4, 100.0).reason, Reason::DemandBelowCapacity);
    // It comes back half a minute after the decrease, and goes again.
    assert_eq!(tell(&mut story, 92, 120, 2, 500.0).replicas, 4);
    let holds = |decision: &Decision| -> Vec<(Term, Option<u64>)> {
        let holds = decision.holds(&policy());
        holds.iter().map(|hold| (hold.term, hold.left.map(|left| left.as_secs()))).collect()
    };
    let within = tell(&mut story, 122, 140, 4, 100.0);
    let [(Term::Window, None), (Term::RecurringPeaks, Some(left))] = holds(&within)[..] else {
        panic!("the window holds, and what is left is the peak's time: {:?}", holds(&within))
    };
    let decision = tell(&mut story, 142, 200, 4, 100.0);
    assert_eq!((decision.replicas, decision.reason), (4, Reason::RecurringPeaks));
    assert_eq!(holds(&decision), [(Term::RecurringPeaks, Some(left - 60))]);
    assert_eq!(decision.inputs.remembered, Duration::from_mins(2));
    assert_eq!(tell(&mut story, 202, 250, 4, 100.0).reason, Reason::DemandBelowCapacity);
}

#[test]
fn a_target_that_no_number_of_replicas_meets_is_named() {
    let strict = Policy::new(PolicySettings { target_queue_time: Duration::from_millis(2), ..settings() }).unwrap();
    let decision = Story::new(strict).see_until(0, 20, |now| {
        let waits = QueueTime { mean: Duration::from_millis(4), ..QueueTime::default() };
        fleet(measured(vec![Measurement { queue_time: Some(waits), ..steady(10.0, now) }]))
    });
    assert_eq!((decision.replicas, decision.reason), (1, Reason::TargetBelowBatchFloor));
    assert_eq!(decision.inputs.target_queue_time, Duration::from_millis(5));
}
