//! What is simulated: the servers, the fleet around them, and what goes wrong.

use std::time::Duration;

use crate::scaling::BatchLine;

/// Everything about a run but its load, its policy and its seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// How quick a server is and what it holds.
    pub server: ServerSpec,
    /// Median seconds from a replica's creation until it answers.
    pub startup_seconds: f64,
    /// How much start-ups vary: the deviation of the logarithm (lognormal).
    pub startup_sigma: f64,
    /// Fewest replicas; every policy begins with them.
    pub min_replicas: u32,
    /// Most replicas.
    pub max_replicas: u32,
    /// How many replicas find a GPU; the others wait for one.
    pub gpu_quota: u32,
    /// How requests find a replica.
    pub routing: Routing,
    /// The longest wait that is within the objective.
    pub slo_wait: Duration,
    /// Flotilla's target of the mean wait.
    pub target_queue_time: Duration,
    /// For how long fewer must do before Flotilla removes any.
    pub stabilization_window: Duration,
    /// How often Flotilla scrapes.
    pub scrape_interval: Duration,
    /// Whose metrics the servers have.
    pub metrics: ServerMetrics,
    /// What goes wrong.
    pub faults: Faults,
    /// What a GPU costs in an hour, in any currency.
    pub price_per_gpu_hour: f64,
}

/// A server with a dynamic batcher.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ServerSpec {
    /// Execution time by batch size.
    pub line: BatchLine,
    /// Most requests executed together.
    pub max_batch: u32,
    /// How long a batch that is not full waits for more.
    pub batching_delay: Duration,
    /// Most requests that wait; further ones are refused.
    pub max_queue: usize,
}

/// How requests find a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    /// Any ready one, as a Service of Kubernetes does by connection.
    Random,
    /// One after the other.
    RoundRobin,
    /// The one with the fewest requests waiting and executed.
    LeastPending,
    /// The better of two random ones.
    PowerOfTwo,
}

/// Whose metrics a server exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerMetrics {
    /// Flotilla's own: a histogram of waits, sizes of batches, the oldest wait.
    Flotilla,
    /// Triton's: counters that move when requests end, and the number of those that wait.
    Triton,
}

/// What goes wrong. Times are seconds from the start.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Faults {
    /// Part of all scrapes that are lost, 0 to 1.
    pub lost_scrapes: f64,
    /// No scrape succeeds between these.
    pub blackout: Option<(f64, f64)>,
    /// All servers' counters begin anew.
    pub counter_reset: Option<f64>,
    /// The autoscaler begins anew and knows nothing.
    pub restart: Option<f64>,
    /// One replica is slow.
    pub sick: Option<Sickness>,
}

/// A slow replica.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sickness {
    /// Since when.
    pub from: f64,
    /// Until when.
    pub to: f64,
    /// How many times slower it is.
    pub factor: f64,
}

impl Routing {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Random, Self::RoundRobin, Self::LeastPending, Self::PowerOfTwo];

    /// Its name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "round-robin",
            Self::LeastPending => "least-pending",
            Self::PowerOfTwo => "power-of-two",
        }
    }
}

impl ServerSpec {
    /// Seconds that a batch takes.
    pub fn seconds(&self, batch: u32) -> f64 {
        self.line.alpha * f64::from(batch) + self.line.tau0
    }

    /// Requests per second with every batch full.
    pub fn full_speed(&self) -> f64 {
        self.line.full_speed(self.max_batch)
    }
}

impl Scenario {
    /// Nine of ten start-ups are quicker.
    pub fn startup_p90(&self) -> f64 {
        self.startup_quantile(1.2816)
    }

    /// The start-up time that many deviations above the median.
    pub(super) fn startup_quantile(&self, deviations: f64) -> f64 {
        self.startup_seconds * (deviations * self.startup_sigma).exp()
    }

    /// Requests per second that a replica takes within the target, by the model that all policies are judged by.
    pub fn capacity(&self) -> f64 {
        self.server.line.rate_within(self.target_queue_time, self.server.max_batch)
    }

    /// Fewest replicas that a rate needs.
    pub fn needed(&self, rate: f64) -> u32 {
        let replicas = (rate / self.capacity().max(1e-9) - 1e-9).ceil();
        crate::scaling::whole(replicas).clamp(self.min_replicas, self.max_replicas)
    }
}
