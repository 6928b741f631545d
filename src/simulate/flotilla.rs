//! Flotilla itself: pages as its servers write them, read by its own scraping code, decided by its own law.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::fleet::Fleet;
use super::scaler::{Autoscaler, Rhythm, Seen};
use super::scenario::{Scenario, ServerMetrics};
use super::server::{Server, WAIT_BOUNDS};
use crate::scaling::{
    Decision, MissingReason, Monotonic, Observation, Policy, PolicyError, PolicySettings, Replica, Starting, State,
    decide, fresh_for, whole,
};
use crate::scrape::{BatchTotal, Failures, Histogram, METRICS_PORT, Pod, ServerInfo, Snapshot, Target};

/// Decides this part of an interval after a round of scrapes began, as the collector announces it.
const ANNOUNCED_AFTER: f64 = 0.15;
/// A start-up that nobody has measured is taken to last this long, as the operator does.
const STARTUP_FALLBACK: Duration = Duration::from_mins(1);

/// The operator at work.
pub(super) struct Flotilla {
    policy: Policy,
    state: State,
    pods: BTreeMap<usize, Pod>,
    metrics: ServerMetrics,
    interval: Duration,
    last: Option<Decision>,
}

impl Flotilla {
    pub(super) fn new(scenario: &Scenario) -> Result<Self, PolicyError> {
        let policy = Policy::new(PolicySettings {
            min_replicas: scenario.min_replicas,
            max_replicas: scenario.max_replicas,
            target_queue_time: scenario.target_queue_time,
            stabilization_window: scenario.stabilization_window,
            max_batch_size: scenario.server.max_batch,
            batching_delay: scenario.server.batching_delay,
            scrape_interval: scenario.scrape_interval,
            startup_fallback: STARTUP_FALLBACK,
        })?;
        Ok(Self {
            policy,
            state: State::default(),
            pods: BTreeMap::new(),
            metrics: scenario.metrics,
            interval: scenario.scrape_interval,
            last: None,
        })
    }

    fn observe(&self, now: f64, fleet: &Fleet<'_>) -> Observation {
        let moment = at(now);
        let ready = fleet.ready.iter().map(|id| {
            let unknown =
                crate::scaling::ReplicaSample::Missing { since: moment, reason: MissingReason::NotYetSampled };
            let sample = self.pods.get(id).map_or(unknown, |pod| pod.sample(moment, fresh_for(self.interval)));
            Replica { name: name(*id), class: "gpu".to_owned(), sample }
        });
        let starting = fleet.starting.iter().map(|id| Starting {
            since: at(fleet.servers[*id].created),
            restarts: 0,
            unschedulable: fleet.servers[*id].scheduled.is_none(),
        });
        Observation {
            current: fleet.ordered,
            ready: ready.collect(),
            starting: starting.collect(),
            startup_p90: startup_p90(fleet),
            rolling_out: false,
        }
    }
}

impl Autoscaler for Flotilla {
    fn rhythm(&self) -> Rhythm {
        let interval = self.interval.as_secs_f64();
        let after = Some(ANNOUNCED_AFTER * interval);
        Rhythm { sample_every: interval, decide_every: f64::INFINITY, decide_after_sample: after }
    }

    fn sample(&mut self, now: f64, fleet: &Fleet<'_>, seen: &Seen) {
        self.pods.retain(|id, _| fleet.ready.contains(id));
        for id in &fleet.ready {
            let server = &fleet.servers[*id];
            let pod = self.pods.entry(*id).or_insert_with(|| Pod::new(target(server)));
            if seen.0.contains(id) {
                pod.succeeded(at(now), 0, page(server, now, self.metrics));
            } else {
                pod.failed(at(now), MissingReason::Unreachable, "lost".to_owned());
            }
        }
    }

    fn decide(&mut self, now: f64, fleet: &Fleet<'_>) -> u32 {
        let observation = self.observe(now, fleet);
        let (decision, state) = decide(&self.policy, std::mem::take(&mut self.state), &observation, at(now));
        self.state = state;
        let replicas = decision.replicas;
        self.last = Some(decision);
        replicas
    }

    fn why(&self) -> &'static str {
        self.last.as_ref().map_or("", |decision| decision.reason.as_str())
    }

    fn restart(&mut self) {
        self.state = State::default();
        self.pods.clear();
    }
}

/// A point of the run's time. It begins at a day, so that what happened before the start has a time too.
fn at(seconds: f64) -> Monotonic {
    Monotonic::from_start(Duration::from_hours(24) + Duration::from_secs_f64(seconds.max(0.0)))
}

fn name(id: usize) -> String {
    format!("pod-{id}")
}

fn target(server: &Server) -> Target {
    Target {
        pod: name(server.id),
        uid: name(server.id),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: METRICS_PORT,
        container_restarts: 0,
        ready_since: at(server.ready_at),
        model: "model".to_owned(),
        instances: 1,
    }
}

/// The p90 of the starts of those that are ready, as the operator measures it; the first ones were there before.
fn startup_p90(fleet: &Fleet<'_>) -> Option<Duration> {
    let started = |server: &&Server| server.ready_at > server.created;
    let servers = fleet.ready.iter().map(|id| &fleet.servers[*id]).filter(started);
    let mut times: Vec<f64> = servers.map(|server| server.ready_at - server.created).collect();
    times.sort_by(f64::total_cmp);
    let rank = (times.len() * 9).div_ceil(10).saturating_sub(1);
    times.get(rank).map(|seconds| Duration::from_secs_f64(*seconds))
}

/// The page that the server writes.
fn page(server: &Server, now: f64, metrics: ServerMetrics) -> Snapshot {
    let counters = &server.counters;
    let waiting = f64::from(whole(server.waiting()));
    let of_every_server = Snapshot {
        requests_completed: counters.completed,
        images_completed: counters.completed,
        executions: counters.executions,
        failures: Failures { rejected: counters.rejected, canceled: 0.0, backend: 0.0 },
        queue_seconds: counters.waited,
        compute_seconds: counters.computed,
        pending_requests: Some(waiting),
        ..Snapshot::default()
    };
    if metrics == ServerMetrics::Triton {
        return of_every_server;
    }
    let mut below = 0.0;
    let buckets = WAIT_BOUNDS.iter().zip(counters.waits).map(|(bound, count)| {
        below += count;
        (*bound, below)
    });
    let batches = counters.batches.iter().enumerate().filter(|(_, (executions, _))| *executions > 0.0);
    let batches = batches.map(|(slot, (executions, seconds))| {
        (whole(slot + 1), BatchTotal { executions: *executions, seconds: *seconds })
    });
    Snapshot {
        pending_images: Some(waiting),
        images_rejected: Some(counters.rejected),
        queue: Some(Histogram { buckets: buckets.collect(), sum: counters.waits_sum, count: counters.started }),
        oldest_wait: Some(Duration::from_secs_f64(server.oldest_wait(now).max(0.0))),
        device_busy_seconds: Some(counters.busy),
        batches: batches.collect(),
        process_start_seconds: Some(counters.since),
        server: Some(ServerInfo::default()),
        ..of_every_server
    }
}
