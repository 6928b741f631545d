//! Publishing (client): the status as one patch where it changed, then Events about what is new in it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource as _, ResourceExt as _};
use serde_json::json;

use super::context::Context;
use super::error::Error;
use super::index::is_older;
use crate::api::condition::{METRICS_AVAILABLE, PLACED, READY, SCALING_ACTIVE};
use crate::api::scaling::PAUSED;
use crate::api::{InferenceService, InferenceServiceStatus, STATUS_MANAGER};

/// The status that is known best: the cache may not have seen our own last write yet.
pub fn previous_status(ctx: &Context, service: &InferenceService) -> InferenceServiceStatus {
    let cached = service.status.clone().unwrap_or_default();
    let uid = service.uid().unwrap_or_default();
    match ctx.memories().get(&uid).and_then(|memory| memory.status.clone()) {
        Some((version, written)) if is_older(service.metadata.resource_version.as_deref(), Some(&version)) => written,
        _ => cached,
    }
}

/// Writes the status if it differs, then tells Events.
///
/// # Errors
/// What the API server said; an Event that can't be published is only logged.
pub async fn publish(
    ctx: &Context,
    service: &InferenceService,
    previous: &InferenceServiceStatus,
    status: InferenceServiceStatus,
) -> Result<(), Error> {
    if *previous == status {
        return Ok(());
    }
    let name = service.name_any();
    let api: Api<InferenceService> = Api::namespaced(ctx.client.clone(), &service.namespace().unwrap_or_default());
    let body = json!({
        "apiVersion": InferenceService::api_version(&()),
        "kind": InferenceService::kind(&()),
        // The UID keeps the status of a deleted service from a new one of the same name.
        "metadata": {"name": name, "uid": service.uid()},
        "status": status,
    });
    let params = PatchParams::apply(STATUS_MANAGER).force();
    let action = format!("status of InferenceService {name}");
    let written = ctx
        .write(&action, "InferenceService", "status", api.patch_status(&name, &params, &Patch::Apply(&body)))
        .await?;
    for event in news(previous, &status) {
        let reference = service.object_ref(&());
        ctx.metrics.writes.with_label_values(&["Event", "publish"]).inc();
        if let Err(error) = ctx.recorder.publish(&event, &reference).await {
            tracing::warn!(error = %error, "event not published");
        }
    }
    if let (Some(version), Some(uid)) = (written.resource_version(), service.uid()) {
        ctx.memories().entry(uid).or_default().status = Some((version, status));
    }
    Ok(())
}

/// What in a new status is worth an Event.
fn news(previous: &InferenceServiceStatus, status: &InferenceServiceStatus) -> Vec<Event> {
    let mut events = Vec::new();
    let latest =
        |status: &InferenceServiceStatus| status.scaling.as_ref().and_then(|scaling| scaling.history.first().cloned());
    if let Some(change) = latest(status).filter(|change| latest(previous).as_ref() != Some(change)) {
        let (reason, verb) = if change.advised { ("Advised", "Would scale") } else { ("Scaled", "Scaled") };
        let note = format!("{verb} from {} to {} replicas: {}", change.from, change.to, change.reason);
        events.push(event(EventType::Normal, reason, "Scale", &note));
    }
    for kind in [READY, SCALING_ACTIVE] {
        let (before, Some(after)) = (condition(previous, kind), condition(status, kind)) else { continue };
        let is_new = before.is_none_or(|before| before.reason != after.reason || before.status != after.status);
        if is_new && after.reason != "Starting" {
            events.extend(turned(before, after, "Reconcile"));
        }
    }
    // What Ready says already is not said twice, and which kind of metrics is missing may change with every visit.
    let is_told = condition(status, READY).is_some_and(|ready| ready.status == "False" && ready.reason != "Starting");
    for (kind, action) in [(PLACED, "Place"), (METRICS_AVAILABLE, "Measure")] {
        let (before, Some(after)) = (condition(previous, kind), condition(status, kind)) else { continue };
        if before.is_none_or(|before| before.status != after.status) && !(is_told && kind == PLACED) {
            events.extend(turned(before, after, action));
        }
    }
    events
}

fn condition<'a>(status: &'a InferenceServiceStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind)
}

/// A condition that became False, or is no longer.
fn turned(before: Option<&Condition>, after: &Condition, action: &str) -> Option<Event> {
    if after.status == "False" {
        // Somebody wanted it so.
        let type_ = if after.reason == PAUSED { EventType::Normal } else { EventType::Warning };
        Some(event(type_, &after.reason, action, &after.message))
    } else {
        // That no replica is ready any more is no good news of its metrics.
        let was_false = before.is_some_and(|before| before.status == "False") && after.reason != "NoReadyReplicas";
        was_false.then(|| event(EventType::Normal, &after.reason, action, &after.message))
    }
}

