//! Why there is no answer. To KEDA every error is the same: it leaves the replicas alone, or does what `fallback` says.

use std::time::Duration;

use tonic::Status;

/// Why a question got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScalerError {
    /// The trigger's metadata lacks the service.
    #[error(
        "the trigger's metadata has no service; set it to the name of the InferenceService in the ScaledObject's namespace"
    )]
    NoService,
    /// The trigger's metadata names a metric that there is not.
    #[error(
        "there is no metric {0:?}; set metric to desiredReplicas, queueTime or arrivals, or leave it out for desiredReplicas"
    )]
    NoSuchMetric(String),
    /// The trigger's metadata has a word that means nothing here.
    #[error("the trigger's metadata has {0:?}, which means nothing here; there are service, metric and targetValue")]
    UnknownSetting(String),
    /// The target is no number that a metric could be divided by.
    #[error("targetValue is {0:?}; set it to a positive number")]
    BadTarget(String),
    /// A target for replicas, which are wanted as they are.
    #[error("targetValue means nothing for the metric desiredReplicas, whose target is always 1; leave it out")]
    TargetOfReplicas,
    /// Arrivals without the number that a replica takes.
    #[error("the metric arrivals needs targetValue: how many images a second one replica takes")]
    NoTarget,
    /// The metric's name is not the one that this trigger was given.
    #[error("this trigger's metric is {expected}, not {asked:?}")]
    OtherMetric {
        /// The name in the answer to `GetMetricSpec`.
        expected: &'static str,
        /// The name that was asked for.
        asked: String,
    },
    /// This operator's lease is over: what it knows may be old.
    #[error("this operator does not lead; ask again")]
    NotLeading,
    /// There is no such service, or it was not looked at yet.
    #[error(
        "nothing was decided yet for the InferenceService {service} in the namespace {namespace}; is there one, and is its condition Ready other than InvalidSpec?"
    )]
    Undecided {
        /// Its namespace.
        namespace: String,
        /// Its name.
        service: String,
    },
    /// The last decision is too old to stand for now.
    #[error("the last decision is {} s old; see the operator's log and the service's conditions", .0.as_secs())]
    Stale(Duration),
    /// The servers' metrics say nothing of this; what is not known is not zero.
    #[error("not known now: {0}")]
    Unmeasured(&'static str),
}

impl ScalerError {
    /// The word in the operator's metrics.
    pub fn category(&self) -> &'static str {
        if self.is_invalid() { "invalid" } else { "unavailable" }
    }

    /// Whether only a change of the ScaledObject helps.
    fn is_invalid(&self) -> bool {
        match self {
            Self::NoService
            | Self::NoSuchMetric(_)
            | Self::UnknownSetting(_)
            | Self::BadTarget(_)
            | Self::TargetOfReplicas
            | Self::NoTarget
            | Self::OtherMetric { .. } => true,
            Self::NotLeading | Self::Undecided { .. } | Self::Stale(_) | Self::Unmeasured(_) => false,
        }
    }
}

impl From<ScalerError> for Status {
    fn from(error: ScalerError) -> Self {
        let message = error.to_string();
        if error.is_invalid() { Self::invalid_argument(message) } else { Self::unavailable(message) }
    }
}
