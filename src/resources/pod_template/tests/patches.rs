//! Patches: what users ask for, what is refused, and random mixtures of both.
#![expect(clippy::too_many_lines, reason = "the functions are tables")]

use k8s_openapi::DeepMerge as _;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use proptest::prelude::*;
use proptest::sample::subsequence;
use serde_json::{Value, json};

fn server(fields: Value) -> Value {
    container("containers", "server", fields)
}

fn sidecar(fields: Value) -> Value {
    container("containers", "proxy", fields)
}

fn container(list: &str, name: &str, mut fields: Value) -> Value {
    fields["name"] = name.into();
    json!({"spec": {list: [fields]}})
}

/// What it is for, the patch, where it shows and how.
pub fn allowed() -> Vec<(&'static str, Value, &'static str, Value)> {
    let zone =
        json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]});
    let restricted =
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true});
    vec![
        (
            "private images",
            json!({"spec": {"imagePullSecrets": [{"name": "registry"}]}}),
            "/spec/imagePullSecrets",
            json!([{"name": "registry"}]),
        ),
        ("own identity", json!({"spec": {"serviceAccountName": "mine"}}), "/spec/serviceAccountName", json!("mine")),
        ("a sandbox", json!({"spec": {"runtimeClassName": "nvidia"}}), "/spec/runtimeClassName", json!("nvidia")),
        (
            "a variable",
            server(json!({"env": [{"name": "OMP_NUM_THREADS", "value": "4"}]})),
            "/spec/containers/0/env",
            json!([{"name": "OMP_NUM_THREADS", "value": "4"}]),
        ),
        (
            "a library's folder",
            server(json!({"env": [{"name": "LD_LIBRARY_PATH", "value": "/opt/lib"}]})),
            "/spec/containers/0/env/0/name",
            json!("LD_LIBRARY_PATH"),
        ),
        (
            "nodes",
            json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": zone}}}}),
            "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution",
            zone,
        ),
        ("a label", json!({"metadata": {"labels": {"team": "vision"}}}), "/metadata/labels/team", json!("vision")),
        (
            "a queue of Kueue",
            json!({"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "gpus"}}}),
            "/metadata/labels/kueue.x-k8s.io~1queue-name",
            json!("gpus"),
        ),
        (
            "an annotation",
            json!({"metadata": {"annotations": {"karpenter.sh/do-not-disrupt": "true"}}}),
            "/metadata/annotations/karpenter.sh~1do-not-disrupt",
            json!("true"),
        ),
        (
            "a toleration",
            json!({"spec": {"tolerations": [{"key": "spot", "operator": "Exists"}]}}),
            "/spec/tolerations",
            json!([{"key": "spot", "operator": "Exists"}]),
        ),
        (
            "a node selector",
            json!({"spec": {"nodeSelector": {"disk": "ssd"}}}),
            "/spec/nodeSelector",
            json!({"disk": "ssd"}),
        ),
        ("a priority", json!({"spec": {"priorityClassName": "online"}}), "/spec/priorityClassName", json!("online")),
        (
            "spreading",
            json!({"spec": {"topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway"}]}}),
            "/spec/topologySpreadConstraints/0",
            json!({
                "topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"flotilla.dev/service": "photos", "flotilla.dev/pool": "cpu", "flotilla.dev/track": "stable"}},
            }),
        ),
        (
            "another user",
            json!({"spec": {"securityContext": {"runAsUser": 1000, "fsGroup": 1000}}}),
            "/spec/securityContext/runAsUser",
            json!(1000),
        ),
        (
            "more time to stop",
            json!({"spec": {"terminationGracePeriodSeconds": 120}}),
            "/spec/terminationGracePeriodSeconds",
            json!(120),
        ),
        (
            "fresh images",
            server(json!({"imagePullPolicy": "Always"})),
            "/spec/containers/0/imagePullPolicy",
            json!("Always"),
        ),
        (
            "a volume",
            json!({"spec": {"volumes": [{"name": "cache", "emptyDir": {}}]}}),
            "/spec/volumes/3",
            json!({"name": "cache", "emptyDir": {}}),
        ),
        (
            "a mount",
            server(json!({"volumeMounts": [{"name": "tmp", "mountPath": "/var/cache", "subPath": "cache"}]})),
            "/spec/containers/0/volumeMounts/3",
            json!({"name": "tmp", "mountPath": "/var/cache", "subPath": "cache"}),
        ),
        (
            "a mount in /tmp",
            server(json!({"volumeMounts": [{"name": "tmp", "mountPath": "/tmp/cache", "subPath": "cache"}]})),
            "/spec/containers/0/volumeMounts/3/mountPath",
            json!("/tmp/cache"),
        ),
        (
            "a DRA claim",
            json!({"spec": {"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one"}]}}),
            "/spec/resourceClaims/0/name",
            json!("gpu"),
        ),
        (
            "a sidecar, restricted where it says nothing",
            sidecar(json!({"image": "proxy:1"})),
            "/spec/containers/1",
            json!({"name": "proxy", "image": "proxy:1", "securityContext": restricted}),
        ),
        (
            "a sidecar that writes",
            sidecar(json!({"image": "proxy:1", "securityContext": {"readOnlyRootFilesystem": false}})),
            "/spec/containers/1/securityContext/readOnlyRootFilesystem",
            json!(false),
        ),
        (
            "an init container",
            container("initContainers", "fetch", json!({"image": "fetch:1"})),
            "/spec/initContainers/0/securityContext/allowPrivilegeEscalation",
            json!(false),
        ),
    ]
}

