//! The lines of `flotilla top`: what objects and operator tell, sorted and aligned. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt as _;
use serde::Serialize;

use super::SortBy;
use crate::api::InferenceService;
use crate::api::scaling::{PAUSED, ScalingMode};
use crate::cli::words::{age, number, or_dash, rate, table, time};
use crate::explain::{PodFigures, Summary};

/// A line.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub(super) namespace: String,
    pub(super) name: String,
    ready: i64,
    /// Ordered ones.
    replicas: i64,
    /// The mode, or Paused.
    mode: &'static str,
    /// What Flotilla would order, where it does not act.
    #[serde(skip_serializing_if = "Option::is_none")]
    wanted: Option<i64>,
    max_replicas: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_time: Option<f64>,
    target_queue_time: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    arrivals: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capacity_per_replica: Option<f64>,
    /// Arrivals over what the ready replicas take within the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    utilization: Option<f64>,
    gpu: String,
    execution_provider: String,
    reason: String,
    created: Option<Timestamp>,
}

/// What the objects say, and over it what the operator tells.
pub(super) fn rows(objects: &[InferenceService], told: Vec<Summary>) -> Vec<Row> {
    let mut told: BTreeMap<(String, String), Summary> =
        told.into_iter().map(|summary| ((summary.namespace.clone(), summary.name.clone()), summary)).collect();
    objects
        .iter()
        .map(|object| {
            let mut row = Row::new(object);
            if let Some(summary) = told.remove(&(row.namespace.clone(), row.name.clone())) {
                row.queue_time = summary.queue_time;
                row.target_queue_time = summary.target_queue_time;
                row.arrivals = summary.arrivals;
                row.capacity_per_replica = summary.capacity_per_replica;
                row.ready = summary.ready.into();
                if row.mode == ScalingMode::QueueTime.as_str() {
                    row.replicas = summary.replicas.into();
                } else {
                    row.replicas = summary.ordered.map_or(row.replicas, i64::from);
                    row.wanted = Some(summary.replicas.into());
                }
                row.reason = summary.reason;
            }
            row.utilization = row.used();
            row
        })
        .collect()
}

impl Row {
    fn new(object: &InferenceService) -> Self {
        let status = object.status.clone().unwrap_or_default();
        let scaling = status.scaling.unwrap_or_default();
        let summary = status.summary.unwrap_or_default();
        let desired: i64 = scaling.desired_replicas.into();
        let (bounds, mode) = (&object.spec.scaling, object.spec.scaling.word());
        let is_advised = mode == PAUSED || mode == ScalingMode::Advisory.as_str();
        let followed = if mode == PAUSED { status.replicas } else { object.spec.replicas };
        let followed = followed.min(bounds.max_replicas).max(bounds.min_replicas).into();
        let number = |quantity: Option<Quantity>| quantity.and_then(|quantity| quantity.0.parse().ok());
        let word = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        Self {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            ready: status.ready_replicas.into(),
            replicas: if is_advised { followed } else { desired },
            mode,
            wanted: is_advised.then_some(desired),
            max_replicas: object.spec.scaling.max_replicas.into(),
            queue_time: scaling.queue_time_milliseconds.map(|wait| f64::from(wait) / 1e3),
            target_queue_time: f64::from(object.spec.scaling.target_queue_time_milliseconds) / 1e3,
            arrivals: number(scaling.arrivals_per_second),
            capacity_per_replica: number(scaling.capacity_per_replica),
            utilization: None,
            gpu: word(summary.gpu),
            execution_provider: word(summary.execution_provider),
            reason: word(scaling.reason),
            created: object.metadata.creation_timestamp.as_ref().map(|time| time.0),
        }
    }

    /// The reason; where it is of a number that is only shown, with that.
    fn why(&self) -> String {
        match self.wanted.filter(|wanted| *wanted != self.replicas) {
            Some(wanted) => format!("{} ({}: {wanted})", self.reason, self.mode),
            None => self.reason.clone(),
        }
    }

    fn used(&self) -> Option<f64> {
        let ready = u32::try_from(self.ready).ok().filter(|ready| *ready > 0)?;
        let capacity = f64::from(ready) * self.capacity_per_replica?;
        (capacity > 0.0).then_some(self.arrivals? / capacity)
    }
}

