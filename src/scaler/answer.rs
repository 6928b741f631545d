//! From the last decision to the number that KEDA hands to the HorizontalPodAutoscaler. Pure.

use std::time::Duration;

use super::error::ScalerError;
use super::request::{Metric, Question};
use crate::scaling::{Decision, Reason};

/// A service is looked at every 30 s at the least, so an older decision means that nobody looks any more.
pub const OLDEST: Duration = Duration::from_secs(90);

/// What was decided last for a service.
#[derive(Debug, Clone, PartialEq)]
pub struct LastDecision {
    /// What.
    pub decision: Decision,
    /// The user's `targetQueueTimeMilliseconds`.
    pub target_queue_time: Duration,
    /// How long ago.
    pub age: Duration,
}

/// What the metric is divided by to give replicas.
///
/// # Errors
/// The service's own target is asked for, and the service is not known.
pub fn target(
    question: &Question,
    last: impl FnOnce() -> Result<LastDecision, ScalerError>,
) -> Result<f64, ScalerError> {
    match (question.metric, question.target) {
        (Metric::DesiredReplicas, _) => Ok(1.0),
        (_, Some(target)) => Ok(target),
        (_, None) => Ok(milliseconds(last()?.target_queue_time)),
    }
}

/// The metric's value.
///
/// # Errors
/// It is not known: it is too long ago, or nothing was measured. Then there is no number, least of all zero.
pub fn value(metric: Metric, last: &LastDecision) -> Result<f64, ScalerError> {
    if last.age > OLDEST {
        return Err(ScalerError::Stale(last.age));
    }
    let Decision { replicas, reason, inputs } = &last.decision;
    // What some of the replicas measured would be less than what there is, and lower the number of replicas.
    let is_whole = reason.has_metrics() && inputs.measured == inputs.ready;
    let measured = match metric {
        // Without metrics the law holds: the number is the one that is ordered, and it stays so.
        Metric::DesiredReplicas => return Ok(f64::from(*replicas)),
        Metric::QueueTime => match (inputs.queue_time, inputs.pending_images) {
            (Some(time), _) => Some(milliseconds(time)),
            // Nothing was started and nothing waits: nobody waited.
            (None, Some(pending)) if pending <= 0.0 => Some(0.0),
            _ => None,
        },
        Metric::Arrivals => inputs.arrivals_per_second,
    };
    measured.filter(|_| is_whole).ok_or(ScalerError::Unmeasured(if is_whole {
        "no request was started since the last measurement"
    } else if reason.has_metrics() {
        Reason::PartialMetrics.explanation()
    } else {
        reason.explanation()
    }))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::scaling::Inputs;

    fn last(reason: Reason, inputs: Inputs) -> LastDecision {
        LastDecision {
            decision: Decision { replicas: 3, reason, inputs },
            target_queue_time: Duration::from_millis(20),
            age: Duration::from_secs(2),
        }
    }

    #[test]
    fn a_measured_service_has_every_number() {
        let inputs = Inputs {
            queue_time: Some(Duration::from_micros(12_500)),
            arrivals_per_second: Some(340.0),
            pending_images: Some(7.0),
            ..Inputs::default()
        };
        let last = last(Reason::OnTarget, inputs);
        let values = [Metric::DesiredReplicas, Metric::QueueTime, Metric::Arrivals].map(|metric| value(metric, &last));
        assert_eq!(values, [Ok(3.0), Ok(12.5), Ok(340.0)]);
    }

    #[test]
    fn what_some_replicas_measured_is_not_the_whole() {
        let inputs = Inputs {
            queue_time: Some(Duration::from_millis(5)),
            arrivals_per_second: Some(100.0),
            ready: 3,
            measured: 2,
            ..Inputs::default()
        };
        let last = last(Reason::OnTarget, inputs);
        assert_eq!(value(Metric::DesiredReplicas, &last), Ok(3.0));
        assert!(value(Metric::QueueTime, &last).is_err() && value(Metric::Arrivals, &last).is_err());
    }

    #[test]
    fn an_idle_service_waits_for_nothing() {
        let inputs = Inputs { arrivals_per_second: Some(0.0), pending_images: Some(0.0), ..Inputs::default() };
        let last = last(Reason::AtMinimum, inputs);
        assert_eq!([Metric::QueueTime, Metric::Arrivals].map(|metric| value(metric, &last)), [Ok(0.0), Ok(0.0)]);
    }

    /// The law holds what is ordered; a measured value that is not there is no zero.
    #[test]
    fn what_is_not_known_is_an_error_and_replicas_are_held() {
        for reason in [Reason::NoData, Reason::StaleMetrics, Reason::PartialMetrics, Reason::NoReadyReplicas] {
            let inputs = Inputs { pending_images: Some(0.0), arrivals_per_second: Some(0.0), ..Inputs::default() };
            let last = last(reason, inputs);
            assert_eq!(value(Metric::DesiredReplicas, &last), Ok(3.0), "{reason}");
            for metric in [Metric::QueueTime, Metric::Arrivals] {
                assert_eq!(value(metric, &last), Err(ScalerError::Unmeasured(reason.explanation())), "{reason}");
            }
        }
        // Requests wait, and none was started: they wait for nobody knows how long.
        let stuck = last(Reason::QueueGrowing, Inputs { pending_images: Some(3.0), ..Inputs::default() });
        assert!(value(Metric::QueueTime, &stuck).is_err());
    }

    #[test]
    fn an_old_decision_is_none() {
        let mut last = last(Reason::OnTarget, Inputs::default());
        last.age = OLDEST;
        assert_eq!(value(Metric::DesiredReplicas, &last), Ok(3.0));
        last.age += Duration::from_secs(1);
        assert_eq!(value(Metric::DesiredReplicas, &last), Err(ScalerError::Stale(last.age)));
    }

    #[test]
    fn the_target_is_one_replica_or_what_the_user_said() {
        let of = |metadata: &[(&str, &str)]| {
            let metadata: HashMap<_, _> =
                metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let question = Question::new("team-a", &metadata).unwrap();
            target(&question, || Ok(last(Reason::NoData, Inputs::default())))
        };
        assert_eq!(of(&[("service", "a")]), Ok(1.0));
        assert_eq!(of(&[("service", "a"), ("metric", "queueTime")]), Ok(20.0), "the service's own");
        assert_eq!(of(&[("service", "a"), ("metric", "queueTime"), ("targetValue", "35")]), Ok(35.0));
        assert_eq!(of(&[("service", "a"), ("metric", "arrivals"), ("targetValue", "80")]), Ok(80.0));
    }
}
