//! Pure: the conditions after a visit. Every type is present from the first one on.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::rollout::{self, RolloutPlan};
use super::status::{Findings, Stop, verdict_text};
use crate::api::condition::{
    AVAILABLE, ENGINE_CACHE_MISSING, METRICS_AVAILABLE, PLACED, PROGRESSING, READY, SCALING_ACTIVE, STALLED,
};
use crate::api::runtime::{Engine, ExecutionProvider};
use crate::api::scaling::{PAUSED, ScalingMode};
use crate::api::status::ScalingStatus;
use crate::placement::Verdict;
use crate::scaling::Reason;
use crate::service::{EngineCache, ValidatedService};

/// What a condition says: its status, a reason in one word, a message for people.
struct Finding {
    status: &'static str,
    reason: String,
    message: String,
}

impl Finding {
    fn new(status: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status, reason: reason.into(), message: message.into() }
    }
}

/// Sets the conditions of a service that can't be acted on. What runs keeps running, so Available stays as it was.
pub fn set_rejected(conditions: &mut Vec<Condition>, generation: i64, stop: &Stop, now: Timestamp) {
    let stalled = if stop.permanent { "True" } else { "False" };
    let unknown = || Finding::new("Unknown", stop.reason.as_str(), "not looked at: see the condition Ready");
    for (kind, finding) in [
        (READY, Finding::new("False", stop.reason.as_str(), stop.message.as_str())),
        (PROGRESSING, Finding::new("False", stop.reason.as_str(), stop.message.as_str())),
        (STALLED, Finding::new(stalled, stop.reason.as_str(), stop.message.as_str())),
    ] {
        put(conditions, kind, finding, generation, now);
    }
    for kind in [AVAILABLE, PLACED, METRICS_AVAILABLE, SCALING_ACTIVE, ENGINE_CACHE_MISSING] {
        if !conditions.iter().any(|condition| condition.type_ == kind) {
            put(conditions, kind, unknown(), generation, now);
        }
    }
}

/// Sets the conditions after a visit of a valid service.
pub fn set(conditions: &mut Vec<Condition>, found: &Findings, scaling: Option<&ScalingStatus>, now: Timestamp) {
    let generation = found.service.generation;
    let obstacle = obstacle(found, now);
    for (kind, finding) in [
        (READY, ready(found, obstacle.as_ref())),
        (AVAILABLE, available(found)),
        (PROGRESSING, progressing(found, obstacle.as_ref())),
        (PLACED, placed(found)),
        (METRICS_AVAILABLE, metrics_available(found)),
        (SCALING_ACTIVE, scaling_active(found, scaling)),
        (ENGINE_CACHE_MISSING, engine_cache_missing(found.service)),
        (STALLED, stalled(obstacle.as_ref())),
    ] {
        put(conditions, kind, finding, generation, now);
    }
}

/// What stands in the way of what was asked for, the gravest first.
fn obstacle(found: &Findings, now: Timestamp) -> Option<Stop> {
    let stop =
        |reason: &str, message: String, permanent: bool| Some(Stop { reason: reason.to_owned(), message, permanent });
    if let Some(stop) = found.stop {
        return Some(stop.clone());
    }
    if found.image_volume_dropped {
        return stop(
            "ImageVolumeUnsupported",
            "the cluster removed the model's image volume from the pods: use Kubernetes 1.35 or later (or 1.33 with the \
             feature gate ImageVolume), or model.source.persistentVolumeClaim"
                .to_owned(),
            true,
        );
    }
    if matches!(found.plan, RolloutPlan::Blocked | RolloutPlan::Waiting(_)) {
        return stop("RolloutBlocked", rollout::CHOICES.to_owned(), true);
    }
    // More telling than the scheduler's words about the pod.
    let verdict = &found.placement.verdict;
    if !matches!(verdict, Verdict::Fits | Verdict::NodesNotVisible) && found.observed.ready().next().is_none() {
        let fix = verdict_text(verdict).trim_start_matches("; ").to_owned();
        return stop(verdict.reason(), format!("{fix} (placement.gpu)"), true);
    }
    if let Some(failure) = found.observed.failure() {
        return stop(&failure.reason, format!("pod {}: {}", failure.pod, failure.message), false);
    }
    if let Some((pod, waited)) = rollout::overdue(&found.observed.pods, found.service.rollout.progress_deadline, now) {
        let minutes = waited.as_secs() / 60;
        let message = format!(
            "pod {} was scheduled over {minutes} min ago and does not answer yet; see kubectl logs {}, or raise \
             rollout.progressDeadlineSeconds",
            pod.name, pod.name
        );
        return stop("ProgressDeadlineExceeded", message, true);
    }
    None
}

