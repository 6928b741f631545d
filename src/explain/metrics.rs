//! The last decision of each service as gauges, made when `/metrics` is read: nothing is updated in between, and the series
//! of a service go with it. Their number is bounded by that of the services.

use std::sync::Arc;

use prometheus::Registry;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::records::{Record, Records};
use crate::scaling::Inputs;

/// Reads the records; of an operator that does not lead, none.
pub struct ScalingMetrics {
    records: Arc<Records>,
}

/// A gauge with one value a service; absent where the value is not known.
struct Plain {
    name: &'static str,
    help: &'static str,
    value: fn(&Record) -> Option<f64>,
}

const PLAIN: [Plain; 18] = [
    Plain {
        name: "flotilla_scaling_desired_replicas",
        help: "Replicas that were decided, whether that is acted on or not.",
        value: |record| Some(record.decision.replicas.into()),
    },
    Plain {
        name: "flotilla_scaling_ordered_replicas",
        help: "Replicas that were ordered when it was decided.",
        value: |record| Some(record.decision.inputs.terms.ordered.into()),
    },
    Plain {
        name: "flotilla_scaling_acts",
        help: "1 where decisions are acted on; 0 where somebody else decides.",
        value: |record| Some(record.acts.into()),
    },
    Plain {
        name: "flotilla_scaling_min_replicas",
        help: "minReplicas.",
        value: |record| Some(record.policy.settings().min_replicas.into()),
    },
    Plain {
        name: "flotilla_scaling_max_replicas",
        help: "maxReplicas.",
        value: |record| Some(record.policy.settings().max_replicas.into()),
    },
    Plain {
        name: "flotilla_scaling_arrivals_per_second",
        help: "Images that arrive per second at all replicas together, smoothed.",
        value: |record| record.decision.inputs.arrivals_per_second,
    },
    Plain {
        name: "flotilla_scaling_expected_arrivals_per_second",
        help: "Images per second by the time that a replica ordered now answers.",
        value: |record| record.decision.inputs.expected_per_second,
    },
    Plain {
        name: "flotilla_scaling_capacity_per_replica",
        help: "Images per second that one replica takes within the target.",
        value: |record| record.decision.inputs.capacity_per_replica,
    },
    Plain {
        name: "flotilla_scaling_full_speed_per_replica",
        help: "Images per second that one replica completes with every batch full.",
        value: |record| record.decision.inputs.full_speed_per_replica,
    },
    Plain {
        name: "flotilla_scaling_execution_seconds_per_image",
        help: "What each image adds to an execution (alpha).",
        value: |record| record.decision.inputs.batch_line.map(|line| line.alpha),
    },
    Plain {
        name: "flotilla_scaling_execution_fixed_seconds",
        help: "What each execution costs whatever its size (tau0).",
        value: |record| record.decision.inputs.batch_line.map(|line| line.tau0),
    },
    Plain {
        name: "flotilla_scaling_queue_time_seconds",
        help: "Mean time that requests waited beyond the batching delay.",
        value: |record| record.decision.inputs.queue_time.map(|time| time.as_secs_f64()),
    },
    Plain {
        name: "flotilla_scaling_queue_time_p95_seconds",
        help: "95th percentile of the time that requests waited, at the slowest replica.",
        value: |record| record.decision.inputs.queue_time_p95.map(|time| time.as_secs_f64()),
    },
    Plain {
        name: "flotilla_scaling_target_queue_time_seconds",
        help: "The target that was used.",
        value: |record| Some(record.decision.inputs.target_queue_time.as_secs_f64()),
    },
    Plain {
        name: "flotilla_scaling_pending_images",
        help: "Images that wait at all measured replicas.",
        value: |record| record.decision.inputs.pending_images,
    },
    Plain {
        name: "flotilla_scaling_more_above_arrivals_per_second",
        help: "Another replica is ordered when more arrives than this.",
        value: |record| record.decision.changes(&record.policy).more?.arrivals_above,
    },
    Plain {
        name: "flotilla_scaling_fewer_below_arrivals_per_second",
        help: "A replica is removed when no more arrives than this for the window.",
        value: |record| record.decision.changes(&record.policy).fewer?.arrivals_below,
    },
    Plain {
        name: "flotilla_scaling_startup_seconds",
        help: "How long a start takes: the p90 of the measured ones, or what is assumed.",
        value: |record| Some(record.decision.inputs.startup.as_secs_f64()),
    },
];

const REPLICAS: (&str, &str) = ("flotilla_scaling_replicas", "Replicas by what the law knows of them.");
const WANTED: (&str, &str) = ("flotilla_scaling_wanted_replicas", "Replicas that each part of the law asks for.");
const REASON: (&str, &str) = ("flotilla_scaling_reason", "1 for the reason of the last decision.");

impl ScalingMetrics {
    /// Adds them to a registry.
    ///
    /// # Errors
    /// One of the names is registered already.
    pub fn register(registry: &Registry, records: Arc<Records>) -> prometheus::Result<()> {
        registry.register(Box::new(Self { records }))
    }
}

impl Collector for ScalingMetrics {
    /// None: their labels are the services' names, so the registry has nothing to check beforehand.
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let records = self.records.all(None);
        let labels = |(namespace, name): &(String, String)| vec![label("namespace", namespace), label("service", name)];
        let mut families: Vec<MetricFamily> = PLAIN
            .iter()
            .map(|plain| {
                let samples = records.iter().filter_map(|(key, record)| {
                    let value = (plain.value)(record)?;
                    Some(sample(labels(key), value))
                });
                family(plain.name, plain.help, samples.collect())
            })
            .collect();
        let mut labelled = |(name, help), label_name: &str, values: fn(&Record) -> Vec<(&'static str, f64)>| {
            let samples = records.iter().flat_map(|(key, record)| {
                values(record).into_iter().map(|(value, number)| {
                    let mut labels = labels(key);
                    labels.push(label(label_name, value));
                    // In the order of their names, as everything in this format is.
                    labels.sort_by(|left, right| left.name().cmp(right.name()));
                    sample(labels, number)
                })
            });
            families.push(family(name, help, samples.collect()));
        };
        labelled(REPLICAS, "state", |record| states(&record.decision.inputs).to_vec());
        labelled(WANTED, "term", wanted);
        labelled(REASON, "reason", |record| vec![(record.decision.reason.as_str(), 1.0)]);
        families
    }
}

fn states(inputs: &Inputs) -> [(&'static str, f64); 7] {
    [
        ("ready", inputs.ready.into()),
        ("measured", inputs.measured.into()),
        ("missing", inputs.terms.missing.into()),
        ("slow", inputs.slow.into()),
        ("starting", inputs.starting.into()),
        ("failing", inputs.terms.failing.into()),
        ("unschedulable", inputs.terms.unschedulable.into()),
    ]
}

/// The parts that apply, by the names that they have in `/debug/scaling`.
fn wanted(record: &Record) -> Vec<(&'static str, f64)> {
    let terms = &record.decision.inputs.terms;
    [
        ("demand", terms.demand),
        ("expected", terms.expected),
        ("backlog", terms.backlog),
        ("growth", terms.growth),
        ("withAir", terms.with_air),
        ("release", terms.release),
        ("window", terms.window),
        ("rememberedPeak", terms.remembered_peak),
    ]
    .into_iter()
    .filter_map(|(name, count)| Some((name, count?.into())))
    .collect()
}

fn family(name: &str, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(MetricType::GAUGE);
    family.set_metric(metrics);
    family
}

fn sample(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_gauge(gauge);
    metric.set_label(labels);
    metric
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}
