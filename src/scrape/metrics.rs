//! What the operator's own metrics say of scraping.

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};
use tokio::time::Instant;

/// The handles, shared by all scrapes.
#[derive(Debug, Clone)]
pub struct ScrapeMetrics {
    scrapes: IntCounterVec,
    duration: Histogram,
    in_flight: IntGauge,
}

/// One scrape under way; leaves the gauge when dropped, also when its task is aborted.
pub(super) struct InFlight<'a> {
    metrics: &'a ScrapeMetrics,
    started: Instant,
}

impl ScrapeMetrics {
    /// Makes the metrics and adds them to the registry.
    ///
    /// # Errors
    /// When the registry already has one of the names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            scrapes: IntCounterVec::new(
                Opts::new("flotilla_operator_scrapes_total", "Scrapes of replicas' metrics by result."),
                &["result"],
            )?,
            duration: Histogram::with_opts(
                HistogramOpts::new("flotilla_operator_scrape_duration_seconds", "How long scrapes of replicas take.")
                    .buckets(vec![0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5]),
            )?,
            in_flight: IntGauge::new("flotilla_operator_scrapes_in_flight", "Scrapes of replicas under way.")?,
        };
        registry.register(Box::new(metrics.scrapes.clone()))?;
        registry.register(Box::new(metrics.duration.clone()))?;
        registry.register(Box::new(metrics.in_flight.clone()))?;
        Ok(metrics)
    }

    pub(super) fn begin(&self) -> InFlight<'_> {
        self.in_flight.inc();
        InFlight { metrics: self, started: Instant::now() }
    }
}

impl InFlight<'_> {
    /// Counts the scrape by its result, one of a bounded set.
    pub(super) fn finish(self, result: &'static str) {
        self.metrics.scrapes.with_label_values(&[result]).inc();
        self.metrics.duration.observe(self.started.elapsed().as_secs_f64());
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
    }
}