fn ready(found: &Findings, obstacle: Option<&Stop>) -> Finding {
    let ready = found.observed.ready().count();
    let needed = usize::try_from(found.service.scaling.min_replicas.min(found.order.replicas)).unwrap_or(usize::MAX);
    match obstacle {
        // A replica beyond the minimum that does not come up is told by Progressing; the service itself is as asked for.
        Some(stop) if found.stop.is_some() || ready < needed || stop.permanent || found.observed.is_rolling() => {
            Finding::new("False", stop.reason.as_str(), stop.message.as_str())
        }
        _ if ready < needed => {
            Finding::new("False", "Starting", format!("{ready} of the {needed} replicas that are needed answer"))
        }
        _ if found.observed.is_rolling() => Finding::new("True", "Updating", "answers; replicas are being replaced"),
        _ => Finding::new("True", "Serving", "answers"),
    }
}

fn available(found: &Findings) -> Finding {
    if found.observed.ready().next().is_some() {
        Finding::new("True", "ReplicaReady", "at least one replica answers")
    } else {
        Finding::new("False", "NoReplicaReady", "no replica answers")
    }
}

fn progressing(found: &Findings, obstacle: Option<&Stop>) -> Finding {
    let ready = u32::try_from(found.observed.ready().count()).unwrap_or(u32::MAX);
    match obstacle {
        Some(stop) => Finding::new("False", stop.reason.as_str(), stop.message.as_str()),
        None if found.observed.is_rolling() => Finding::new("True", "Updating", "replicas are being replaced"),
        None if ready < found.order.replicas => Finding::new("True", "Starting", "replicas are starting"),
        None => Finding::new("False", "Done", "what was asked for is in place"),
    }
}

fn placed(found: &Findings) -> Finding {
    let verdict = &found.placement.verdict;
    let capacity_missing = found.observed.present().any(|pod| pod.unschedulable);
    match verdict {
        Verdict::Fits | Verdict::NodesNotVisible if capacity_missing => Finding::new(
            "False",
            "CapacityUnavailable",
            "no node has room for a replica that was ordered; no more are ordered until one has: free a GPU, add a node, or lower maxReplicas",
        ),
        Verdict::Fits => Finding::new("True", "Fits", format!("pool {}", found.placement.pool)),
        Verdict::NodesNotVisible => {
            Finding::new("Unknown", verdict.reason(), verdict_text(verdict).trim_start_matches("; "))
        }
        _ => Finding::new("False", verdict.reason(), verdict_text(verdict).trim_start_matches("; ")),
    }
}

fn metrics_available(found: &Findings) -> Finding {
    match found.decision.map(|decision| decision.reason) {
        None => Finding::new("Unknown", "NotDecided", "nothing was decided yet"),
        Some(Reason::NoReadyReplicas) => {
            Finding::new("Unknown", "NoReadyReplicas", Reason::NoReadyReplicas.explanation())
        }
        Some(reason) if !reason.has_metrics() && found.metrics_missing => {
            let held = if found.service.scaling.mode == ScalingMode::QueueTime {
                "replicas are held"
            } else {
                "what Flotilla would order is held, and whoever decides does without it"
            };
            Finding::new("False", reason.as_str(), format!("{}; {held}", reason.explanation()))
        }
        Some(_) => Finding::new("True", "Fresh", "the replicas' metrics are read"),
    }
}

