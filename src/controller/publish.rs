//! Publishing (client): the status as one patch where it changed, then Events about what is new in it.

use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource as _, ResourceExt as _};
use serde_json::json;

use super::context::Context;
use super::error::Error;
use super::index::is_older;
use crate::api::condition::{READY, SCALING_ACTIVE};
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
        let note = format!("Scaled from {} to {} replicas: {}", change.from, change.to, change.reason);
        events.push(event(EventType::Normal, "Scaled", "Scale", &note));
    }
    for kind in [READY, SCALING_ACTIVE] {
        let find = |status: &InferenceServiceStatus| {
            status.conditions.iter().find(|condition| condition.type_ == kind).cloned()
        };
        let (before, Some(after)) = (find(previous), find(status)) else { continue };
        if before.as_ref().is_some_and(|before| before.reason == after.reason && before.status == after.status)
            || after.reason == "Starting"
        {
            continue;
        }
        if after.status == "False" {
            events.push(event(EventType::Warning, &after.reason, "Reconcile", &after.message));
        } else if before.is_some_and(|before| before.status == "False") {
            events.push(event(EventType::Normal, &after.reason, "Reconcile", &after.message));
        }
    }
    events
}

fn event(type_: EventType, reason: &str, action: &str, note: &str) -> Event {
    // events.k8s.io takes notes of up to 1,024 bytes.
    let note: String = note.chars().take(500).collect();
    Event { type_, reason: reason.to_owned(), note: Some(note), action: action.to_owned(), secondary: None }
}
