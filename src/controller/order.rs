//! Pure: how many replicas are ordered, of what the law says and what somebody else asks for.

use crate::api::scaling::{PAUSED, ScalingMode};
use crate::scaling::{Decision, Reason};
use crate::service::ValidatedScaling;

/// An order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Order {
    /// Replicas.
    pub replicas: u32,
    /// Why, in a word.
    pub cause: &'static str,
}

impl Order {
    /// What is ordered; `ordered` is what was before.
    pub fn new(scaling: &ValidatedScaling, decision: Option<&Decision>, ordered: u32) -> Self {
        match (scaling.mode, decision) {
            (ScalingMode::QueueTime, _) if scaling.paused => Self::held(scaling, ordered, PAUSED),
            (ScalingMode::QueueTime, Some(decision)) => {
                Self { replicas: decision.replicas, cause: decision.reason.as_str() }
            }
            (ScalingMode::QueueTime, None) => Self::held(scaling, ordered, Reason::NoData.as_str()),
            (ScalingMode::Advisory | ScalingMode::External, _) => {
                Self { replicas: scaling.external_replicas, cause: ScalingMode::External.as_str() }
            }
        }
    }

    /// What there is, within the user's bounds.
    fn held(scaling: &ValidatedScaling, ordered: u32, why: &'static str) -> Self {
        let cause = if ordered < scaling.min_replicas {
            Reason::BelowMinimum.as_str()
        } else if ordered > scaling.max_replicas {
            Reason::AboveMaximum.as_str()
        } else {
            why
        };
        Self { replicas: ordered.clamp(scaling.min_replicas, scaling.max_replicas), cause }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures::validated;
    use crate::scaling::Inputs;

    #[test]
    fn whoever_decides_is_followed_within_the_bounds() {
        let says = |replicas| Decision { replicas, reason: Reason::Backlog, inputs: Inputs::default() };
        let bounds = |mode: &str| {
            let paused = mode == PAUSED;
            json!({"minReplicas": 2, "maxReplicas": 6, "mode": if paused { "QueueTime" } else { mode }, "paused": paused})
        };
        for (mode, decision, asked, ordered, expected) in [
            ("QueueTime", Some(5), 3, 4, (5, "Backlog")),
            ("QueueTime", None, 3, 4, (4, "NoData")),
            ("QueueTime", None, 3, 1, (2, "BelowMinimum")),
            ("QueueTime", None, 3, 9, (6, "AboveMaximum")),
            ("Advisory", Some(5), 3, 4, (3, "External")),
            ("Advisory", Some(5), 9, 4, (6, "External")),
            ("Advisory", None, 1, 4, (2, "External")),
            ("External", Some(5), 3, 4, (3, "External")),
            ("Paused", Some(5), 3, 4, (4, "Paused")),
            ("Paused", None, 3, 4, (4, "Paused")),
            ("Paused", Some(2), 3, 1, (2, "BelowMinimum")),
            ("Paused", Some(2), 3, 9, (6, "AboveMaximum")),
        ] {
            let service = validated(json!({"scaling": bounds(mode), "replicas": asked}));
            let order = Order::new(&service.scaling, decision.map(says).as_ref(), ordered);
            assert_eq!((order.replicas, order.cause), expected, "{mode} {decision:?} {asked} {ordered}");
        }
    }
}