fn scaling_active(found: &Findings, scaling: Option<&ScalingStatus>) -> Finding {
    if let Some(rival) = &found.observed.rival {
        return Finding::new(
            "False",
            "ScalingConflict",
            format!(
                "HorizontalPodAutoscaler {rival} writes the replicas of the same Deployment, so Flotilla does not: remove it, or \
                 point it at this InferenceService with scaling.mode: External"
            ),
        );
    }
    match found.service.scaling.mode {
        ScalingMode::QueueTime if found.service.scaling.paused => Finding::new(
            "False",
            PAUSED,
            format!(
                "the number of replicas stays where it is, within minReplicas and maxReplicas; Flotilla decides and does not \
                 act: {}. Set scaling.paused: false to let it",
                advised(found, scaling)
            ),
        ),
        ScalingMode::QueueTime => Finding::new("True", "QueueTime", "replicas follow the time that requests wait"),
        ScalingMode::Advisory => Finding::new(
            "True",
            "Advisory",
            format!(
                "replicas follow spec.replicas, within minReplicas and maxReplicas; Flotilla decides and does not act: {}. \
                 Set scaling.mode: QueueTime to let it",
                advised(found, scaling)
            ),
        ),
        ScalingMode::External => {
            Finding::new("True", "External", "replicas follow spec.replicas, within minReplicas and maxReplicas")
        }
    }
}

/// What would be ordered, as the status shows it: it changes no more often.
fn advised(found: &Findings, scaling: Option<&ScalingStatus>) -> String {
    let ordered = found.order.replicas;
    let why = |scaling: &ScalingStatus| match scaling.reason.as_str() {
        PAUSED => String::new(),
        reason => format!(" ({reason})"),
    };
    match scaling {
        Some(scaling) if u32::try_from(scaling.desired_replicas) == Ok(ordered) => {
            format!("it would leave the {ordered} that are ordered{}", why(scaling))
        }
        Some(scaling) => {
            format!("it would order {} now{}, {ordered} are ordered", scaling.desired_replicas, why(scaling))
        }
        None => format!("{ordered} are ordered"),
    }
}

/// Said before the first replica pays for it: what Auto leaves out, nobody would find in a log of a server that runs well.
fn engine_cache_missing(service: &ValidatedService) -> Finding {
    let provider = service.runtime.execution_provider;
    let is_kept = service.runtime.cache.as_ref().is_some_and(EngineCache::is_persistent);
    let consequence = match provider {
        _ if service.gpu.is_none() || service.runtime.engine != Engine::OnnxRuntime => None,
        ExecutionProvider::Auto => Some("Auto leaves TensorRT out"),
        ExecutionProvider::TensorRt => {
            Some("every new replica builds its TensorRT engines, for minutes, before it is ready")
        }
        ExecutionProvider::Cuda | ExecutionProvider::Cpu => None,
    };
    match consequence {
        None => Finding::new("False", "NotNeeded", "no TensorRT engines are built"),
        Some(_) if is_kept => {
            Finding::new("False", "Persistent", "TensorRT engines are kept in a PersistentVolumeClaim")
        }
        Some(consequence) => Finding::new(
            "True",
            "NoPersistentCache",
            format!("{consequence}: set runtime.cache.persistentVolumeClaim, or executionProvider Cuda"),
        ),
    }
}

fn stalled(obstacle: Option<&Stop>) -> Finding {
    match obstacle {
        Some(stop) if stop.permanent => Finding::new("True", stop.reason.as_str(), stop.message.as_str()),
        _ => Finding::new("False", "Active", "nothing needs a decision"),
    }
}

/// Sets one condition; the time of the last transition changes only with its status.
fn put(conditions: &mut Vec<Condition>, kind: &str, finding: Finding, generation: i64, now: Timestamp) {
    let position = conditions.iter().position(|condition| condition.type_ == kind);
    let unchanged = position.and_then(|position| conditions.get(position)).filter(|old| old.status == finding.status);
    let condition = Condition {
        type_: kind.to_owned(),
        status: finding.status.to_owned(),
        last_transition_time: unchanged.map_or(Time(now), |old| old.last_transition_time.clone()),
        reason: finding.reason,
        // The API server refuses longer ones; a scheduler's message about many nodes can be.
        message: finding.message.chars().take(4096).collect(),
        observed_generation: Some(generation),
    };
    match position.and_then(|position| conditions.get_mut(position)) {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}