/// Sorts the lines.
pub(super) fn sort(rows: &mut [Row], by: SortBy) {
    // Equal ones stay in the order of their names.
    rows.sort_by(|left, right| (&left.namespace, &left.name).cmp(&(&right.namespace, &right.name)));
    let descending = |rows: &mut [Row], key: &dyn Fn(&Row) -> f64| {
        rows.sort_by(|left, right| key(right).total_cmp(&key(left)));
    };
    // What is not known comes last.
    let known = |value: Option<f64>| value.unwrap_or(-1.0);
    match by {
        SortBy::Name => {}
        SortBy::Arrivals => descending(rows, &|row| known(row.arrivals)),
        SortBy::Queue => descending(rows, &|row| known(row.queue_time.map(|wait| wait / row.target_queue_time))),
        SortBy::Utilization => descending(rows, &|row| known(row.utilization)),
        SortBy::Replicas => rows.sort_by_key(|row| std::cmp::Reverse(row.replicas)),
        SortBy::Age => rows.sort_by_key(|row| std::cmp::Reverse(row.created)),
    }
}

/// The lines, aligned.
pub(super) fn services_table(rows: &[Row], all: bool, now: Timestamp) -> String {
    let mut head: Vec<&str> = if all { vec!["NAMESPACE"] } else { Vec::new() };
    head.extend(["NAME", "READY", "ORDERED", "MAX", "QUEUE", "TARGET", "ARRIVALS", "CAPACITY", "USED", "GPU", "EP"]);
    head.extend(["REASON", "AGE"]);
    let mut lines = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    lines.extend(rows.iter().map(|row| {
        let mut line = if all { vec![row.namespace.clone()] } else { Vec::new() };
        line.extend([
            row.name.clone(),
            row.ready.to_string(),
            row.replicas.to_string(),
            row.max_replicas.to_string(),
            or_dash(row.queue_time, time),
            time(row.target_queue_time),
            or_dash(row.arrivals, rate),
            or_dash(row.capacity_per_replica, rate),
            percent(row.utilization),
            row.gpu.clone(),
            row.execution_provider.clone(),
            row.why(),
            or_dash(row.created, |created| age(created, now)),
        ]);
        line
    }));
    table(&lines)
}

fn percent(part: Option<f64>) -> String {
    or_dash(part, |part| format!("{:.0}%", part * 100.0))
}

/// Sorts the replicas of a service.
pub(super) fn sort_pods(pods: &mut [PodFigures], by: SortBy) {
    pods.sort_by(|left, right| left.name.cmp(&right.name));
    let key: fn(&PodFigures) -> Option<f64> = match by {
        SortBy::Name | SortBy::Replicas => return,
        SortBy::Arrivals => |pod| pod.arrivals,
        SortBy::Queue => |pod| pod.queue_time,
        SortBy::Utilization => |pod| pod.device_busy,
        SortBy::Age => |pod| Some(-pod.age),
    };
    let known = |pod: &PodFigures| key(pod).unwrap_or(f64::NEG_INFINITY);
    pods.sort_by(|left, right| known(right).total_cmp(&known(left)));
}

