//! What the caches keep of each kind: only what some step reads, if anything.

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus, Pod};
use kube::core::DynamicObject;

use super::cached::{CachedAutoscaler, CachedObject, CachedPod};
use crate::api::labels;

/// Owned objects keep what is compared before an apply, and a Deployment's status.
pub fn owned(mut object: DynamicObject) -> Option<CachedObject> {
    object.metadata.managed_fields = None;
    let is_deployment = object.types.as_ref().is_some_and(|types| types.kind == "Deployment");
    if !is_deployment && let Some(data) = object.data.as_object_mut() {
        data.remove("status");
    }
    CachedObject::pack(&object)
        .inspect_err(|error| tracing::error!(error = %error, "an object of the API server is not JSON"))
        .ok()
}

/// Pods of ours keep what is looked at; others only the GPUs that they hold.
#[expect(clippy::needless_pass_by_value, reason = "as the other kinds, which are kept themselves")]
pub fn pod(pod: Pod) -> Option<CachedPod> {
    CachedPod::of(&pod)
}

/// Nodes keep their GPU label, what they offer, and whether they take pods.
pub fn node(mut node: Node) -> Option<Node> {
    node.metadata.managed_fields = None;
    node.metadata.annotations = None;
    if let Some(labels) = node.metadata.labels.as_mut() {
        labels.retain(|key, _| key == labels::GPU_PRODUCT);
    }
    node.spec = node.spec.take().map(|spec| NodeSpec {
        unschedulable: spec.unschedulable,
        taints: spec.taints,
        ..NodeSpec::default()
    });
    node.status = node.status.take().map(|status| NodeStatus {
        allocatable: status.allocatable,
        conditions: status.conditions.map(|mut conditions| {
            conditions.retain(|condition| condition.type_ == "Ready");
            conditions
        }),
        ..NodeStatus::default()
    });
    Some(node)
}

/// Of a HorizontalPodAutoscaler only its target matters.
#[expect(clippy::needless_pass_by_value, reason = "as the other kinds, which are kept themselves")]
pub fn autoscaler(autoscaler: HorizontalPodAutoscaler) -> Option<CachedAutoscaler> {
    CachedAutoscaler::of(&autoscaler)
}
