//! What a trigger asks for: its metadata, read once and checked. Pure.

use std::collections::HashMap;

use super::error::ScalerError;

/// What KEDA itself keeps in a trigger's metadata; it sends all of it along.
const KEDAS_OWN: [&str; 5] = ["scalerAddress", "enableTLS", "unsafeSsl", "tlsCertFile", "caCert"];
/// A setting that KEDA takes from the environment of the scaled pod ends so.
const FROM_ENVIRONMENT: &str = "FromEnv";

/// What a trigger asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The namespace of the ScaledObject, which is the service's.
    pub namespace: String,
    /// The name of the InferenceService.
    pub service: String,
    /// What of it.
    pub metric: Metric,
    /// What the user set the metric against, if anything.
    pub target: Option<f64>,
}

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Replicas that the law wants: bounds, windows and holds are in it.
    DesiredReplicas,
    /// The mean wait beyond the batching delay, in milliseconds.
    QueueTime,
    /// Images a second at all replicas together.
    Arrivals,
}

impl Metric {
    /// The name that the HorizontalPodAutoscaler shows, after KEDA's index of the trigger.
    pub fn name(self) -> &'static str {
        match self {
            Self::DesiredReplicas => "flotilla-desired-replicas",
            Self::QueueTime => "flotilla-queue-time-milliseconds",
            Self::Arrivals => "flotilla-arrivals-per-second",
        }
    }
}

impl Question {
    /// Reads the metadata of a trigger.
    ///
    /// # Errors
    /// Names the setting that is wrong and what to set instead.
    pub fn new(namespace: &str, metadata: &HashMap<String, String>) -> Result<Self, ScalerError> {
        let (mut service, mut metric, mut target) = (None, Metric::DesiredReplicas, None);
        for (key, value) in metadata {
            match key.as_str() {
                "service" => service = Some(value.trim()).filter(|name| !name.is_empty()),
                "metric" => {
                    metric = match value.trim() {
                        "desiredReplicas" => Metric::DesiredReplicas,
                        "queueTime" => Metric::QueueTime,
                        "arrivals" => Metric::Arrivals,
                        other => return Err(ScalerError::NoSuchMetric(other.to_owned())),
                    }
                }
                "targetValue" => {
                    let number = value.trim().parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
                    target = Some(number.ok_or_else(|| ScalerError::BadTarget(value.clone()))?);
                }
                own if KEDAS_OWN.contains(&own) || own.ends_with(FROM_ENVIRONMENT) => {}
                other => return Err(ScalerError::UnknownSetting(other.to_owned())),
            }
        }
        match (metric, target) {
            (Metric::DesiredReplicas, Some(_)) => return Err(ScalerError::TargetOfReplicas),
            (Metric::Arrivals, None) => return Err(ScalerError::NoTarget),
            _ => {}
        }
        let service = service.ok_or(ScalerError::NoService)?.to_owned();
        Ok(Self { namespace: namespace.to_owned(), service, metric, target })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(metadata: &[(&str, &str)]) -> Result<Question, ScalerError> {
        let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Question::new("team-a", &metadata)
    }

    #[test]
    fn the_metadata_of_a_trigger_is_read() {
        let question = read(&[("service", "photos"), ("scalerAddress", "a:9090"), ("tokenFromEnv", "x")]).unwrap();
        let expected = Question {
            namespace: "team-a".into(),
            service: "photos".into(),
            metric: Metric::DesiredReplicas,
            target: None,
        };
        assert_eq!(question, expected);
        let question = read(&[("service", "photos"), ("metric", "arrivals"), ("targetValue", "12.5")]).unwrap();
        assert_eq!((question.metric, question.target), (Metric::Arrivals, Some(12.5)));
        let question = read(&[("service", "photos"), ("metric", "queueTime")]).unwrap();
        assert_eq!((question.metric, question.target), (Metric::QueueTime, None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases: [(&[(&str, &str)], &str); 9] = [
            (&[], "has no service"),
            (&[("service", " ")], "has no service"),
            (&[("service", "a"), ("metric", "cpu")], "no metric \"cpu\""),
            (&[("service", "a"), ("metrik", "queueTime")], "has \"metrik\""),
            (&[("service", "a"), ("metric", "queueTime"), ("targetValue", "0")], "targetValue is \"0\""),
            (&[("service", "a"), ("metric", "queueTime"), ("targetValue", "NaN")], "targetValue is \"NaN\""),
            (&[("service", "a"), ("metric", "queueTime"), ("targetValue", "fast")], "targetValue is \"fast\""),
            (&[("service", "a"), ("targetValue", "2")], "whose target is always 1"),
            (&[("service", "a"), ("metric", "arrivals")], "needs targetValue"),
        ];
        for (metadata, expected) in cases {
            let message = read(metadata).unwrap_err().to_string();
            assert!(message.contains(expected), "{metadata:?}: {message}");
        }
    }
}