/// The replicas of a service, as they were measured.
pub(in crate::cli) fn pods_table(pods: &[PodFigures]) -> String {
    let head = ["POD", "ARRIVALS", "QUEUE", "P95", "PENDING", "BATCH", "BUSY", "AGE", "STATE"].map(str::to_owned);
    let mut rows = vec![head.to_vec()];
    rows.extend(pods.iter().map(|pod| {
        let state = pod.reason.as_ref().map_or_else(|| pod.state.clone(), |reason| format!("{} ({reason})", pod.state));
        vec![
            pod.name.clone(),
            or_dash(pod.arrivals, rate),
            or_dash(pod.queue_time, time),
            or_dash(pod.queue_time_p95, time),
            or_dash(pod.pending, number),
            or_dash(pod.mean_batch, number),
            percent(pod.device_busy),
            time(pod.age),
            state,
        ]
    }));
    table(&rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(name: &str, status: serde_json::Value) -> InferenceService {
        let mut service = crate::fixtures::service(json!({"placement": {"gpu": {}}}));
        service.metadata.name = Some(name.to_owned());
        service.metadata.creation_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        service.status = serde_json::from_value(status).unwrap();
        service
    }

    fn told(name: &str, arrivals: f64) -> Summary {
        Summary {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            decided_at: Timestamp::UNIX_EPOCH,
            replicas: 4,
            ordered: Some(3),
            ready: 3,
            reason: "DemandAboveCapacity".to_owned(),
            arrivals: Some(arrivals),
            capacity_per_replica: Some(136.7),
            queue_time: Some(0.0123),
            target_queue_time: 0.02,
        }
    }

    fn status() -> serde_json::Value {
        json!({
            "readyReplicas": 2,
            "scaling": {"desiredReplicas": 2, "reason": "OnTarget", "queueTimeMilliseconds": 41,
                        "arrivalsPerSecond": "120", "capacityPerReplica": "100"},
            "summary": {"replicas": "2/2", "queue": "41ms/20ms", "gpu": "RTX-4080 x2", "executionProvider": "TensorRt"},
        })
    }

    #[test]
    fn the_operators_numbers_go_over_those_of_the_status() {
        let objects = [object("photos", status()), object("texts", status()), object("new", json!(null))];
        let mut rows = rows(&objects, vec![told("photos", 412.4), told("gone", 1.0)]);
        sort(&mut rows, SortBy::Queue);
        let now = "2026-01-01T03:00:00Z".parse().unwrap();
        let expected = "\
NAME     READY   ORDERED   MAX   QUEUE     TARGET   ARRIVALS   CAPACITY   USED   GPU           EP         REASON                AGE
texts    2       2         8     41 ms     20 ms    120/s      100/s      60%    RTX-4080 x2   TensorRt   OnTarget              3h
photos   3       4         8     12.3 ms   20 ms    412/s      137/s      101%   RTX-4080 x2   TensorRt   DemandAboveCapacity   3h
new      0       0         8     -         20 ms    -          -          -      -             -          -                     3h
";
        assert_eq!(services_table(&rows, false, now), expected);
        assert!(services_table(&rows, true, now).starts_with("NAMESPACE   NAME"));
    }

    #[test]
    fn what_is_only_shown_is_told_beside_what_is_ordered() {
        let mode = |mode: &str, mut status: serde_json::Value| {
            status["scaling"]["desiredReplicas"] = json!(6);
            let mut object = object("photos", status);
            let paused = mode == PAUSED;
            let mode = if paused { "QueueTime" } else { mode };
            object.spec.scaling = serde_json::from_value(json!({"mode": mode, "paused": paused})).unwrap();
            object.status.as_mut().unwrap().replicas = 5;
            object.spec.replicas = 2;
            object
        };
        for (name, summary, expected) in [
            ("Advisory", true, (3, "DemandAboveCapacity (Advisory: 4)")),
            ("External", true, (3, "DemandAboveCapacity (External: 4)")),
            ("QueueTime", true, (4, "DemandAboveCapacity")),
            ("Advisory", false, (2, "OnTarget (Advisory: 6)")),
            ("External", false, (6, "OnTarget")),
            ("Paused", true, (3, "DemandAboveCapacity (Paused: 4)")),
            ("Paused", false, (5, "OnTarget (Paused: 6)")),
        ] {
            let told = if summary { vec![told("photos", 412.4)] } else { Vec::new() };
            let row = rows(&[mode(name, status())], told).remove(0);
            assert_eq!((row.replicas, row.why().as_str()), expected, "{name} {summary}");
        }
    }

    #[test]
    fn numbers_are_sorted_from_the_highest_and_what_is_not_known_comes_last() {
        let objects = ["a", "b", "c"].map(|name| object(name, json!(null)));
        let mut rows = rows(&objects, vec![told("b", 10.0), told("c", 20.0)]);
        for by in [SortBy::Arrivals, SortBy::Utilization] {
            sort(&mut rows, by);
            let names: Vec<_> = rows.iter().map(|row| row.name.as_str()).collect();
            assert_eq!(names, ["c", "b", "a"], "{by:?}");
        }
        sort(&mut rows, SortBy::Name);
        assert_eq!(rows[0].name, "a");
    }
}
