//! What the user asked for, as plain numbers that were checked once.

use std::time::Duration;

/// The numbers of a policy before they are checked; every field is the user's or the operator's own setting.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicySettings {
    /// Fewest replicas that the fleet may have; applies at once, also without metrics.
    pub min_replicas: u32,
    /// Most replicas that the fleet may have; applies at once, also without metrics.
    pub max_replicas: u32,
    /// How long a request may wait on average, beyond the deliberate batching delay.
    pub target_queue_time: Duration,
    /// For how long every observation must have asked for fewer replicas before any is removed.
    pub stabilization_window: Duration,
    /// Most images that the server executes together.
    pub max_batch_size: u32,
    /// How long the server waits on purpose for a batch to fill.
    pub batching_delay: Duration,
    /// How often every replica is measured.
    pub scrape_interval: Duration,
    /// How long a start is expected to take while none has been measured.
    pub startup_fallback: Duration,
}

/// A checked policy: the minimum is at least 1 and at most the maximum, and no duration that divides is zero.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy(PolicySettings);

/// Why the numbers make no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Without a replica nothing would be measured, so nothing would ever ask for the first one.
    #[error("minReplicas is 0; set it to 1 or more, since an empty fleet has no queue that could wake it")]
    ZeroMinimum,
    /// The bounds contradict each other.
    #[error("minReplicas {min} is more than maxReplicas {max}; raise maxReplicas or lower minReplicas")]
    MinimumAboveMaximum {
        /// The minimum that was given.
        min: u32,
        /// The maximum that was given.
        max: u32,
    },
    /// A setting that must be positive is zero.
    #[error("{field} is 0; set it to a positive value")]
    Zero {
        /// The name of the setting.
        field: &'static str,
    },
}

/// How old a measurement may be and still speak for its replica: one scrape may fail, two in a row may not.
pub fn fresh_for(scrape_interval: Duration) -> Duration {
    scrape_interval * 5 / 2 + Duration::from_secs(1)
}

impl Policy {
    /// Checks the numbers against each other.
    ///
    /// # Errors
    /// Names the setting that is wrong and what to set instead.
    pub fn new(settings: PolicySettings) -> Result<Self, PolicyError> {
        if settings.min_replicas == 0 {
            return Err(PolicyError::ZeroMinimum);
        }
        if settings.min_replicas > settings.max_replicas {
            return Err(PolicyError::MinimumAboveMaximum { min: settings.min_replicas, max: settings.max_replicas });
        }
        let positive = [
            ("targetQueueTimeMilliseconds", settings.target_queue_time.is_zero()),
            ("maxBatchSize", settings.max_batch_size == 0),
            ("the scrape interval", settings.scrape_interval.is_zero()),
        ];
        match positive.into_iter().find(|(_, zero)| *zero) {
            Some((field, _)) => Err(PolicyError::Zero { field }),
            None => Ok(Self(settings)),
        }
    }

    /// The numbers themselves.
    pub fn settings(&self) -> &PolicySettings {
        &self.0
    }

    /// The nearest number of replicas within the user's bounds.
    pub fn clamp(&self, replicas: u32) -> u32 {
        replicas.clamp(self.0.min_replicas, self.0.max_replicas)
    }

    /// The p90 of measured starts, or the fallback while there are none.
    pub fn startup(&self, measured_p90: Option<Duration>) -> Duration {
        measured_p90.unwrap_or(self.0.startup_fallback)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::settings;
    use super::*;

    #[test]
    fn a_contradiction_is_refused_with_the_setting_and_the_fix() {
        let cases = [
            (PolicySettings { min_replicas: 0, ..settings() }, "minReplicas is 0"),
            (PolicySettings { min_replicas: 9, ..settings() }, "minReplicas 9 is more than maxReplicas 8"),
            (PolicySettings { target_queue_time: Duration::ZERO, ..settings() }, "targetQueueTimeMilliseconds is 0"),
            (PolicySettings { max_batch_size: 0, ..settings() }, "maxBatchSize is 0"),
            (PolicySettings { scrape_interval: Duration::ZERO, ..settings() }, "the scrape interval is 0"),
        ];
        for (settings, expected) in cases {
            let message = Policy::new(settings).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
