//! What holds for every fleet.

use std::time::Duration;

use proptest::prelude::*;

use super::super::testing::{at, fleet, settings, steady};
use super::super::{
    Decision, Measurement, MissingReason, Monotonic, Observation, Policy, PolicySettings, QueueTime, ReplicaSample,
    Starting, State, decide,
};

/// One replica's numbers, before they get a time.
#[derive(Debug, Clone)]
enum Seen {
    Measured { arrivals: f64, completed: f64, pending: (f64, f64), wait: Option<u64>, tainted: bool, age: u64 },
    Missing(MissingReason),
}

fn seen() -> impl Strategy<Value = Seen> {
    let rate = || prop_oneof![Just(0.0), 0.0..500.0, 0.0..5000.0];
    let measured = (rate(), rate(), (rate(), rate()), prop::option::of(0..5000_u64), any::<bool>(), 0..12_u64);
    prop_oneof![
        5 => measured.prop_map(|(arrivals, completed, pending, wait, tainted, age)| {
            Seen::Measured { arrivals, completed, pending, wait, tainted, age }
        }),
        1 => prop_oneof![
            Just(MissingReason::NotYetSampled),
            Just(MissingReason::Unreachable),
            Just(MissingReason::BadPage),
            Just(MissingReason::Stale),
        ]
        .prop_map(Seen::Missing),
    ]
}

impl Seen {
    fn sample(&self, now: Monotonic) -> ReplicaSample {
        match self {
            Self::Missing(reason) => ReplicaSample::Missing { since: now, reason: *reason },
            Self::Measured { arrivals, completed, pending, wait, tainted, age } => {
                ReplicaSample::Measured(Measurement {
                    arrivals_per_second: *arrivals,
                    completed_per_second: *completed,
                    pending_images_before: pending.0,
                    pending_images: pending.1,
                    queue_time: wait
                        .map(|wait| QueueTime { mean: Duration::from_millis(wait), ..QueueTime::default() }),
                    tainted: *tainted,
                    ..steady(*arrivals, now - Duration::from_secs(*age))
                })
            }
        }
    }

    fn is_fresh(&self) -> bool {
        matches!(self, Self::Measured { age, .. } if *age <= 6)
    }
}

#[derive(Debug, Clone)]
struct Round {
    ready: Vec<Seen>,
    extra_ordered: u32,
    starting: Vec<(u32, bool)>,
    rolling_out: bool,
}

fn round() -> impl Strategy<Value = Round> {
    let starting = prop::collection::vec((0..5_u32, any::<bool>()), 0..3);
    (prop::collection::vec(seen(), 0..6), 0..12_u32, starting, any::<bool>())
        .prop_map(|(ready, extra_ordered, starting, rolling_out)| Round { ready, extra_ordered, starting, rolling_out })
}

impl Round {
    fn observation(&self, now: Monotonic) -> Observation {
        let mut observation = fleet(self.ready.iter().map(|seen| seen.sample(now)).collect());
        observation.current = self.extra_ordered;
        observation.rolling_out = self.rolling_out;
        observation.starting = self
            .starting
            .iter()
            .map(|(restarts, unschedulable)| Starting {
                since: now,
                restarts: *restarts,
                unschedulable: *unschedulable,
            })
            .collect();
        observation
    }
}

fn policy(min: u32, max: u32) -> Policy {
    let window = Duration::from_secs(10);
    let settings = PolicySettings { min_replicas: min, max_replicas: max, stabilization_window: window, ..settings() };
    Policy::new(settings).unwrap()
}

