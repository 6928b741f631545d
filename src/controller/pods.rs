//! Pure: what a pod's status says, and why it does not serve, with what to do about it.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodStatus};
use serde::Deserialize;

use super::leaving::DELETION_COST;
use crate::api::labels;
use crate::api::status::PodFailure;
use crate::resources::{fetch, server_pod};

/// A pod of a service, as far as the operator looks at it.
#[derive(Clone, Debug, PartialEq)]
pub struct PodView {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its address, once it has one.
    pub address: Option<IpAddr>,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// When a node was found for it.
    pub scheduled: Option<Timestamp>,
    /// When it became ready, while it is.
    pub ready: Option<Timestamp>,
    /// Restarts of the server's container, and of the one that fetches its model.
    pub restarts: u32,
    /// The scheduler found no node.
    pub unschedulable: bool,
    /// It is going away, or has ended.
    pub gone: bool,
    /// How late a scale-down takes it; 0 where nobody said.
    pub deletion_cost: i32,
    /// The node that it runs on.
    pub node: Option<String>,
    /// The template that it was made from, as the ReplicaSet's hash.
    pub template: String,
    /// The pool that it belongs to.
    pub pool: String,
    /// The settings ConfigMap that it mounts.
    pub settings: Option<String>,
    /// Why it does not serve, where something is wrong.
    pub failure: Option<PodFailure>,
}

/// The server's last words (version 1), written to the termination log.
#[derive(Debug, Deserialize)]
struct TerminationMessage {
    reason: String,
    message: String,
    #[serde(default)]
    fix: String,
}

impl PodView {
    /// Reads a pod.
    pub fn new(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let label = |key: &str| meta.labels.as_ref().and_then(|labels| labels.get(key).cloned()).unwrap_or_default();
        let empty = PodStatus::default();
        let status = pod.status.as_ref().unwrap_or(&empty);
        let condition = |kind: &str| status.conditions.iter().flatten().find(|condition| condition.type_ == kind);
        let since = |kind: &str| {
            condition(kind)
                .filter(|condition| condition.status == "True")
                .and_then(|condition| condition.last_transition_time.as_ref())
                .map(|time| time.0)
        };
        let containers =
            status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
        let ours =
            containers.filter(|container| [server_pod::CONTAINER, fetch::CONTAINER].contains(&container.name.as_str()));
        let unschedulable = condition("PodScheduled").is_some_and(|condition| {
            condition.status == "False" && condition.reason.as_deref() == Some("Unschedulable")
        });
        Self {
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            address: status.pod_ip.as_deref().and_then(|address| address.parse().ok()),
            created: meta.creation_timestamp.as_ref().map(|time| time.0),
            scheduled: since("PodScheduled"),
            ready: since("Ready"),
            restarts: ours.filter_map(|container| u32::try_from(container.restart_count).ok()).sum(),
            unschedulable,
            gone: meta.deletion_timestamp.is_some() || matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            deletion_cost: deletion_cost(pod),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            template: label("pod-template-hash"),
            pool: label(labels::POOL),
            settings: settings_of(pod),
            failure: failure(pod, status, unschedulable),
        }
    }
}

fn deletion_cost(pod: &Pod) -> i32 {
    let cost = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(DELETION_COST));
    cost.and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

fn settings_of(pod: &Pod) -> Option<String> {
    let volumes = pod.spec.as_ref()?.volumes.as_ref()?;
    volumes.iter().filter_map(|volume| volume.config_map.as_ref()).map(|map| map.name.clone()).next()
}

fn failure(pod: &Pod, status: &PodStatus, unschedulable: bool) -> Option<PodFailure> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    if unschedulable {
        let message = status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == "PodScheduled")
            .and_then(|condition| condition.message.clone())
            .unwrap_or_default();
        let message = format!("{message}; free a GPU, add a node, or lower maxReplicas or the resources");
        return Some(PodFailure { pod: name, reason: "Unschedulable".to_owned(), message });
    }
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let mut containers = containers;
    let (reason, message) = containers.find_map(container_failure)?;
    Some(PodFailure { pod: name, reason, message })
}

