//! What the sweep plays: loads, servers that suit them, and the targets that peers are tried with.

use std::path::PathBuf;
use std::time::Duration;

use super::super::CliError;
use super::super::load::read;
use crate::scaling::BatchLine;
use crate::simulate::{Bursty, Faults, Load, PolicyKind, Rate, Routing, Scenario, ServerMetrics, ServerSpec, Shape};

/// Requests of a run, about.
const REQUESTS: f64 = 250_000.0;
/// Replicas that the load's peak needs, about.
const PEAK_REPLICAS: f64 = 8.0;
/// Most of a recorded load that is played.
const LONGEST_SECONDS: f64 = 86_400.0;
/// Targets of the first grid.
const GRID: u32 = 10;

/// A load at a start-up time.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) startup: f64,
    pub(super) scenario: Scenario,
    pub(super) load: Load,
}

/// Every load at every start-up time.
pub(super) fn cases(traces: &[PathBuf], startups: &[f64]) -> Result<Vec<Case>, CliError> {
    if let Some(bad) = startups.iter().find(|startup| !(0.0..=86_400.0).contains(*startup)) {
        return Err(CliError::Scenario(format!("--startup-seconds is {bad}; give numbers from 0 to 86400")));
    }
    let mut loads = Vec::new();
    for path in traces {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        // At another scale than 1, a trace is drawn from its rate.
        loads.push((name, read(path)?.load(1.000_001).part(0.0, LONGEST_SECONDS)));
    }
    for shape in [Shape::Step, Shape::Ramp, Shape::Diurnal, Shape::OnOff, Shape::Bursty] {
        loads.push((shape.as_str().to_owned(), shape.load(1.0, 3600.0)));
    }
    let case = |(name, load): &(String, Load), startup: f64| {
        let (slowness, peak) = scale(&load.draw(1).rate);
        let load = match load.clone() {
            Load::Rate(rate) => {
                let highest = highest(&rate);
                Load::Rate(rate.scaled(peak / highest))
            }
            Load::Bursty(bursty) => Load::Bursty(Bursty {
                calm_rate: bursty.calm_rate * peak,
                burst_rate: bursty.burst_rate * peak,
                ..bursty
            }),
            recorded @ Load::Recorded(_) => recorded,
        };
        Case { name: name.clone(), startup, scenario: scenario(slowness, startup), load }
    };
    Ok(startups
        .iter()
        .flat_map(|startup| loads.iter().map(move |load| (load, *startup)))
        .map(|(load, startup)| case(load, startup))
        .collect())
}

fn highest(rate: &Rate) -> f64 {
    rate.per_second.iter().copied().fold(1e-12, f64::max)
}

/// How slow the servers are, and the peak's rate, so that the peak needs about [`PEAK_REPLICAS`] and a run holds about
/// [`REQUESTS`]: a load of a day has slow servers (a large model), one of an hour quick ones.
fn scale(rate: &Rate) -> (f64, f64) {
    let quick = scenario(1.0, 20.0).capacity() * PEAK_REPLICAS;
    let expected = rate.per_second.iter().sum::<f64>() * rate.bin_seconds / highest(rate) * quick;
    let slowness = (expected / REQUESTS).max(1.0);
    (slowness, quick / slowness)
}

fn scenario(slowness: f64, startup: f64) -> Scenario {
    let slo_wait = Duration::from_secs_f64(0.2 * slowness);
    Scenario {
        server: ServerSpec {
            line: BatchLine { alpha: 0.020 * slowness, tau0: 0.040 * slowness },
            max_batch: 16,
            batching_delay: Duration::ZERO,
            max_queue: 1024,
        },
        startup_seconds: startup,
        startup_sigma: 0.2,
        min_replicas: 1,
        max_replicas: 16,
        gpu_quota: 16,
        routing: Routing::Random,
        slo_wait,
        target_queue_time: slo_wait / 3,
        stabilization_window: Duration::from_mins(5),
        scrape_interval: Duration::from_secs(2),
        metrics: ServerMetrics::Flotilla,
        faults: Faults::default(),
        price_per_gpu_hour: 1.0,
    }
}

/// The targets that a peer is tried with: from far too careful to far too bold.
pub(super) fn grid(policy: PolicyKind, scenario: &Scenario) -> Vec<f64> {
    let speed = scenario.server.full_speed();
    let (least, most) = match policy {
        PolicyKind::HpaCpu => (8.0, 95.0),
        PolicyKind::HpaRate | PolicyKind::Keda => (0.08 * speed, 0.98 * speed),
        PolicyKind::HpaQueueTime => {
            (0.02 * scenario.slo_wait.as_secs_f64() * 1e6, 3.0 * scenario.slo_wait.as_secs_f64() * 1e6)
        }
        PolicyKind::Kpa | PolicyKind::RayServe => (0.25, 4.0 * f64::from(scenario.server.max_batch)),
        PolicyKind::Flotilla | PolicyKind::Oracle | PolicyKind::StaticPeak => return vec![0.0],
    };
    let step = |index: u32| least * (most / least).powf(f64::from(index) / f64::from(GRID - 1));
    (0..GRID).map(step).chain([policy.default_target(scenario)]).collect()
}
