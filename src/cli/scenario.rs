//! The flags that describe the fleet.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::CliError;
use crate::scaling::BatchLine;
use crate::simulate::{Faults, Rate, Routing, Scenario, ServerMetrics, ServerSpec, Sickness};

/// The mean wait that Flotilla aims at is this part of the longest allowed one: so few requests wait three times the
/// mean that 99 of a hundred are within it.
const TARGET_PART: f64 = 1.0 / 3.0;
/// How long the blackout lasts.
const BLACKOUT_SECONDS: f64 = 120.0;
/// How many times slower a sick replica is.
const SICK_FACTOR: f64 = 10.0;

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Fleet")]
pub(super) struct ScenarioArguments {
    /// Median time from a replica's creation until it answers; start-ups vary around it
    #[arg(long, default_value_t = 20.0, value_name = "SECONDS")]
    pub(super) startup_seconds: f64,
    /// How much start-ups vary: the deviation of their logarithm
    #[arg(long, default_value_t = 0.2, value_name = "SIGMA")]
    startup_sigma: f64,
    /// What each request adds to the execution of a batch
    #[arg(long, default_value_t = 5.0, value_name = "MILLISECONDS")]
    alpha_ms: f64,
    /// What each execution costs, whatever its size
    #[arg(long, default_value_t = 10.0, value_name = "MILLISECONDS")]
    tau0_ms: f64,
    /// Most requests executed together
    #[arg(long, default_value_t = 32, value_name = "REQUESTS")]
    max_batch: u32,
    /// How long a batch that is not full waits for more
    #[arg(long, default_value_t = 0.0, value_name = "MILLISECONDS")]
    batching_delay_ms: f64,
    /// Requests that a replica lets wait; further ones are refused
    #[arg(long, default_value_t = 1024, value_name = "REQUESTS")]
    max_queue: usize,
    /// The longest wait that counts as good
    #[arg(long, default_value_t = 60.0, value_name = "MILLISECONDS")]
    slo_wait_ms: f64,
    /// The mean wait that Flotilla aims at [default: a third of --slo-wait-ms]
    #[arg(long, value_name = "MILLISECONDS")]
    target_queue_time_ms: Option<f64>,
    /// For how long fewer replicas must do before Flotilla removes any
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    scale_down_stabilization_seconds: u64,
    /// How often Flotilla scrapes
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    scrape_interval_seconds: f64,
    /// Fewest replicas; every policy begins with them
    #[arg(long, default_value_t = 1, value_name = "REPLICAS")]
    min_replicas: u32,
    /// Most replicas
    #[arg(long, default_value_t = 16, value_name = "REPLICAS")]
    pub(super) max_replicas: u32,
    /// GPUs that there are [default: as many as --max-replicas]
    #[arg(long, value_name = "GPUS")]
    gpu_quota: Option<u32>,
    /// How requests find a replica
    #[arg(long, value_enum, default_value_t = RoutingName::Random, value_name = "HOW")]
    routing: RoutingName,
    /// Whose metrics the servers export
    #[arg(long, value_enum, default_value_t = MetricsName::Flotilla, value_name = "SERVER")]
    metrics: MetricsName,
    /// What a GPU costs in an hour
    #[arg(long, default_value_t = 1.0, value_name = "PRICE")]
    price_per_gpu_hour: f64,
    /// What goes wrong; may be given several times
    #[arg(long = "fault", value_enum, value_name = "FAULT")]
    faults: Vec<FaultName>,
    /// When it goes wrong, in seconds from the start [default: the middle of the load's peak]
    #[arg(long, value_name = "SECONDS")]
    fault_at: Option<f64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoutingName {
    Random,
    RoundRobin,
    LeastPending,
    PowerOfTwo,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum MetricsName {
    Flotilla,
    Triton,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FaultName {
    /// Half of all scrapes are lost, throughout
    LostScrapes,
    /// All scrapes are lost for two minutes
    Blackout,
    /// All servers' counters begin anew
    CounterReset,
    /// The autoscaler begins anew
    Restart,
    /// One replica is ten times slower for five minutes
    SickReplica,
}

impl ScenarioArguments {
    /// The scenario, with its faults placed in this load.
    pub(super) fn scenario(&self, rate: &Rate) -> Result<Scenario, CliError> {
        self.check()?;
        let slo_wait = milliseconds(self.slo_wait_ms);
        Ok(Scenario {
            server: ServerSpec {
                line: BatchLine { alpha: self.alpha_ms / 1e3, tau0: self.tau0_ms / 1e3 },
                max_batch: self.max_batch,
                batching_delay: milliseconds(self.batching_delay_ms),
                max_queue: self.max_queue,
            },
            startup_seconds: self.startup_seconds,
            startup_sigma: self.startup_sigma,
            min_replicas: self.min_replicas,
            max_replicas: self.max_replicas,
            gpu_quota: self.gpu_quota.unwrap_or(self.max_replicas),
            routing: match self.routing {
                RoutingName::Random => Routing::Random,
                RoutingName::RoundRobin => Routing::RoundRobin,
                RoutingName::LeastPending => Routing::LeastPending,
                RoutingName::PowerOfTwo => Routing::PowerOfTwo,
            },
            slo_wait,
            target_queue_time: self.target_queue_time_ms.map_or(slo_wait.mul_f64(TARGET_PART), milliseconds),
            stabilization_window: Duration::from_secs(self.scale_down_stabilization_seconds),
            scrape_interval: Duration::from_secs_f64(self.scrape_interval_seconds),
            metrics: match self.metrics {
                MetricsName::Flotilla => ServerMetrics::Flotilla,
                MetricsName::Triton => ServerMetrics::Triton,
            },
            faults: self.faults(rate),
            price_per_gpu_hour: self.price_per_gpu_hour,
        })
    }

    fn faults(&self, rate: &Rate) -> Faults {
        let at = self.fault_at.unwrap_or_else(|| middle_of_peak(rate));
        let has = |fault| self.faults.contains(&fault);
        Faults {
            lost_scrapes: if has(FaultName::LostScrapes) { 0.5 } else { 0.0 },
            blackout: has(FaultName::Blackout).then_some((at, at + BLACKOUT_SECONDS)),
            counter_reset: has(FaultName::CounterReset).then_some(at),
            restart: has(FaultName::Restart).then_some(at),
            sick: has(FaultName::SickReplica).then_some(Sickness { from: at, to: at + 300.0, factor: SICK_FACTOR }),
        }
    }

    fn check(&self) -> Result<(), CliError> {
        let within = |flag: &str, value: f64, least: f64, most: f64| {
            if value.is_finite() && (least..=most).contains(&value) {
                return Ok(());
            }
            Err(CliError::Scenario(format!("--{flag} is {value}; give a number from {least} to {most}")))
        };
        within("startup-seconds", self.startup_seconds, 0.0, 86_400.0)?;
        within("startup-sigma", self.startup_sigma, 0.0, 2.0)?;
        within("alpha-ms", self.alpha_ms, 0.0, 1e6)?;
        within("tau0-ms", self.tau0_ms, 0.0, 1e6)?;
        within("alpha-ms plus --tau0-ms", self.alpha_ms + self.tau0_ms, 1e-3, 2e6)?;
        within("max-batch", f64::from(self.max_batch), 1.0, 65_536.0)?;
        within("batching-delay-ms", self.batching_delay_ms, 0.0, 60_000.0)?;
        within("slo-wait-ms", self.slo_wait_ms, 0.001, 1e7)?;
        within("target-queue-time-ms", self.target_queue_time_ms.unwrap_or(1.0), 0.001, 1e7)?;
        within("scrape-interval-seconds", self.scrape_interval_seconds, 0.1, 600.0)?;
        within("min-replicas", f64::from(self.min_replicas), 1.0, f64::from(self.max_replicas))?;
        within("max-replicas", f64::from(self.max_replicas), 1.0, 10_000.0)?;
        within("gpu-quota", f64::from(self.gpu_quota.unwrap_or(self.max_replicas)), f64::from(self.min_replicas), 1e6)?;
        within("price-per-gpu-hour", self.price_per_gpu_hour, 0.0, 1e9)
    }
}

fn milliseconds(number: f64) -> Duration {
    Duration::from_secs_f64(number / 1e3)
}

/// The middle of the time in which the rate is at its highest.
fn middle_of_peak(rate: &Rate) -> f64 {
    let highest = rate.per_second.iter().copied().fold(0.0, f64::max);
    let first = rate.per_second.iter().position(|rate| *rate >= 0.99 * highest).unwrap_or_default();
    let length = rate.per_second.iter().skip(first).take_while(|rate| **rate >= 0.99 * highest).count();
    rate.bin_seconds * f64::from(crate::scaling::whole(first + length / 2))
}