/// Tells the rounds two seconds apart.
fn tell(policy: &Policy, rounds: &[Round]) -> Vec<(Decision, State)> {
    let mut state = State::default();
    let mut decisions = Vec::new();
    for (round, second) in rounds.iter().zip((0_u32..).step_by(2)) {
        let now = at(f64::from(second));
        let (decision, next) = decide(policy, state, &round.observation(now), now);
        state = next.clone();
        decisions.push((decision, next));
    }
    decisions
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_bounds_always_hold(rounds in prop::collection::vec(round(), 1..20), min in 1..5_u32, more in 0..5_u32) {
        for (decision, _) in tell(&policy(min, min + more), &rounds) {
            prop_assert!((min..=min + more).contains(&decision.replicas));
        }
    }

    #[test]
    fn nothing_is_removed_unless_every_ready_replica_was_just_measured(
        rounds in prop::collection::vec(round(), 1..20),
    ) {
        for (round, (decision, _)) in rounds.iter().zip(tell(&policy(1, 12), &rounds)) {
            if decision.replicas < round.extra_ordered {
                prop_assert!(!round.ready.is_empty() && round.ready.iter().all(Seen::is_fresh));
                prop_assert!(!round.rolling_out);
            }
        }
    }

    #[test]
    fn nothing_is_removed_before_a_full_window(rounds in prop::collection::vec(round(), 1..5)) {
        for (round, (decision, _)) in rounds.iter().zip(tell(&policy(1, 12), &rounds)) {
            prop_assert!(decision.replicas >= round.extra_ordered.min(12));
        }
    }

    #[test]
    fn the_same_observation_again_gives_the_same_number(rounds in prop::collection::vec(round(), 1..12)) {
        let policy = policy(1, 12);
        let last = rounds.len() - 1;
        let now = at(f64::from(u32::try_from(last).unwrap()) * 2.0);
        let (first, state) = tell(&policy, &rounds).pop().unwrap();
        let (second, _) = decide(&policy, state, &rounds[last].observation(now), now);
        prop_assert_eq!(first.replicas, second.replicas);
    }

    #[test]
    fn more_load_never_gives_fewer(
        replicas in 1..6_usize, arrivals in 0.0..400.0_f64, more in 0.0..400.0_f64, rounds in 1..6_u32,
    ) {
        let last = |arrivals: f64| {
            let (policy, mut state, mut number) = (policy(1, 50), State::default(), 0);
            for round in 0..rounds {
                let now = at(f64::from(round) * 2.0);
                let samples = vec![ReplicaSample::Measured(steady(arrivals, now)); replicas];
                let (decision, next) = decide(&policy, state, &fleet(samples), now);
                (state, number) = (next, decision.replicas);
            }
            number
        };
        prop_assert!(last(arrivals) <= last(arrivals + more));
    }

    #[test]
    fn a_noisy_constant_load_settles(
        rate in 20.0..1000.0_f64, noise in prop::collection::vec(-0.04..0.04_f64, 200), start in 1..12_u32,
    ) {
        let (policy, mut state, mut current) = (policy(1, 12), State::default(), start);
        let mut numbers = Vec::new();
        for (noise, second) in noise.iter().zip((0_u32..).step_by(2)) {
            let now = at(f64::from(second));
            let arrivals = rate * (1.0 + noise) / f64::from(current);
            let samples = vec![ReplicaSample::Measured(steady(arrivals, now)); current as usize];
            let (decision, next) = decide(&policy, state, &fleet(samples), now);
            (state, current) = (next, decision.replicas);
            numbers.push(current);
        }
        let changes = numbers.windows(2).filter(|pair| pair[0] != pair[1]).count();
        prop_assert!(changes <= 4, "{:?}", numbers);
        let late = numbers[50..].windows(2).filter(|pair| pair[0] != pair[1]).count();
        prop_assert!(late <= 1, "never up and down again: {:?}", numbers);
    }

    #[test]
    fn what_is_left_is_never_less_than_what_is_needed(rounds in prop::collection::vec(round(), 1..20)) {
        for (round, (decision, _)) in rounds.iter().zip(tell(&policy(1, 12), &rounds)) {
            let inputs = &decision.inputs;
            let needed = inputs.terms.expected.max(inputs.terms.backlog);
            if decision.replicas < round.extra_ordered.clamp(1, 12) {
                prop_assert!(needed.is_none_or(|needed| decision.replicas >= needed.min(12)), "{:?}", decision);
            }
        }
    }

    #[test]
    fn nothing_goes_within_a_window_of_the_order_for_it(
        rates in prop::collection::vec((0.0..1500.0_f64, 1..20_u32), 1..12),
    ) {
        let window = 30.0;
        let settings = PolicySettings { stabilization_window: Duration::from_secs_f64(window), ..settings() };
        let policy = Policy::new(PolicySettings { max_replicas: 12, ..settings }).unwrap();
        let (mut state, mut current, mut seconds, mut ordered_at) = (State::default(), 1_u32, 0.0, -1000.0);
        for (rate, rounds) in rates {
            for _ in 0..rounds {
                let now = at(seconds);
                let each = steady(rate / f64::from(current), now);
                let samples = vec![ReplicaSample::Measured(each); current as usize];
                let (decision, next) = decide(&policy, state, &fleet(samples), now);
                if decision.replicas > current {
                    ordered_at = seconds;
                }
                prop_assert!(decision.replicas >= current || seconds - ordered_at >= window, "at {seconds}");
                (state, current) = (next, decision.replicas);
                seconds += 2.0;
            }
        }
    }

    #[test]
    fn without_data_the_number_stays(
        rounds in prop::collection::vec(round(), 1..8), silent in 1..40_u32, ordered in 1..12_u32,
    ) {
        let policy = policy(1, 12);
        let (_, state) = tell(&policy, &rounds).pop().unwrap();
        let mut state = state;
        let begin = f64::from(u32::try_from(rounds.len()).unwrap()) * 2.0;
        for round in 0..silent {
            let now = at(begin + f64::from(round) * 2.0);
            let unknown = ReplicaSample::Missing { since: at(begin), reason: MissingReason::Unreachable };
            let mut observation = fleet(vec![unknown; ordered as usize]);
            observation.current = ordered;
            let (decision, next) = decide(&policy, state, &observation, now);
            state = next;
            prop_assert_eq!(decision.replicas, ordered);
            prop_assert!(!decision.reason.has_metrics());
        }
    }
}
