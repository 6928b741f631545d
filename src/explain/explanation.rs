//! From a record to what is told of it.

use std::time::Duration;

use super::records::Record;
use super::schema::{
    Bounds, Explanation, FewerWhen, Figures, HeldBy, Model, MoreWhen, PodFigures, PodState, Summary, TermCounts,
    VERSION, WouldChange,
};
use crate::scaling::{Changes, Inputs, MissingReason, Replica, ReplicaSample, fresh_for};

impl Explanation {
    /// Tells a record.
    pub fn new(namespace: &str, name: &str, record: &Record) -> Self {
        let Record { policy, decision, observation, .. } = record;
        let inputs = &decision.inputs;
        let holds = decision.holds(policy).into_iter().map(|hold| HeldBy {
            term: hold.term.as_str().to_owned(),
            replicas: hold.replicas,
            seconds: hold.left.map(seconds),
        });
        Self {
            version: VERSION,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            decided_at: record.decided_at,
            replicas: decision.replicas,
            ordered: inputs.terms.ordered,
            reason: decision.reason.as_str().to_owned(),
            message: decision.reason.explanation().to_owned(),
            decided_by: decision.decided_by().as_str().to_owned(),
            conflict: record.conflict.clone(),
            bounds: bounds(record),
            inputs: figures(inputs),
            model: Model {
                alpha: inputs.batch_line.map(|line| line.alpha),
                tau0: inputs.batch_line.map(|line| line.tau0),
                capacity_per_replica: inputs.capacity_per_replica,
                full_speed_per_replica: inputs.full_speed_per_replica,
                capacity_source: inputs.capacity_source.as_str().to_owned(),
            },
            terms: TermCounts {
                demand: inputs.terms.demand,
                expected: inputs.terms.expected,
                backlog: inputs.terms.backlog,
                growth: inputs.terms.growth,
                in_place_of_slow: inputs.terms.in_place_of_slow,
                with_air: inputs.terms.with_air,
                release: inputs.terms.release,
                window: inputs.terms.window,
                remembered_peak: inputs.terms.remembered_peak,
                most_now: inputs.terms.most_now,
                fewest_now: inputs.terms.fewest_now,
            },
            holds: holds.collect(),
            changes: WouldChange::from(decision.changes(policy)),
            pods: observation.ready.iter().map(|replica| pod(replica, record)).collect(),
        }
    }
}

impl Summary {
    /// Tells a record in a line.
    pub fn new(namespace: String, name: String, record: &Record) -> Self {
        let inputs = &record.decision.inputs;
        Self {
            namespace,
            name,
            decided_at: record.decided_at,
            replicas: record.decision.replicas,
            ordered: Some(inputs.terms.ordered),
            ready: inputs.ready,
            reason: record.decision.reason.as_str().to_owned(),
            arrivals: inputs.arrivals_per_second,
            capacity_per_replica: inputs.capacity_per_replica,
            queue_time: inputs.queue_time.map(seconds),
            target_queue_time: seconds(inputs.target_queue_time),
        }
    }
}

impl From<Changes> for WouldChange {
    fn from(changes: Changes) -> Self {
        Self {
            more: changes.more.map(|more| MoreWhen {
                replicas: more.replicas,
                arrivals_above: more.arrivals_above,
                queue_time_above: seconds(more.queue_time_above),
                pending_above: more.pending_above,
                rounds: more.rounds,
            }),
            fewer: changes.fewer.map(|fewer| FewerWhen {
                replicas: fewer.replicas,
                arrivals_below: fewer.arrivals_below,
                lasting: seconds(fewer.lasting),
                soonest: seconds(fewer.soonest),
            }),
        }
    }
}

fn bounds(record: &Record) -> Bounds {
    let settings = record.policy.settings();
    Bounds {
        min_replicas: settings.min_replicas,
        max_replicas: settings.max_replicas,
        target_queue_time: seconds(settings.target_queue_time),
        stabilization_window: seconds(settings.stabilization_window),
        max_batch_size: settings.max_batch_size,
        batching_delay: seconds(settings.batching_delay),
        scrape_interval: seconds(settings.scrape_interval),
    }
}

fn figures(inputs: &Inputs) -> Figures {
    Figures {
        arrivals: inputs.arrivals_per_second,
        expected: inputs.expected_per_second,
        trend: inputs.trend_per_second,
        queue_time: inputs.queue_time.map(seconds),
        queue_time_p95: inputs.queue_time_p95.map(seconds),
        target_queue_time: seconds(inputs.target_queue_time),
        pending: inputs.pending_images,
        wait_to_execution: inputs.wait_to_execution,
        startup: seconds(inputs.startup),
        ready: inputs.ready,
        measured: inputs.measured,
        missing: inputs.terms.missing,
        slow: inputs.slow,
        starting: inputs.starting,
        failing: inputs.terms.failing,
        unschedulable: inputs.terms.unschedulable,
    }
}

fn pod(replica: &Replica, record: &Record) -> PodFigures {
    let fresh_for = fresh_for(record.policy.settings().scrape_interval);
    let unknown = |state: PodState, reason: Option<MissingReason>, since| PodFigures {
        name: replica.name.clone(),
        state: state.as_str().to_owned(),
        reason: reason.map(|reason| reason.as_str().to_owned()),
        arrivals: None,
        completed: None,
        queue_time: None,
        queue_time_p95: None,
        pending: None,
        mean_batch: None,
        device_busy: None,
        age: seconds(record.now.since(since)),
    };
    match &replica.sample {
        ReplicaSample::Missing { since, reason: MissingReason::NotYetSampled } => {
            unknown(PodState::Settling, Some(MissingReason::NotYetSampled), *since)
        }
        ReplicaSample::Missing { since, reason } => unknown(PodState::Missing, Some(*reason), *since),
        ReplicaSample::Measured(measurement) if record.now.since(measurement.taken) > fresh_for => {
            unknown(PodState::Missing, Some(MissingReason::Stale), measurement.taken)
        }
        ReplicaSample::Measured(measurement) => {
            let state = if record.decision.inputs.slow_replicas.contains(&replica.name) {
                PodState::Slow
            } else if measurement.tainted {
                PodState::Warming
            } else {
                PodState::Ok
            };
            PodFigures {
                arrivals: Some(measurement.arrivals_per_second),
                completed: Some(measurement.completed_per_second),
                queue_time: measurement.queue_time.map(|queue| seconds(queue.mean)),
                queue_time_p95: measurement.queue_time.and_then(|queue| queue.p95).map(seconds),
                pending: Some(measurement.pending_images),
                mean_batch: measurement.mean_batch,
                device_busy: measurement.device_busy,
                ..unknown(state, None, measurement.taken)
            }
        }
    }
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
