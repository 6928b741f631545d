//! The status as a function of what was found: which condition says what, and that a second look changes nothing.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::observe::Observed;
use super::order::Order;
use super::pods::PodView;
use super::rollout::RolloutPlan;
use super::status::{self, Findings, Stop};
use crate::api::{InferenceServiceStatus, condition};
use crate::fixtures::validated;
use crate::placement::{self, Placement, Snapshot};
use crate::resources::RolloutShape;
use crate::scaling::{Decision, Inputs, Reason};
use crate::service::ValidatedService;

/// A service with what a visit could find of it; each test changes what it is about.
struct World {
    service: ValidatedService,
    observed: Observed,
    placement: Placement,
    decision: Option<Decision>,
    desired: u32,
    scaled_from: Option<u32>,
    plan: RolloutPlan,
    image_volume_dropped: bool,
    metrics_missing: bool,
    stop: Option<Stop>,
}

fn pod(name: &str, ready: bool) -> PodView {
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name, "uid": name}, "status": {"podIP": "10.0.0.1",
        "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}))
    .unwrap();
    PodView::new(&pod)
}

fn decision(replicas: u32, reason: Reason) -> Decision {
    let inputs = Inputs {
        queue_time: Some(Duration::from_millis(12)),
        arrivals_per_second: Some(100.0),
        capacity_per_replica: Some(48.0),
        ..Inputs::default()
    };
    Decision { replicas, reason, inputs }
}

fn world(spec: Value) -> World {
    let service = validated(spec);
    World {
        placement: placement::place(&Snapshot::default(), &service),
        service,
        observed: Observed {
            deployment: None,
            pods: vec![pod("a", true)],
            snapshot: Arc::new(Snapshot::default()),
            rival: None,
        },
        decision: Some(decision(1, Reason::AtMinimum)),
        desired: 1,
        scaled_from: None,
        plan: RolloutPlan::Proceed(RolloutShape::SURGE),
        image_volume_dropped: false,
        metrics_missing: false,
        stop: None,
    }
}

impl World {
    fn compute(&self, previous: &InferenceServiceStatus, publish: bool, now: &str) -> InferenceServiceStatus {
        let found = Findings {
            service: &self.service,
            observed: &self.observed,
            placement: &self.placement,
            decision: self.decision.as_ref(),
            order: Order {
                replicas: self.desired,
                cause: self
                    .decision
                    .as_ref()
                    .filter(|_| self.service.scaling.acts())
                    .map_or("External", |decision| decision.reason.as_str()),
            },
            scaled_from: self.scaled_from,
            plan: self.plan,
            image_volume_dropped: self.image_volume_dropped,
            metrics_missing: self.metrics_missing,
            servers: &[],
            stop: self.stop.as_ref(),
        };
        status::compute(previous, &found, publish, now.parse::<Timestamp>().unwrap())
    }

    fn first(&self) -> InferenceServiceStatus {
        self.compute(&InferenceServiceStatus::default(), true, "2026-01-01T00:10:00Z")
    }
}

fn says(status: &InferenceServiceStatus, kind: &str) -> (String, String) {
    let condition = status.conditions.iter().find(|condition| condition.type_ == kind).unwrap();
    (condition.status.clone(), condition.reason.clone())
}

fn failing(reason: &str) -> PodView {
    let failure =
        crate::api::status::PodFailure { pod: "b".into(), reason: reason.into(), message: "why; what to do".into() };
    PodView { failure: Some(failure), ..pod("b", false) }
}

#[test]
fn what_the_newest_pod_fails_of_is_told() {
    let at = |time: &str, failing: PodView| PodView { created: Some(time.parse().unwrap()), ..failing };
    let old = at("2026-01-01T00:01:00Z", failing("ContainerFailed"));
    let new = at("2026-01-01T00:02:00Z", failing("SourceForbidden"));
    for pods in [[old.clone(), new.clone()], [new.clone(), old.clone()]] {
        let mut world = world(json!({}));
        world.observed.pods = pods.to_vec();
        let status = world.first();
        assert_eq!(says(&status, "Ready").1, "SourceForbidden");
        assert_eq!(status.model.unwrap().last_failure.unwrap().reason, "SourceForbidden");
    }
}

