//! Which part of the law won, and what held the number: in the stories that the other tests tell.

use std::time::Duration;

use super::super::testing::{Story, at, fleet, measured, missing, overloaded, policy, settings, starting};
use super::super::{BatchLine, Decision, Hold, Measurement, Policy, PolicySettings, Reason, Starting, Term};
use super::balanced;

fn held(decision: &Decision, policy: &Policy) -> Vec<Term> {
    decision.holds(policy).into_iter().map(|hold| hold.term).collect()
}

#[test]
fn the_part_that_asked_for_the_number_is_named() {
    for (arrivals, replicas, expected) in [
        (500.0, 4, Term::Demand),
        // Two would take 268 within the target; noise around that orders nothing and gives nothing back.
        (268.0, 2, Term::Demand),
        // One could take these, but not with a twentieth of air.
        (134.0, 2, Term::DeadBand),
        (10.0, 1, Term::Minimum),
    ] {
        let decision = Story::new(policy()).see_until(0, 10, |now| balanced(replicas, arrivals, now));
        assert_eq!(decision.replicas, replicas, "{decision:?}");
        assert_eq!(decision.decided_by(), expected, "{arrivals}/s: {decision:?}");
        assert!(decision.holds(&policy()).is_empty(), "{:?}", decision.holds(&policy()));
    }
}

/// Near the fixed cost of an execution the wait is steep: a twentieth of air is not enough for nine tenths of the target.
#[test]
fn the_prediction_for_one_less_keeps_a_replica() {
    let target = Duration::from_millis(8);
    let strict = Policy::new(PolicySettings { target_queue_time: target, ..settings() }).unwrap();
    let rate = BatchLine { alpha: 0.005, tau0: 0.010 }.rate_within(target, 32) * 0.94;
    let decision = Story::new(strict).see_until(0, 100, |now| balanced(2, rate, now));
    assert_eq!((decision.replicas, decision.decided_by()), (2, Term::Release), "{decision:?}");
}

#[test]
fn a_window_holds_for_as_long_as_the_peak_is_young() {
    let mut story = Story::new(policy());
    story.see_until(0, 20, |now| balanced(4, 500.0, now));
    let decision = story.see_until(22, 50, |now| balanced(4, 100.0, now));
    assert_eq!((decision.reason, decision.decided_by()), (Reason::ScaleDownWindow, Term::Window));
    let [Hold { term: Term::Window, left: Some(left), .. }] = decision.holds(&policy())[..] else {
        panic!("{:?}", decision.holds(&policy()))
    };
    // Told at 50 s, and kept: it is what then happens.
    let removed = (52..200_u32).step_by(2).find(|second| {
        let now = f64::from(*second);
        story.see(now, &balanced(4, 100.0, at(now))).replicas < 4
    });
    let after = Duration::from_secs(u64::from(removed.unwrap() - 50));
    assert!(after >= left && after <= left + Duration::from_secs(4), "told {left:?}, took {after:?}");
    // Until now there was no whole window: then no peak is known, but the time is.
    let young = Story::new(policy()).see_until(0, 10, |now| balanced(3, 10.0, now));
    assert_eq!((young.inputs.terms.window, young.inputs.terms.fewer_in), (None, Some(Duration::from_secs(50))));
}

#[test]
fn what_stands_in_the_way_is_told_with_its_number() {
    let bounded = |max_replicas| Policy::new(PolicySettings { max_replicas, ..settings() }).unwrap();
    let most = Story::new(bounded(8)).see_until(0, 30, |now| balanced(8, 3000.0, now));
    assert_eq!(held(&most, &bounded(8)), [Term::Maximum]);
    assert_eq!(most.holds(&bounded(8))[0].replicas, most.inputs.terms.demand);
    assert!(most.changes(&bounded(8)).more.is_none(), "the maximum is the user's");

    let steep = Story::new(bounded(100)).see_until(0, 2, |now| balanced(1, 5000.0, now));
    assert_eq!((steep.replicas, held(&steep, &bounded(100))), (9, vec![Term::StepLimit]));

    let full = Story::new(policy()).see_until(0, 6, |now| {
        let mut observation = balanced(1, 500.0, now);
        (observation.current, observation.starting) = (2, vec![Starting { unschedulable: true, ..starting(now) }]);
        observation
    });
    assert_eq!((full.decided_by(), held(&full, &policy())), (Term::Scheduler, vec![Term::Scheduler]));

    let blind = Story::new(policy()).see_until(0, 6, |now| fleet(vec![missing(now); 3]));
    assert_eq!((blind.decided_by(), held(&blind, &policy())), (Term::Metrics, vec![Term::Metrics]));
    assert_eq!(blind.changes(&policy()).more.unwrap().arrivals_above, None, "no rate is known to matter");
}

#[test]
fn a_growing_queue_is_told_as_such() {
    let mut story = Story::new(policy());
    story.see_until(0, 4, |now| balanced(2, 200.0, now));
    let hot = |now| Measurement { arrivals_per_second: 100.0, ..overloaded(300.0, 50.0, now) };
    let decision = story.see_until(6, 8, |now| fleet(measured(vec![hot(now), hot(now)])));
    assert_eq!((decision.decided_by(), decision.inputs.terms.growth), (Term::Growth, Some(3)), "{decision:?}");
}

#[test]
fn half_of_them_go_at_once_and_the_limit_is_named() {
    let mut story = Story::new(policy());
    story.see_until(0, 20, |now| balanced(8, 1000.0, now));
    let decision = story.see_until(22, 100, |now| balanced(8, 10.0, now));
    assert_eq!((decision.replicas, decision.reason), (4, Reason::DemandBelowCapacity));
    assert_eq!((decision.decided_by(), decision.inputs.terms.fewest_now), (Term::StepLimit, 4));
    let again = story.see(102.0, &balanced(4, 10.0, at(102.0)));
    assert_eq!((again.decided_by(), held(&again, &policy())), (Term::StepLimit, vec![Term::StepLimit]));
}
