//! The thresholds that are told are those at which the whole law changes its mind: at a rate a little beyond one it decides
//! otherwise, at a rate a little before it does not.

use std::time::Duration;

use proptest::prelude::*;

use super::super::demand::Demand;
use super::super::stabilize::Window;
use super::super::testing::{Story, at, fleet, measured, settings, steady};
use super::super::{BatchDelta, BatchLine, Decision, Measurement, Monotonic, Observation, Policy, QueueTime, State};

/// How far from a threshold the law is asked: far more than numbers are rounded by, and less than anyone sees.
const NEAR: f64 = 1e-3;
const SHORT: Duration = Duration::from_secs(10);

/// A fleet that takes what arrives.
#[derive(Debug, Clone)]
struct Fleet {
    replicas: u32,
    line: (f64, f64),
    /// Part of what the fleet takes that arrives.
    load: f64,
    wait: Duration,
    pending: f64,
    one_is_slow: bool,
}

fn any_fleet() -> impl Strategy<Value = Fleet> {
    let line = (0.001..0.02_f64, 0.0005..0.03_f64);
    // Half of the target is calm; up to one and a half times the target is no growing queue.
    let wait = prop_oneof![Just(2_u64), 11..29_u64].prop_map(Duration::from_millis);
    (1..10_u32, line, 0.05..1.4_f64, wait, 0.0..8.0_f64, prop::bool::weighted(0.2)).prop_map(
        |(replicas, line, load, wait, pending, slow)| Fleet {
            replicas,
            line,
            load,
            wait,
            pending,
            one_is_slow: slow && replicas > 2,
        },
    )
}

impl Fleet {
    fn policy() -> Policy {
        Policy::new(super::super::PolicySettings { max_replicas: 40, stabilization_window: SHORT, ..settings() })
            .unwrap()
    }

    fn capacity(&self) -> f64 {
        let (alpha, tau0) = self.line;
        BatchLine { alpha, tau0 }.rate_within(settings().target_queue_time, settings().max_batch_size)
    }

    /// What is seen of it while this much arrives, evenly.
    fn at_rate(&self, rate: f64, now: Monotonic) -> Observation {
        self.seen(rate, now, self.one_is_slow)
    }

    fn seen(&self, rate: f64, now: Monotonic, one_is_slow: bool) -> Observation {
        let (alpha, tau0) = self.line;
        let batch = |size: f64, slower: f64| BatchDelta {
            size,
            executions: 20.0,
            seconds: 20.0 * slower * (alpha * size + tau0),
        };
        let one = |index: u32| {
            let slower = if one_is_slow && index == 0 { 20.0 } else { 1.0 };
            Measurement {
                queue_time: Some(QueueTime { mean: self.wait, ..QueueTime::default() }),
                pending_images: self.pending,
                pending_images_before: self.pending,
                batches: vec![batch(4.0, slower), batch(16.0, slower)],
                ..steady(rate / f64::from(self.replicas), now)
            }
        };
        fleet(measured((0..self.replicas).map(one).collect()))
    }

    /// The state after twenty seconds of a steady load, one replica slow in the second half, and what was decided.
    fn told(&self, policy: &Policy) -> (Decision, State) {
        let mut story = Story::new(policy.clone());
        let rate = self.load * f64::from(self.replicas) * self.capacity();
        story.see_until(0, 10, |now| self.seen(rate, now, false));
        let decision = story.see_until(12, 20, |now| self.at_rate(rate, now));
        (decision, story.state)
    }

    /// What is decided when only the rate is another, from now on and for a whole window.
    fn asked_at(&self, policy: &Policy, state: &State, ordered: u32, rate: f64) -> Vec<u32> {
        let mut state = state.clone();
        state.demand = Demand::default();
        (state.window, state.peaks) = (Window::default(), Window::default());
        // Later than any limit on steps reaches.
        (60..=74_u32)
            .step_by(2)
            .map(|second| {
                let now = at(f64::from(second));
                let observation = Observation { current: ordered, ..self.at_rate(rate, now) };
                let (decision, next) = super::super::decide(policy, state.clone(), &observation, now);
                state = next;
                decision.replicas
            })
            .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_rate_above_the_told_one_orders_more_and_one_below_does_not(fleet in any_fleet()) {
        let policy = Fleet::policy();
        let (decision, state) = fleet.told(&policy);
        let more = decision.changes(&policy).more.unwrap();
        prop_assert_eq!(more.replicas, decision.replicas + 1);
        let first = |rate: f64| fleet.asked_at(&policy, &state, decision.replicas, rate)[0];
        match more.arrivals_above {
            Some(threshold) => {
                prop_assert!(first(threshold * (1.0 + NEAR)) > decision.replicas, "{more:?} {decision:?}");
                prop_assert!(first(threshold * (1.0 - NEAR)) <= decision.replicas, "{more:?} {decision:?}");
            }
            None => {
                for times in [1.0, 2.0, 10.0] {
                    let rate = times * f64::from(decision.replicas) * fleet.capacity();
                    prop_assert!(first(rate) <= decision.replicas, "{rate} {decision:?}");
                }
            }
        }
    }

    #[test]
    fn a_rate_at_the_told_one_for_the_window_removes_and_one_above_does_not(fleet in any_fleet()) {
        let policy = Fleet::policy();
        let (decision, state) = fleet.told(&policy);
        // Of a fleet that has what it ordered, with its queue worked off.
        prop_assume!(decision.replicas == fleet.replicas);
        let empty = Fleet { pending: 0.0, ..fleet };
        let Some(fewer) = decision.changes(&policy).fewer else {
            prop_assert_eq!(decision.replicas, 1);
            return Ok(());
        };
        // Longer than the user's window where the demand came back after a decrease.
        prop_assert!(fewer.replicas == decision.replicas - 1 && fewer.lasting >= SHORT);
        let fewest = |rate: f64| *empty.asked_at(&policy, &state, decision.replicas, rate).iter().min().unwrap();
        match fewer.arrivals_below {
            Some(threshold) => {
                prop_assert!(fewest(threshold * (1.0 - NEAR)) < decision.replicas, "{fewer:?} {decision:?}");
                prop_assert!(fewest(threshold * (1.0 + NEAR)) >= decision.replicas, "{fewer:?} {decision:?}");
            }
            None => prop_assert!(fewest(0.0) >= decision.replicas, "{fewer:?} {decision:?}"),
        }
    }

    /// Nothing of what is told contradicts the number that was decided.
    #[test]
    fn what_decided_and_what_holds_fit_the_number(fleet in any_fleet()) {
        let policy = Fleet::policy();
        let (decision, _) = fleet.told(&policy);
        let terms = decision.inputs.terms;
        prop_assert!((terms.fewest_now..=terms.most_now).contains(&decision.replicas));
        let asked = [terms.demand, terms.expected, terms.backlog].into_iter().flatten().max().unwrap();
        let limit = terms.most_now.min(40);
        prop_assert!(decision.replicas >= asked.min(limit), "{decision:?}");
        let soonest = terms.fewer_in;
        prop_assert_eq!(soonest.is_some(), decision.replicas > 1);
        prop_assert!(soonest.is_none_or(|soonest| soonest <= SHORT.max(Duration::from_mins(1))));
    }
}
