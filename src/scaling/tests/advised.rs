//! Nobody acts on what is decided, or somebody does later: what is there stays the measure, and what is shown is steady.

use std::time::Duration;

use proptest::prelude::*;

use super::super::testing::{Story, at, fleet, measured, overloaded, policy, settings, starting, steady};
use super::super::{Decision, Policy, PolicySettings, Reason, State, decide};
use super::balanced;

/// The numbers that a story came to, each once as long as it stayed.
fn told(story: &mut Story, from: u32, to: u32, replicas: u32, arrivals: f64) -> Vec<u32> {
    let seconds = (from..to).step_by(2).map(f64::from);
    let mut numbers: Vec<u32> =
        seconds.map(|second| story.see(second, &balanced(replicas, arrivals, at(second))).replicas).collect();
    numbers.dedup();
    numbers
}

#[test]
fn what_is_needed_does_not_grow_while_nothing_comes_of_it() {
    let mut story = Story::new(policy());
    assert_eq!(told(&mut story, 0, 1200, 1, 340.0), [3]);
    // Far more than may be ordered at once: as much as of one in a quarter of a minute, and not four times as much each.
    let wide = Policy::new(PolicySettings { max_replicas: 100, ..settings() }).unwrap();
    assert_eq!(told(&mut Story::new(wide), 0, 1200, 1, 8000.0), [9]);
}

#[test]
fn a_queue_that_grows_against_the_model_asks_for_one_more_however_long() {
    let hot = |now| {
        fleet(measured(vec![super::Measurement { arrivals_per_second: 100.0, ..overloaded(300.0, 50.0, now) }; 2]))
    };
    let mut story = Story::new(policy());
    story.see(0.0, &balanced(2, 200.0, at(0.0)));
    for second in (2..600).step_by(2).map(f64::from) {
        let decision = story.see(second, &hot(at(second)));
        assert!(decision.replicas <= 3, "at {second} s: {decision:?}");
    }
    // Somebody ordered it: it is waited for, and then asked for its part of the traffic.
    for second in (600..620).step_by(2).map(f64::from) {
        let mut observation = hot(at(second));
        (observation.current, observation.starting) = (3, vec![starting(at(600.0))]);
        assert_eq!(story.see(second, &observation).reason, Reason::StartingCapacity);
    }
    let three = |now| {
        fleet(measured(vec![super::Measurement { arrivals_per_second: 100.0, ..overloaded(300.0, 50.0, now) }; 3]))
    };
    assert_eq!(story.see(622.0, &three(at(622.0))).reason, Reason::StartingCapacity, "it has no traffic yet");
    assert_eq!(story.see_until(624, 700, three).replicas, 4);
}

#[test]
fn an_increase_stands_as_long_as_its_replicas_would_and_ends_when_they_come() {
    let mut story = Story::new(policy());
    assert_eq!(told(&mut story, 0, 100, 2, 240.0), [2]);
    assert_eq!(told(&mut story, 100, 120, 2, 500.0), [3, 4], "smoothed, and believed when it is seen twice");
    // The window is a minute; until then the four would have stayed.
    assert_eq!(told(&mut story, 120, 240, 2, 240.0), [4, 2]);
    assert_eq!(told(&mut story, 240, 260, 2, 500.0), [3, 4]);
    let decision = story.see_until(260, 264, |now| balanced(2, 240.0, now));
    assert_eq!((decision.replicas, decision.reason), (4, Reason::ScaleDownWindow));
    // Ordered by somebody, and lowered again by somebody: then it is no order any more.
    assert_eq!(told(&mut story, 266, 280, 4, 240.0), [4]);
    assert_eq!(told(&mut story, 280, 300, 2, 240.0), [2]);
}