#[test]
fn an_engine_cache_is_missed_where_engines_would_be_built_again() {
    let claim = json!({"persistentVolumeClaim": {"claimName": "engines"}});
    let gpu = json!({"gpu": {}});
    for (provider, cache, placement, expected) in [
        ("Auto", json!(null), &gpu, ("True", "NoPersistentCache")),
        ("Auto", json!({"emptyDir": {"maxMebibytes": 512}}), &gpu, ("True", "NoPersistentCache")),
        ("Auto", claim.clone(), &gpu, ("False", "Persistent")),
        ("TensorRt", json!(null), &gpu, ("True", "NoPersistentCache")),
        ("TensorRt", claim.clone(), &gpu, ("False", "Persistent")),
        ("Cuda", json!(null), &gpu, ("False", "NotNeeded")),
        ("Auto", json!(null), &json!({}), ("False", "NotNeeded")),
    ] {
        let spec = json!({"runtime": {"executionProvider": provider, "cache": cache}, "placement": placement});
        let found = says(&world(spec.clone()).first(), "EngineCacheMissing");
        assert_eq!((found.0.as_str(), found.1.as_str()), expected, "{spec}");
    }
}

#[test]
fn every_condition_is_there_from_the_first_visit_on() {
    for status in [world(json!({})).first(), rejected()] {
        let mut kinds: Vec<_> = status.conditions.iter().map(|condition| condition.type_.as_str()).collect();
        kinds.sort_unstable();
        let mut all = condition::ALL;
        all.sort_unstable();
        assert_eq!(kinds, all);
    }
}

fn rejected() -> InferenceServiceStatus {
    let stop = Stop { reason: "InvalidSpec".into(), message: "spec.x: wrong".into(), permanent: true };
    status::rejected(&InferenceServiceStatus::default(), 3, &stop, "2026-01-01T00:10:00Z".parse().unwrap())
}

#[test]
fn what_can_not_be_acted_on_says_so_and_leaves_the_rest_as_it_was() {
    let status = rejected();
    assert_eq!(says(&status, "Ready"), ("False".into(), "InvalidSpec".into()));
    assert_eq!(says(&status, "Stalled"), ("True".into(), "InvalidSpec".into()));
    let before = world(json!({})).first();
    let stop = Stop { reason: "InvalidSpec".into(), message: "spec.x: wrong".into(), permanent: true };
    let after = status::rejected(&before, 2, &stop, "2026-01-01T00:11:00Z".parse().unwrap());
    assert_eq!(says(&after, "Available").0, "True", "what runs keeps running");
}

