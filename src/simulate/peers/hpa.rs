//! Kubernetes' HorizontalPodAutoscaler v2: `replica_calculator.go` and `horizontal.go` of pkg/controller/podautoscaler,
//! with the defaults of pkg/apis/autoscaling/v2/defaults.go.
//!
//! Sync every 15 s; tolerance 0.1; upwards without stabilization, by 4 pods or 100 % in 15 s, whichever is more;
//! downwards the highest recommendation of 300 s, by 100 % in 15 s.

use std::collections::VecDeque;

use super::super::fleet::Fleet;
use super::super::scaler::{Autoscaler, Rhythm, Seen};
use super::super::scenario::Scenario;
use super::hpa_metrics::{HpaMetric, Metrics, PodValues};
use crate::scaling::whole;

const SYNC_SECONDS: f64 = 15.0;
const TOLERANCE: f64 = 0.1;
const DOWNSCALE_WINDOW_SECONDS: f64 = 300.0;
const UP_PODS: u32 = 4;
const UP_PERIOD_SECONDS: f64 = 15.0;

/// The controller for one metric.
pub(in super::super) struct HorizontalPodAutoscaler {
    metrics: Metrics,
    target: f64,
    behavior: Behavior,
}

/// What the controller remembers between two syncs.
#[derive(Debug, Default)]
struct Behavior {
    recommendations: VecDeque<(f64, u32)>,
    increases: VecDeque<(f64, u32)>,
}

impl HorizontalPodAutoscaler {
    pub(in super::super) fn new(metric: HpaMetric, target: f64, scenario: &Scenario) -> Self {
        Self { metrics: Metrics::new(metric, scenario), target, behavior: Behavior::default() }
    }
}

impl Autoscaler for HorizontalPodAutoscaler {
    fn rhythm(&self) -> Rhythm {
        Rhythm { sample_every: Metrics::SAMPLE_SECONDS, decide_every: SYNC_SECONDS, decide_after_sample: None }
    }

    fn sample(&mut self, now: f64, fleet: &Fleet<'_>, seen: &Seen) {
        self.metrics.sample(now, fleet, seen);
    }

    fn decide(&mut self, now: f64, fleet: &Fleet<'_>) -> u32 {
        let current = fleet.ordered;
        let desired = if self.metrics.metric == HpaMetric::TotalRate {
            self.metrics.total(now).map(|total| external(total, self.target, current))
        } else {
            per_pod(&self.metrics.per_pod(now, fleet), self.target, self.metrics.missing_value(self.target), current)
        };
        // Without a metric the controller changes nothing.
        let Some(desired) = desired else { return current };
        let bounded = desired.clamp(fleet.scenario.min_replicas, fleet.scenario.max_replicas);
        self.behavior.settle(now, bounded, current)
    }

    fn restart(&mut self) {
        self.behavior = Behavior::default();
    }
}

/// `calcPlainMetricReplicas` and `GetResourceReplicas`, which differ only in what a missing pod counts as.
fn per_pod(pods: &PodValues, target: f64, missing_value: f64, current: u32) -> Option<u32> {
    let measured = f64::from(whole(pods.values.len()));
    if pods.values.is_empty() {
        return None;
    }
    let sum: f64 = pods.values.iter().sum();
    let ratio = sum / measured / target;
    let rebalance = pods.ignored > 0 && ratio > 1.0;
    if !rebalance && pods.missing == 0 {
        return Some(if (1.0 - ratio).abs() <= TOLERANCE { current } else { ceil(ratio * measured) });
    }
    let missing = f64::from(pods.missing);
    let assumed = if ratio < 1.0 { missing * missing_value } else { 0.0 };
    let count = measured + missing + if rebalance { f64::from(pods.ignored) } else { 0.0 };
    let again = (sum + assumed) / count / target;
    let turned = (ratio < 1.0 && again > 1.0) || (ratio > 1.0 && again < 1.0);
    if (1.0 - again).abs() <= TOLERANCE || turned {
        return Some(current);
    }
    let replicas = ceil(again * count);
    let wrong_way = (again < 1.0 && replicas > current) || (again > 1.0 && replicas < current);
    Some(if wrong_way { current } else { replicas })
}

