//! Status step: `compute` is pure; the write is one patch, last in the reconcile, and only where something changed.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions;
use super::observe::Observed;
use super::order::Order;
use super::rollout::RolloutPlan;
use crate::api::InferenceServiceStatus;
use crate::api::labels::STABLE;
use crate::api::scaling::{PAUSED, ScalingMode};
use crate::api::status::{ModelStatus, PlacementStatus, PoolStatus, ScalingEvent, ScalingStatus, Summary};
use crate::placement::product::Product;
use crate::placement::{Placement, Verdict};
use crate::scaling::Decision;
use crate::scrape::ServerInfo;
use crate::service::{ValidatedService, names};

/// Changes of replicas that the status remembers.
const HISTORY: usize = 10;
/// Advice that comes again within this time is the same.
const SAME_ADVICE: SignedDuration = SignedDuration::from_mins(10);
/// Beyond this share of change a measured value is worth publishing again.
const WORTH_PUBLISHING: f64 = 0.1;

/// Something that stopped the visit.
#[derive(Clone, Debug, PartialEq)]
pub struct Stop {
    /// The condition's reason.
    pub reason: String,
    /// What is wrong and what to do.
    pub message: String,
    /// Nothing will change before somebody changes something.
    pub permanent: bool,
}

/// What a visit found out about a valid service.
pub struct Findings<'a> {
    /// The service.
    pub service: &'a ValidatedService,
    /// What the caches know.
    pub observed: &'a Observed,
    /// Where the replicas go.
    pub placement: &'a Placement,
    /// What the law says, whether it is acted on or not.
    pub decision: Option<&'a Decision>,
    /// Replicas that are ordered.
    pub order: Order,
    /// Replicas before this visit changed them, if it did.
    pub scaled_from: Option<u32>,
    /// How the template is replaced.
    pub plan: RolloutPlan,
    /// The API server dropped the model's image volume from the pod template.
    pub image_volume_dropped: bool,
    /// Metrics have been missing for some intervals.
    pub metrics_missing: bool,
    /// What the servers say of themselves.
    pub servers: &'a [ServerInfo],
    /// What stopped the visit half-way.
    pub stop: Option<&'a Stop>,
}

/// The status of a service that can't be acted on at all.
pub fn rejected(
    previous: &InferenceServiceStatus,
    generation: i64,
    stop: &Stop,
    now: Timestamp,
) -> InferenceServiceStatus {
    let mut status = previous.clone();
    status.observed_generation = Some(generation);
    conditions::set_rejected(&mut status.conditions, generation, stop, now);
    status
}

/// The status after a visit. `publish_measured` is false while measured values were published a moment ago.
pub fn compute(
    previous: &InferenceServiceStatus,
    found: &Findings,
    publish_measured: bool,
    now: Timestamp,
) -> InferenceServiceStatus {
    let service = found.service;
    let pool = found.placement.pool;
    // A change of the spec is shown at once.
    let is_due = publish_measured || previous.observed_generation != Some(service.generation);
    let scaling = scaling(previous.scaling.as_ref(), found, is_due, now);
    let mut status = InferenceServiceStatus {
        observed_generation: Some(service.generation),
        replicas: count(found.observed.present().count()),
        ready_replicas: count(found.observed.ready().count()),
        selector: Some(names::selector_text(&service.name, pool, STABLE)),
        url: Some(names::url(&service.name, &service.namespace)),
        placement: Some(placement(found)),
        model: Some(ModelStatus {
            sha256: found
                .servers
                .iter()
                .map(|server| server.model_sha256.clone())
                .find(|sha256| !sha256.is_empty())
                .or_else(|| {
                    previous.model.as_ref().and_then(|model| model.sha256.clone()).filter(|_| found.servers.is_empty())
                }),
            loaded_replicas: count(found.observed.ready().count()),
            last_failure: found.observed.failure().cloned(),
        }),
        summary: None,
        conditions: previous.conditions.clone(),
        scaling: Some(scaling),
    };
    status.summary = Some(summary(&status, found));
    conditions::set(&mut status.conditions, found, status.scaling.as_ref(), now);
    status
}