#[test]
fn ready_says_what_stands_in_the_way() {
    type Case = (&'static str, fn(&mut World), &'static str, &'static str);
    let cases: [Case; 9] = [
        ("one replica answers", |_| {}, "True", "Serving"),
        ("none answers yet", |world| world.observed.pods = vec![pod("a", false)], "False", "Starting"),
        (
            "the only one can't load its model",
            |world| world.observed.pods = vec![failing("ModelLoadFailed")],
            "False",
            "ModelLoadFailed",
        ),
        (
            "one beyond the minimum has no GPU",
            |world| {
                world.observed.pods.push(PodView { unschedulable: true, ..failing("Unschedulable") });
                world.desired = 2;
            },
            "True",
            "Serving",
        ),
        ("the update is blocked", |world| world.plan = RolloutPlan::Blocked, "False", "RolloutBlocked"),
        (
            "the cluster drops image volumes",
            |world| world.image_volume_dropped = true,
            "False",
            "ImageVolumeUnsupported",
        ),
        (
            "a replica is overdue",
            |world| {
                world.observed.pods =
                    vec![PodView { scheduled: Some("2025-12-31T00:00:00Z".parse().unwrap()), ..pod("a", false) }];
            },
            "False",
            "ProgressDeadlineExceeded",
        ),
        (
            "a stranger has a name",
            |world| world.stop = Some(Stop { reason: "NameConflict".into(), message: "m".into(), permanent: true }),
            "False",
            "NameConflict",
        ),
        ("metrics are missing", |world| world.metrics_missing = true, "True", "Serving"),
    ];
    for (name, change, status, reason) in cases {
        let mut world = world(json!({}));
        change(&mut world);
        assert_eq!(says(&world.first(), "Ready"), (status.to_owned(), reason.to_owned()), "{name}");
    }
}

#[test]
fn hardware_that_no_node_has_is_told_before_what_the_scheduler_says() {
    let mut world = world(json!({"placement": {"gpu": {"products": ["NVIDIA-H100"]}}}));
    let there = placement::NodeGpus {
        name: "n".into(),
        product: Some(placement::product::Product::parse("NVIDIA-L4")),
        schedulable: true,
        allocatable: [("nvidia.com/gpu".to_owned(), 1)].into(),
        ..placement::NodeGpus::default()
    };
    world.placement = placement::place(&Snapshot { nodes_visible: true, nodes: vec![there] }, &world.service);
    world.observed.pods = vec![PodView { unschedulable: true, ..failing("Unschedulable") }];
    let status = world.first();
    assert_eq!(says(&status, "Ready"), ("False".into(), "NoSuchProduct".into()));
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
    assert!(
        ready.message.contains("placement.gpu.products") && ready.message.contains("NVIDIA-L4"),
        "{}",
        ready.message
    );
}

#[test]
fn the_other_conditions_say_their_part() {
    let mut capacity = world(json!({"placement": {"gpu": {"countPerReplica": 1}}}));
    capacity.observed.pods.push(PodView { unschedulable: true, ..failing("Unschedulable") });
    assert_eq!(says(&capacity.first(), "Placed"), ("False".into(), "CapacityUnavailable".into()));

    let mut rival = world(json!({}));
    rival.observed.rival = Some("hpa".into());
    assert_eq!(says(&rival.first(), "ScalingActive"), ("False".into(), "ScalingConflict".into()));

    let mut blind = world(json!({}));
    blind.decision = Some(decision(1, Reason::StaleMetrics));
    assert_eq!(says(&blind.first(), "MetricsAvailable").0, "True", "one missed scrape is no news");
    blind.metrics_missing = true;
    assert_eq!(says(&blind.first(), "MetricsAvailable"), ("False".into(), "StaleMetrics".into()));

    for mode in ["External", "Advisory"] {
        let mut followed = world(json!({"scaling": {"mode": mode}}));
        assert_eq!(
            says(&followed.first(), "MetricsAvailable"),
            ("True".into(), "Fresh".into()),
            "KEDA may ask for them"
        );
        assert_eq!(says(&followed.first(), "ScalingActive"), ("True".into(), mode.into()));
        followed.decision = Some(decision(1, Reason::StaleMetrics));
        followed.metrics_missing = true;
        assert_eq!(says(&followed.first(), "MetricsAvailable"), ("False".into(), "StaleMetrics".into()));
    }
}

#[test]
fn what_is_only_advised_is_shown_once_and_changes_no_replicas() {
    let mut world = world(json!({"scaling": {"mode": "Advisory"}}));
    (world.desired, world.decision) = (2, Some(decision(2, Reason::OnTarget)));
    let mut status = world.first();
    assert_eq!(
        (status.summary.as_ref().unwrap().queue.as_str(), status.scaling.as_ref().unwrap().history.len()),
        ("12ms/20ms", 0)
    );
    let told = |status: &InferenceServiceStatus| {
        let message = &status.conditions.iter().find(|condition| condition.type_ == "ScalingActive").unwrap().message;
        let scaling = status.scaling.clone().unwrap();
        (
            scaling.desired_replicas,
            scaling.history.len(),
            message.split(": ").nth(1).unwrap().split('.').next().unwrap().to_owned(),
        )
    };
    assert_eq!(told(&status), (2, 0, "it would leave the 2 that are ordered (OnTarget)".into()));
    let more = "it would order 5 now (DemandAboveCapacity), 2 are ordered";
    let less = "it would leave the 2 that are ordered (NoData)";
    // What is advised is told at once, what no longer is when it is due, and the same advice again is no news.
    for (number, reason, publish, expected) in [
        (5, Reason::DemandAboveCapacity, false, (5, 1, more)),
        (5, Reason::DemandAboveCapacity, true, (5, 1, more)),
        (2, Reason::NoData, false, (5, 1, more)),
        (5, Reason::DemandAboveCapacity, false, (5, 1, more)),
        (2, Reason::NoData, true, (2, 1, less)),
        (5, Reason::DemandAboveCapacity, false, (5, 1, more)),
    ] {
        world.decision = Some(decision(number, reason));
        status = world.compute(&status, publish, "2026-01-01T00:11:00Z");
        assert_eq!(told(&status), (expected.0, expected.1, expected.2.to_owned()), "{number} {reason} {publish}");
        assert_eq!(world.compute(&status, publish, "2026-01-01T00:12:00Z"), status, "a second look changes nothing");
    }
    let ready = (status.summary.as_ref().unwrap().replicas.as_str(), says(&status, "Progressing").1);
    assert_eq!(ready, ("1/2", "Starting".into()), "what is ordered counts, not what is advised");
    assert!(status.scaling.as_ref().unwrap().history[0].advised);
    let withdrawn = |world: &mut World, status: &InferenceServiceStatus, time| {
        world.decision = Some(decision(2, Reason::OnTarget));
        world.compute(status, true, time)
    };
    let again = withdrawn(&mut world, &status, "2026-01-01T12:00:00Z");
    world.decision = Some(decision(5, Reason::DemandAboveCapacity));
    assert_eq!(told(&world.compute(&again, false, "2026-01-01T12:00:02Z")).1, 2, "half a day later it is news");
    // Somebody follows it.
    (world.desired, world.scaled_from) = (5, Some(2));
    let scaled = world.compute(&status, false, "2026-01-01T00:13:00Z").scaling.unwrap();
    let last = &scaled.history[0];
    assert_eq!((last.from, last.to, last.reason.as_str(), last.advised), (2, 5, "External", false));
    assert_eq!((scaled.reason.as_str(), scaled.history.len()), ("DemandAboveCapacity", 2));
}

#[test]
fn paused_is_shown_at_once_and_so_is_what_would_be_ordered() {
    let acting = world(json!({})).first();
    let mut world = world(json!({"scaling": {"paused": true}}));
    world.service.generation += 1;
    world.decision = Some(decision(3, Reason::DemandAboveCapacity));
    let status = world.compute(&acting, false, "2026-01-01T00:11:00Z");
    let scaling = status.scaling.clone().unwrap();
    assert_eq!((scaling.desired_replicas, scaling.reason.as_str()), (3, "Paused"));
    let last = &scaling.history[0];
    assert_eq!((last.from, last.to, last.reason.as_str(), last.advised), (1, 3, "DemandAboveCapacity", true));
    let active = status.conditions.iter().find(|condition| condition.type_ == "ScalingActive").unwrap();
    assert_eq!((active.status.as_str(), active.reason.as_str()), ("False", "Paused"));
    assert!(
        active.message.contains("it would order 3 now, 1 are ordered. Set scaling.paused: false"),
        "{}",
        active.message
    );
    assert_eq!(says(&status, "Progressing").1, "Done", "what would be ordered is not waited for");
    assert_eq!(world.compute(&status, true, "2026-01-01T00:12:00Z"), status, "a second look changes nothing");
    world.service.scaling.paused = false;
    world.service.generation += 1;
    (world.desired, world.scaled_from) = (3, Some(1));
    let resumed = world.compute(&status, false, "2026-01-01T00:13:00Z").scaling.unwrap();
    assert_eq!((resumed.reason.as_str(), resumed.history.len()), ("DemandAboveCapacity", 2));
}

#[test]
fn a_second_look_at_the_same_changes_nothing() {
    let world = world(json!({}));
    let first = world.first();
    for publish in [false, true] {
        assert_eq!(world.compute(&first, publish, "2026-01-01T09:00:00Z"), first, "publish {publish}");
    }
}

#[test]
fn measured_values_are_published_when_due_and_moved_or_on_a_decision() {
    let mut world = world(json!({}));
    let first = world.first();
    world.decision.as_mut().unwrap().inputs.arrivals_per_second = Some(105.0);
    assert_eq!(world.compute(&first, true, "2026-01-01T00:11:00Z"), first, "a twentieth is not worth a write");
    world.decision.as_mut().unwrap().inputs.arrivals_per_second = Some(150.0);
    assert_eq!(world.compute(&first, false, "2026-01-01T00:11:00Z"), first, "not due");
    assert_ne!(world.compute(&first, true, "2026-01-01T00:11:00Z"), first);
    world.decision = Some(decision(3, Reason::DemandAboveCapacity));
    (world.desired, world.scaled_from) = (3, Some(1));
    let scaled = world.compute(&first, false, "2026-01-01T00:11:00Z").scaling.unwrap();
    assert_eq!((scaled.desired_replicas, scaled.reason.as_str(), scaled.history.len()), (3, "DemandAboveCapacity", 1));
}

#[test]
fn history_keeps_the_last_ten() {
    let mut world = world(json!({}));
    let mut status = world.first();
    for replicas in 1..=12 {
        (world.scaled_from, world.desired) = (Some(replicas), replicas + 1);
        status = world.compute(&status, false, "2026-01-01T00:11:00Z");
    }
    let history = status.scaling.unwrap().history;
    assert_eq!((history.len(), history.first().unwrap().to), (10, 13));
}

#[test]
fn a_cpu_pool_shows_no_gpu_of_its_node() {
    let node = placement::NodeGpus {
        name: "n".into(),
        product: Some(placement::product::Product::parse("NVIDIA-L4")),
        ..placement::NodeGpus::default()
    };
    let mut world = world(json!({}));
    world.observed.snapshot = Arc::new(Snapshot { nodes_visible: true, nodes: vec![node] });
    world.observed.pods = vec![PodView { node: Some("n".into()), ..pod("a", true) }];
    let status = world.first();
    assert_eq!(status.placement.unwrap().pools.first().unwrap().gpu_product, None);
}

#[test]
fn columns_are_short() {
    let summary = world(json!({})).first().summary.unwrap();
    assert_eq!((summary.replicas.as_str(), summary.queue.as_str(), summary.gpu.as_str()), ("1/1", "12ms/20ms", "-"));
}
