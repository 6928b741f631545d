//! How each ready replica stands when some are to go: one that serves badly goes before one that serves well, and of two
//! equals the one with fewer images waiting, since those would have to wait for its last ones to be drained.

use std::collections::BTreeMap;

use super::fresh::Fresh;
use super::observation::{MissingReason, Monotonic, Observation, Replica, ReplicaSample};
use super::policy::Policy;
use super::state::State;
use super::view::View;
use super::whole;

/// A ready replica; the least of several is the first to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Far slower than the others of its class, or not to be measured.
    Sick,
    /// It serves.
    Well {
        /// Images waiting; 0 for a replica that became ready a moment ago.
        pending_images: u32,
    },
}

/// Every ready replica by its name. With an empty state nobody is known to be slow.
pub fn standings<'a>(
    policy: &Policy,
    state: &State,
    observation: &'a Observation,
    now: Monotonic,
) -> BTreeMap<&'a str, Standing> {
    let mut view = View::new(policy, observation, now);
    state.mark_slow(&mut view);
    let fresh: BTreeMap<&str, &Fresh<'_>> = view.fresh.iter().map(|fresh| (fresh.name, fresh)).collect();
    let of = |replica: &Replica| match (&replica.sample, fresh.get(replica.name.as_str())) {
        (ReplicaSample::Missing { reason: MissingReason::NotYetSampled, .. }, _) => {
            Standing::Well { pending_images: 0 }
        }
        (_, Some(fresh)) if !fresh.is_slow => {
            Standing::Well { pending_images: whole(fresh.measurement.pending_images) }
        }
        _ => Standing::Sick,
    };
    observation.ready.iter().map(|replica| (replica.name.as_str(), of(replica))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{at, fleet, idle, measured, missing, overloaded, policy, steady};
    use super::super::{BatchDelta, Measurement, ReplicaSample, decide};
    use super::*;

    fn order(observation: &Observation, state: &State, seconds: f64) -> Vec<String> {
        let policy = policy();
        let mut standings: Vec<_> = standings(&policy, state, observation, at(seconds)).into_iter().collect();
        standings.sort_by_key(|(_, standing)| *standing);
        standings.into_iter().map(|(name, _)| name.to_owned()).collect()
    }

    #[test]
    fn fewer_images_waiting_go_before_more() {
        let now = at(0.0);
        let observation = fleet(measured(vec![overloaded(300.0, 40.0, now), idle(now), overloaded(200.0, 10.0, now)]));
        assert_eq!(order(&observation, &State::default(), 0.0), ["pod-1", "pod-2", "pod-0"]);
    }

    #[test]
    fn one_that_can_not_be_measured_goes_first_and_one_that_is_new_does_not() {
        let now = at(0.0);
        let new = ReplicaSample::Missing { since: now, reason: MissingReason::NotYetSampled };
        let stale = ReplicaSample::Measured(idle(at(-60.0)));
        let absurd = ReplicaSample::Measured(Measurement { pending_images: f64::NAN, ..idle(now) });
        for sick in [missing(now), stale, absurd] {
            let observation = fleet(vec![ReplicaSample::Measured(idle(now)), new.clone(), sick.clone()]);
            assert_eq!(order(&observation, &State::default(), 0.0)[0], "pod-2", "{sick:?}");
            assert_eq!(
                standings(&policy(), &State::default(), &observation, now)["pod-1"],
                Standing::Well { pending_images: 0 }
            );
        }
    }

    /// Its executions begin to take ten times as long; its queue is as short as the others'.
    #[test]
    fn one_that_is_far_slower_than_its_class_goes_first() {
        let at_work = |now| steady(40.0, now);
        let throttled = |now| {
            let slow = |batch: BatchDelta| BatchDelta { seconds: batch.seconds * 10.0, ..batch };
            let quick = at_work(now);
            Measurement { batches: quick.batches.iter().copied().map(slow).collect(), ..quick }
        };
        let mut state = State::default();
        let before = |now| fleet(measured(vec![at_work(now), at_work(now), at_work(now)]));
        let seen = |now| fleet(measured(vec![at_work(now), at_work(now), throttled(now)]));
        for second in (0..60).step_by(2).map(f64::from) {
            (_, state) = decide(&policy(), state, &before(at(second)), at(second));
        }
        assert_eq!(order(&seen(at(60.0)), &state, 60.0)[0], "pod-2");
        let unknown = order(&seen(at(60.0)), &State::default(), 60.0);
        assert_eq!(unknown[0], "pod-0", "without a memory of its class nobody is slow");
    }
}