fn placement(found: &Findings) -> PlacementStatus {
    let placement = found.placement;
    let join = |names: BTreeSet<String>| (!names.is_empty()).then(|| names.into_iter().collect::<Vec<_>>().join(","));
    let providers: BTreeSet<String> =
        found.servers.iter().map(|server| server.provider.clone()).filter(|provider| !provider.is_empty()).collect();
    PlacementStatus {
        topology: placement.topology.as_str().to_owned(),
        reason: placement.verdict.reason().to_owned(),
        message: format!("{}{}", placement.topology.rationale(), verdict_text(&placement.verdict)),
        pools: vec![PoolStatus {
            name: placement.pool.to_owned(),
            gpu_product: join(products(found)),
            sharing: placement.sharing.map(|sharing| sharing.as_str().to_owned()),
            execution_provider: join(providers),
            replicas: count(found.observed.present().count()),
        }],
    }
}

/// What a verdict adds to the rationale.
pub fn verdict_text(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Fits => String::new(),
        Verdict::NodesNotVisible => {
            "; the operator may not read nodes, so the scheduler alone knows what fits".to_owned()
        }
        Verdict::NoSuchResource { resource } => {
            format!(
                "; no node offers {resource}: install the device plugin, add a GPU node, or correct placement.gpu.resourceName"
            )
        }
        Verdict::NoSuchProduct { present } => format!(
            "; no node has a product of placement.gpu.products; there are: {}",
            present.iter().cloned().collect::<Vec<_>>().join(", ")
        ),
        Verdict::TooManyPerReplica { largest } => {
            format!("; no node has so many GPUs, the largest has {largest}: lower placement.gpu.countPerReplica")
        }
    }
}

/// Products that the service's pods run on; those that would do while no pod has a node. None on a Cpu pool, whatever GPU
/// its nodes have.
fn products(found: &Findings) -> BTreeSet<String> {
    if found.service.gpu.is_none() {
        return BTreeSet::new();
    }
    let running: BTreeSet<String> = found
        .observed
        .present()
        .filter_map(|pod| found.observed.product(pod))
        .map(|product| product.name.clone())
        .collect();
    if running.is_empty() { found.placement.products.clone() } else { running }
}

fn scaling(previous: Option<&ScalingStatus>, found: &Findings, is_due: bool, now: Timestamp) -> ScalingStatus {
    let decision = found.decision.filter(|_| found.service.scaling.mode != ScalingMode::External);
    let inputs = decision.map(|decision| &decision.inputs);
    let why = decision.map_or(found.order.cause, |decision| decision.reason.as_str());
    let mut scaling = ScalingStatus {
        desired_replicas: count(decision.map_or(found.order.replicas, |decision| decision.replicas)),
        reason: if found.service.scaling.paused { PAUSED } else { why }.to_owned(),
        queue_time_milliseconds: inputs
            .and_then(|inputs| inputs.queue_time)
            .map(|time| i32::try_from(time.as_millis()).unwrap_or(i32::MAX)),
        arrivals_per_second: inputs.and_then(|inputs| inputs.arrivals_per_second).map(rounded),
        capacity_per_replica: inputs.and_then(|inputs| inputs.capacity_per_replica).map(rounded),
        last_scale_time: previous.and_then(|previous| previous.last_scale_time.clone()),
        history: previous.map(|previous| previous.history.clone()).unwrap_or_default(),
    };
    let change = match found.scaled_from {
        Some(from) => {
            scaling.last_scale_time = Some(Time(now));
            let reason = found.order.cause.to_owned();
            let (from, to) = (count(from), count(found.order.replicas));
            Some(ScalingEvent { time: Time(now), from, to, reason, advised: false })
        }
        None => advice(previous, &scaling, found.order, why, now),
    };
    let has_news = change.is_some();
    scaling.history.splice(0..0, change);
    scaling.history.truncate(HISTORY);
    let is_quiet = |previous: &ScalingStatus| {
        // What is no longer advised can wait; another number that is wanted is a decision.
        let is_decision = previous.desired_replicas != scaling.desired_replicas
            && (found.service.scaling.acts() || scaling.desired_replicas != count(found.order.replicas));
        !(is_decision || is_due && moved(previous, &scaling))
    };
    match previous {
        Some(previous) if !has_news && is_quiet(previous) => previous.clone(),
        _ => scaling,
    }
}

