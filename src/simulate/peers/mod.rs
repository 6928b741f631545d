//! What others do: each rule as its authors publish it, with their defaults, sampling times and windows.
//!
//! Where a rule leaves something to its user (a PromQL window, a scrape interval), the peer gets what suits it best of
//! what is usual, and its file says so.

mod clairvoyant;
mod hpa;
mod hpa_metrics;
mod knative;
mod ray_serve;
mod series;
mod static_peak;

pub(super) use clairvoyant::Clairvoyant;
pub(super) use hpa::HorizontalPodAutoscaler;
pub(super) use hpa_metrics::HpaMetric;
pub(super) use knative::Knative;
pub(super) use ray_serve::RayServe;
pub(super) use static_peak::StaticPeak;
