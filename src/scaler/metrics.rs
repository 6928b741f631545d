//! What the operator's own metrics say of the external scaler.

use prometheus::{IntCounterVec, Opts, Registry};

/// The handles, shared by all calls.
#[derive(Debug, Clone)]
pub struct ScalerMetrics {
    answers: IntCounterVec,
}

impl ScalerMetrics {
    /// Makes the metrics and adds them to the registry.
    ///
    /// # Errors
    /// When the registry already has one of the names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let answers = IntCounterVec::new(
            Opts::new("flotilla_operator_scaler_answers_total", "Answers to KEDA by call and result."),
            &["call", "result"],
        )?;
        registry.register(Box::new(answers.clone()))?;
        Ok(Self { answers })
    }

    pub(super) fn count(&self, call: &str, result: &str) {
        self.answers.with_label_values(&[call, result]).inc();
    }
}