/// A change that the law would make and that nobody was told of; none where it is made.
fn advice(
    previous: Option<&ScalingStatus>,
    scaling: &ScalingStatus,
    order: Order,
    why: &str,
    now: Timestamp,
) -> Option<ScalingEvent> {
    let (from, to) = (count(order.replicas), scaling.desired_replicas);
    let is_same = |last: &&ScalingEvent| {
        last.advised && (last.from, last.to) == (from, to) && now.duration_since(last.time.0) < SAME_ADVICE
    };
    let is_told = previous.is_some_and(|previous| {
        previous.desired_replicas == to || previous.history.first().as_ref().is_some_and(is_same)
    });
    let event = || ScalingEvent { time: Time(now), from, to, reason: why.to_owned(), advised: true };
    (from != to && !is_told).then(event)
}

/// Whether a measured value changed enough to be worth a write.
fn moved(previous: &ScalingStatus, new: &ScalingStatus) -> bool {
    let number = |quantity: &Option<Quantity>| quantity.as_ref().and_then(|quantity| quantity.0.parse::<f64>().ok());
    let differs = |old: Option<f64>, new: Option<f64>| match (old, new) {
        (Some(old), Some(new)) => (old - new).abs() > WORTH_PUBLISHING * old.abs().max(1.0),
        (old, new) => old.is_some() != new.is_some(),
    };
    previous.desired_replicas != new.desired_replicas
        || previous.reason != new.reason
        || differs(previous.queue_time_milliseconds.map(f64::from), new.queue_time_milliseconds.map(f64::from))
        || differs(number(&previous.arrivals_per_second), number(&new.arrivals_per_second))
        || differs(number(&previous.capacity_per_replica), number(&new.capacity_per_replica))
}

fn summary(status: &InferenceServiceStatus, found: &Findings) -> Summary {
    let service = found.service;
    let queue = status.scaling.as_ref().and_then(|scaling| scaling.queue_time_milliseconds);
    let target = service.scaling.target_queue_time.as_millis();
    let products: Vec<_> = products(found).iter().map(|name| Product::short(name).to_owned()).collect();
    Summary {
        replicas: format!("{}/{}", status.ready_replicas, found.order.replicas),
        queue: match service.scaling.mode {
            ScalingMode::QueueTime | ScalingMode::Advisory => {
                format!("{}/{target}ms", queue.map_or_else(|| "-".to_owned(), |queue| format!("{queue}ms")))
            }
            ScalingMode::External => "-".to_owned(),
        },
        gpu: match &service.gpu {
            None => "-".to_owned(),
            Some(gpu) => {
                let gpus = status.replicas.saturating_mul(i32::try_from(gpu.count).unwrap_or(i32::MAX));
                format!("{} x{gpus}", if products.is_empty() { "?".to_owned() } else { products.join(",") })
            }
        },
        execution_provider: status
            .placement
            .iter()
            .flat_map(|placement| &placement.pools)
            .find_map(|pool| pool.execution_provider.clone())
            .unwrap_or_else(|| service.runtime.execution_provider.as_str().to_owned()),
    }
}

/// Two digits are what a measurement over some seconds is good for.
fn rounded(value: f64) -> Quantity {
    if value >= 100.0 {
        Quantity(format!("{value:.0}"))
    } else {
        Quantity(format!("{value:.1}").trim_end_matches(".0").to_owned())
    }
}

fn count(count: impl TryInto<i32>) -> i32 {
    count.try_into().unwrap_or(i32::MAX)
}
