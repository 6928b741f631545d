//! What a patch can do, what it can't, and that no accepted patch makes an unrestricted pod.

mod oracle;
mod patches;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::fixtures::{defaults, service, validated};
use crate::resources::tests::environment;
use crate::resources::{Error, Resources, RolloutShape, build};
use crate::service::validate;

fn try_build(patch: &Value, gpu: bool) -> Result<Resources, Error> {
    let placement = if gpu { json!({"gpu": {}}) } else { Value::Null };
    let mut spec = json!({"runtime": {"podTemplate": patch}});
    if gpu {
        spec["placement"] = placement;
    }
    build(&validated(spec), RolloutShape::REPLACE, &environment())
}

fn template(resources: Resources) -> Value {
    serde_json::to_value(resources.deployment.spec.unwrap().template).unwrap()
}

/// Each row is somebody's reason to have a podTemplate at all.
#[test]
fn what_a_patch_can_do() {
    for (what, patch, pointer, expected) in patches::allowed() {
        let patched = template(try_build(&patch, false).unwrap_or_else(|error| panic!("{what}: {error}")));
        assert_eq!(patched.pointer(pointer), Some(&expected), "{what}: {pointer}");
        let plain = template(try_build(&json!({}), false).unwrap());
        assert_ne!(plain.pointer(pointer), Some(&expected), "{what}: the row shows nothing");
        assert_eq!(oracle::violations(&patched), Vec::<String>::new(), "{what}");
    }
}

/// The message names the field as the user wrote it.
#[test]
fn what_a_patch_can_not_do() {
    for (patch, expected) in patches::refused() {
        match try_build(&patch, true) {
            Err(Error::PodTemplate { field, problem }) => {
                assert_eq!(field, format!("spec.runtime.podTemplate.{expected}"), "{patch}");
                assert!(problem.len() > 10, "{patch}: {problem}");
            }
            other => panic!("{patch} has to be refused at {expected}: {other:?}"),
        }
    }
}

/// The container that holds credentials and brings the model is as little the user's to change as the server.
#[test]
fn the_fetcher_stays_what_it_is() {
    let fetched = |patch: Value| {
        let source = json!({"image": null, "uri": {"uri": "s3://models/clip", "secretRef": {"name": "keys"}}});
        let spec = json!({"model": {"source": source}, "runtime": {"podTemplate": patch}});
        build(&validated(spec), RolloutShape::REPLACE, &environment())
    };
    let fetcher = |mut fields: Value| {
        fields["name"] = "fetch-model".into();
        json!({"spec": {"initContainers": [fields]}})
    };
    let own =
        json!({"env": [{"name": "FLOTILLA_LOG_LEVEL", "value": "debug"}], "resources": {"limits": {"memory": "1Gi"}}});
    let patched = template(fetched(fetcher(own)).unwrap());
    assert_eq!(patched["spec"]["initContainers"][0]["env"][0]["value"], "debug");
    assert_eq!(patched["spec"]["initContainers"][0]["resources"]["limits"]["memory"], "1Gi");
    assert_eq!(oracle::violations(&patched), Vec::<String>::new());
    for (fields, expected) in [
        (json!({"image": "mine:1"}), "image"),
        (json!({"command": ["sh"]}), "command"),
        (json!({"args": ["--uri=s3://other"]}), "args"),
        (json!({"envFrom": [{"secretRef": {"name": "others"}}]}), "envFrom"),
        (json!({"env": [{"name": "LD_PRELOAD", "value": "/x"}]}), "env[LD_PRELOAD]"),
        (json!({"restartPolicy": "Always"}), "restartPolicy"),
        (json!({"terminationMessagePath": "/x"}), "terminationMessagePath"),
        (json!({"securityContext": {"readOnlyRootFilesystem": false}}), "securityContext.readOnlyRootFilesystem"),
        (json!({"volumeMounts": [{"name": "tmp", "mountPath": "/mnt"}]}), "volumeMounts[/mnt]"),
        (json!({"resources": {"limits": {"nvidia.com/gpu": "1"}}}), "resources.limits[nvidia.com/gpu]"),
    ] {
        match fetched(fetcher(fields.clone())) {
            Err(Error::PodTemplate { field, .. }) => {
                assert_eq!(field, format!("spec.runtime.podTemplate.spec.initContainers[fetch-model].{expected}"));
            }
            other => panic!("{fields} has to be refused: {other:?}"),
        }
    }
    let twin = json!({"spec": {"containers": [{"name": "fetch-model", "image": "x"}]}});
    assert!(
        matches!(fetched(twin), Err(Error::PodTemplate { field, .. }) if field.ends_with("containers[fetch-model]"))
    );
}