#[test]
fn a_decrease_that_was_only_shown_makes_no_window_longer() {
    let mut story = Story::new(policy());
    story.see_until(0, 100, |now| balanced(8, 1000.0, now));
    assert_eq!(told(&mut story, 100, 700, 8, 100.0), [8, 6, 4], "half at a time, of what is there");
    let back = story.see_until(700, 800, |now| balanced(8, 1000.0, now));
    assert_eq!((back.replicas, back.inputs.remembered), (8, Duration::from_mins(1)));
    // Acted on, the same is a peak that came back soon.
    let mut acted = Story::new(policy());
    acted.see_until(0, 100, |now| balanced(8, 1000.0, now));
    let mut replicas = 8;
    for second in (100..200).step_by(2).map(f64::from) {
        replicas = acted.see(second, &balanced(replicas, 100.0, at(second))).replicas;
    }
    assert_eq!(replicas, 1);
    let back = acted.see_until(200, 210, |now| balanced(1, 1000.0, now));
    assert_eq!((back.replicas, back.inputs.remembered), (8, Duration::from_mins(2)));
}

/// After a pause, what was shown is done, and from there it goes on as ever: in steps, and with windows of what was seen.
#[test]
fn after_a_pause_it_goes_on_as_it_showed() {
    let acts = |story: &mut Story, from: u32, mut replicas: u32, arrivals: f64| -> Vec<(u32, u32)> {
        let mut changes = Vec::new();
        for second in (from..from + 60).step_by(2) {
            let now = f64::from(second);
            let decided = story.see(now, &balanced(replicas, arrivals, at(now))).replicas;
            if decided != replicas {
                changes.push((second - from, decided));
            }
            replicas = decided;
        }
        changes
    };
    let mut fewer = Story::new(policy());
    assert_eq!(told(&mut fewer, 0, 600, 8, 100.0).last(), Some(&4));
    assert_eq!(acts(&mut fewer, 600, 8, 100.0), [(0, 4), (16, 2), (32, 1)]);
    let mut more = Story::new(policy());
    assert_eq!(told(&mut more, 0, 600, 1, 340.0).last(), Some(&3));
    assert_eq!(acts(&mut more, 600, 1, 340.0), [(0, 3)]);
    // The peak in the pause is older than the window.
    let mut past = Story::new(policy());
    told(&mut past, 0, 60, 2, 1000.0);
    assert_eq!(told(&mut past, 60, 300, 2, 240.0).last(), Some(&2));
    assert_eq!(acts(&mut past, 300, 2, 240.0), []);
}

/// What was decided in rounds two seconds apart of a fleet that nobody scales.
fn unscaled(policy: &Policy, replicas: u32, rates: impl IntoIterator<Item = f64>) -> Vec<Decision> {
    let mut state = State::default();
    let rounds = rates.into_iter().zip((0_u32..).step_by(2));
    rounds
        .map(|(rate, second)| {
            let now = at(f64::from(second));
            let each = steady(rate / f64::from(replicas), now);
            let seen = fleet(measured(vec![each; replicas as usize]));
            let (decision, next) = decide(policy, std::mem::take(&mut state), &seen, now);
            state = next;
            decision
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_shown_falls_no_sooner_after_a_rise_than_what_is_acted_on(
        rates in prop::collection::vec((0.0..1500.0_f64, 1..25_usize), 1..12), replicas in 1..12_u32,
    ) {
        let rounds_of_a_window = 15;
        let settings = PolicySettings { stabilization_window: Duration::from_secs(30), max_replicas: 12, ..settings() };
        let policy = Policy::new(settings).unwrap();
        let rates = rates.iter().flat_map(|(rate, rounds)| std::iter::repeat_n(*rate, *rounds));
        let numbers: Vec<u32> = unscaled(&policy, replicas, rates).iter().map(|decision| decision.replicas).collect();
        let mut rose_at: Option<usize> = None;
        for (round, pair) in numbers.windows(2).enumerate() {
            match pair[0].cmp(&pair[1]) {
                std::cmp::Ordering::Less => rose_at = Some(round),
                std::cmp::Ordering::Greater => {
                    let is_later = rose_at.is_none_or(|rose| round - rose >= rounds_of_a_window);
                    prop_assert!(is_later, "{:?} of {}", numbers, replicas);
                }
                std::cmp::Ordering::Equal => {}
            }
        }
    }
}
