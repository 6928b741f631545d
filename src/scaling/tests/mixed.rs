//! A fleet on two GPU products, one of which is twice as fast as the other.

use super::super::testing::{Story, fleet, measured, policy, steady};
use super::super::{BatchDelta, Measurement, Monotonic, Observation};

const SLOWER: f64 = 2.0;

/// Two slow replicas and one fast one that take `rate` images a second, each as much as the next.
fn mixed(rate: f64, now: Monotonic) -> Observation {
    of(&[SLOWER, SLOWER, 1.0], rate, now)
}

fn of(times_slower: &[f64], rate: f64, now: Monotonic) -> Observation {
    let share = rate / f64::from(super::super::whole(times_slower.len()));
    let one = |times: &f64| {
        let slower = |batch: BatchDelta| BatchDelta { seconds: batch.seconds * times, ..batch };
        let usual = steady(share, now);
        Measurement { batches: usual.batches.iter().copied().map(slower).collect(), ..usual }
    };
    let mut seen = fleet(measured(times_slower.iter().map(one).collect()));
    for (replica, times) in seen.ready.iter_mut().zip(times_slower) {
        replica.class = format!("template/{times}");
    }
    seen
}

/// Kubernetes may remove the fast one. What is left after a decrease must not ask for it back at once.
#[test]
fn what_may_go_does_not_rest_on_the_fastest_replica() {
    let mut removals = 0;
    for rate in (2..80).map(|step| f64::from(step) * 2.0) {
        let mut story = Story::new(policy());
        let before = story.see_until(0, 200, |now| mixed(rate, now));
        let left = usize::try_from(before.replicas).unwrap();
        if left >= 3 {
            continue;
        }
        removals += 1;
        let rest = vec![SLOWER; left];
        let after = story.see_until(202, 240, |now| of(&rest, rate, now));
        assert!(after.replicas <= before.replicas, "at {rate}/s {left} were left, and then {after:?}");
    }
    assert!(removals > 0, "at low rates fewer do");
}

#[test]
fn the_rate_below_which_one_goes_is_what_the_slow_ones_take() {
    let slow_alone = {
        let mut story = Story::new(policy());
        let decision = story.see_until(0, 20, |now| of(&[SLOWER, SLOWER], 10.0, now));
        decision.inputs.capacity_per_replica.unwrap()
    };
    let mut story = Story::new(policy());
    let decision = story.see_until(0, 20, |now| mixed(100.0, now));
    let below = decision.changes(&story.policy).fewer.unwrap().arrivals_below.unwrap();
    assert!(below <= 2.0 * slow_alone + 1e-6, "{below}/s, where two slow ones take {slow_alone}/s each");
    assert!(decision.inputs.capacity_per_replica.unwrap() > 1.5 * slow_alone, "the mean is far more");
}