/// `GetExternalPerPodMetricReplicas`: the total over the target for each pod.
fn external(total: f64, target: f64, current: u32) -> u32 {
    let ratio = total / (target * f64::from(current.max(1)));
    if (1.0 - ratio).abs() > TOLERANCE { ceil(total / target) } else { current }
}

fn ceil(number: f64) -> u32 {
    whole((number - 1e-9).ceil())
}

impl Behavior {
    /// `stabilizeRecommendationWithBehaviors`, then `convertDesiredReplicasWithBehaviorRate`.
    fn settle(&mut self, now: f64, desired: u32, current: u32) -> u32 {
        if self.recommendations.is_empty() {
            self.recommendations.push_back((now, current));
        }
        self.recommendations.retain(|(at, _)| now - at <= DOWNSCALE_WINDOW_SECONDS);
        self.recommendations.push_back((now, desired));
        let highest = self.recommendations.iter().map(|(_, replicas)| *replicas).max().unwrap_or(desired);
        // Upwards the window is the present; downwards nothing below the highest recommendation.
        let stabilized = if desired >= current { desired } else { highest.min(current) };
        if stabilized <= current {
            return stabilized;
        }
        self.increases.retain(|(at, _)| now - at < UP_PERIOD_SECONDS);
        let added: u32 = self.increases.iter().map(|(_, added)| *added).sum();
        let before = current.saturating_sub(added);
        let limited = stabilized.min((before + UP_PODS).max(before * 2)).max(current);
        self.increases.push_back((now, limited - current));
        limited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(values: &[f64], missing: u32, ignored: u32) -> PodValues {
        PodValues { values: values.to_vec(), missing, ignored }
    }

    #[test]
    fn the_ratio_times_the_measured_pods() {
        for (values, missing, ignored, current, expected) in [
            (&[80.0, 80.0][..], 0, 0, 2, 2),
            (&[87.0, 87.0], 0, 0, 2, 2),
            (&[100.0, 100.0], 0, 0, 2, 3),
            (&[100.0, 100.0, 100.0, 100.0], 0, 0, 4, 5),
            (&[20.0, 20.0, 20.0], 0, 0, 3, 1),
            // Missing pods count as nothing upwards: 200 over 3 pods is 0.83 of the target, which turns it around.
            (&[100.0, 100.0], 1, 0, 3, 3),
            // Ignored ones too: 300 over 3 pods at 80.
            (&[150.0, 150.0], 0, 1, 3, 4),
            // Downwards a missing pod counts as 100: 140 over 3 pods at 80.
            (&[20.0, 20.0], 1, 0, 3, 2),
        ] {
            let desired = per_pod(&pods(values, missing, ignored), 80.0, 100.0, current);
            assert_eq!(desired, Some(expected), "{values:?}, {missing} missing, {ignored} ignored");
        }
        assert_eq!(per_pod(&pods(&[], 2, 0), 80.0, 100.0, 2), None);
    }

    #[test]
    fn an_external_metric_is_divided_by_the_target() {
        for (total, current, expected) in [(1000.0, 10, 10), (1095.0, 10, 10), (1150.0, 10, 12), (10.0, 4, 1)] {
            assert_eq!(external(total, 100.0, current), expected, "{total}");
        }
    }

    #[test]
    fn up_by_four_or_double_in_fifteen_seconds_and_down_after_five_minutes() {
        let mut behavior = Behavior::default();
        assert_eq!(behavior.settle(0.0, 20, 1), 5);
        assert_eq!(behavior.settle(14.0, 20, 5), 5, "the four of this period are spent");
        assert_eq!(behavior.settle(15.0, 20, 5), 10);
        assert_eq!(behavior.settle(30.0, 20, 10), 20);
        assert_eq!(behavior.settle(45.0, 3, 20), 20);
        assert_eq!(behavior.settle(330.0, 3, 20), 20);
        assert_eq!(behavior.settle(345.0, 3, 20), 3);
    }
}