fn event(type_: EventType, reason: &str, action: &str, note: &str) -> Event {
    // events.k8s.io takes notes of up to 1,024 bytes.
    let note: String = note.chars().take(500).collect();
    Event { type_, reason: reason.to_owned(), note: Some(note), action: action.to_owned(), secondary: None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A status with these conditions: type, status, reason.
    fn status(conditions: &[(&str, &str, &str)]) -> InferenceServiceStatus {
        let condition = |(kind, status, reason): &(&str, &str, &str)| {
            json!({"type": kind, "status": status, "reason": reason, "message": "why",
                   "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let conditions: Vec<_> = conditions.iter().map(condition).collect();
        serde_json::from_value(json!({"conditions": conditions})).unwrap()
    }

    fn told(before: &[(&str, &str, &str)], after: &[(&str, &str, &str)]) -> Vec<(bool, String)> {
        let events = news(&status(before), &status(after));
        events.into_iter().map(|event| (matches!(event.type_, EventType::Warning), event.reason)).collect()
    }

    #[test]
    fn what_is_lost_and_what_is_back_is_told_once() {
        let (fresh, stale) = ((METRICS_AVAILABLE, "True", "Fresh"), (METRICS_AVAILABLE, "False", "StaleMetrics"));
        let partial = (METRICS_AVAILABLE, "False", "PartialMetrics");
        let none = (METRICS_AVAILABLE, "Unknown", "NoReadyReplicas");
        let (fits, full) = ((PLACED, "True", "Fits"), (PLACED, "False", "CapacityUnavailable"));
        let (alone, rival) = ((SCALING_ACTIVE, "True", "QueueTime"), (SCALING_ACTIVE, "False", "ScalingConflict"));
        let paused = (SCALING_ACTIVE, "False", "Paused");
        for (before, after, expected) in [
            (fresh, stale, Some((true, "StaleMetrics"))),
            (stale, stale, None),
            (stale, partial, None),
            (partial, fresh, Some((false, "Fresh"))),
            (stale, none, None),
            (none, fresh, None),
            (fits, full, Some((true, "CapacityUnavailable"))),
            (full, full, None),
            (full, fits, Some((false, "Fits"))),
            (alone, rival, Some((true, "ScalingConflict"))),
            (rival, rival, None),
            (rival, alone, Some((false, "QueueTime"))),
            (alone, paused, Some((false, "Paused"))),
            (paused, paused, None),
            (paused, alone, Some((false, "QueueTime"))),
        ] {
            let expected: Vec<_> = expected.map(|(bad, reason)| (bad, reason.to_owned())).into_iter().collect();
            assert_eq!(told(&[before], &[after]), expected, "{before:?} -> {after:?}");
        }
    }

    #[test]
    fn what_ready_says_is_not_said_again() {
        let before = [(READY, "True", "Serving"), (PLACED, "True", "Fits")];
        let after = [(READY, "False", "Unschedulable"), (PLACED, "False", "CapacityUnavailable")];
        assert_eq!(told(&before, &after), [(true, "Unschedulable".to_owned())]);
        let starting = [(READY, "False", "Starting"), (PLACED, "False", "CapacityUnavailable")];
        assert_eq!(told(&before, &starting), [(true, "CapacityUnavailable".to_owned())]);
    }

    #[test]
    fn a_change_of_replicas_is_told_when_it_is_new() {
        let scaled = |to: i32, advised: bool| -> InferenceServiceStatus {
            let event = json!({"time": "2026-01-01T00:00:00Z", "from": 1, "to": to, "reason": "DemandAboveCapacity",
                               "advised": advised});
            serde_json::from_value(
                json!({"scaling": {"desiredReplicas": to, "reason": "OnTarget", "history": [event]}}),
            )
            .unwrap()
        };
        let notes = |before: &InferenceServiceStatus, after: &InferenceServiceStatus| -> Vec<_> {
            news(before, after).into_iter().filter_map(|event| event.note).collect()
        };
        assert_eq!(notes(&status(&[]), &scaled(4, false)), ["Scaled from 1 to 4 replicas: DemandAboveCapacity"]);
        assert!(notes(&scaled(4, false), &scaled(4, false)).is_empty());
        let advised = notes(&scaled(4, false), &scaled(4, true));
        assert_eq!(advised, ["Would scale from 1 to 4 replicas: DemandAboveCapacity"]);
    }
}
