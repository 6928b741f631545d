//! The operator's own metrics. Labels are bounded: a step's category, a kind, a verb; never an object's name.

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};

/// Metrics of the controller.
#[derive(Clone)]
pub struct ControllerMetrics {
    /// Reconciles by result: `ok` or the category of the error.
    pub reconciles: IntCounterVec,
    /// Seconds a reconcile took.
    pub reconcile_seconds: Histogram,
    /// Mutating requests by kind and verb.
    pub writes: IntCounterVec,
    /// Changes of replicas by reason.
    pub scalings: IntCounterVec,
    /// Age of the newest measurement that a decision rested on, in seconds.
    pub decision_age_seconds: Histogram,
    /// Seconds between two decisions for the same service that rested on different measurements.
    pub decision_interval_seconds: Histogram,
    /// 1 while this operator leads.
    pub leading: IntGauge,
    /// InferenceServices that are known.
    pub services: IntGauge,
}

impl ControllerMetrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// One of the names is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counters = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let histogram = |name: &str, help: &str, buckets: &[f64]| -> prometheus::Result<Histogram> {
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok(histogram)
        };
        Ok(Self {
            reconciles: counters("flotilla_operator_reconciles_total", "Reconciles by result.", &["result"])?,
            reconcile_seconds: histogram(
                "flotilla_operator_reconcile_duration_seconds",
                "Time a reconcile took.",
                // From a visit that finds nothing to do to one whose every write runs into its limit.
                &[0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0],
            )?,
            writes: counters(
                "flotilla_operator_api_writes_total",
                "Mutating requests by kind and verb.",
                &["kind", "verb"],
            )?,
            scalings: counters("flotilla_operator_scalings_total", "Changes of replicas by reason.", &["reason"])?,
            decision_age_seconds: histogram(
                "flotilla_operator_decision_age_seconds",
                "Age of the newest measurement that a decision rested on.",
                &[0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0],
            )?,
            decision_interval_seconds: histogram(
                "flotilla_operator_decision_interval_seconds",
                "Time between two decisions for the same service on different measurements.",
                // Narrow around the usual intervals of scraping, 2 s and 5 s.
                &[0.5, 1.0, 1.5, 1.9, 2.0, 2.1, 2.5, 3.0, 4.0, 4.5, 4.9, 5.0, 5.1, 5.5, 6.0, 7.5, 10.0, 15.0, 30.0],
            )?,
            leading: gauge("flotilla_operator_leading", "1 while this operator holds the lease.")?,
            services: gauge("flotilla_operator_services", "InferenceServices that are known.")?,
        })
    }
}
