//! The Deployment of one pool and track. It never says how many replicas: that field has one writer, the scale step.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Error, RolloutShape, common_labels, digest, object_meta, pod_template, server_pod, string_map};
use crate::api::labels;
use crate::service::{ValidatedService, names};

/// The Deployment whose pods read the ConfigMap `settings_name`.
///
/// # Errors
/// [`Error::PodTemplate`] where the user's patch changes what it may not.
pub fn build(service: &ValidatedService, settings_name: &str, rollout: RolloutShape) -> Result<Deployment, Error> {
    let gpu_resource = service.gpu.as_ref().map_or("nvidia.com/gpu", |gpu| &gpu.resource_name);
    let generated = server_pod::build(service, settings_name);
    let mut template = match &service.runtime.pod_template {
        Some(patch) => pod_template::merge(generated, patch, gpu_resource)?,
        None => generated,
    };
    if let Some(gpu) = &service.gpu {
        server_pod::place_on_gpu(&mut template, gpu);
    }
    let template_digest = digest::of(&serde_json::to_value(&template)?);

    let selector = names::selector(&service.name, service.pool(), labels::STABLE);
    let mut labels = common_labels(service);
    labels.extend(selector.clone());
    let name = names::deployment(&service.name, service.pool(), labels::STABLE);
    Ok(Deployment {
        metadata: ObjectMeta {
            annotations: Some(string_map([(labels::TEMPLATE_DIGEST, &template_digest)])),
            ..object_meta(service, name, labels)
        },
        spec: Some(DeploymentSpec {
            replicas: None,
            // Absent means false, and the API server drops a false: writing it would look like drift for ever.
            paused: rollout.paused.then_some(true),
            selector: LabelSelector { match_labels: Some(selector), ..LabelSelector::default() },
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(rollout.max_surge)),
                    max_unavailable: Some(IntOrString::Int(rollout.max_unavailable)),
                }),
            }),
            // Kubernetes' word for "no deadline": its own counts the wait for a free GPU, ours counts from scheduled.
            progress_deadline_seconds: Some(i32::MAX),
            revision_history_limit: Some(2),
            template,
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    })
}

#[cfg(test)]
mod tests {
    use crate::resources::tests::{built, metadata};
    use crate::resources::{RolloutShape, build};
    use serde_json::{Value, json};

    /// The smallest manifest's Deployment but for its two digests. If a field of the template changes here, the upgrade of the
    /// operator replaces every pod of every service.
    #[test]
    fn the_whole_object() {
        let resources = built(json!({}));
        let selector =
            json!({"flotilla.dev/service": "photos", "flotilla.dev/pool": "cpu", "flotilla.dev/track": "stable"});
        let mut metadata = metadata("photos-cpu-stable");
        merge(&mut metadata["labels"], &selector);
        let labels = metadata["labels"].clone();
        let written = serde_json::to_value(&resources.deployment).unwrap();
        metadata["annotations"] =
            json!({"flotilla.dev/template-digest": written["metadata"]["annotations"]["flotilla.dev/template-digest"]});
        assert_eq!(
            written,
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": metadata,
                "spec": {
                    "progressDeadlineSeconds": 2_147_483_647,
                    "revisionHistoryLimit": 2,
                    "selector": {"matchLabels": selector},
                    "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
                    "template": {
                        "metadata": {
                            "labels": labels,
                            "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes": "tmp"},
                        },
                        "spec": {
                            "automountServiceAccountToken": false,
                            "enableServiceLinks": false,
                            "serviceAccountName": "photos-inference",
                            "terminationGracePeriodSeconds": 60,
                            "securityContext": {
                                "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
                                "seccompProfile": {"type": "RuntimeDefault"},
                            },
                            "containers": [{
                                "name": "server",
                                "image": "flotilla/server:test",
                                "imagePullPolicy": "IfNotPresent",
                                "args": ["--settings", "/etc/flotilla/settings.json"],
                                "ports": [
                                    {"name": "http", "containerPort": 8000, "protocol": "TCP"},
                                    {"name": "grpc", "containerPort": 8001, "protocol": "TCP"},
                                    {"name": "metrics", "containerPort": 8002, "protocol": "TCP"},
                                ],
                                "startupProbe": {"httpGet": {"path": "/v2/health/ready", "port": "http"}, "periodSeconds": 2, "timeoutSeconds": 1, "failureThreshold": 300},
                                "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": "http"}, "periodSeconds": 1, "timeoutSeconds": 1},
                                "livenessProbe": {"httpGet": {"path": "/v2/health/live", "port": "http"}, "periodSeconds": 10, "timeoutSeconds": 5},
                                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true},
                                "terminationMessagePath": "/dev/termination-log",
                                "terminationMessagePolicy": "File",
                                "volumeMounts": [
                                    {"name": "model", "mountPath": "/mnt/model", "readOnly": true},
                                    {"name": "settings", "mountPath": "/etc/flotilla", "readOnly": true},
                                    {"name": "tmp", "mountPath": "/tmp"},
                                ],
                            }],
                            "volumes": [
                                {"name": "model", "image": {"reference": "example/model:1", "pullPolicy": "IfNotPresent"}},
                                {"name": "settings", "configMap": {"name": resources.config_map.metadata.name}},
                                {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
                            ],
                        },
                    },
                },
            })
        );
    }

    #[test]
    fn a_gpu_is_asked_for_tolerated_and_chosen_by_product() {
        let deployment =
            built(json!({"placement": {"gpu": {"countPerReplica": 2, "products": ["NVIDIA-L4"]}}})).deployment;
        assert_eq!(deployment.metadata.name.as_deref(), Some("photos-gpu-stable"));
        let pod = serde_json::to_value(deployment.spec.unwrap().template.spec).unwrap();
        assert_eq!(
            pod["containers"][0]["resources"],
            json!({"limits": {"nvidia.com/gpu": "2"}, "requests": {"nvidia.com/gpu": "2"}})
        );
        assert_eq!(
            pod["tolerations"],
            json!([{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}])
        );
        assert_eq!(
            pod.pointer("/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms"),
            Some(
                &json!([{"matchExpressions": [{"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-L4", "NVIDIA-L4-SHARED"]}]}])
            )
        );
    }

    /// The caller's shape reaches the strategy and nothing else, so that a rollout can change its mind without new pods.
    #[test]
    fn the_rollouts_shape_is_no_part_of_the_template() {
        let service = crate::fixtures::validated(json!({}));
        let environment = crate::resources::tests::environment();
        let of = |shape| build(&service, shape, &environment).unwrap().deployment;
        let (surge, replace) = (of(RolloutShape::SURGE.with_paused(true)), of(RolloutShape::REPLACE));
        assert_eq!(surge.metadata, replace.metadata);
        let (surge, replace) = (surge.spec.unwrap(), replace.spec.unwrap());
        assert_eq!(surge.template, replace.template);
        assert_eq!((surge.paused, replace.paused), (Some(true), None));
        assert_eq!(
            serde_json::to_value(surge.strategy).unwrap()["rollingUpdate"],
            json!({"maxSurge": 1, "maxUnavailable": 0})
        );
    }

    fn merge(into: &mut Value, from: &Value) {
        for (key, value) in from.as_object().unwrap() {
            into[key] = value.clone();
        }
    }
}
