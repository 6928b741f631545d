//! What holds across the objects: their names, what a change reaches, and that scaling reaches no pod.

use serde_json::{Value, json};

use super::*;
use crate::fixtures::validated;

pub(super) fn environment() -> Environment {
    Environment { operator_namespace: "flotilla-system".to_owned(), metrics_namespaces: vec!["monitoring".to_owned()] }
}

/// The metadata of an owned object of `default/photos`.
pub(super) fn metadata(name: &str) -> Value {
    json!({
        "name": name,
        "namespace": "default",
        "labels": {
            "app.kubernetes.io/name": "inference-server",
            "app.kubernetes.io/instance": "photos",
            "app.kubernetes.io/part-of": "flotilla",
            "app.kubernetes.io/managed-by": "flotilla",
        },
        "ownerReferences": [{
            "apiVersion": "flotilla.dev/v1alpha1", "kind": "InferenceService", "name": "photos", "uid": "uid-1",
            "controller": true, "blockOwnerDeletion": true,
        }],
    })
}

pub(super) fn built(spec: Value) -> Resources {
    build(&validated(spec), RolloutShape::REPLACE, &environment()).unwrap()
}

/// The objects by kind, so that a test can say which of them changed.
fn by_kind(resources: Resources) -> [(&'static str, Value); 6] {
    let Resources { deployment, service, service_account, config_map, pod_disruption_budget, network_policy } =
        resources;
    [
        ("Deployment", serde_json::to_value(deployment).unwrap()),
        ("Service", serde_json::to_value(service).unwrap()),
        ("ServiceAccount", serde_json::to_value(service_account).unwrap()),
        ("ConfigMap", serde_json::to_value(config_map).unwrap()),
        ("PodDisruptionBudget", serde_json::to_value(pod_disruption_budget).unwrap()),
        ("NetworkPolicy", serde_json::to_value(network_policy).unwrap()),
    ]
}

fn changed(before: &Resources, after: &Resources) -> Vec<&'static str> {
    let pairs = by_kind(before.clone()).into_iter().zip(by_kind(after.clone()));
    pairs.filter(|(before, after)| before != after).map(|((kind, _), _)| kind).collect()
}

fn template_digest(resources: &Resources) -> &str {
    &resources.deployment.metadata.annotations.as_ref().unwrap()[labels::TEMPLATE_DIGEST]
}

/// Documentation, policies and dashboards of users name these objects.
#[test]
fn the_names() {
    let names =
        by_kind(built(json!({}))).map(|(kind, object)| (kind, object["metadata"]["name"].as_str().unwrap().to_owned()));
    let expected = [
        ("Deployment", "photos-cpu-stable"),
        ("Service", "photos-inference"),
        ("ServiceAccount", "photos-inference"),
        ("ConfigMap", "photos-settings-"),
        ("PodDisruptionBudget", "photos-inference"),
        ("NetworkPolicy", "photos-inference"),
    ];
    for ((kind, name), (expected_kind, expected)) in names.iter().zip(expected) {
        assert_eq!(*kind, expected_kind);
        assert!(name.starts_with(expected) && (name == expected || *kind == "ConfigMap"), "{kind} {name}");
    }
}

/// Every object goes with its owner, and lives beside it.
#[test]
fn every_object_is_owned() {
    for (kind, object) in by_kind(built(json!({"placement": {"gpu": {}}}))) {
        assert_eq!(object["metadata"]["namespace"], "default", "{kind}");
        assert_eq!(object["metadata"]["ownerReferences"], metadata("x")["ownerReferences"], "{kind}");
    }
}

/// If this fails, every scaling decision replaces every replica.
#[test]
fn a_scaling_event_never_changes_a_pod_template() {
    let base = built(json!({}));
    let scaled = [
        json!({"scaling": {"minReplicas": 2}}),
        json!({"scaling": {"maxReplicas": 40}}),
        json!({"scaling": {"mode": "External"}, "replicas": 5}),
        json!({"scaling": {"targetQueueTimeMilliseconds": 5, "scaleDownStabilizationSeconds": 10}}),
        json!({"rollout": {"strategy": "Surge", "progressDeadlineSeconds": 60}}),
    ];
    for spec in scaled {
        let after = built(spec.clone());
        assert_eq!(template_digest(&after), template_digest(&base), "{spec}");
        assert_eq!(changed(&base, &after), Vec::<&str>::new(), "{spec}");
        assert_eq!(after.deployment.spec.unwrap().replicas, None);
    }
}

