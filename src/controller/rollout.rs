//! Pure: how a changed template replaces the old one when there may be no GPU to spare.

use std::time::Duration;

use jiff::Timestamp;

use super::pods::PodView;
use crate::api::scaling::RolloutStrategy;
use crate::resources::RolloutShape;

/// What the decision rests on.
#[derive(Clone, Debug)]
pub struct RolloutInput {
    /// What the user asked for.
    pub strategy: RolloutStrategy,
    /// The shape in the live Deployment; `None` before there is one.
    pub live: Option<RolloutShape>,
    /// The template that is wanted differs from the live one.
    pub template_changed: bool,
    /// Replicas of an older template still exist.
    pub rolling: bool,
    /// Replicas that would still fit on free GPUs; `None` where nothing limits them.
    pub free_replicas: Option<u32>,
    /// Replicas that are ordered.
    pub replicas: u32,
    /// Replicas that answer.
    pub ready: u32,
    /// A new replica waits for a GPU that is not there.
    pub surge_unschedulable: bool,
}

/// What to do with the Deployment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RolloutPlan {
    /// Apply it with this shape.
    Proceed(RolloutShape),
    /// Leave the old template in place: replacing it would stop the only replica that answers.
    Blocked,
    /// The new template is applied already and its pod waits for a GPU while the only old one answers.
    Waiting(RolloutShape),
}

/// What a blocked update can be helped by.
pub const CHOICES: &str = "no GPU is free to start the new replica first, and stopping the only one would interrupt the \
     service: free a GPU or add a node, raise scaling.minReplicas to 2, or accept the interruption with rollout.strategy: Replace";

/// Decides the shape of the Deployment's rolling update.
pub fn plan(input: &RolloutInput) -> RolloutPlan {
    match input.strategy {
        RolloutStrategy::Surge => return RolloutPlan::Proceed(RolloutShape::SURGE),
        RolloutStrategy::Replace => return RolloutPlan::Proceed(RolloutShape::REPLACE),
        RolloutStrategy::Auto => {}
    }
    let Some(live) = input.live else { return RolloutPlan::Proceed(RolloutShape::SURGE) };
    if !input.template_changed {
        // The shape matters only during an update, so a finished one leaves it as it is: changing it would be a write for nothing.
        return match (input.rolling && input.surge_unschedulable && live == RolloutShape::SURGE, may_stop_one(input)) {
            (false, _) => RolloutPlan::Proceed(live),
            (true, true) => RolloutPlan::Proceed(RolloutShape::REPLACE),
            (true, false) => RolloutPlan::Waiting(live),
        };
    }
    if input.free_replicas.is_none_or(|free| free > 0) {
        return RolloutPlan::Proceed(RolloutShape::SURGE);
    }
    if may_stop_one(input) { RolloutPlan::Proceed(RolloutShape::REPLACE) } else { RolloutPlan::Blocked }
}

/// Another replica answers while one is replaced, or none does and nothing is lost.
fn may_stop_one(input: &RolloutInput) -> bool {
    input.replicas > 1 || input.ready == 0
}

/// The first pod that was scheduled longer than `deadline` ago and still does not answer, with the time since then.
pub fn overdue(pods: &[PodView], deadline: Duration, now: Timestamp) -> Option<(&PodView, Duration)> {
    pods.iter().filter(|pod| !pod.gone && pod.ready.is_none()).find_map(|pod| {
        let waited = Duration::try_from(now.duration_since(pod.scheduled?)).ok()?;
        (waited > deadline).then_some((pod, waited))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input() -> RolloutInput {
        RolloutInput {
            strategy: RolloutStrategy::Auto,
            live: Some(RolloutShape::SURGE),
            template_changed: true,
            rolling: false,
            free_replicas: Some(0),
            replicas: 1,
            ready: 1,
            surge_unschedulable: false,
        }
    }

    #[test]
    fn the_table_of_updates() {
        let surge = RolloutPlan::Proceed(RolloutShape::SURGE);
        let replace = RolloutPlan::Proceed(RolloutShape::REPLACE);
        let cases = [
            ("a free GPU takes the new replica first", RolloutInput { free_replicas: Some(1), ..input() }, surge),
            ("a Cpu pool has room", RolloutInput { free_replicas: None, ..input() }, surge),
            ("no GPU, several replicas: one at a time", RolloutInput { replicas: 3, ready: 3, ..input() }, replace),
            ("no GPU, the only replica answers: ask", input(), RolloutPlan::Blocked),
            ("no GPU, the only replica is broken: nothing to lose", RolloutInput { ready: 0, ..input() }, replace),
            (
                "the user accepts the interruption",
                RolloutInput { strategy: RolloutStrategy::Replace, ..input() },
                replace,
            ),
            ("the user insists on surging", RolloutInput { strategy: RolloutStrategy::Surge, ..input() }, surge),
            ("the first Deployment", RolloutInput { live: None, ..input() }, surge),
            (
                "nothing changed: the shape stays",
                RolloutInput { template_changed: false, live: Some(RolloutShape::REPLACE), ..input() },
                replace,
            ),
            (
                "the free GPU was taken by somebody else meanwhile",
                RolloutInput {
                    template_changed: false,
                    rolling: true,
                    surge_unschedulable: true,
                    replicas: 2,
                    ready: 2,
                    ..input()
                },
                replace,
            ),
            (
                "the same with a single replica waits",
                RolloutInput { template_changed: false, rolling: true, surge_unschedulable: true, ..input() },
                RolloutPlan::Waiting(RolloutShape::SURGE),
            ),
        ];
        for (name, input, expected) in cases {
            assert_eq!(plan(&input), expected, "{name}");
        }
    }

    #[test]
    fn deciding_again_after_applying_changes_nothing() {
        let RolloutPlan::Proceed(shape) = plan(&RolloutInput { replicas: 2, ready: 2, ..input() }) else { panic!() };
        let again = RolloutInput {
            live: Some(shape),
            template_changed: false,
            rolling: true,
            replicas: 2,
            ready: 1,
            ..input()
        };
        assert_eq!(plan(&again), RolloutPlan::Proceed(shape));
    }

    #[test]
    fn the_deadline_counts_from_scheduled() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let pod = |scheduled: Option<&str>, ready: Option<&str>| PodView {
            scheduled: scheduled.map(|time| time.parse().unwrap()),
            ready: ready.map(|time| time.parse().unwrap()),
            created: Some("2026-01-01T00:00:00Z".parse().unwrap()),
            ..PodView::new(&k8s_openapi::api::core::v1::Pod::default())
        };
        let limit = Duration::from_mins(10);
        assert!(overdue(&[pod(None, None)], limit, now).is_none(), "an hour of waiting for a GPU does not count");
        assert!(overdue(&[pod(Some("2026-01-01T00:55:00Z"), None)], limit, now).is_none());
        assert!(overdue(&[pod(Some("2026-01-01T00:45:00Z"), None)], limit, now).is_some());
        assert!(overdue(&[pod(Some("2026-01-01T00:45:00Z"), Some("2026-01-01T00:46:00Z"))], limit, now).is_none());
    }
}
