//! The policies by name, and a run of one of them.

use super::arrivals::Arrivals;
use super::engine;
use super::flotilla::Flotilla;
use super::peers::{Clairvoyant, HorizontalPodAutoscaler, HpaMetric, Knative, RayServe, StaticPeak};
use super::report::RunReport;
use super::scaler::Autoscaler;
use super::scenario::Scenario;
use crate::scaling::PolicyError;

/// A policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyKind {
    /// The operator's own law.
    Flotilla,
    /// Kubernetes' HorizontalPodAutoscaler on CPU utilisation.
    HpaCpu,
    /// The HorizontalPodAutoscaler of Triton's chart, on its mean queue time.
    HpaQueueTime,
    /// The HorizontalPodAutoscaler on requests per second and pod.
    HpaRate,
    /// Knative's pod autoscaler, on concurrency.
    Kpa,
    /// KEDA on the total of requests per second.
    Keda,
    /// Ray Serve, on ongoing requests.
    RayServe,
    /// Knows the load before it comes: a bound, not a peer.
    Oracle,
    /// The peak's replicas throughout: a bound, not a peer.
    StaticPeak,
}

impl PolicyKind {
    /// All policies, Flotilla first and the two bounds last.
    pub const ALL: [Self; 9] = [
        Self::Flotilla,
        Self::HpaCpu,
        Self::HpaQueueTime,
        Self::HpaRate,
        Self::Kpa,
        Self::Keda,
        Self::RayServe,
        Self::Oracle,
        Self::StaticPeak,
    ];

    /// Its name on the command line and in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Flotilla => "flotilla",
            Self::HpaCpu => "hpa-cpu",
            Self::HpaQueueTime => "hpa-queue-time",
            Self::HpaRate => "hpa-rate",
            Self::Kpa => "kpa",
            Self::Keda => "keda",
            Self::RayServe => "ray-serve",
            Self::Oracle => "oracle",
            Self::StaticPeak => "static-peak",
        }
    }

    /// Whether it is an autoscaler that somebody could run, other than Flotilla, with a target to choose.
    pub const fn is_peer(self) -> bool {
        !matches!(self, Self::Flotilla | Self::Oracle | Self::StaticPeak)
    }

    /// What its target counts.
    pub const fn target_unit(self) -> &'static str {
        match self {
            Self::HpaCpu => "% of the CPU request",
            Self::HpaQueueTime => "us of queue time",
            Self::HpaRate | Self::Keda => "requests/s and pod",
            Self::Kpa | Self::RayServe => "requests in a pod",
            Self::Flotilla | Self::Oracle | Self::StaticPeak => "",
        }
    }

    /// Its default target. A rate has no default, so it is seven tenths of what a replica can do at best.
    pub fn default_target(self, scenario: &Scenario) -> f64 {
        match self {
            Self::HpaCpu => 80.0,
            Self::HpaQueueTime => 50.0,
            Self::HpaRate | Self::Keda => 0.7 * scenario.server.full_speed(),
            // 70 % of a container concurrency of 100.
            Self::Kpa => 70.0,
            Self::RayServe => 2.0,
            Self::Flotilla | Self::Oracle | Self::StaticPeak => 0.0,
        }
    }

    fn autoscaler(
        self,
        scenario: &Scenario,
        arrivals: &Arrivals,
        target: f64,
    ) -> Result<Box<dyn Autoscaler>, PolicyError> {
        let hpa = |metric| Box::new(HorizontalPodAutoscaler::new(metric, target, scenario)) as Box<dyn Autoscaler>;
        Ok(match self {
            Self::Flotilla => Box::new(Flotilla::new(scenario)?),
            Self::HpaCpu => hpa(HpaMetric::Cpu),
            Self::HpaQueueTime => hpa(HpaMetric::QueueTime),
            Self::HpaRate => hpa(HpaMetric::Rate),
            Self::Keda => hpa(HpaMetric::TotalRate),
            Self::Kpa => Box::new(Knative::new(target)),
            Self::RayServe => Box::new(RayServe::new(target, scenario)),
            Self::Oracle => Box::new(Clairvoyant::new(scenario, arrivals)),
            Self::StaticPeak => Box::new(StaticPeak::new(scenario, arrivals)),
        })
    }
}

/// Plays the arrivals against a policy; `target` replaces its default.
///
/// # Errors
/// When the scenario makes no policy for Flotilla: bounds that contradict each other, or a target of zero.
pub fn run(
    scenario: &Scenario,
    arrivals: &Arrivals,
    policy: PolicyKind,
    target: Option<f64>,
    seed: u64,
) -> Result<RunReport, PolicyError> {
    let target = target.unwrap_or_else(|| policy.default_target(scenario));
    let mut autoscaler = policy.autoscaler(scenario, arrivals, target)?;
    Ok(engine::run(scenario, arrivals, autoscaler.as_mut(), seed))
}