/// Each field that has an effect on an object: set, changed and unset again.
#[test]
fn every_field_reaches_its_objects_and_comes_back() {
    let claim =
        |name: &str| json!({"model": {"source": {"image": null, "persistentVolumeClaim": {"claimName": name}}}});
    let uri = |uri: Value| json!({"model": {"source": {"image": null, "uri": uri}}});
    let table: [(Value, Value, &[&str]); 20] = [
        (json!({"model": {"name": "a"}}), json!({"model": {"name": "b"}}), &["Deployment", "ConfigMap"]),
        (
            json!({"model": {"source": {"image": {"reference": "m:2"}}}}),
            json!({"model": {"source": {"image": {"reference": "m:3"}}}}),
            &["Deployment"],
        ),
        (
            json!({"model": {"source": {"image": {"path": "a"}}}}),
            json!({"model": {"source": {"image": {"path": "b"}}}}),
            &["Deployment", "ConfigMap"],
        ),
        (
            json!({"model": {"source": {"image": {"pullPolicy": "Always"}}}}),
            json!({"model": {"source": {"image": {"pullPolicy": "Never"}}}}),
            &["Deployment"],
        ),
        (claim("a"), claim("b"), &["Deployment"]),
        (uri(json!({"uri": "s3://a"})), uri(json!({"uri": "s3://b"})), &["Deployment"]),
        (
            uri(json!({"uri": "s3://a", "sha256": "a".repeat(64), "maxMebibytes": 1})),
            uri(json!({"uri": "s3://a", "secretRef": {"name": "keys"}})),
            &["Deployment", "NetworkPolicy"],
        ),
        (
            json!({"model": {"preprocessing": {"preset": "Clip"}}}),
            json!({"model": {"preprocessing": {"preset": "ImageNet"}}}),
            &["Deployment", "ConfigMap"],
        ),
        (json!({"runtime": {"image": "s:1"}}), json!({"runtime": {"image": "s:2"}}), &["Deployment"]),
        (
            json!({"runtime": {"executionProvider": "Cpu"}}),
            json!({"runtime": {"executionProvider": "Cuda"}}),
            &["Deployment", "ConfigMap"],
        ),
        (
            json!({"runtime": {"maxBatchSize": 8}}),
            json!({"runtime": {"maxBatchSize": 16}}),
            &["Deployment", "ConfigMap"],
        ),
        (
            json!({"runtime": {"maxQueueDelayMicroseconds": 8}}),
            json!({"runtime": {"maxQueueDelayMicroseconds": 16}}),
            &["Deployment", "ConfigMap"],
        ),
        (
            json!({"runtime": {"cache": {"emptyDir": {}}}}),
            json!({"runtime": {"cache": {"emptyDir": {"maxMebibytes": 512}}}}),
            &["Deployment", "ConfigMap"],
        ),
        (
            json!({"runtime": {"cache": {"persistentVolumeClaim": {"claimName": "a"}}}}),
            json!({"runtime": {"cache": {"persistentVolumeClaim": {"claimName": "b"}}}}),
            &["Deployment"],
        ),
        (
            json!({"runtime": {"resources": {"requests": {"cpu": "1"}}}}),
            json!({"runtime": {"resources": {"requests": {"cpu": "2"}}}}),
            &["Deployment"],
        ),
        (
            json!({"runtime": {"podTemplate": {"spec": {"priorityClassName": "a"}}}}),
            json!({"runtime": {"podTemplate": {"spec": {"priorityClassName": "b"}}}}),
            &["Deployment"],
        ),
        (
            json!({"placement": {"gpu": {"resourceName": "amd.com/gpu"}}}),
            json!({"placement": {"gpu": {"resourceName": "nvidia.com/gpu"}}}),
            &["Deployment"],
        ),
        (
            json!({"placement": {"gpu": {"countPerReplica": 2}}}),
            json!({"placement": {"gpu": {"countPerReplica": 3}}}),
            &["Deployment"],
        ),
        (
            json!({"placement": {"gpu": {"products": ["A"]}}}),
            json!({"placement": {"gpu": {"products": ["B"]}}}),
            &["Deployment"],
        ),
        (json!({"service": {"type": "NodePort"}}), json!({"service": {"type": "LoadBalancer"}}), &["Service"]),
    ];
    let unset = built(json!({}));
    for (a, b, kinds) in table {
        let (set, other) = (built(a.clone()), built(b.clone()));
        assert_eq!(changed(&set, &other), kinds, "{a} -> {b}");
        for kind in kinds {
            assert!(changed(&unset, &set).contains(kind), "{a} against the default: {kind}");
        }
        assert_eq!(changed(&set, &built(a.clone())), Vec::<&str>::new(), "{a} -> {b} -> {a}");
    }
    assert_eq!(changed(&unset, &built(json!({}))), Vec::<&str>::new());
}

#[test]
fn the_environment_reaches_the_network_policy_alone() {
    let service = validated(json!({}));
    let elsewhere = Environment { operator_namespace: "ops".to_owned(), metrics_namespaces: Vec::new() };
    let other = build(&service, RolloutShape::REPLACE, &elsewhere).unwrap();
    assert_eq!(changed(&built(json!({})), &other), ["NetworkPolicy"]);
}