/// Why a container does not run, if something is wrong with it.
fn container_failure(container: &ContainerStatus) -> Option<(String, String)> {
    if container.ready {
        return None;
    }
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    let waiting_reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
    let waiting_message = waiting.and_then(|waiting| waiting.message.as_deref()).unwrap_or_default();
    match waiting_reason {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "ImageInspectError" => Some((
            "ImagePullFailed".to_owned(),
            format!(
                "container {}: {}; check runtime.image and model.source.image.reference, and that the node may pull them \
                 (runtime.podTemplate: imagePullSecrets)",
                container.name,
                pull_error(waiting_reason, waiting_message),
            ),
        )),
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => Some((
            "ContainerFailed".to_owned(),
            format!(
                "container {}: {waiting_reason}: {waiting_message}; see runtime.podTemplate and runtime.image",
                container.name
            ),
        )),
        _ => ended(container),
    }
}

/// The kubelet tells the same failure in turns as it pulls and as it waits; a status that followed would change for ever.
fn pull_error<'a>(reason: &'a str, message: &'a str) -> &'a str {
    let cause = message.split_once("ErrImagePull: ").map_or(message, |(_, cause)| cause);
    if cause.is_empty() { reason } else { cause }
}

/// What the last run of a container left behind. A run that is going on says nothing yet unless one before it failed.
fn ended(container: &ContainerStatus) -> Option<(String, String)> {
    let terminated = |state: &Option<ContainerState>| state.as_ref().and_then(|state| state.terminated.clone());
    let end = terminated(&container.state).or_else(|| terminated(&container.last_state))?;
    if end.exit_code == 0 {
        return None;
    }
    if end.reason.as_deref() == Some("OOMKilled") {
        return Some((
            "OutOfMemory".to_owned(),
            format!(
                "container {} was killed for its memory; raise runtime.resources.limits.memory or lower maxBatchSize",
                container.name
            ),
        ));
    }
    let text = end.message.unwrap_or_default();
    if let Ok(last_words) = serde_json::from_str::<TerminationMessage>(text.trim()) {
        let fix = if last_words.fix.is_empty() { String::new() } else { format!("; {}", last_words.fix) };
        return Some((last_words.reason, format!("{}{fix}", last_words.message)));
    }
    let tail = text.lines().last().unwrap_or_default();
    Some((
        "Crashed".to_owned(),
        format!(
            "container {} ended with exit code {}{}{tail}; see kubectl logs --previous",
            container.name,
            end.exit_code,
            if tail.is_empty() { "" } else { ": " },
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn view(status: Value) -> PodView {
        PodView::new(&serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "status": status})).unwrap())
    }

    fn server(state: Value, last: Value) -> Value {
        json!({"containerStatuses": [{"name": "server", "ready": false, "restartCount": 2, "image": "i", "imageID": "",
            "state": state, "lastState": last}]})
    }

    #[test]
    fn each_failure_names_its_reason_and_what_to_do() {
        let words = json!({"version": 1, "reason": "ModelLoadFailed", "message": "model.onnx is no ONNX file", "fix": "export it again"});
        let cases = [
            (
                json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: Insufficient nvidia.com/gpu"}]}),
                "Unschedulable",
                "free a GPU",
            ),
            (
                server(json!({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}), json!({})),
                "ImagePullFailed",
                "runtime.image",
            ),
            (
                server(
                    json!({"waiting": {"reason": "CrashLoopBackOff"}}),
                    json!({"terminated": {"exitCode": 1, "message": words.to_string()}}),
                ),
                "ModelLoadFailed",
                "export it again",
            ),
            (
                server(
                    json!({"waiting": {"reason": "CrashLoopBackOff"}}),
                    json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}),
                ),
                "OutOfMemory",
                "limits.memory",
            ),
            (
                server(json!({"running": {}}), json!({"terminated": {"exitCode": 139, "message": "boom"}})),
                "Crashed",
                "boom",
            ),
        ];
        for (status, reason, hint) in cases {
            let failure = view(status.clone()).failure.unwrap_or_else(|| panic!("{status}"));
            assert_eq!(failure.reason, reason);
            assert!(failure.message.contains(hint), "{}", failure.message);
        }
    }

    /// The fetcher of a model speaks as the server does, and its end without failure is none.
    #[test]
    fn a_model_that_can_not_be_fetched_says_why() {
        let pod = |state: Value, last: Value| {
            let container = |name: &str, state: Value, last: Value| {
                json!({"name": name, "ready": false, "restartCount": 2,
                "image": "i", "imageID": "", "state": state, "lastState": last})
            };
            view(json!({
                "initContainerStatuses": [container("fetch-model", state, last)],
                "containerStatuses": [container("server", json!({"waiting": {"reason": "PodInitializing"}}), json!({}))],
            }))
        };
        let words = json!({"version": 1, "reason": "ChecksumMismatch", "message": "s3://m/clip has sha256 ab", "fix": "write its sha256"});
        let failed = json!({"terminated": {"exitCode": 1, "message": words.to_string()}});
        for (state, last) in [
            (failed.clone(), json!({})),
            (json!({"waiting": {"reason": "CrashLoopBackOff"}}), failed.clone()),
            (json!({"running": {}}), failed),
        ] {
            let failure = pod(state, last).failure.unwrap();
            assert_eq!(
                (failure.reason.as_str(), failure.message.as_str()),
                ("ChecksumMismatch", "s3://m/clip has sha256 ab; write its sha256")
            );
        }
        let missing =
            json!({"waiting": {"reason": "CreateContainerConfigError", "message": "secret \"keys\" not found"}});
        let pod_without = pod(missing, json!({}));
        assert_eq!(pod_without.restarts, 4, "a fetch that fails again and again is no start that takes its time");
        let failure = pod_without.failure.unwrap();
        assert!(failure.reason == "ContainerFailed" && failure.message.contains("\"keys\" not found"), "{failure:?}");
        let killed = pod(json!({"waiting": {}}), json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}))
            .failure
            .unwrap();
        assert!(killed.message.contains("fetch-model"), "{killed:?}");
        assert_eq!(pod(json!({"running": {}}), json!({})).failure, None);
        let fetched = json!({"terminated": {"exitCode": 0, "message": "{\"version\":1,\"reason\":\"Fetched\"}"}});
        assert_eq!(pod(fetched, json!({})).failure, None);
    }

    #[test]
    fn the_message_stays_the_same_while_the_kubelet_tries_again() {
        let pulling = server(
            json!({"waiting": {"reason": "ErrImagePull", "message": "failed to pull x: no such host"}}),
            json!({}),
        );
        let waiting = server(
            json!({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"x\": ErrImagePull: failed to pull x: no such host"}}),
            json!({}),
        );
        assert_eq!(view(pulling).failure, view(waiting).failure);
        let crashed = |restarts: i32| {
            view(json!({"containerStatuses": [{"name": "server", "ready": false, "restartCount": restarts, "image": "i", "imageID": "",
                "lastState": {"terminated": {"exitCode": 3}}}]}))
            .failure
        };
        assert_eq!(crashed(1), crashed(2));
    }

    #[test]
    fn a_pod_that_starts_or_serves_has_no_failure() {
        assert_eq!(view(server(json!({"waiting": {"reason": "ContainerCreating"}}), json!({}))).failure, None);
        assert_eq!(view(server(json!({"running": {}}), json!({}))).failure, None);
        let ready = view(
            json!({"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "containerStatuses": [{"name": "server", "ready": true, "restartCount": 1, "image": "i", "imageID": "",
                "lastState": {"terminated": {"exitCode": 1}}}]}),
        );
        assert_eq!(ready.failure, None, "a crash that was got over is no failure");
        assert!(ready.ready.is_some() && ready.address.is_some());
    }
}
