//! What the caches keep of each kind: only what some step reads. Each says whether anything is left worth keeping.

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Container, Node, NodeSpec, NodeStatus, Pod, PodSpec, PodStatus};
use kube::core::DynamicObject;

use crate::api::labels;
use crate::placement::snapshot::extended_resources_of;

/// Owned objects keep what is compared before an apply, and a Deployment's status.
pub fn owned(object: &mut DynamicObject) -> bool {
    object.metadata.managed_fields = None;
    let is_deployment = object.types.as_ref().is_some_and(|types| types.kind == "Deployment");
    if !is_deployment && let Some(data) = object.data.as_object_mut() {
        data.remove("status");
    }
    true
}

/// Pods of ours keep their state; others only the GPUs that they hold.
pub fn pod(pod: &mut Pod) -> bool {
    pod.metadata.managed_fields = None;
    pod.metadata.annotations = None;
    let ours = pod.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(labels::SERVICE));
    let holds_devices = !extended_resources_of(pod).is_empty();
    let slim = |container: Container| Container {
        name: container.name,
        resources: container.resources.filter(|_| holds_devices),
        ..Container::default()
    };
    pod.spec = pod.spec.take().map(|spec| PodSpec {
        node_name: spec.node_name,
        containers: spec.containers.into_iter().map(slim).collect(),
        init_containers: if holds_devices {
            spec.init_containers.map(|containers| containers.into_iter().map(slim).collect())
        } else {
            None
        },
        // The settings that a pod was started with, for knowing which ConfigMaps are still in use.
        volumes: if ours { spec.volumes } else { None },
        ..PodSpec::default()
    });
    pod.status = pod.status.take().map(|status| {
        if ours {
            PodStatus { host_ips: None, pod_ips: None, ..status }
        } else {
            PodStatus { phase: status.phase, ..PodStatus::default() }
        }
    });
    if !ours {
        pod.metadata.labels = None;
        pod.metadata.owner_references = None;
    }
    ours || holds_devices
}

/// Nodes keep their GPU label, what they offer, and whether they take pods.
pub fn node(node: &mut Node) -> bool {
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
    true
}

/// Of a HorizontalPodAutoscaler only its target matters.
pub fn autoscaler(autoscaler: &mut HorizontalPodAutoscaler) -> bool {
    autoscaler.metadata.managed_fields = None;
    autoscaler.metadata.annotations = None;
    autoscaler.status = None;
    if let Some(spec) = autoscaler.spec.as_mut() {
        spec.metrics = None;
        spec.behavior = None;
    }
    true
}