/// A patch that says what is so already, or nothing, changes nothing: no pod is replaced for it.
#[test]
fn a_patch_that_says_nothing_changes_nothing() {
    let plain = template(try_build(&json!({}), true).unwrap());
    let nothing = [
        json!({"metadata": {"creationTimestamp": null, "labels": {}}}),
        json!({"spec": {"containers": [{"name": "server"}]}}),
        json!({"spec": {"hostNetwork": false, "serviceAccountName": "", "containers": [{"name": "server", "stdin": false}]}}),
        json!({"spec": {"restartPolicy": null, "automountServiceAccountToken": false}}),
        json!({"spec": {"containers": [{"name": "server", "ports": [{"containerPort": 8000, "name": "http"}]}]}}),
        json!({"metadata": {"labels": {"flotilla.dev/track": "stable"}}}),
    ];
    for patch in nothing {
        assert_eq!(template(try_build(&patch, true).unwrap()), plain, "{patch}");
    }
}

/// Lists that Kubernetes replaces as a whole keep what the GPU needs.
#[test]
fn the_users_tolerations_stand_beside_the_gpus() {
    let patched =
        template(try_build(&json!({"spec": {"tolerations": [{"key": "spot", "operator": "Exists"}]}}), true).unwrap());
    assert_eq!(
        patched["spec"]["tolerations"],
        json!([{"key": "spot", "operator": "Exists"}, {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}])
    );
}

/// The oracle has to be able to fail, or the property below says nothing.
#[test]
fn the_oracle_sees_what_is_wrong() {
    let plain = template(try_build(&json!({}), false).unwrap());
    let wrong = [
        ("/spec/hostNetwork", json!(true)),
        ("/spec/automountServiceAccountToken", json!(true)),
        ("/spec/securityContext/runAsNonRoot", json!(false)),
        ("/spec/securityContext/seccompProfile/type", json!("Unconfined")),
        ("/spec/containers/0/securityContext", json!({})),
        ("/spec/containers/0/securityContext/privileged", json!(true)),
        ("/spec/containers/0/securityContext/capabilities/drop", json!(["KILL"])),
        ("/spec/containers/0/ports/0/hostPort", json!(80)),
        ("/spec/volumes/0", json!({"name": "model", "hostPath": {"path": "/"}})),
    ];
    for (pointer, value) in wrong {
        let mut broken = plain.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = broken.pointer_mut(parent).unwrap();
        match parent.as_array_mut() {
            Some(list) => list[key.parse::<usize>().unwrap()] = value,
            None => parent[key] = value,
        }
        assert_ne!(oracle::violations(&broken), Vec::<String>::new(), "{pointer}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The floor: for any accepted patch the pods are restricted, and the server is the one that the operator relies on.
    #[test]
    fn every_accepted_patch_makes_a_restricted_pod(patch in patches::mixed(), gpu in any::<bool>()) {
        let mut spec = json!({"runtime": {"podTemplate": patch}});
        if gpu {
            spec["placement"] = json!({"gpu": {"products": ["NVIDIA-L4"]}});
        }
        // A patch that is no pod template stops one step before.
        let Ok(validated) = validate(&service(spec), &defaults()) else { return Ok(()) };
        let Ok(resources) = build(&validated, RolloutShape::SURGE, &environment()) else { return Ok(()) };
        let selector = serde_json::to_value(&resources.deployment.spec.as_ref().unwrap().selector.match_labels).unwrap();
        let patched = template(resources);
        prop_assert_eq!(oracle::violations(&patched), Vec::<String>::new());
        prop_assert_eq!(oracle::changed_contracts(&patched, &selector, gpu), Vec::<String>::new());
    }
}
