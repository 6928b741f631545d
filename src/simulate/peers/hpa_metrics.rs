//! What a HorizontalPodAutoscaler sees: metrics-server, prometheus-adapter or KEDA, each with its own age.
//!
//! All of them sample every 15 s, metrics-server's resolution and the shortest that is usual for Prometheus (its chart's
//! default is 30 s). Rates are taken over a minute, where KEDA's and the adapter's manuals take two.
//!
//! CPU use is taken to be proportional to the requests that a server answers, and 100 % of the request when it answers
//! as many as it can. That is the best case for a rule on CPU: a GPU's server may use hardly any, and one that computes
//! on the CPU is busy long before its batches are full.

use std::collections::BTreeMap;

use super::super::fleet::Fleet;
use super::super::scaler::Seen;
use super::super::scenario::Scenario;
use super::super::server::Server;
use super::series::Series;

/// Window of `rate`.
const RATE_SECONDS: f64 = 60.0;
/// Window of `delta` in Triton's chart.
const TRITON_SECONDS: f64 = 30.0;
/// Prometheus keeps this much of each series here.
const KEPT_SECONDS: f64 = 90.0;
/// A series without a sample for this long is gone.
const STALE_SECONDS: f64 = 300.0;
/// Within this time of its start a pod's CPU counts only once a window of it was measured after it became ready.
const CPU_INITIALIZATION_SECONDS: f64 = 300.0;

/// What is scaled on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum HpaMetric {
    /// CPU utilisation, in percent of the request.
    Cpu,
    /// Mean queue time of a request in microseconds, by the query of Triton's chart (deploy/k8s-onprem/values.yaml).
    QueueTime,
    /// Requests per second of each pod.
    Rate,
    /// Requests per second of all pods.
    TotalRate,
}

/// The values of the pods that have one, and how many have none.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct PodValues {
    pub(super) values: Vec<f64>,
    /// Running, but without a value.
    pub(super) missing: u32,
    /// Pending, or too young for the CPU rule.
    pub(super) ignored: u32,
}

/// The pipeline between the pods and the controller.
pub(super) struct Metrics {
    pub(super) metric: HpaMetric,
    full_speed: f64,
    pods: BTreeMap<usize, Pod>,
}

#[derive(Default)]
struct Pod {
    completed: Series,
    waited: Series,
    last: f64,
}

impl Metrics {
    pub(super) const SAMPLE_SECONDS: f64 = 15.0;

    pub(super) fn new(metric: HpaMetric, scenario: &Scenario) -> Self {
        Self { metric, full_speed: scenario.server.full_speed(), pods: BTreeMap::new() }
    }

    pub(super) fn sample(&mut self, now: f64, fleet: &Fleet<'_>, seen: &Seen) {
        for id in &seen.0 {
            let counters = &fleet.servers[*id].counters;
            let pod = self.pods.entry(*id).or_default();
            pod.completed.push(now, counters.completed, KEPT_SECONDS);
            pod.waited.push(now, counters.waited * 1e6, KEPT_SECONDS);
            pod.last = now;
        }
        self.pods.retain(|_, pod| now - pod.last < STALE_SECONDS);
    }

    /// What a pod without a value counts as when the others ask for fewer: its whole request, or the target.
    pub(super) fn missing_value(&self, target: f64) -> f64 {
        if self.metric == HpaMetric::Cpu { 100.0 } else { target }
    }

    pub(super) fn per_pod(&self, now: f64, fleet: &Fleet<'_>) -> PodValues {
        let mut pods = PodValues::default();
        for server in fleet.present() {
            if server.scheduled.is_none() {
                pods.ignored += 1;
                continue;
            }
            match self.pods.get(&server.id).and_then(|pod| self.value(pod, now)) {
                Some(_) if self.metric == HpaMetric::Cpu && is_too_young(server, now) => pods.ignored += 1,
                Some(value) => pods.values.push(value),
                // metrics-server knows a starting pod, which uses no CPU to speak of, and the rule ignores it.
                None if self.metric == HpaMetric::Cpu && !server.is_ready => pods.ignored += 1,
                None => pods.missing += 1,
            }
        }
        pods
    }

    /// The sum over all pods, those that are ending included; none while there is no sample.
    pub(super) fn total(&self, now: f64) -> Option<f64> {
        let rates: Vec<f64> = self
            .pods
            .values()
            .filter_map(|pod| Some(pod.completed.increase(now, RATE_SECONDS)? / RATE_SECONDS))
            .collect();
        (!rates.is_empty()).then(|| rates.iter().sum())
    }

    fn value(&self, pod: &Pod, now: f64) -> Option<f64> {
        match self.metric {
            HpaMetric::Cpu => {
                // Two samples 15 s apart: metrics-server's window.
                let window = 2.0 * Self::SAMPLE_SECONDS + 1.0;
                Some(100.0 * pod.completed.increase(now, window)? / window / self.full_speed)
            }
            HpaMetric::QueueTime => {
                let waited = pod.waited.delta(now, TRITON_SECONDS)?;
                Some(waited / (1.0 + pod.completed.delta(now, TRITON_SECONDS)?))
            }
            HpaMetric::Rate | HpaMetric::TotalRate => Some(pod.completed.increase(now, RATE_SECONDS)? / RATE_SECONDS),
        }
    }
}

/// `groupPods`: in its first minutes a pod's sample counts when its window began after it became ready.
fn is_too_young(server: &Server, now: f64) -> bool {
    let started = server.scheduled.unwrap_or(now);
    let initializing = started + CPU_INITIALIZATION_SECONDS > now && started > 0.0;
    initializing && (!server.is_ready || now < server.ready_at + Metrics::SAMPLE_SECONDS)
}