/// The patch and the field that the message has to name, below spec.runtime.podTemplate.
pub fn refused() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"metadata": {"labels": {"flotilla.dev/service": "x"}}}), "metadata.labels[flotilla.dev/service]"),
        (
            json!({"metadata": {"labels": {"app.kubernetes.io/name": "flotilla"}}}),
            "metadata.labels[app.kubernetes.io/name]",
        ),
        (json!({"metadata": {"annotations": {"flotilla.dev/mine": "x"}}}), "metadata.annotations[flotilla.dev/mine]"),
        (json!({"metadata": {"finalizers": ["a/b"]}}), "metadata"),
        (json!({"spec": {"hostNetwork": true}}), "spec.hostNetwork"),
        (json!({"spec": {"hostPID": true}}), "spec.hostPID"),
        (json!({"spec": {"hostIPC": true}}), "spec.hostIPC"),
        (json!({"spec": {"automountServiceAccountToken": true}}), "spec.automountServiceAccountToken"),
        (json!({"spec": {"restartPolicy": "Never"}}), "spec.restartPolicy"),
        (json!({"spec": {"nodeName": "node-1"}}), "spec.nodeName"),
        (json!({"spec": {"serviceAccount": "x"}}), "spec.serviceAccount"),
        (json!({"spec": {"activeDeadlineSeconds": 5}}), "spec.activeDeadlineSeconds"),
        (json!({"spec": {"terminationGracePeriodSeconds": 30}}), "spec.terminationGracePeriodSeconds"),
        (json!({"spec": {"os": {"name": "windows"}}}), "spec.os.name"),
        (json!({"spec": {"securityContext": {"runAsNonRoot": false}}}), "spec.securityContext.runAsNonRoot"),
        (json!({"spec": {"securityContext": {"runAsUser": 0}}}), "spec.securityContext.runAsUser"),
        (
            json!({"spec": {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}}),
            "spec.securityContext.seccompProfile.type",
        ),
        (
            json!({"spec": {"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}}),
            "spec.securityContext.appArmorProfile.type",
        ),
        (
            json!({"spec": {"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}}),
            "spec.securityContext.sysctls[kernel.msgmax]",
        ),
        (json!({"spec": {"volumes": [{"name": "host", "hostPath": {"path": "/"}}]}}), "spec.volumes[host].hostPath"),
        (
            json!({"spec": {"volumes": [{"name": "share", "nfs": {"server": "a", "path": "/"}}]}}),
            "spec.volumes[share].nfs",
        ),
        (json!({"spec": {"volumes": [{"name": "model", "emptyDir": {}}]}}), "spec.volumes[model]"),
        (json!({"spec": {"volumes": [{"name": "settings", "configMap": {"name": "mine"}}]}}), "spec.volumes[settings]"),
        (json!({"spec": {"volumes": [{"emptyDir": {}}]}}), "spec.volumes[0]"),
        (
            json!({"spec": {"volumes": [{"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]}}),
            "spec.volumes[token].projected.sources.serviceAccountToken",
        ),
        (json!({"spec": {"containers": [{"image": "x"}]}}), "spec.containers[0]"),
        (container("initContainers", "server", json!({"image": "x"})), "spec.initContainers[server]"),
        (server(json!({"image": "mine:1"})), "spec.containers[server].image"),
        (server(json!({"command": ["sh"]})), "spec.containers[server].command"),
        (server(json!({"args": ["--help"]})), "spec.containers[server].args"),
        (server(json!({"envFrom": [{"configMapRef": {"name": "x"}}]})), "spec.containers[server].envFrom"),
        (server(json!({"env": [{"name": "LD_PRELOAD", "value": "x.so"}]})), "spec.containers[server].env[LD_PRELOAD]"),
        (server(json!({"readinessProbe": {"periodSeconds": 60}})), "spec.containers[server].readinessProbe"),
        (server(json!({"startupProbe": {"failureThreshold": 1}})), "spec.containers[server].startupProbe"),
        (server(json!({"livenessProbe": {"exec": {"command": ["true"]}}})), "spec.containers[server].livenessProbe"),
        (server(json!({"terminationMessagePath": "/tmp/x"})), "spec.containers[server].terminationMessagePath"),
        (server(json!({"ports": [{"containerPort": 8000, "name": "web"}]})), "spec.containers[server].ports[8000]"),
        (server(json!({"ports": [{"containerPort": 9000, "name": "metrics"}]})), "spec.containers[server].ports[8002]"),
        (
            server(json!({"ports": [{"containerPort": 9000, "hostPort": 9000}]})),
            "spec.containers[server].ports[9000].hostPort",
        ),
        (
            server(json!({"volumeMounts": [{"name": "tmp", "mountPath": "/mnt/model"}]})),
            "spec.containers[server].volumeMounts[/mnt/model]",
        ),
        (
            server(json!({"volumeMounts": [{"name": "tmp", "mountPath": "/mnt/model/model/1"}]})),
            "spec.containers[server].volumeMounts[/mnt/model/model/1]",
        ),
        (
            server(json!({"volumeMounts": [{"name": "tmp", "mountPath": "//etc/./flotilla/"}]})),
            "spec.containers[server].volumeMounts[//etc/./flotilla/]",
        ),
        (
            server(json!({"volumeMounts": [{"name": "tmp", "mountPath": "/mnt"}]})),
            "spec.containers[server].volumeMounts[/mnt]",
        ),
        (
            server(json!({"volumeMounts": [{"name": "tmp", "mountPath": "/a/../etc"}]})),
            "spec.containers[server].volumeMounts[/a/../etc]",
        ),
        (
            server(json!({"resources": {"limits": {"nvidia.com/gpu": "8"}}})),
            "spec.containers[server].resources.limits[nvidia.com/gpu]",
        ),
        (
            server(json!({"securityContext": {"privileged": true}})),
            "spec.containers[server].securityContext.privileged",
        ),
        (
            server(json!({"securityContext": {"readOnlyRootFilesystem": false}})),
            "spec.containers[server].securityContext.readOnlyRootFilesystem",
        ),
        (
            server(json!({"securityContext": {"allowPrivilegeEscalation": true}})),
            "spec.containers[server].securityContext.allowPrivilegeEscalation",
        ),
        (
            server(json!({"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}})),
            "spec.containers[server].securityContext.capabilities.add",
        ),
        (
            server(json!({"securityContext": {"capabilities": {"drop": ["KILL"]}}})),
            "spec.containers[server].securityContext.capabilities.drop",
        ),
        (
            server(json!({"lifecycle": {"preStop": {"httpGet": {"port": 80, "host": "10.0.0.1"}}}})),
            "spec.containers[server].lifecycle",
        ),
        (sidecar(json!({"securityContext": {"runAsUser": 0}})), "spec.containers[proxy].securityContext.runAsUser"),
        (
            sidecar(json!({"securityContext": {"runAsNonRoot": false}})),
            "spec.containers[proxy].securityContext.runAsNonRoot",
        ),
        (
            sidecar(json!({"securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}})),
            "spec.containers[proxy].securityContext.capabilities.add",
        ),
        (
            sidecar(json!({"securityContext": {"procMount": "Unmasked"}})),
            "spec.containers[proxy].securityContext.procMount",
        ),
        (
            sidecar(json!({"securityContext": {"seLinuxOptions": {"type": "spc_t"}}})),
            "spec.containers[proxy].securityContext.seLinuxOptions.type",
        ),
        (sidecar(json!({"ports": [{"containerPort": 8002}]})), "spec.containers[proxy].ports[8002]"),
        (
            sidecar(json!({"resources": {"limits": {"nvidia.com/gpu": "1"}}})),
            "spec.containers[proxy].resources.limits[nvidia.com/gpu]",
        ),
        (
            sidecar(json!({"livenessProbe": {"tcpSocket": {"port": 80, "host": "10.0.0.1"}}})),
            "spec.containers[proxy].livenessProbe",
        ),
    ]
}

/// A few patches of both kinds, mostly allowed ones, merged into one; and now and then a value where it does not belong.
pub fn mixed() -> impl Strategy<Value = Value> {
    let allowed: Vec<Value> = allowed().into_iter().map(|(_, patch, ..)| patch).collect();
    let refused: Vec<Value> = refused().into_iter().map(|(patch, _)| patch).collect();
    let contexts = (
        any::<Option<bool>>(),
        any::<Option<bool>>(),
        proptest::option::of(0..3_i64),
        proptest::option::of("[A-Z]{3,4}"),
    );
    let context = contexts.prop_map(|(privileged, non_root, user, capability)| {
        json!({"privileged": privileged, "runAsNonRoot": non_root, "runAsUser": user,
            "capabilities": {"add": capability.iter().collect::<Vec<_>>(), "drop": ["ALL"]}})
    });
    (subsequence(allowed, 0..6), subsequence(refused, 0..3), proptest::option::of((context, 0..3_usize))).prop_map(
        |(allowed, refused, context)| {
            let context = context.map(|(context, place)| match place {
                0 => server(json!({"securityContext": context})),
                1 => sidecar(json!({"securityContext": context})),
                _ => json!({"spec": {"securityContext": {"runAsNonRoot": context["runAsNonRoot"], "runAsUser": context["runAsUser"]}}}),
            });
            let mut merged = PodTemplateSpec::default();
            for patch in allowed.into_iter().chain(refused).chain(context) {
                merged.merge_from(serde_json::from_value(patch).unwrap());
            }
            serde_json::to_value(merged).unwrap()
        },
    )
}
